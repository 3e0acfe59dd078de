//! What each thing that can happen does.

use std::sync::atomic::Ordering::SeqCst;

use super::live::{BLOCK, HALF, LONGEST, range};
use super::op::{Mode, Op, Part, Place, Time};
use super::world::{BLOCKS, Mounted, World, number};
use crate::clock::Clock;
use crate::geometry::Span;
use crate::volume::inode::Inode;
use crate::volume::{Change, SetTime, Volume};

impl World {
    /// One thing after the other.
    pub(super) fn apply(&self, op: &Op) {
        self.begin_what_it_needs(op);
        self.act(op);
        self.bury();
    }

    /// A client's request finds a mount, so that fewer histories are idle.
    fn begin_what_it_needs(&self, op: &Op) {
        let mode = match op {
            Op::List | Op::Rescan => Mode::Long,
            Op::Attr { .. } | Op::Start { .. } | Op::Sync { .. } | Op::Flash { .. } => Mode::Run,
            Op::Write { .. } | Op::Utimens { .. } | Op::Restore { .. } => Mode::Write,
            _ => return,
        };
        if self.mounted().is_none() {
            self.mount(mode, false);
            self.bury();
        }
    }

    /// In the middle of something else.
    pub(super) fn meanwhile(&self, op: &Op) {
        if std::mem::replace(&mut self.model().nested, true) {
            return;
        }
        match op {
            Op::Fail { .. } => self.disk.kill(),
            Op::Poke { .. }
            | Op::Grow { .. }
            | Op::Submit(_)
            | Op::Land
            | Op::Store(_)
            | Op::LetGo
            | Op::Below(_)
            | Op::Turn(_)
            | Op::Cancel => self.act(op),
            // Who comes while the first one waits, waits.
            _ if self.mounted().is_some_and(|m| m.index.shows_stamps()) => {
                self.model().nested_requests += 1;
                self.act(op);
            }
            _ => {}
        }
        self.model().nested = false;
    }

    fn act(&self, op: &Op) {
        match *op {
            Op::Mount { mode, rescan } => self.mount(mode, rescan),
            Op::Close { busy } => self.close(busy),
            Op::Crash { reboot } => {
                self.disk.kill();
                if reboot {
                    self.live.boot();
                }
            }
            Op::Night { target } => {
                self.mount(Mode::Run, false);
                self.sync(target);
                self.close(false);
            }
            Op::Name => self.name(),
            Op::ToldMount { mode, telling } => self.mount_told(mode, false, Some(telling)),
            Op::ToldNight { target, telling } => {
                self.mount_told(Mode::Run, false, Some(telling));
                self.sync(target);
                self.close(false);
            }
            Op::Poke { .. }
            | Op::Grow { .. }
            | Op::Cut { .. }
            | Op::Bad { .. }
            | Op::Submit(_)
            | Op::Land
            | Op::Store(_)
            | Op::LetGo
            | Op::Below(_) => self.others(op),
            Op::ComeAgain(other) => {
                // It cannot go while it is open.
                self.close(false);
                if !self.disk.dead() {
                    self.live.come_again(other);
                    self.model().behind = true;
                }
            }
            Op::Keep(place) => self.disk.keep(place),
            Op::Plain { target, writes } => self.plain(target, writes),
            Op::Turn(seconds) => {
                self.clock.turn(seconds);
                if seconds < 0 {
                    self.turned_back();
                }
            }
            Op::Sync { target } => {
                self.sync(target);
            }
            Op::Rescan => self.rescan(),
            Op::Fail {
                fault,
                after,
                crash,
            } => self.disk.fail(fault, after, crash),
            Op::Lose { .. } | Op::PutBack { .. } => {
                self.close(false);
                if !self.disk.dead() {
                    self.tamper(op);
                }
            }
            Op::Cancel => {
                let tally = self.model().tally.clone();
                tally.cancel.store(true, SeqCst);
            }
            Op::Plan { after, ref what } => self.live.plan(after, (**what).clone()),
            _ => {
                if let Some(mounted) = self.mounted() {
                    self.request(&mounted, op);
                }
            }
        }
    }

    /// What others do to the image.
    fn others(&self, op: &Op) {
        if self.model().exclusive {
            return;
        }
        match *op {
            Op::Poke {
                block,
                part,
                letter,
            } => self.live.poke(block, part, letter),
            Op::Submit(write) => self.live.submit(write),
            Op::Land => self.live.land(),
            Op::Store(write) => self.live.store(write),
            Op::LetGo => self.live.let_go(),
            Op::Below(write) => self.live.below(write),
            Op::Grow { by } if self.live.size() + by <= LONGEST => self.live.grow(by),
            Op::Cut { by } if self.live.size() > by + BLOCK => self.live.cut(by),
            Op::Bad { block, bad } => {
                let (start, end) = range(block, Part::Second);
                let span = Span::new(start as u64, end as u64);
                let spans = if bad { vec![span] } else { Vec::new() };
                self.live.memory.faults(|faults| faults.bad = spans);
                let mut model = self.model();
                model.bad = bad;
                model.was_bad |= bad;
            }
            _ => {}
        }
    }

    /// Somebody lays hands on the index.
    fn tamper(&self, op: &Op) {
        let note_gone = match *op {
            Op::Lose { note } => {
                self.disk.lose(note);
                note
            }
            Op::PutBack {
                version,
                link,
                note,
            } => {
                let Some(finished) = self.disk.finished(version) else {
                    return;
                };
                // Within two seconds it cannot be told from the one that was saved last.
                if (self.clock.now() - finished).abs() <= 5 {
                    self.clock.turn(11);
                }
                self.disk.put_back(version, link, note);
                note
            }
            _ => return,
        };
        self.model().forgotten |= note_gone;
        self.forget_what_clients_set();
    }

