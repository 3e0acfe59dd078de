//! What stamps may be shown, told from the promises (P14) and not from how they are made.

use std::collections::HashMap;

use crate::image::faulty::History;

/// A block's stamp on a writable mount.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// What it shows now.
    pub(super) stamp: i64,
    /// The latest that it ever had.
    latest: i64,
    /// Changes with the content.
    version: u64,
    /// Somebody may know this stamp, or this content.
    known: bool,
    /// It was written or given a time.
    pub(super) touched: bool,
    /// Which version each stamp was shown for.
    shown: HashMap<i64, u64>,
}

impl Own {
    pub(super) fn new(base: i64) -> Self {
        Self {
            stamp: base,
            latest: base,
            version: 0,
            known: true,
            touched: false,
            shown: HashMap::from([(base, 0)]),
        }
    }

    /// It shows its stamp: never one that another content had.
    pub(super) fn show(&mut self) -> i64 {
        self.known = true;
        let version = *self.shown.entry(self.stamp).or_insert(self.version);
        assert_eq!(
            version, self.version,
            "stamp {} is shown for a second content",
            self.stamp
        );
        self.stamp
    }

    pub(super) fn read(&mut self) {
        self.known = true;
    }

    /// It is written: if anyone may know the stamp, the next is two seconds past all that it had.
    pub(super) fn write(&mut self, now: i64) {
        self.version += 1;
        self.touched = true;
        if self.known {
            self.stamp = now.max(self.latest + 2);
            self.latest = self.stamp;
            self.known = false;
        }
    }

    /// A client sets its time: what that says is the client's word.
    pub(super) fn set(&mut self, stamp: i64) {
        self.stamp = stamp;
        self.latest = self.latest.max(stamp);
        self.touched = true;
        self.known = true;
        self.shown.insert(stamp, self.version);
    }
}

/// The one stamp of a read-only mount, which follows what others write.
#[derive(Debug)]
pub(super) struct Followed {
    history: History,
    /// Changes whenever the stamp must.
    epoch: u64,
    /// Which epoch each stamp was shown for.
    shown: HashMap<i64, u64>,
    /// What it must be now, where that is certain.
    certain: Option<i64>,
    /// Of a file: no stamp so far was later.
    bound: i64,
    /// Of a device: written since the last listing.
    written: bool,
}

impl Followed {
    pub(super) fn new(history: History, now: i64) -> Self {
        Self {
            history,
            epoch: 0,
            shown: HashMap::new(),
            certain: Some(now),
            bound: now,
            written: false,
        }
    }

    /// Somebody wrote the image in this second.
    pub(super) fn written(&mut self, now: i64) {
        if self.history == History::File {
            self.epoch += 1;
            self.certain = (now > self.bound).then_some(now);
            self.bound = self.bound.max(now) + 1;
        }
        self.written = true;
    }

    /// The clock was set back: the last write may be one to come, and its second is not shown then.
    pub(super) fn turned_back(&mut self) {
        if self.history == History::File {
            self.certain = None;
        }
    }

    /// The root was opened, in this second.
    pub(super) fn listed(&mut self, now: i64) {
        let written = std::mem::replace(&mut self.written, false);
        if self.history == History::Mute || (self.history == History::Device && written) {
            self.epoch += 1;
            self.certain = self.certain.map(|last| now.max(last + 1));
        }
    }

    /// This stamp is shown: the same as long as nothing changes, and never again after that.
    pub(super) fn show(&mut self, stamp: i64) {
        if let Some(certain) = self.certain {
            assert_eq!(stamp, certain, "the stamp does not follow the image");
        }
        let epoch = *self.shown.entry(stamp).or_insert(self.epoch);
        assert_eq!(
            epoch, self.epoch,
            "stamp {stamp} is shown for a second content"
        );
        self.certain = Some(stamp);
    }
}
