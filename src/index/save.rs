//! Saving an index while it is in use, and the ceiling that keeps a crash from making a stamp twice.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::atomic::Ordering::SeqCst;

use super::file::Noted;
use super::format::{Header, MAGIC, encode, trailer};
use super::record::{Record, STAMPED};
use super::{Index, lock};
use crate::image::Fingerprint;

/// How far the ceiling is set above the present, in seconds: the index is saved again when stamps reach it, and
/// after a crash new stamps may be this far in the future.
const HEADROOM: i64 = 600;

impl Index {
    /// Saves. `open`: it goes on being used, so whoever finds it so must not believe that it is settled.
    pub(super) fn save(&self, open: bool) -> io::Result<()> {
        let _alone = lock(&self.saving);
        self.save_alone(open, i64::MIN)
    }

    /// Makes sure that `stamp` may be shown: saves with a higher ceiling if need be. Also after a failure the stamp
    /// may be shown, since the clock will most likely be past it at the next mount.
    pub(super) fn raise_ceiling(&self, stamp: i64) -> io::Result<()> {
        let _alone = lock(&self.saving);
        if stamp <= self.ceiling.load(SeqCst) {
            return Ok(());
        }
        self.save_alone(true, stamp).inspect_err(|_| {
            self.ceiling
                .fetch_max(stamp.saturating_add(HEADROOM), SeqCst);
        })
    }

    /// Notes beside the file, in case it is lost, that no stamp is later than `ceiling`, and how long the image is.
    pub(super) fn note(&self, ceiling: i64) -> io::Result<()> {
        self.store.note(Noted {
            ceiling,
            size: Some(self.geometry().image_size()),
        })
    }

    fn save_alone(&self, open: bool, least: i64) -> io::Result<()> {
        // The stamp of all blocks at once, if there is one, lies below the floor. Its lock may be held.
        let latest = self.latest().max(self.floor.load(SeqCst)).max(least);
        let ceiling = if open {
            let ceiling = latest.max(self.clock.now()).saturating_add(HEADROOM);
            ceiling.max(self.ceiling.load(SeqCst))
        } else {
            latest
        };
        // Without the note an index that is lost costs a wait.
        let _ = self.note(ceiling);
        let count = self.count.load(SeqCst);
        let fingerprint = if open && self.writable {
            Fingerprint::Unknown
        } else {
            lock(&self.fingerprint).clone()
        };
        let hasher = RefCell::new(blake3::Hasher::new());
        self.store.save(
            &mut |out| {
                // A save may be tried again from the start.
                hasher.borrow_mut().reset();
                self.write_records(out, &mut hasher.borrow_mut(), count)
            },
            &mut |place| {
                let header = Header {
                    block_size: self.geometry().block_size().bytes(),
                    image_size: self.geometry().image_size(),
                    records: count,
                    source: self.source.clone(),
                    open,
                    ceiling,
                    floor: self.floor.load(SeqCst),
                    fingerprint: fingerprint.clone(),
                    place,
                    state: lock(&self.state).clone(),
                    vouched: self.vouched.load(SeqCst),
                };
                Ok(trailer(&header, hasher.borrow().clone())?)
            },
        )?;
        self.ceiling.fetch_max(ceiling, SeqCst);
        Ok(())
    }

    fn write_records(
        &self,
        out: &mut dyn Write,
        hasher: &mut blake3::Hasher,
        count: u64,
    ) -> io::Result<()> {
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            out.write_all(bytes)
        };
        put(&MAGIC)?;
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let nothing = encode(&Record::default());
        let mut bytes = Vec::new();
        self.records.runs(count, |records, len| {
            bytes.clear();
            match records {
                Some(records) => records
                    .iter()
                    .for_each(|record| bytes.extend(encode(record))),
                None => (0..len).for_each(|_| bytes.extend(nothing)),
            }
            put(&bytes)
        })
    }

    /// The latest stamp that any block ever had.
    pub(super) fn latest(&self) -> i64 {
        let mut latest = i64::MIN;
        self.records.for_each(|record| {
            if record.has(STAMPED) {
                latest = latest.max(record.latest());
            }
        });
        latest
    }
}

#[cfg(test)]
mod tests;
