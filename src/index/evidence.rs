//! What is known of the image: whether it was written since it was scanned (promises P23 and P24), and the one stamp that
//! all blocks show if that may be so.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::record::{OWN, TORN};
use super::{Index, Purpose, Request};
use crate::changes::{ChangeSource, ImageState};
use crate::image::Fingerprint;
use crate::order::{Ordered, Rank};
use crate::stamp::{STEP, even};

/// Seconds between a scan and the listing that follows it at once.
const FRESH: i64 = 2;

/// Whether an image was written while it was served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// Nothing shows that it was.
    #[default]
    Quiet,
    /// Nothing would show it.
    Unknown,
    /// It was.
    Written,
}

/// What the stamps and digests rest on.
#[derive(Debug)]
pub(super) struct Evidence {
    /// What others may have written is watched for: without -w, and with -o force.
    pub(super) watch: bool,
    /// Changes when a scan begins: what a handle was served that was opened before may be older than its fingerprint.
    pub(super) epoch: AtomicU64,
    /// Locked while a listing or a scan chooses the seconds of its stamps, so that no two choose the same. Never while
    /// the index is saved: who looks at a block needs it.
    pub(super) known: Ordered<Known>,
}

/// What changes together.
#[derive(Debug)]
pub(super) struct Known {
    /// Before the last finished scan.
    pub(super) fingerprint: Fingerprint,
    /// The state of the image that the digests describe, if somebody can tell what changes after it.
    pub(super) state: Option<ImageState>,
    /// Some digests are of that state, on others' word, and not of `fingerprint`, which may be later.
    pub(super) vouched: bool,
    /// One stamp for all blocks, since the image was written while it is mounted.
    pub(super) overlay: Option<Overlay>,
    /// Until so many seconds have passed one listing may show what the scan found, although nothing proves that it is
    /// still so. Not a second of the clock, which can be set back.
    pub(super) fresh: i64,
    /// How many scans have ended while the image is mounted.
    scans: u64,
    /// Of all scans before the present one.
    meanwhile: Meanwhile,
}

/// A stamp that all blocks show, and what is known of the image when it was made.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) stamp: i64,
    fingerprint: Fingerprint,
}

impl Evidence {
    /// `fingerprint`: what the digests that will be there are of.
    pub(super) fn new(request: &Request<'_>, fingerprint: Fingerprint) -> Self {
        let told = request.changes.filter(|_| !request.writable);
        let known = Known {
            fingerprint,
            state: told.and_then(ChangeSource::now),
            vouched: false,
            overlay: None,
            fresh: i64::MIN,
            scans: 0,
            meanwhile: Meanwhile::Quiet,
        };
        Self {
            watch: !request.immutable && (!request.writable || request.force),
            epoch: AtomicU64::new(0),
            known: Ordered::new(Rank::Evidence, known),
        }
    }

    /// The stamp that all blocks show but those with one of their OWN.
    pub(super) fn overlay(&self) -> Option<i64> {
        let shown = || self.known.with(|known| known.latest_for_all());
        self.watch.then(shown).flatten()
    }
}

impl Known {
    /// The last stamp that all blocks got at once.
    fn latest_for_all(&self) -> Option<i64> {
        self.overlay.as_ref().map(|overlay| overlay.stamp)
    }

    /// What was scanned just now is what the next listing shows, also where nothing proves it: that is what `bmapfs run`
    /// does all its life.
    pub(super) fn just_scanned(&mut self, passed: i64) {
        self.fresh = passed.saturating_add(FRESH);
    }

    /// A scan has ended while the image is mounted; `fingerprint` is from before it.
    pub(super) fn scanned(&mut self, fingerprint: Fingerprint, passed: i64) {
        self.fingerprint = fingerprint;
        self.vouched = false;
        self.overlay = None;
        self.scans += 1;
        self.just_scanned(passed);
    }

    /// Whether the image was, or may have been, written since the stamps that listings show were made. `came`: how
    /// many seconds had passed when the listing began that asks.
    fn is_news(&mut self, now: &Fingerprint, came: i64) -> bool {
        let overlay = self.overlay.as_ref();
        let since = overlay.map_or(&self.fingerprint, |overlay| &overlay.fingerprint);
        if now.proves_unwritten_since(since, true) {
            return false;
        }
        let unwritten = now.differs_from(since) == Some(false);
        // Used up by any listing: what it shows is not what the scan found if the image was written.
        let fresh = std::mem::replace(&mut self.fresh, i64::MIN) >= came;
        !(fresh && unwritten)
    }

