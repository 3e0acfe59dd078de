//! The arrays that `rbd diff --format json` and `nbdinfo --map --json` print.
//!
//! An rbd diff names what changed, whether it has data now (`exists`) or not. A map of nbdinfo goes through the
//! whole export, and only a dirty bitmap's says what changed: that of what is allocated looks much the same.

use serde::Deserialize;
use serde_json::Value;

use super::KNOWN;
use crate::changes::parts::{Format, MapError, Parts, SECTOR};

#[derive(Debug, Deserialize)]
struct MapEntry {
    offset: u64,
    length: u64,
    /// "true" or "false", as rbd prints it.
    exists: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<u64>,
    description: Option<String>,
}

pub(super) fn read(text: &str) -> Result<(Format, Parts), MapError> {
    let entries: Vec<MapEntry> = serde_json::from_str(text).map_err(|e| {
        let what = if e.is_eof() {
            "the map is cut off"
        } else {
            "it is no map"
        };
        MapError::new(format!("{what}: {e}"))
    })?;
    let mut parts = match entries.first() {
        // A map of nbdinfo is empty only if the image is.
        None => return Ok((Format::RbdDiff, Parts::new(1))),
        Some(first) if first.exists.is_some() => return rbd(&entries),
        Some(_) => Parts::new(SECTOR),
    };
    for (entry, number) in entries.iter().zip(1..) {
        nbd(entry, &mut parts).map_err(|e| e.in_entry(number))?;
    }
    Ok((Format::NbdInfo, parts))
}

fn rbd(entries: &[MapEntry]) -> Result<(Format, Parts), MapError> {
    let mut parts = Parts::new(1);
    for (entry, number) in entries.iter().zip(1..) {
        let is_rbd = entry.kind.is_none() && entry.description.is_none();
        match &entry.exists {
            Some(Value::Bool(_)) if is_rbd => {}
            Some(Value::String(word)) if is_rbd && (word == "true" || word == "false") => {}
            _ => return Err(MapError::new("it is not rbd's").in_entry(number)),
        }
        parts
            .add(entry.offset, entry.length, 1, true)
            .map_err(|e| e.in_entry(number))?;
    }
    Ok((Format::RbdDiff, parts))
}

fn nbd(entry: &MapEntry, parts: &mut Parts) -> Result<(), MapError> {
    let changed = match (entry.kind, entry.description.as_deref(), &entry.exists) {
        (Some(0), Some("clean"), None) => false,
        (Some(1), Some("dirty"), None) => true,
        (Some(kind), description, None) => {
            return Err(MapError::new(format!(
                "type {kind}, '{}', is not of a dirty bitmap: use nbdinfo --map=qemu:dirty-bitmap:NAME --json",
                description.unwrap_or_default()
            )));
        }
        _ => return Err(MapError::new(format!("it must be {KNOWN}"))),
    };
    if entry.offset != parts.end() {
        return Err(MapError::new(format!(
            "it begins at {}, and the one before it ends at {}",
            entry.offset,
            parts.end()
        )));
    }
    parts.add(entry.offset, entry.length, 1, changed)
}
