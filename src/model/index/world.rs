//! An image, the disk that its index is on, whoever uses them, and what the model remembers.

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskStore};
use super::live::{BLOCK, Content, Live, Shared, Snapshot, Told};
use super::op::{Mode, Place};
use super::read::Reader;
use super::told::{Point, Teller, Telling};
use crate::blocks::Blocks;
use crate::changes::ChangeSource;
use crate::clock::{Clock, testing::TestClock};
use crate::config::{OwnerConfig, VolumeConfig};
use crate::geometry::{BlockIndex, BlockSize};
use crate::image::Image;
use crate::index::door::{NEAR, TORN, UNREAD};
use crate::index::{Index, OpenError, Purpose, Request};
use crate::scan::Tally;
use crate::volume::{Handle, Volume};

/// Blocks of the longest image.
pub(super) const BLOCKS: usize = 4;

/// What is the same for a whole history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) told: u8,
    pub(super) size: u8,
}

/// A stamp and the content that somebody has with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) stamp: i64,
    pub(super) content: Content,
}

/// A pair that somebody has, and the image's state when it was complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) pair: Pair,
    pub(super) at: usize,
    /// Nobody noted that the stamp was shown.
    pub(super) unnoted: bool,
}

/// A mount.
#[derive(Debug, Clone)]
pub(super) struct Mounted {
    pub(super) blocks: Arc<Blocks>,
    pub(super) index: Arc<Index>,
    pub(super) mode: Mode,
    /// The image's state before the last scan.
    pub(super) begin: usize,
    /// The same, or that before the listing that gave all blocks one new stamp.
    pub(super) base: usize,
    /// The image's state when bmapfs first looked at it, if `begin` was named before that: what was written in between
    /// nobody can see, and the next map tells of it. Else the same as `begin`.
    pub(super) looked: usize,
    /// The image's state when bmapfs noted what it was like, or a later one: evidence of a write is since that.
    pub(super) noted: usize,
    /// Not every stamp has to stay.
    doubt: bool,
    /// Nor that of a block that was written through it while a client was reading, if that is watched.
    pub(super) written_while_read: [bool; BLOCKS],
    /// The image's state when a write through it last made a block readable.
    pub(super) mended: [Option<usize>; BLOCKS],
}

/// How an index was left by a mount during which nobody else wrote: nothing of that may change.
#[derive(Debug, Clone)]
pub(super) struct Calm {
    stamps: [Option<i64>; BLOCKS],
    image: Snapshot,
}

/// What the model remembers.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Model {
    pub(super) mount: Option<Mounted>,
    pub(super) readers: Vec<Reader>,
    pub(super) writers: Vec<Handle>,
    /// Of each block, what anybody may still have.
    pub(super) held: [Vec<Held>; BLOCKS],
    pub(super) targets: [[Option<Pair>; BLOCKS]; 2],
    /// Stamps that clients have set, in order.
    pub(super) sets: Vec<(usize, i64)>,
    pub(super) set_by_clients: HashSet<(usize, i64)>,
    /// The latest stamp that was shown and is no client's.
    pub(super) latest: i64,
    /// The note beside the index is lost, and nothing was noted since.
    pub(super) forgotten: bool,
    /// The mount that is there knows nothing of those before.
    pub(super) blind: bool,
    /// It notes nowhere what it shows.
    pub(super) unnoted: bool,
    /// Since the clock was last known to be right, it was turned back, or a process was killed whose stamps may lie
    /// ahead of it, or the image's times went back.
    pub(super) behind: bool,
    /// The block and the time that a client is setting.
    pub(super) setting: Option<(usize, i64)>,
    /// Nobody else can write.
    pub(super) exclusive: bool,
    /// The mount is going away: no client is left.
    pub(super) ending: bool,
    pub(super) nested: bool,
    /// Requests of clients in the middle of something.
    pub(super) nested_requests: usize,
    pub(super) bad: bool,
    /// Since the mount, something was.
    pub(super) was_bad: bool,
    pub(super) tally: Arc<Tally>,
    /// States that were named.
    pub(super) points: Vec<Point>,
    /// The state that is named before the next mount begins.
    pub(super) checkpoint: Option<usize>,
    pub(super) calm: Option<Calm>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct World {
    pub(super) disk: Arc<Disk>,
    pub(super) live: Arc<Live>,
    pub(super) clock: Arc<TestClock>,
    /// Nothing is shown before everything was read.
    zeros: bool,
    model: Mutex<Model>,
}

