//! `--report FILE`: one JSON object that tells how a run or a scan ended, for whoever watches backups. doc/bmapfs.8
//! tells of each field.
//!
//! Invariant: whatever the end is, the file is replaced as a whole then, or stays as it is and an error says so. What
//! can be known of that is said before anything is done.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::run::PRIVATE_BASE;
use crate::blocks::Summary;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::host::replaced::Replaced;
use crate::index::{Meanwhile, Report};

/// By what an older report is known, so that nothing else is replaced.
const BEGINNING: &[u8] = b"{\"bmapfs_report\":";
/// Of the meaning of the fields. New ones may come without a new number.
const VERSION: u32 = 1;

/// What is known so far of a run or a scan.
#[derive(Debug, Default)]
pub struct Known {
    /// The source's canonical path.
    pub(super) source: Option<PathBuf>,
    /// What was counted.
    pub(super) counts: Counts,
    /// The command's status.
    pub(super) command: Option<u8>,
}

/// What was counted; `None`: it was not, or it did not come to that.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Counts {
    blocks: Option<u64>,
    changed: Option<u64>,
    new: Option<u64>,
    unsettled: Option<u64>,
    skipped: Option<u64>,
    uncopied: Option<u64>,
    unreadable: Option<u64>,
    zero: Option<u64>,
    bytes_read: Option<u64>,
    rechecked: Option<u64>,
    bytes_served: Option<u64>,
    written_meanwhile: Option<&'static str>,
}

/// The object, in the order of its fields.
#[derive(Debug, Serialize)]
struct Object<'a> {
    bmapfs_report: u32,
    version: &'static str,
    task: &'static str,
    source: &'a str,
    began: &'a str,
    began_seconds: i64,
    ended: &'a str,
    ended_seconds: i64,
    #[serde(flatten)]
    counts: &'a Counts,
    command_status: Option<u8>,
    status: u8,
    error: Option<&'a str>,
}

impl Counts {
    /// Of a run that has ended.
    pub(super) fn of_run(summary: &Summary) -> Self {
        let scanned = summary.report.as_ref();
        // Where blocks were to be copied, it is known which were.
        let knows = scanned.is_some() || summary.untouched.is_some();
        // The reverse does not look.
        let looked = summary.served.is_some();
        Self {
            blocks: Some(summary.blocks),
            skipped: knows.then(|| summary.skipped.map_or(0, |skipped| skipped.count)),
            uncopied: scanned.map(|_| summary.uncopied.map_or(0, |(count, _)| count)),
            unreadable: looked.then(|| summary.unreadable.map_or(0, |(count, _)| count)),
            bytes_served: summary.served,
            written_meanwhile: looked.then(|| word(summary.meanwhile)),
            ..scanned.map(Self::scanned).unwrap_or_default()
        }
    }

    /// Of a scan that has ended. `meanwhile`: whether the image was written while it was read, if that is known.
    pub(super) fn of_scan(report: &Report, meanwhile: Option<Meanwhile>) -> Self {
        Self {
            blocks: Some(report.blocks),
            unreadable: Some(report.unreadable),
            written_meanwhile: meanwhile.map(word),
            ..Self::scanned(report)
        }
    }

    /// What a scan knows.
    fn scanned(report: &Report) -> Self {
        Self {
            changed: Some(report.changed),
            new: Some(report.new),
            unsettled: Some(report.unsettled),
            zero: Some(report.zero),
            bytes_read: Some(report.bytes_read),
            rechecked: Some(report.rechecked),
            ..Self::default()
        }
    }
}

fn word(meanwhile: Meanwhile) -> &'static str {
    match meanwhile {
        Meanwhile::Quiet => "no",
        Meanwhile::Unknown => "unknown",
        Meanwhile::Written => "yes",
    }
}

/// Does `act`, a `task` on `source`, and replaces `file`, if there is one, by a report of how it ended. The status to
/// exit with: what `act` gives, unless that is 0 and the report cannot be written.
///
/// # Errors
/// Those of `act`; or the report cannot be written, which is said before `act` if it can be told then.
pub fn reported(
    file: Option<&Path>,
    task: &'static str,
    source: &Path,
    act: impl FnOnce(&mut Known) -> Result<u8>,
) -> Result<u8> {
    let mut known = Known::default();
    let Some(path) = file else {
        return act(&mut known);
    };
    refuse_hidden(path)?;
    let file = Replaced::open(path, BEGINNING).or_fail(Status::System, || writing(path))?;
    let began = seconds();
    let outcome = act(&mut known);
    let (status, error) = match &outcome {
        Ok(status) => (*status, None),
        Err(failure) => (failure.status().code(), Some(failure.to_string())),
    };
    let source = known.source.as_deref().unwrap_or(source);
    let ended = seconds();
    let object = Object {
        bmapfs_report: VERSION,
        version: env!("CARGO_PKG_VERSION"),
        task,
        source: &source.to_string_lossy(),
        began: &shown(began),
        began_seconds: began,
        ended: &shown(ended),
        ended_seconds: ended,
        counts: &known.counts,
        command_status: known.command,
        status,
        error: error.as_deref(),
    };
    match (write(&object, file), status) {
        (Ok(()), _) => outcome,
        (Err(e), 0) => Err(e).or_fail(Status::System, || writing(path)),
        (Err(e), _) => {
            log::error!("{}: {e}", writing(path));
            outcome
        }
    }
}

/// Refuses a place that the mounts of a run hide. What cannot be found is found out by who makes the file.
fn refuse_hidden(path: &Path) -> Result<()> {
    let place = std::fs::canonicalize(path).or_else(|_| {
        let directory = path.parent().filter(|parent| *parent != Path::new(""));
        std::fs::canonicalize(directory.unwrap_or(Path::new(".")))
    });
    if place.is_ok_and(|place| place.starts_with(PRIVATE_BASE)) {
        let why = format!("{}: bmapfs run mounts over it", writing(path));
        return Err(Failure::usage(why));
    }
    Ok(())
}

fn write(object: &Object<'_>, file: Replaced) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut line = serde_json::to_vec(object)?;
    line.push(b'\n');
    file.file().write_all(&line)?;
    file.finish()
}

fn writing(path: &Path) -> String {
    format!("writing the report {}", path.display())
}

/// The present second since the epoch.
fn seconds() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A second since the epoch as RFC 3339 has it, in UTC. Empty: it is in no year that this can say.
fn shown(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_begins_as_it_is_known_by() {
        let object = Object {
            bmapfs_report: VERSION,
            version: "",
            task: "run",
            source: "",
            began: &shown(0),
            began_seconds: 0,
            ended: &shown(1_709_251_199),
            ended_seconds: 1_709_251_199,
            counts: &Counts::default(),
            command_status: None,
            status: 0,
            error: None,
        };
        let text = serde_json::to_string(&object).unwrap();
        assert!(text.as_bytes().starts_with(BEGINNING), "{text}");
        assert!(text.contains("\"began\":\"1970-01-01T00:00:00Z\""));
        assert!(text.contains("\"ended\":\"2024-02-29T23:59:59Z\""));
    }
}
