//! Who reads next, when several images are scanned at once: as many threads read as one scan has, on as many images as
//! there are, the largest first; and the more on one image, the fewer images are left.
//!
//! Invariant: no more than that many hold a [`Turn`], and nobody waits for one while fewer do.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Of all scans that share it.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Turns that are taken, of all scans.
    taken: usize,
    /// Threads that wait for one.
    waiting: usize,
    scans: BTreeMap<Key, Workers>,
    begun: u64,
}

/// The larger come first, then the older.
type Key = (Reverse<u64>, u64);

/// Of one scan.
#[derive(Debug, Default)]
struct Workers {
    working: usize,
    waiting: usize,
    next: Arc<Condvar>,
}

/// One scan.
#[derive(Debug)]
pub(super) struct Share<'a> {
    turns: &'a Turns,
    key: Key,
    /// So many turns there are.
    threads: usize,
    next: Arc<Condvar>,
}

/// A thread that may wait for a turn.
#[derive(Debug)]
pub(super) struct Ticket<'a>(&'a Share<'a>);

/// A thread that may read.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Share<'a>);

impl Turns {
    /// A scan of `size` bytes begins, with so many threads; all that share this say the same number.
    pub(super) fn begin(&self, size: u64, threads: usize) -> Share<'_> {
        let mut state = self.lock();
        let key = (Reverse(size), state.begun);
        state.begun += 1;
        let next = Arc::clone(&state.scans.entry(key).or_default().next);
        Share {
            turns: self,
            key,
            threads: threads.max(1),
            next,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Which scan has the next turn.
    fn first(&self) -> Option<Key> {
        let waiting = self.scans.iter().filter(|(_, scan)| scan.waiting > 0);
        let first = waiting.min_by_key(|(key, scan)| (scan.working, **key));
        first.map(|(key, _)| *key)
    }

    /// Wakes whoever is next, if there is a turn.
    fn wake(&self, threads: usize) {
        let first = self.first().filter(|_| self.taken < threads);
        if let Some(scan) = first.and_then(|key| self.scans.get(&key)) {
            scan.next.notify_one();
        }
    }

    /// Adds to the counts of a scan: threads that wait, and turns.
    fn add(&mut self, key: Key, waiting: isize, working: isize) {
        let scan = self.scans.entry(key).or_default();
        scan.waiting = scan.waiting.saturating_add_signed(waiting);
        scan.working = scan.working.saturating_add_signed(working);
        self.waiting = self.waiting.saturating_add_signed(waiting);
        self.taken = self.taken.saturating_add_signed(working);
    }
}

impl Share<'_> {
    /// For the first thread of the scan.
    pub(super) fn ticket(&self) -> Ticket<'_> {
        self.turns.lock().add(self.key, 1, 0);
        Ticket(self)
    }

    /// For one thread more, if there would be a turn for it.
    pub(super) fn spare(&self) -> Option<Ticket<'_>> {
        let mut state = self.turns.lock();
        let spare = state.taken + state.waiting < self.threads;
        if spare {
            state.add(self.key, 1, 0);
        }
        drop(state);
        spare.then(|| Ticket(self))
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.turns.lock().scans.remove(&self.key);
    }
}

impl<'a> Ticket<'a> {
    /// Waits until it is this scan's turn.
    pub(super) fn turn(self) -> Turn<'a> {
        let share = self.0;
        std::mem::forget(self);
        let mut state = share.turns.lock();
        while state.taken >= share.threads || state.first() != Some(share.key) {
            state = share
                .next
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.add(share.key, -1, 1);
        state.wake(share.threads);
        Turn(share)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.0.turns.lock();
        state.add(self.0.key, -1, 0);
        state.wake(self.0.threads);
    }
}

impl<'a> Turn<'a> {
    /// Lets others read, and waits with them.
    pub(super) fn again(self) -> Turn<'a> {
        let share = self.0;
        std::mem::forget(self);
        let mut state = share.turns.lock();
        state.add(share.key, 1, -1);
        state.wake(share.threads);
        drop(state);
        Ticket(share).turn()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.turns.lock();
        state.add(self.0.key, 0, -1);
        state.wake(self.0.threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which scans the next turns go to, if each of `scans` has so many threads that wait and that work.
    fn order(scans: &[(u64, isize, isize)], turns: usize) -> Vec<u64> {
        let mut state = State::default();
        for (number, (size, waiting, working)) in scans.iter().enumerate() {
            let key = (Reverse(*size), number as u64);
            state.add(key, *waiting, *working);
        }
        let mut given = Vec::new();
        for _ in 0..turns {
            let Some(key) = state.first() else { break };
            state.add(key, -1, 1);
            given.push(key.0.0);
        }
        given
    }

    #[test]
    fn p33_each_has_one_before_any_has_two_and_the_largest_comes_first() {
        assert_eq!(
            order(&[(5, 3, 0), (9, 3, 0), (7, 3, 0)], 5),
            [9, 7, 5, 9, 7]
        );
        assert_eq!(order(&[(5, 1, 0), (9, 2, 1)], 3), [5, 9, 9]);
        assert_eq!(order(&[(5, 1, 0), (5, 1, 0)], 3), [5, 5]);
    }

    #[test]
    fn p33_no_more_than_the_threads_have_a_turn_and_all_end() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        use std::time::{Duration, Instant};
        let start = Instant::now();
        let (turns, now, most) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for size in 0..20 {
                let (turns, now, most) = (&turns, &now, &most);
                scope.spawn(move || {
                    let share = turns.begin(size, 3);
                    let mut turn = share.ticket().turn();
                    for _ in 0..200 {
                        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        // Others run meanwhile, also on one processor; the first wait until there are enough.
                        std::thread::yield_now();
                        while most.load(SeqCst) < 3 {
                            assert!(start.elapsed() < Duration::from_secs(60));
                            std::thread::yield_now();
                        }
                        now.fetch_sub(1, SeqCst);
                        turn = turn.again();
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 3);
        let state = turns.lock();
        assert_eq!((state.taken, state.waiting), (0, 0));
        assert!(state.scans.is_empty());
    }

    #[test]
    fn a_scan_that_is_alone_has_all_turns() {
        let turns = Turns::default();
        let share = turns.begin(1, 3);
        let first = share.ticket().turn();
        let second = share.spare().unwrap().turn();
        let third = share.spare().unwrap();
        assert!(share.spare().is_none(), "one waits already");
        let third = third.turn();
        assert!(share.spare().is_none());
        drop((first, second, third));
        assert!(share.spare().is_some());
    }
}
