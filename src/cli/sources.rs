//! One or several SRC, and what their directories in the mount are called (promise P33).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::ArgMatches;

use super::options::Settings;
use super::{absolute, empty, given};
use crate::config::SourceConfig;
use crate::exit::{Failure, Result};

/// The longest name that a file can have, in bytes.
const LONGEST_NAME: usize = 255;

/// A SRC that is taken as it is.
pub(super) fn only(matches: &ArgMatches) -> Result<Vec<SourceConfig>> {
    let path = absolute(given(matches, "SRC")?)?;
    Ok(vec![SourceConfig { path, name: None }])
}

/// Every SRC as typed.
pub(super) fn typed(matches: &ArgMatches) -> Vec<&OsString> {
    matches.get_many("SRC").into_iter().flatten().collect()
}

/// Every SRC. If there are several, or one is NAME=SRC, each has a name, and all names differ.
pub(super) fn all(typed: &[&OsString], settings: &Settings) -> Result<Vec<SourceConfig>> {
    let several = typed.len() > 1;
    if let (true, Some(option)) = (several, &settings.one_source_only) {
        return Err(one_only(option, typed.len()));
    }
    let mut names: BTreeMap<OsString, &OsStr> = BTreeMap::new();
    let mut sources = Vec::new();
    for typed in typed {
        let (name, path) = split(typed);
        if path.is_empty() {
            return Err(empty("SRC"));
        }
        let name = match name {
            None if several => Some(file_name(typed)?),
            None => None,
            Some(name) => Some(checked(name, typed)?),
        };
        if let Some(name) = &name {
            if let Some(other) = names.insert(name.clone(), typed) {
                return Err(Failure::usage(format!(
                    "{} and {} would both be called {} in the mount: name one of them, NAME=SRC",
                    Path::new(other).display(),
                    Path::new(typed).display(),
                    Path::new(name).display()
                )));
            }
        }
        sources.push(SourceConfig {
            path: absolute(path)?,
            name,
        });
    }
    Ok(sources)
}

/// NAME=SRC, where NAME has no slash, so that no path with one is taken for it.
fn split(typed: &OsStr) -> (Option<&OsStr>, &OsStr) {
    let bytes = typed.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if !bytes[..at].contains(&b'/') => {
            let (name, path) = (&bytes[..at], &bytes[at + 1..]);
            (Some(OsStr::from_bytes(name)), OsStr::from_bytes(path))
        }
        _ => (None, typed),
    }
}

/// NAME, if a directory can be called so.
fn checked(name: &OsStr, typed: &OsStr) -> Result<OsString> {
    let why = match name.as_bytes() {
        b"" | b"." | b".." => "what is before the = is no name for a directory",
        name if name.len() > LONGEST_NAME => "what is before the = is too long for a name",
        _ => return Ok(name.to_owned()),
    };
    let typed = Path::new(typed).display();
    Err(Failure::usage(format!(
        "{typed}: {why}; if a file is called so, type ./{typed}"
    )))
}

fn file_name(typed: &OsStr) -> Result<OsString> {
    match Path::new(typed).file_name() {
        Some(name) => Ok(name.to_owned()),
        None => Err(Failure::usage(format!(
            "{}: its path does not end with a name; give it one, NAME=SRC",
            Path::new(typed).display()
        ))),
    }
}

/// An option that has a meaning for one SRC is given with more.
pub(super) fn one_only(option: &str, count: usize) -> Failure {
    let is_file = option.starts_with("--index ") || option.starts_with("-o index=");
    let hint = if is_file {
        "; --index=DIR/, which ends with a slash, has a file for each"
    } else {
        ""
    };
    Failure::usage(format!(
        "{option} is for one SRC, and there are {count}{hint}"
    ))
}

#[cfg(test)]
mod tests;
