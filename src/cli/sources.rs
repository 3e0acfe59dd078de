//! One or several SRC, and what their directories in the mount are called (promise P33).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::options::Settings;
use super::{absolute, empty, given};
use crate::config::{DomainConfig, SourceConfig};
use crate::exit::{Failure, Result};

/// The longest name that a file can have, in bytes.
const LONGEST_NAME: usize = 255;
/// What a SRC begins with that is a domain of libvirt's.
const DOMAIN: &str = "libvirt:";

/// The domain, if that is the only SRC.
pub(super) fn domain(
    matches: &ArgMatches,
    typed: &[&OsString],
    settings: &Settings,
) -> Result<Option<DomainConfig>> {
    let connect = matches.get_one::<OsString>("connect");
    let typed = match (typed, connect) {
        ([only], _) if only.as_bytes().starts_with(DOMAIN.as_bytes()) => *only,
        (_, None) => return Ok(None),
        (_, Some(_)) => {
            return Err(Failure::usage(
                "--connect has no meaning without libvirt:DOMAIN as the only SRC",
            ));
        }
    };
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", Path::new(typed).display()));
    if let Some(option) = settings.not_for_domain() {
        return Err(wrong(&format!("{option} has no meaning for a domain")));
    }
    let text = |of: &OsString| {
        of.to_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong("must be UTF-8"))
    };
    let named = text(typed)?;
    let named = named.strip_prefix(DOMAIN).unwrap_or_default();
    let (name, target) = match named.split_once('/') {
        Some((name, target)) => (name, Some(target)),
        None => (named, None),
    };
    if name.is_empty() || target.is_some_and(|target| target.is_empty() || target.contains('/')) {
        return Err(wrong(
            "it must be libvirt:DOMAIN or libvirt:DOMAIN/TARGET, as virsh domblklist names them",
        ));
    }
    let connect = connect.map_or_else(|| Ok("qemu:///system".to_owned()), text)?;
    if !connect.starts_with("qemu:///") {
        return Err(wrong(
            "--connect must begin with qemu:///, since the disks are read on this host",
        ));
    }
    Ok(Some(DomainConfig {
        name: name.to_owned(),
        target: target.map(str::to_owned),
        connect,
        freeze: settings.freeze_has_use(true)?,
    }))
}

/// A SRC that is taken as it is.
pub(super) fn only(matches: &ArgMatches) -> Result<Vec<SourceConfig>> {
    let path = absolute(given(matches, "SRC")?)?;
    Ok(vec![SourceConfig { path, name: None }])
}

/// A SRC of which only the name counts, by which its index is known. The disk of a domain has no path.
pub(super) fn one_of_known(typed: &OsStr) -> Result<PathBuf> {
    let Some(disk) = typed.as_bytes().strip_prefix(DOMAIN.as_bytes()) else {
        return absolute(typed);
    };
    let parts: Vec<_> = disk.split(|byte| *byte == b'/').collect();
    if parts.len() == 2 && parts.iter().all(|part| !part.is_empty()) {
        return Ok(PathBuf::from(typed));
    }
    Err(Failure::usage(format!(
        "{}: it must be one disk of a domain, libvirt:DOMAIN/TARGET, since each has an index of its own",
        Path::new(typed).display()
    )))
}

/// Every SRC as typed.
pub(super) fn typed(matches: &ArgMatches) -> Vec<&OsString> {
    matches.get_many("SRC").into_iter().flatten().collect()
}

/// Every SRC. If there are several, or one is NAME=SRC, each has a name, and all names differ.
pub(super) fn all(typed: &[&OsString], settings: &Settings) -> Result<Vec<SourceConfig>> {
    settings.freeze_has_use(false)?;
    if typed.is_empty() {
        return Err(Failure::usage(
            "the following required arguments were not provided: <SRC>...; see bmapfs --help",
        ));
    }
    let several = typed.len() > 1;
    if let (true, Some(option)) = (several, &settings.one_source_only) {
        return Err(one_only(option, typed.len()));
    }
    let mut names: BTreeMap<OsString, &OsStr> = BTreeMap::new();
    let mut sources = Vec::new();
    for typed in typed {
        let (name, path) = split(typed);
        if path.as_bytes().starts_with(DOMAIN.as_bytes()) {
            let typed = Path::new(typed).display();
            return Err(Failure::usage(format!(
                "{typed}: a domain is for bmapfs run and scan, and alone; a file of that name is ./{typed}"
            )));
        }
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
