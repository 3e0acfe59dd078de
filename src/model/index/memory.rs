//! What the model remembers of stamps, and what it must forget because nobody can be blamed for it.

use super::world::{BLOCKS, Model, World, number};
use crate::clock::Clock;
use crate::index::Index;
use crate::index::door::NEAR;

impl World {
    /// A mount begins; `blind`: one that knows nothing of those before; `unnoted`: one that notes nowhere what it shows.
    pub(super) fn begin_noting(&self, blind: bool, unnoted: bool) {
        let mut model = self.model();
        let now = self.clock.now();
        let knows_nothing = blind || model.unnoted;
        // With a clock or times that went back on top of it nothing could be told.
        if knows_nothing && (model.behind || model.latest > now + NEAR) {
            self.clock.turn((model.latest + 6 - now).max(0));
            self.live.touch();
            model.behind = false;
        }
        model.blind = blind;
        model.unnoted = unnoted;
    }

    /// The clock was: what nobody noted may come again.
    pub(super) fn turned_back(&self) {
        let mut model = self.model();
        model.behind = true;
        for held in &mut model.held {
            held.retain(|held| !held.unnoted);
        }
    }

    /// The stamps of an index count, whether they were shown or not.
    pub(super) fn made(&self, index: &Index) {
        let mut model = self.model();
        model.latest = model.latest.max(index.last_made());
        for block in 0..BLOCKS {
            let record = index.record(number(block));
            for stamp in [record.stamp.second(), record.stamp.latest()] {
                if !model.set_by_clients.contains(&(block, stamp)) {
                    model.latest = model.latest.max(stamp);
                }
            }
        }
    }

    /// Clients' stamps that bmapfs could not keep: what goes with them is nobody's fault.
    pub(super) fn forget_what_clients_set(&self) {
        self.model().calm = None;
        self.forget_pairs_of_clients();
    }

    /// Whoever has what goes with clients' stamps is not looked at.
    pub(super) fn forget_pairs_of_clients(&self) {
        let mut model = self.model();
        let Model {
            held,
            set_by_clients,
            ..
        } = &mut *model;
        for (block, pairs) in held.iter_mut().enumerate() {
            pairs.retain(|held| !set_by_clients.contains(&(block, held.pair.stamp)));
        }
    }
}
