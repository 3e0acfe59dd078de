//! Lines of `OFFSET LENGTH` in bytes, for whatever has no format of its own.
//!
//! A line that begins with `#` is a remark. A text without ranges must have one, or nothing would tell it from what
//! a command that failed has left; and the last line must be ended, or it may be cut off.

use crate::changes::parts::{MapError, Parts, SECTOR, not_sectors, number};

pub(super) fn read(text: &str) -> Result<Parts, MapError> {
    let count = text.lines().count();
    if !text.ends_with('\n') {
        let cut = MapError::new("it has no end of line: the map is cut off");
        return Err(cut.in_line(count));
    }
    let mut parts = Parts::new(1);
    for (line, number) in text.lines().zip(1..) {
        read_line(line, &mut parts).map_err(|e| e.in_line(number))?;
    }
    Ok(parts)
}

fn read_line(line: &str, parts: &mut Parts) -> Result<(), MapError> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(offset), Some(length), None) = (words.next(), words.next(), words.next()) else {
        return Err(MapError::new("it must be OFFSET LENGTH, both in bytes"));
    };
    let (offset, length) = (number(offset)?, number(length)?);
    // Only the image's last sector may be cut, which is known when its size is.
    let before = Some(parts.end()).filter(|end| end % SECTOR != 0);
    if let Some(ragged) = before.or(Some(offset).filter(|offset| offset % SECTOR != 0)) {
        return Err(not_sectors(ragged));
    }
    parts.add(offset, length, 1, true)
}