impl World {
    pub(super) fn new(setup: Setup, zeros: bool) -> Arc<Self> {
        let clock = Arc::new(TestClock::new(2_000_000_000));
        let told = match setup.told {
            0..=2 => Told::File,
            3 => Told::Untrusted,
            4..=5 | 7 => Told::Device {
                counts_all: setup.told < 7,
                numbered: setup.told != 5,
            },
            8 => Told::Coarse,
            _ => Told::Nothing,
        };
        let size = 2 * BLOCK + [BLOCK, 700, 2048, 3000][usize::from(setup.size) % 4];
        let world = Arc::new(Self {
            disk: Disk::new(&clock),
            live: Live::new(size, told, &clock),
            clock,
            zeros,
            model: Mutex::default(),
        });
        world.live.world.set(Arc::downgrade(&world)).unwrap();
        world
    }

    /// Never held while bmapfs works.
    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// The mount, if a client can use it.
    pub(super) fn mounted(&self) -> Option<Mounted> {
        let model = self.model();
        let usable = !model.ending && !self.disk.dead();
        model.mount.clone().filter(|_| usable)
    }

    fn open_index(
        &self,
        mode: Mode,
        rescan: bool,
        teller: Option<&Teller>,
    ) -> Result<Index, OpenError> {
        let image: Arc<dyn Image> = Arc::new(Shared(Arc::clone(&self.live)));
        let tally = Arc::new(Tally::default());
        self.model().tally = Arc::clone(&tally);
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let request = Request {
            writable: matches!(mode, Mode::Write | Mode::Force),
            force: mode == Mode::Force,
            changes: teller.map(|teller| teller as &dyn ChangeSource),
            rescan,
            zeros: self.zeros,
            purpose: match mode {
                Mode::Run => Purpose::Run {
                    refuse_shrunk: false,
                    strict: false,
                },
                Mode::Scan => Purpose::Scan {
                    list: true,
                    dry_run: false,
                },
                Mode::Long | Mode::Write | Mode::Force => Purpose::Mount,
            },
            ..Request::of_a_test(image, std::path::Path::new("index"), &tally, clock)
        };
        Index::open_store(&request, Box::new(DiskStore::open(&self.disk)))
    }

    pub(super) fn mount(&self, mode: Mode, rescan: bool) {
        self.mount_told(mode, rescan, None);
    }

