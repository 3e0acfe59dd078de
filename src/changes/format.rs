//! The texts that programs print about what changed, told apart by their content.
//!
//! Each reader takes the whole text, and refuses each word that it does not know, since that may be the one that says
//! what changed.

mod era;
mod json;
mod lines;
mod thin;
mod xml;

use super::parts::{Format, MapError, Parts};

/// What a map can be, for an error.
pub(super) const KNOWN: &str = "what thin_delta, era_invalidate, rbd diff --format json or nbdinfo --map --json \
    print, or lines of OFFSET LENGTH";

/// Reads a map of any format.
pub(super) fn read(text: &str, era_block: Option<u64>) -> Result<(Format, Parts), MapError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().bytes().next() {
        None => Err(MapError::new(
            "it is empty, as a command that failed leaves it",
        )),
        Some(b'<') => match xml::root(text)?.as_str() {
            "superblock" => Ok((Format::ThinDelta, thin::read(text)?)),
            "blocks" => Ok((Format::EraInvalidate, era::read(text, era_block)?)),
            other => Err(MapError::new(format!(
                "it is XML of '{other}'; it must be {KNOWN}"
            ))),
        },
        Some(b'[') => json::read(text),
        Some(b'0'..=b'9' | b'#') => Ok((Format::Lines, lines::read(text)?)),
        Some(_) => Err(MapError::new(format!("it must be {KNOWN}"))),
    }
}
