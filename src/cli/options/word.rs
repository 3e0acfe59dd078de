//! One option as typed, with where it was typed, so that an error names it the way the user knows it.
//!
//! Invariant: every error from here is `option: reason`, a usage error.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::split::{RawWord, split};
use crate::config::IndexPlace;
use crate::exit::{Failure, Result};
use crate::geometry::parse_size;

/// One option: a flag, or a word of `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What the user typed before the value: `-b `, `--uid `, `-o bs=`.
    spelling: String,
    name: String,
    value: Option<OsString>,
}

impl Word {
    /// A flag: `spelling` is what it looks like on the command line, `name` its word in an option list.
    #[must_use]
    pub fn flag(spelling: &str, name: &str, value: Option<&OsStr>) -> Self {
        let gap = if value.is_some() { " " } else { "" };
        Self {
            spelling: format!("{spelling}{gap}"),
            name: name.to_owned(),
            value: value.map(OsStr::to_owned),
        }
    }

    /// All words of the text behind one `-o`.
    pub fn list(text: &OsStr) -> Result<Vec<Self>> {
        let words = split(text)
            .map_err(|error| Failure::usage(format!("-o {}: {error}", text.to_string_lossy())))?;
        Ok(words.into_iter().map(Self::from).collect())
    }

    /// The option's name in an option list.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `meaning`, provided that there is no value.
    pub(super) fn alone<T>(&self, meaning: T) -> Result<T> {
        if self.value.is_some() {
            Err(self.refused("takes no value"))
        } else {
            Ok(meaning)
        }
    }

    /// The value, which must be there and not empty.
    pub(super) fn value(&self) -> Result<&OsStr> {
        self.value
            .as_deref()
            .filter(|value| !value.is_empty())
            .ok_or_else(|| self.refused("a value is missing"))
    }

    /// The value as a command; `None`: there is no value.
    pub(super) fn freeze(&self) -> Result<Option<OsString>> {
        match &self.value {
            None => Ok(None),
            Some(value) if value.as_bytes().starts_with(b"libvirt:") => Err(self.refused(
                "without a CMD it must stand behind libvirt:DOMAIN, or be followed by another option",
            )),
            Some(_) => self.value().map(|value| Some(value.to_owned())),
        }
    }

    /// The value as an absolute path (a daemon's directory is `/`); `None`: there is no value.
    pub(super) fn optional_path(&self) -> Result<Option<PathBuf>> {
        match &self.value {
            None => Ok(None),
            Some(_) => match std::path::absolute(self.value()?) {
                Ok(path) => Ok(Some(path)),
                Err(e) => Err(self.refused(&e.to_string())),
            },
        }
    }

    /// The value as a file, or as a directory if it ends with a slash.
    pub(super) fn index_place(&self) -> Result<IndexPlace> {
        Ok(match self.optional_path()? {
            None => IndexPlace::State,
            Some(path) if self.value()?.as_bytes().ends_with(b"/") => IndexPlace::Directory(path),
            Some(path) => IndexPlace::File(path),
        })
    }

    /// The value as text.
    pub(super) fn text(&self) -> Result<String> {
        match self.value()?.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.refused("must be UTF-8")),
        }
    }

    /// Whether the value is `yes`, where it must be that or `no`.
    pub(super) fn either(&self, yes: &str, no: &str) -> Result<bool> {
        match self.text()? {
            text if text == yes => Ok(true),
            text if text == no => Ok(false),
            _ => Err(self.refused(&format!("must be {yes} or {no}"))),
        }
    }

    /// The value as whatever reads itself from text and can say why it does not.
    pub(super) fn parse<T: FromStr<Err: fmt::Display>>(&self) -> Result<T> {
        self.value()?
            .to_string_lossy()
            .parse()
            .map_err(|error: T::Err| self.refused(&error.to_string()))
    }

    /// The value as a decimal number in `range`.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Result<u32> {
        digits(self.value()?, 10)
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                self.refused(&format!(
                    "must be a number from {} to {}",
                    range.start(),
                    range.end()
                ))
            })
    }

    /// The value as bytes, with an optional K, M or G.
    pub(super) fn size(&self) -> Result<u64> {
        let text = self.value()?.to_string_lossy();
        parse_size(&text)
            .ok_or_else(|| self.refused("must be a size: digits and an optional K, M or G"))
    }

    /// The value as a count of threads from 1 to `most`.
    pub(super) fn threads(&self, most: usize) -> Result<NonZeroUsize> {
        digits(self.value()?, 10)
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| *number <= most)
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| self.refused(&format!("must be a number from 1 to {most}")))
    }

    /// The value as permission bits in octal.
    pub(super) fn umask(&self) -> Result<u32> {
        digits(self.value()?, 8)
            .filter(|bits| *bits <= 0o777)
            .ok_or_else(|| self.refused("must be permission bits in octal, from 0 to 777"))
    }

    /// `name=value` as the kernel reads it. It knows no backslash, and quotes only around a whole value.
    pub(super) fn data(&self) -> Result<OsString> {
        let value = self.value()?;
        if value.as_bytes().contains(&b'"') {
            return Err(self.refused("the kernel takes no double quote inside a value"));
        }
        let quote = if value.as_bytes().contains(&b',') {
            "\""
        } else {
            ""
        };
        let mut data = OsString::from(format!("{}={quote}", self.name));
        data.push(value);
        data.push(quote);
        Ok(data)
    }

    /// The usage error `option: reason`.
    pub(super) fn refused(&self, reason: &str) -> Failure {
        Failure::usage(format!("{self}: {reason}"))
    }
}

/// An unsigned number without sign or space.
fn digits(text: &OsStr, radix: u32) -> Option<u32> {
    let text = text.to_str()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if plain {
        u32::from_str_radix(text, radix).ok()
    } else {
        None
    }
}

impl From<RawWord> for Word {
    fn from(raw: RawWord) -> Self {
        let name = raw.name.to_string_lossy().into_owned();
        let equals = if raw.value.is_some() { "=" } else { "" };
        Self {
            spelling: format!("-o {name}{equals}"),
            name,
            value: raw.value,
        }
    }
}

impl fmt::Display for Word {
    /// The option as typed: `-b 4X`, `-o bs=4X`, `-w`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref().unwrap_or_default();
        // An empty argument would not be seen behind its flag.
        let quotes = if value.is_empty() && self.spelling.ends_with(' ') {
            "''"
        } else {
            ""
        };
        write!(f, "{}{}{quotes}", self.spelling, value.to_string_lossy())
    }
}