    /// Whether the image was written since any scan began, if it is `now` like this.
    fn judge(&mut self, now: &Fingerprint) -> Meanwhile {
        match now.differs_from(&self.fingerprint) {
            Some(true) => self.meanwhile = Meanwhile::Written,
            Some(false) => {}
            None => self.meanwhile = Meanwhile::Unknown,
        }
        self.meanwhile
    }
}

impl Index {
    /// The image as it is now. May flush it, so no lock may be held.
    pub(super) fn look_at_image(&self) -> Fingerprint {
        self.image.fingerprint().unwrap_or(Fingerprint::Unknown)
    }

    /// At each listing of the root: unless it is certain that the image was not written since the scan, all blocks get
    /// new stamps. May wait for a second to end, so that what is written later has a later one.
    pub(crate) fn refresh(&self) {
        if !self.evidence.watch || self.purpose != Purpose::Mount {
            return;
        }
        let came = self.clock.passed();
        loop {
            let scans = self.evidence.known.with(|known| known.scans);
            let now = self.look_at_image();
            if !self.evidence.known.with(|known| known.is_news(&now, came)) {
                return;
            }
            let first = self.evidence.overlay().is_none();
            let stamp = self.stamp_that_is_over(|| self.stamp_for_all(first));
            if self.show_for_all(stamp, now, scans) {
                if first {
                    log::warn!(
                        "{}: it was, or may have been, written since it was scanned: all blocks show new times until \
                         SIGHUP",
                        self.source
                    );
                }
                return;
            }
        }
    }

    /// A stamp for all blocks that no block has had, nor will have. `first`: say so if it cannot be saved.
    fn stamp_for_all(&self, first: bool) -> i64 {
        // A scan that begins makes none of the same.
        let stamp = self.evidence.known.with(|known| {
            let shown = known.latest_for_all().unwrap_or(i64::MIN);
            // Not the newest that is shown: a client may have set a time back.
            let latest = shown.max(self.records.latest());
            let clockwork = &self.clockwork;
            let stamp = even(
                (self.clock.now())
                    .max(clockwork.floor.load(SeqCst))
                    .max(clockwork.scan_ends_below.load(SeqCst))
                    .max(latest.saturating_add(STEP)),
            );
            // Nobody knows what content goes with it, so no block may get it later.
            clockwork
                .floor
                .fetch_max(stamp.saturating_add(STEP), SeqCst);
            stamp
        });
        // Saving may take long, and who looks at a block needs that lock.
        if self.raise_ceiling(stamp).is_err() && first {
            log::warn!(
                "{}: the index cannot be saved; stamps made now may come again after a crash",
                self.source
            );
        }
        stamp
    }

    /// From now on all blocks show `stamp`, or a later one that another listing has made. `false`: not so, since a scan
    /// has ended after `scans`. It has looked later than this listing.
    fn show_for_all(&self, stamp: i64, fingerprint: Fingerprint, scans: u64) -> bool {
        self.evidence.known.with(|known| {
            if known.scans != scans {
                return false;
            }
            self.records.for_each(|record| record.clear(OWN));
            if known.latest_for_all().is_none_or(|shown| shown < stamp) {
                known.overlay = Some(Overlay { stamp, fingerprint });
            }
            true
        })
    }

    /// Whether the image was certainly not written since the last scan began: its digests are those of now.
    pub(crate) fn is_current(&self) -> bool {
        let now = self.look_at_image();
        let known = &self.evidence.known;
        known.with(|known| now.proves_unwritten_since(&known.fingerprint, true))
    }

    /// Whether the image was written since the scan began; then what was served counts (promise P24).
    pub(super) fn judge(&self) -> Meanwhile {
        if !self.evidence.watch {
            return Meanwhile::Quiet;
        }
        let now = self.look_at_image();
        let (certain, meanwhile) = self.evidence.known.with(|known| {
            let unwritten = now.proves_unwritten_since(&known.fingerprint, true);
            (unwritten && !known.vouched, known.judge(&now))
        });
        self.records.for_each(|record| {
            // If it is certain, it stays noted: it may have been served only since.
            if !certain && record.has(TORN) {
                record.clear(TORN);
                record.doubt();
            }
        });
        meanwhile
    }
}

#[cfg(test)]
mod tests;
