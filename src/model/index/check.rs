//! What is checked whenever a stamp is shown.

use super::op::Mode;
use super::world::{Held, Model, Mounted, Pair, World, number};
use crate::index::door::HASHED;
use crate::volume::Attr;

impl World {
    /// A block showed this, in a request that began in state `since` of the image. `hides`: unless the root
    /// was opened for it, what was written since this state may be hidden by it.
    pub(super) fn shown(
        &self,
        mounted: &Mounted,
        block: usize,
        attr: &Attr,
        since: usize,
        hides: Option<usize>,
    ) {
        if self.disk.dead() {
            return;
        }
        let mut model = self.model();
        let Some(mount) = &model.mount else {
            return;
        };
        if model.blind && model.behind {
            return;
        }
        let quiet = !self.live.foreign_since(mount.begin);
        let follows = matches!(mounted.mode, Mode::Long | Mode::Force);
        let seen = mount.looked == mount.begin || since > mount.looked;
        let exact = quiet || mounted.mode == Mode::Write || (follows && hides.is_none() && seen);
        let base = hides.unwrap_or(mount.base).min(mount.base);
        let allowed = if exact { since } else { base };
        let size = usize::try_from(attr.size).unwrap();
        // Whoever has a copy keeps it, whatever the block holds: nobody can read it.
        let mended = mount.mended[block].is_some_and(|at| at >= since);
        let unreadable = mended || mounted.index.is_unreadable(number(block));
        for Held { pair, at, .. } in &model.held[block] {
            // A copy that was torn after the last scan counts at the next one; one that was finished after this
            // request began, and the image was written in between, at the next request.
            assert!(
                pair.stamp != attr.stamp
                    || unreadable
                    || pair.content.len != size
                    || *at > since
                    || (!exact && *at >= allowed)
                    || (!exact && self.live.found_since(allowed, block, pair.content))
                    || self.live.had_since(allowed, block, pair.content),
                "block {block} shows {}: whoever has {:?} with it would skip {:?}",
                attr.stamp,
                pair.content,
                self.live.present().content(block, size),
            );
        }
        if !model.set_by_clients.contains(&(block, attr.stamp)) {
            model.latest = model.latest.max(attr.stamp);
        }
        let content = self.live.present().content(block, size);
        // Somebody reads it at once; without -w alone, that is noticed unless it is what was hashed.
        let hashed = mounted.index.record(number(block)).has(HASHED);
        let noticed = mounted.mode != Mode::Write && !hashed;
        let still = quiet && !noticed && self.live.number() == since && !model.bad && !unreadable;
        if still && content.len == size {
            let stamp = attr.stamp;
            model.hold(block, Pair { stamp, content }, since);
        }
    }
}

impl Model {
    /// Somebody has this, since state `at` of the image.
    pub(super) fn hold(&mut self, block: usize, pair: Pair, at: usize) {
        // A client is setting this time just now: whatever else goes with it is that client's word.
        if self.setting == Some((block, pair.stamp)) {
            return;
        }
        let unnoted = self.unnoted;
        let set = self.set_by_clients.contains(&(block, pair.stamp));
        let forgotten = unnoted && (self.behind || set);
        if !forgotten && !self.holds(block, pair) {
            self.held[block].push(Held { pair, at, unnoted });
        }
    }

    pub(super) fn holds(&self, block: usize, pair: Pair) -> bool {
        self.held[block].iter().any(|held| held.pair == pair)
    }

    /// A client gave the block this stamp: whatever else went with it is that client's word.
    pub(super) fn set_by_client(&mut self, block: usize, stamp: i64) {
        self.sets.push((block, stamp));
        self.set_by_clients.insert((block, stamp));
        self.held[block].retain(|held| held.pair.stamp != stamp);
    }
}
