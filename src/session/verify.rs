//! `bmapfs verify`: whether a backup is what an index says (promise P28).

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::Instant;

use super::prepare::forward_signals;
use super::sums::read_known;
use super::verdict::NOT_AS_IT_SEEMS;
use crate::config::VerifyConfig;
use crate::exit::{OrFail, Result, Status};
use crate::host::progress::Progress;
use crate::sys;
use crate::verify::{Report, Request, Verification};

/// Reads the backup and writes what it is to `out`. The status to exit with: 9 if not every block is right. The signals
/// of [`crate::host::daemon::served_signals`] must be blocked in every thread.
pub fn verify(config: &VerifyConfig, out: &mut dyn Write) -> Result<u8> {
    let started = Instant::now();
    let (events, _inbox) = channel();
    let tally = forward_signals(events, false)?;
    let known = read_known(&config.known)?;
    let request = Request {
        known: &known,
        backup: &config.backup,
        sparse: config.known.sparse,
        part: config.part,
    };
    let verification = Verification::begin(request)?;
    let backup = config.backup.display();
    let threads = config.threads.map_or_else(sys::processors, usize::from);
    let found = {
        let name = config.backup.file_name().unwrap_or_default();
        let what = format!("verifying {}", name.to_string_lossy());
        let total = verification.bytes();
        let _progress = Progress::show(&what, &tally, total, config.verbosity);
        verification.run(threads, &tally)?
    };
    let report = Report {
        seconds: started.elapsed().as_secs_f64(),
        ..found
    };
    let text = if config.json {
        let object =
            serde_json::to_string(&report).or_fail(Status::Internal, || "printing the counts")?;
        object + "\n"
    } else if config.list {
        format!("{}{report}\n", report.listed())
    } else {
        format!("{report}\n")
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .or_fail(Status::System, || "writing to stdout")?;
    if report.is_right() {
        return Ok(Status::Success.code());
    }
    if report.is_all_wrong() {
        log::warn!(
            "{backup}: no block is right: it may be the wrong directory, or its blocks were copied with another index"
        );
    }
    if !known.is_current() {
        log::warn!(
            "{backup}: its index was used meanwhile: what is not as the index had it may have been copied since; verify \
             it again"
        );
    }
    Ok(NOT_AS_IT_SEEMS)
}
