//! How a scan is going, for whoever waits for it: a bar on a terminal, a line now and then in a log, nothing if
//! it is to be quiet.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Verbosity;
use crate::one_line::one_line;
use crate::scan::Tally;

/// Between two looks at the tally.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines in a log.
const LINE: Duration = Duration::from_secs(10);
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    end: Arc<AtomicBool>,
    shower: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows how far `tally` is on its way to `total` bytes. `what` is being done, for people.
    #[must_use]
    pub(crate) fn show(what: &str, tally: &Arc<Tally>, total: u64, verbosity: Verbosity) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let quiet = verbosity == Verbosity::Quiet || total == 0;
        let start = || {
            let (tally, end, what) = (Arc::clone(tally), Arc::clone(&end), what.to_owned());
            let terminal = std::io::stderr().is_terminal();
            thread::Builder::new()
                .name("progress".to_owned())
                .spawn(move || {
                    if terminal {
                        bar(&what, &tally, total, &end);
                    } else {
                        lines(&what, &tally, total, &end);
                    }
                })
        };
        // Without a thread the work goes on unseen.
        let shower = if quiet { None } else { start().ok() };
        Self { end, shower }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        if let Some(shower) = self.shower.take() {
            shower.thread().unpark();
            // It does nothing that could fail.
            let _ = shower.join();
        }
    }
}

/// One way through the image. There may be two: what is rechecked comes first, and the scan then begins at the start.
struct Course {
    start: Instant,
    done: u64,
}

impl Course {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            done: 0,
        }
    }

    /// Whether it begins again, now that `done` bytes are done.
    fn begins_again(&mut self, done: u64) -> bool {
        let again = done < self.done;
        if again {
            self.start = Instant::now();
        }
        self.done = done;
        again
    }
}

fn bar(what: &str, tally: &Tally, total: u64, end: &AtomicBool) {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_message(one_line(what));
    let mut course = Course::new();
    while !end.load(Relaxed) {
        let done = tally.done.load(Relaxed);
        if course.begins_again(done) {
            bar.reset();
        }
        bar.set_position(done);
        thread::park_timeout(TICK);
    }
    bar.finish_and_clear();
}

fn lines(what: &str, tally: &Tally, total: u64, end: &AtomicBool) {
    let mut course = Course::new();
    let mut last = course.start;
    while !end.load(Relaxed) {
        thread::park_timeout(TICK);
        course.begins_again(tally.done.load(Relaxed));
        if last.elapsed() < LINE || end.load(Relaxed) {
            continue;
        }
        last = Instant::now();
        let done = tally.done.load(Relaxed).max(1);
        let taken = course.start.elapsed();
        let seconds = taken.as_secs().max(1);
        let left = taken.as_secs_f64() / to_f64(done) * to_f64(total.saturating_sub(done));
        log::info!(
            "{what}: {} of {}, {}/s, {} left",
            HumanBytes(done),
            HumanBytes(total),
            HumanBytes(done / seconds),
            HumanDuration(Duration::from_secs_f64(left.max(0.0)))
        );
    }
}

/// Exact up to 2^53, and this is for people.
#[allow(clippy::cast_precision_loss)]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p22_a_scan_that_follows_a_recheck_is_shown_from_its_own_start() {
        let mut course = Course::new();
        let again = [3, 9, 9, 2, 4].map(|done| course.begins_again(done));
        assert_eq!(again, [false, false, false, true, false]);
    }
}