    /// The same, by an administrator who has something to tell.
    pub(super) fn mount_told(&self, mode: Mode, rescan: bool, telling: Option<Telling>) {
        self.close(false);
        {
            let mut model = self.model();
            model.was_bad = model.bad;
            if model.forgotten {
                // With a clock that went back on top of it nothing could be told.
                self.clock
                    .turn((model.latest + 6 - self.clock.now()).max(0));
            }
        }
        let place = self.disk.place();
        self.begin_noting(
            place == Place::Hidden,
            matches!(place, Place::ReadOnly | Place::Hidden),
        );
        if mode == Mode::Write {
            self.live.let_go();
            let mut model = self.model();
            model.exclusive = true;
            // What is written now is not part of a state that was named before.
            model.checkpoint = None;
        }
        let named = telling.and_then(|_| self.model().checkpoint.take());
        // The index may be of this state, and never of an earlier one.
        let begin = named.unwrap_or_else(|| self.live.number());
        let teller = telling.map(|telling| self.tell(telling, begin));
        let opened = self.open_index(mode, rescan, teller.as_ref());
        let noted = self.live.looked();
        if let Some(teller) = &teller {
            self.told(teller);
        }
        if self.disk.dead() {
            return;
        }
        let index = match opened {
            Ok(index) => Arc::new(index),
            Err(e) => {
                let mut model = self.model();
                model.exclusive = false;
                if matches!(e, OpenError::Unsaved { .. }) {
                    model.calm = None;
                }
                return;
            }
        };
        self.model().forgotten = false;
        if !index.is_saved() {
            self.model().calm = None;
        }
        self.check_calm(&index, begin);
        if mode == Mode::Scan {
            let closed = index.close();
            self.after(&index, begin, false, closed.is_ok(), [false; BLOCKS]);
            return;
        }
        let image: Arc<dyn Image> = Arc::new(Shared(Arc::clone(&self.live)));
        let config = VolumeConfig {
            block_size: BlockSize::MIN,
            writable: matches!(mode, Mode::Write | Mode::Force),
            force: mode == Mode::Force,
            latch: true,
            salvage: false,
            sparse: false,
            resize: false,
            snapshot: None,
            detect_zeros: false,
            staging: 0,
            owner: OwnerConfig::default(),
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let blocks = Blocks::new(image, config, clock, Some(Arc::clone(&index)), None).unwrap();
        self.model().mount = Some(Mounted {
            blocks: Arc::new(blocks),
            index,
            mode,
            begin,
            base: begin,
            looked: telling.map_or(begin, |_| self.live.looked()),
            noted,
            doubt: false,
            written_while_read: [false; BLOCKS],
            mended: [None; BLOCKS],
        });
    }

    /// The orderly end; `busy`: although files are open.
    pub(super) fn close(&self, busy: bool) {
        let Some(mounted) = self.mounted() else {
            return;
        };
        let (readers, writers) = {
            let mut model = self.model();
            model.ending = true;
            if mounted.mode == Mode::Write || mounted.mode == Mode::Force {
                // What was written through it is not part of a state that was named before its end.
                model.checkpoint = None;
            }
            let readers = std::mem::take(&mut model.readers);
            (readers, std::mem::take(&mut model.writers))
        };
        if !busy {
            for handle in readers.iter().flat_map(|reader| &reader.handles) {
                mounted.blocks.release(*handle);
            }
            for handle in writers {
                mounted.blocks.release(handle);
            }
        }
        let torn = std::array::from_fn(|block| {
            let record = mounted.index.record(number(block));
            let written = mounted.written_while_read[block];
            busy || written || record.has(TORN) || record.has(UNREAD)
        });
        self.made(&mounted.index);
        {
            // That is not waited for: whoever knows nothing of it must not come before it.
            let mut model = self.model();
            model.behind |= model.latest > self.clock.now() + NEAR;
        }
        let closed = mounted.blocks.close();
        self.model().mount = None;
        let Mounted {
            index,
            begin,
            doubt,
            blocks,
            ..
        } = mounted;
        drop(blocks);
        self.after(&index, begin, doubt, closed.is_ok(), torn);
    }

    /// After a process has ended.
    fn after(&self, index: &Index, begin: usize, doubt: bool, saved: bool, torn: [bool; BLOCKS]) {
        self.made(index);
        if self.disk.dead() {
            return;
        }
        // What was cut off cannot be read.
        let whole = index.geometry().image_size() == self.live.size() as u64;
        let quiet = whole && !self.live.foreign_since(begin);
        let saved = saved && index.is_saved();
        {
            let mut model = self.model();
            model.exclusive = false;
            model.ending = false;
            let stamps = std::array::from_fn(|block| {
                let stamp = index.record(number(block)).stamp.second();
                (!torn[block] && quiet && !doubt && !model.was_bad).then_some(stamp)
            });
            let image = self.live.present();
            model.calm = saved.then_some(Calm { stamps, image });
        }
        if !saved {
            self.forget_what_clients_set();
        }
    }

    /// What was not touched keeps its stamp.
    fn check_calm(&self, index: &Index, begin: usize) {
        let mut model = self.model();
        let Some(calm) = model.calm.take() else {
            return;
        };
        if self.live.number() != begin || model.bad {
            return;
        }
        let image = self.live.present();
        for (block, stamp) in calm.stamps.into_iter().enumerate() {
            let same = image.content(block, BLOCK) == calm.image.content(block, BLOCK);
            if let Some(stamp) = stamp.filter(|_| same && image.content(block, BLOCK).len > 0) {
                let now = index.record(number(block)).stamp.second();
                assert_eq!(
                    now, stamp,
                    "block {block} has a new stamp, and nobody touched it"
                );
            }
        }
    }

    /// A process that was killed is buried.
    pub(super) fn bury(&self) {
        if !self.disk.dead() {
            return;
        }
        let ended = {
            let mut model = self.model();
            model.readers.clear();
            model.writers.clear();
            model.exclusive = false;
            model.ending = false;
            model.calm = None;
            model.behind = true;
            model.checkpoint = None;
            model.mount.take()
        };
        if let Some(ended) = &ended {
            self.made(&ended.index);
        }
        drop(ended);
        self.disk.revive();
        self.forget_what_clients_set();
    }

    /// SIGHUP.
    pub(super) fn rescan(&self) {
        let Some(mounted) = self.mounted() else {
            return;
        };
        let since = self.live.number();
        let tally = Arc::new(Tally::default());
        let (readers, requests) = {
            let mut model = self.model();
            model.tally = Arc::clone(&tally);
            (model.readers.len(), model.nested_requests)
        };
        // Whether it could be saved makes no difference to whoever looks.
        let _ = mounted.blocks.look_again(&tally);
        let cancelled = tally.cancel.load(SeqCst);
        let mut model = self.model();
        let watched = mounted.mode != Mode::Write;
        let disturbed = watched && (readers > 0 || requests != model.nested_requests);
        if let Some(mount) = &mut model.mount {
            mount.doubt |= disturbed || cancelled;
            if !cancelled {
                mount.begin = since;
                mount.base = since;
                mount.looked = since;
                mount.noted = self.live.looked();
            }
        }
    }
}

pub(super) fn number(block: usize) -> BlockIndex {
    BlockIndex::new(block as u64).unwrap()
}