    /// What a client asks for.
    fn request(&self, mounted: &Mounted, op: &Op) {
        let writable = matches!(mounted.mode, Mode::Write | Mode::Force);
        match *op {
            Op::List => {
                self.list(mounted);
            }
            Op::Attr { block } => {
                self.look(mounted, block);
            }
            Op::Start {
                block,
                style,
                listed,
            } => self.start(mounted, block, style, listed),
            Op::Step { reader } => self.step(mounted, reader),
            Op::Abandon { reader } => self.abandon(mounted, reader),
            Op::Flash { block } => {
                self.flash(mounted, block);
            }
            Op::Reread => mounted.blocks.reread_size(),
            Op::Release => {
                let writer = self.model().writers.pop();
                if let Some(writer) = writer {
                    mounted.blocks.release(writer);
                }
            }
            Op::Write {
                block,
                part,
                letter,
                looked,
                release,
            } if writable => {
                if looked {
                    self.look(mounted, block);
                }
                self.write(mounted, block, part, letter, release);
            }
            Op::Utimens { block, time } if writable => {
                let old: Vec<i64> = self.model().held[block]
                    .iter()
                    .map(|held| held.pair.stamp)
                    .collect();
                let stamp = match time {
                    Time::Old(which) if !old.is_empty() => old[which % old.len()],
                    Time::Old(_) => self.clock.now(),
                    Time::FromNow(seconds) => self.clock.now() + seconds,
                };
                self.set_time(mounted, block, stamp);
            }
            Op::Restore { block, which } if writable => self.restore(mounted, block, which),
            _ => {}
        }
    }

    /// Others write a block, a client copies it, and the others put back what was there.
    fn flash(&self, mounted: &Mounted, block: usize) {
        let (start, end) = range(block, Part::Whole);
        if self.model().exclusive || self.live.size() < end {
            return;
        }
        let before = self.live.present().content(block, end - start);
        self.live.poke(block, Part::Whole, 2);
        self.copy(mounted, block);
        for (part, letter) in [Part::First, Part::Second].into_iter().zip(before.letters) {
            self.live.poke(block, part, letter);
        }
    }

    fn write(&self, mounted: &Mounted, block: usize, part: Part, letter: u8, release: bool) {
        let (start, end) = range(block, part);
        let known = usize::try_from(mounted.blocks.geometry().image_size()).unwrap();
        if known < end && known != self.live.size() {
            // It has grown, and a half must not get two kinds of bytes.
            return;
        }
        let end = end.min(known);
        let inode = Inode::Block(number(block));
        let Ok(handle) = mounted.blocks.open(inode, true) else {
            return;
        };
        if mounted.mode == Mode::Force {
            // Whoever is reading it is served what the index takes for the work of others: a new stamp is due (P24).
            let mut model = self.model();
            let read = model.nested || model.readers.iter().any(|reader| reader.block == block);
            if let Some(mount) = model.mount.as_mut().filter(|_| read) {
                mount.written_while_read[block] = true;
            }
        }
        if mounted.index.is_unreadable(number(block)) {
            let now = self.live.number();
            if let Some(mount) = &mut self.model().mount {
                mount.mended[block] = Some(now);
            }
        }
        if start < end {
            let offset = (start - block * BLOCK) as u64;
            // It may fail, on an image that somebody cut.
            let _ = mounted
                .blocks
                .write(handle, offset, &vec![letter; end - start]);
        }
        if release {
            mounted.blocks.release(handle);
        } else {
            self.model().writers.push(handle);
        }
    }

    fn set_time(&self, mounted: &Mounted, block: usize, stamp: i64) {
        let change = Change {
            mtime: Some(SetTime::At(stamp)),
            ..Change::default()
        };
        // Before it, for whoever looks in the middle of it; after it, for what was shown until then.
        self.model().set_by_client(block, stamp);
        self.model().setting = Some((block, stamp));
        let changed = mounted.blocks.change(Inode::Block(number(block)), &change);
        self.model().setting = None;
        if changed.is_ok() {
            self.model().set_by_client(block, stamp);
        }
    }

    /// Writes back what somebody has, time included.
    fn restore(&self, mounted: &Mounted, block: usize, which: usize) {
        let pair = {
            let model = self.model();
            let pairs = &model.held[block];
            if pairs.is_empty() {
                return;
            }
            pairs[which % pairs.len()].pair
        };
        let [first, second] = pair.content.letters;
        self.write(mounted, block, Part::First, first, true);
        if pair.content.len > HALF {
            self.write(mounted, block, Part::Second, second, true);
        }
        self.set_time(mounted, block, pair.stamp);
    }

    /// After all that, a quiet image: both targets get it whole, and a second time there is nothing to do.
    pub(super) fn finish(&self) {
        self.live.forget_plans();
        self.disk.no_faults();
        self.close(false);
        self.disk.keep(Place::Fine);
        self.live.let_go();
        self.live.memory.faults(|faults| faults.bad.clear());
        self.model().bad = false;
        self.clock.turn(3);
        for round in 0..2 {
            self.mount(Mode::Run, false);
            assert!(self.mounted().is_some());
            for target in 0..2 {
                let copied = self.sync(target);
                assert!(round == 0 || copied == 0, "{copied} blocks again");
            }
            self.close(false);
        }
        assert!(self.model().held.len() == BLOCKS);
    }
}
