//! The lock file beside an index: who uses it, and what is to be known of it on the day when it is lost.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::StoreError;
use super::spot::{Refused, Spot};
use crate::sys::{self, FlockKind};

/// How long a lock that is held is tried for, if its holder does not say that it is ending.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long for one that does: writing the index and flushing the image may take a while.
const ENDING_PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);
/// What a lock's holder writes behind its process id while it ends; "using" before.
const ENDING: &str = "ending";
const USING: &str = "using";
/// No lock file is longer, in bytes.
const LONGEST: u64 = 256;

/// What stands in the lock file: for whoever waits for it, and for the day when the index is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) ending: bool,
    pub(super) ceiling: Option<i64>,
}

/// What was found in a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// It is new.
    Nothing,
    /// The holder's process id, and what it has noted.
    Note(u32, Note),
    /// Nothing of ours.
    Foreign,
}

/// Whether there is a lock file of this name in which a bmapfs has written.
pub(super) fn is_known(spot: &Spot, name: &OsStr) -> Result<bool, StoreError> {
    if spot.look(name).map_err(|e| of_lock(name, e))?.is_none() {
        return Ok(false);
    }
    let file = spot.open(name, OFlag::O_RDONLY);
    let found = read(&file.map_err(|e| of_lock(name, e))?)?;
    Ok(matches!(found, Found::Note(..)))
}

/// Takes the lock of this name, which is made if need be. Also gives what stood in it, if anything did.
pub(super) fn take(spot: &Spot, name: &OsStr) -> Result<(File, Option<Note>), StoreError> {
    let file = spot
        .open(name, OFlag::O_RDWR | OFlag::O_CREAT)
        .map_err(|e| of_lock(name, e))?;
    let note = await_holder(&file, name, FlockKind::Exclusive)?;
    Ok((file, note))
}

/// Waits until nobody holds the lock of this name, and shares it. `None`: there is none, so nobody can hold it. What
/// stands in it stays.
pub(super) fn share(spot: &Spot, name: &OsStr) -> Result<Option<File>, StoreError> {
    if spot.look(name).map_err(|e| of_lock(name, e))?.is_none() {
        return Ok(None);
    }
    let file = spot.open(name, OFlag::O_RDONLY);
    let file = file.map_err(|e| of_lock(name, e))?;
    await_holder(&file, name, FlockKind::Shared)?;
    Ok(Some(file))
}

/// Locks the open lock file of this name. A holder that is ending is waited for. What stands in it, if anything does.
fn await_holder(file: &File, name: &OsStr, kind: FlockKind) -> Result<Option<Note>, StoreError> {
    let start = Instant::now();
    loop {
        let free = sys::try_flock(file.as_fd(), kind)?;
        let known = match read(file)? {
            Found::Nothing => None,
            Found::Note(holder, note) => Some((holder, note)),
            Found::Foreign => return Err(of_lock(name, Refused::ForeignLock.into())),
        };
        let note = known.map(|(_, note)| note);
        if free {
            return Ok(note);
        }
        let patience = if note.is_some_and(|note| note.ending) {
            ENDING_PATIENCE
        } else {
            PATIENCE
        };
        if start.elapsed() >= patience {
            return Err(StoreError::Held(describe(known.map(|(holder, _)| holder))));
        }
        std::thread::sleep(POLL);
    }
}

/// The ceiling that was noted last.
pub(super) fn noted(file: &File) -> Option<i64> {
    match read(file).ok()? {
        Found::Note(_, note) => note.ceiling,
        Found::Nothing | Found::Foreign => None,
    }
}

/// Says that this process has the lock.
pub(super) fn write(mut file: &File, note: Note) -> io::Result<()> {
    let state = if note.ending { ENDING } else { USING };
    let ceiling = note
        .ceiling
        .map(|ceiling| ceiling.to_string())
        .unwrap_or_default();
    let text = format!("{} {state} {ceiling}\n", std::process::id());
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn read(mut file: &File) -> io::Result<Found> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Found {
    if bytes.len() as u64 > LONGEST {
        return Found::Foreign;
    }
    // A power failure may leave zeros.
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    parse_line(bytes).unwrap_or(Found::Foreign)
}

/// Only the first line: a writer that was killed may have left the end of a longer one behind it.
fn parse_line(bytes: &[u8]) -> Option<Found> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let holder = words.next()?.parse().ok()?;
    let ending = match words.next()? {
        USING => false,
        ENDING => true,
        _ => return None,
    };
    let ceiling = words.next().map(str::parse).transpose().ok()?;
    Some(Found::Note(holder, Note { ending, ceiling }))
}

/// A lock's holder, for an error.
fn describe(process: Option<u32>) -> String {
    let named = process.and_then(|process| {
        let name = std::fs::read(format!("/proc/{process}/comm")).ok()?;
        let name = String::from_utf8_lossy(&name);
        Some(format!("{} (process {process})", name.trim_end()))
    });
    named.unwrap_or_else(|| "another process".to_owned())
}

fn of_lock(name: &OsStr, error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(why) => {
            Refused::Lock(name.to_string_lossy().into_owned(), Box::new(why)).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bmapfs_writes_is_a_note() {
        let note = |holder, ending, ceiling| Found::Note(holder, Note { ending, ceiling });
        for (text, found) in [
            (&b""[..], Found::Nothing),
            (&[0; 30], Found::Nothing),
            (b"12 using \n", note(12, false, None)),
            (
                b"12 ending 1700000000\n",
                note(12, true, Some(1_700_000_000)),
            ),
            (b"12 using -5\n", note(12, false, Some(-5))),
            (
                b"12 using 1700000000\n00\n",
                note(12, false, Some(1_700_000_000)),
            ),
            (
                b"12 using 1700000000 4096\n",
                note(12, false, Some(1_700_000_000)),
            ),
            (b"12\n", Found::Foreign),
            (b"12 asleep 5\n", Found::Foreign),
            (b"12 using soon\n", Found::Foreign),
            (b"me using 5\n", Found::Foreign),
            (b"\n12 using 5\n", Found::Foreign),
            (b"\xff\xfe", Found::Foreign),
            (b"12 using 5\0", Found::Foreign),
            (&[b' '; 300], Found::Foreign),
            (&[0; 300], Found::Foreign),
        ] {
            assert_eq!(parse(text), found, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
