//! What an image shows of what was written to it, and how others write without showing it.

use std::collections::VecDeque;
use std::time::Duration;

use super::live::{Change, Live, Told};
use super::op::Part;
use crate::clock::Clock;
use crate::image::Fingerprint;
use crate::image::fingerprint::{DeviceFingerprint, FileFingerprint, Keeper};

/// A write: where, and what.
pub(super) type Write = (usize, Part, u8);

/// Times, statistics, and whatever they are worth.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Of a file: seconds, and something that no other write has.
    mtime: (i64, i64),
    /// The same as the disk has it.
    durable: (i64, i64),
    /// Of a device.
    written: u64,
    /// The same when it was looked at last.
    noted: u64,
    /// How often it was written in a way that shows.
    moves: i64,
    /// The mount of the file system, or the disk's number.
    instance: u64,
    /// Submitted, but the data is still on its way.
    flying: VecDeque<Write>,
    /// Somebody has it open for writing.
    open: bool,
    /// A page is mapped and was written since it was flushed: the next store does not move the times.
    dirty: bool,
}

impl Live {
    /// Somebody has written. Whether that shows.
    pub(super) fn moved(&self, evidence: &mut Evidence) -> bool {
        evidence.moves += 1;
        evidence.written += 1;
        let fine = if self.told == Told::Coarse {
            0
        } else {
            evidence.moves
        };
        let before = std::mem::replace(&mut evidence.mtime, (self.clock.now(), fine));
        !self.is_file() || before != evidence.mtime
    }

    fn is_file(&self) -> bool {
        matches!(self.told, Told::File | Told::Untrusted | Told::Coarse)
    }

    /// A write is submitted: its data comes later.
    pub(super) fn submit(&self, write: Write) {
        let mut state = self.state.lock().unwrap();
        state.evidence.open = true;
        state.evidence.flying.push_back(write);
        // A device counts it when it is done.
        if self.is_file() {
            self.moved(&mut state.evidence);
        }
    }

    /// The data of the write that was submitted first arrives.
    pub(super) fn land(&self) {
        let write = self.state.lock().unwrap().evidence.flying.pop_front();
        let Some((block, part, letter)) = write else {
            return;
        };
        self.put(block, part, letter);
        self.changed(if self.is_file() {
            Change::Unseen
        } else {
            Change::Seen
        });
    }

    /// A store through a mapping.
    pub(super) fn store(&self, (block, part, letter): Write) {
        let unseen = {
            let evidence = &mut self.state.lock().unwrap().evidence;
            evidence.open = true;
            std::mem::replace(&mut evidence.dirty, true) && self.is_file()
        };
        self.put(block, part, letter);
        self.changed(if unseen { Change::Unseen } else { Change::Seen });
    }

    /// Nobody has it open for writing any more; what is on its way arrives first.
    pub(super) fn let_go(&self) {
        while !self.state.lock().unwrap().evidence.flying.is_empty() {
            self.land();
        }
        self.state.lock().unwrap().evidence.open = false;
    }

    /// Below a device whose statistics do not count it.
    pub(super) fn below(&self, (block, part, letter): Write) {
        self.put(block, part, letter);
        let told = self.told;
        let unseen = matches!(
            told,
            Told::Device {
                counts_all: false,
                ..
            }
        );
        self.changed(if unseen { Change::Unseen } else { Change::Seen });
    }

    /// The file system is mounted again, or the disk is attached again: what was not durable of its times is lost, or
    /// it is another in the same place.
    pub(super) fn come_again(&self, other: Option<Write>) {
        self.let_go();
        if let Some((block, part, letter)) = other {
            self.put(block, part, letter);
            self.changed(Change::Unseen);
        }
        let evidence = &mut self.state.lock().unwrap().evidence;
        evidence.mtime = evidence.durable;
        evidence.instance += 1;
        evidence.dirty = false;
        // As many sectors as when it was looked at last.
        evidence.written = evidence.noted;
    }

    /// Somebody changes the file's times, and nothing else.
    pub(super) fn touch(&self) {
        let mut state = self.state.lock().unwrap();
        self.moved(&mut state.evidence);
        state.evidence.durable = state.evidence.mtime;
    }

    pub(super) fn mtime(&self) -> Option<(i64, i64)> {
        let mtime = self.state.lock().unwrap().evidence.mtime;
        self.is_file().then_some(mtime)
    }

    /// After a flush, and with something happening in the middle.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.tick();
        {
            let evidence = &mut self.state.lock().unwrap().evidence;
            evidence.dirty = false;
            evidence.durable = evidence.mtime;
            evidence.noted = evidence.written;
        }
        self.tick();
        let boot = self.boots().to_string();
        let size = self.size() as u64;
        let (mtime, instance, written) = {
            let evidence = &self.state.lock().unwrap().evidence;
            (evidence.mtime, evidence.instance, evidence.written)
        };
        let now = self.clock.now();
        self.tick();
        let evidence = &self.state.lock().unwrap().evidence;
        let keeper = match self.told {
            Told::File | Told::Coarse => Keeper::WellKnown,
            Told::Untrusted => Keeper::Other,
            Told::Device { .. } if !evidence.flying.is_empty() => return Fingerprint::Unknown,
            Told::Device {
                counts_all,
                numbered,
            } => {
                return Fingerprint::Device(DeviceFingerprint {
                    counts_all,
                    boot,
                    major: 7,
                    minor: 1,
                    sectors_written: written,
                    sectors_discarded: 0,
                    start: 0,
                    size,
                    sequence: numbered.then_some(instance),
                });
            }
            Told::Nothing => return Fingerprint::Unknown,
        };
        // A tick of the file system's clock has passed since the last write.
        let age = Duration::from_secs(u64::try_from(now - mtime.0).unwrap_or(0))
            + if mtime.0 <= now {
                Duration::from_millis(12)
            } else {
                Duration::ZERO
            };
        let unjudged = FileFingerprint {
            trusted: false,
            lasting: false,
            writers: Some(evidence.open),
            boot: Some(boot),
            mount: Some(instance),
            device: 1,
            inode: 1,
            size,
            mtime,
            ctime: mtime,
            format: None,
        };
        Fingerprint::File(unjudged.judged(keeper, age, now))
    }
}
