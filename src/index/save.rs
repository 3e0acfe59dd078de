//! Saving an index while it is in use, and the ceiling that keeps a crash from making a stamp twice.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::atomic::Ordering::SeqCst;

use super::Index;
use super::format::{Header, MAGIC, encode, trailer};
use super::record::Record;
use crate::image::Fingerprint;

/// How far the ceiling is set above the present, in seconds: the index is saved again when stamps reach it, and
/// after a crash new stamps may be this far in the future.
const HEADROOM: i64 = 600;

impl Index {
    /// Saves. `open`: it goes on being used, so whoever finds it so must not believe that it is settled.
    pub(super) fn save(&self, open: bool) -> io::Result<()> {
        self.saving.with(|()| self.save_alone(open, i64::MIN))
    }

    /// Makes sure that `stamp` may be shown: saves with a higher ceiling if need be. Also after a failure the stamp
    /// may be shown, since the clock will most likely be past it at the next mount.
    pub(super) fn raise_ceiling(&self, stamp: i64) -> io::Result<()> {
        self.saving.with(|()| {
            if stamp <= self.clockwork.ceiling.load(SeqCst) {
                return Ok(());
            }
            self.save_alone(true, stamp).inspect_err(|_| {
                self.clockwork
                    .ceiling
                    .fetch_max(stamp.saturating_add(HEADROOM), SeqCst);
            })
        })
    }

    fn save_alone(&self, open: bool, least: i64) -> io::Result<()> {
        let latest = self.latest().max(least);
        let ceiling = if open {
            let ceiling = latest.max(self.clock.now()).saturating_add(HEADROOM);
            ceiling.max(self.clockwork.ceiling.load(SeqCst))
        } else {
            latest
        };
        // Without the note an index that is lost costs a wait.
        let _ = self.store.note_ceiling(ceiling);
        let count = self.count.load(SeqCst);
        // Both from before the records: a scan that ends meanwhile only makes these newer than what they rest on.
        let (mut fingerprint, vouched) =
            (self.evidence.known).with(|known| (known.fingerprint.clone(), known.vouched));
        if open && self.writable {
            fingerprint = Fingerprint::Unknown;
        }
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
                    floor: self.clockwork.floor.load(SeqCst),
                    fingerprint: fingerprint.clone(),
                    place,
                    // From after them: a scan that has begun meanwhile makes them newer than any state.
                    state: self.evidence.known.with(|known| known.state.clone()),
                    vouched,
                };
                Ok(trailer(&header, hasher.borrow().clone())?)
            },
        )?;
        self.clockwork.ceiling.fetch_max(ceiling, SeqCst);
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
}

#[cfg(test)]
mod tests;
