//! `--report FILE`: one JSON object that tells how a run or a scan ended, for whoever watches backups. doc/bmapfs.8
//! tells of each field.
//!
//! Invariant: whatever the end is, the file is replaced as a whole then, or stays as it is and an error says so. What
//! can be known of that is said before anything is done.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::mounted_source;
use super::run::PRIVATE_BASE;
use super::served::Served;
use super::source::{Freeze, Source};
use crate::blocks::Summary;
use crate::config::{DomainConfig, SourceConfig};
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
    /// What was counted of each source.
    sources: Vec<Counted>,
    /// For how long they were frozen, in seconds.
    frozen: Option<f64>,
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

/// What was counted of a source.
#[derive(Debug, Clone, Serialize)]
struct Counted {
    /// Its directory in the mount; none if that shows only this source.
    name: Option<String>,
    /// Its canonical path.
    source: String,
    #[serde(flatten)]
    counts: Counts,
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
    #[serde(skip_serializing_if = "<[Counted]>::is_empty")]
    sources: &'a [Counted],
    frozen_seconds: Option<f64>,
    command_status: Option<u8>,
    status: u8,
    error: Option<&'a str>,
}

impl Known {
    /// A run has ended.
    pub(super) fn ended(&mut self, served: &Served, summaries: &[Summary]) {
        let each = served.members.iter().zip(summaries);
        let each = each.map(|(member, summary)| Counted {
            name: member.name.as_ref().map(|name| shown_name(name)),
            source: shown_name(member.path.as_os_str()),
            counts: Counts::of_run(summary),
        });
        self.sources = each.collect();
        self.freeze(served.freeze);
    }

    /// This source was scanned. `meanwhile`: whether it was written while it was read, if that is known.
    pub(super) fn scanned(
        &mut self,
        source: &Source,
        name: Option<&OsStr>,
        report: &Report,
        meanwhile: Option<Meanwhile>,
    ) {
        self.sources.push(Counted {
            name: name.map(shown_name),
            source: shown_name(source.path.as_os_str()),
            counts: Counts::of_scan(report, meanwhile),
        });
    }

    pub(super) fn freeze(&mut self, freeze: Option<Freeze>) {
        self.frozen = freeze.map(|freeze| freeze.lasted.as_secs_f64());
    }
}

impl Counts {
    /// Of all of them. What is not known of one is not known.
    fn sum(all: &[Counted]) -> Self {
        let sum = |of: fn(&Self) -> Option<u64>| all.iter().map(|one| of(&one.counts)).sum();
        let meanwhile = all.iter().map(|one| one.counts.written_meanwhile);
        Self {
            blocks: sum(|one| one.blocks),
            changed: sum(|one| one.changed),
            new: sum(|one| one.new),
            unsettled: sum(|one| one.unsettled),
            skipped: sum(|one| one.skipped),
            uncopied: sum(|one| one.uncopied),
            unreadable: sum(|one| one.unreadable),
            zero: sum(|one| one.zero),
            bytes_read: sum(|one| one.bytes_read),
            rechecked: sum(|one| one.rechecked),
            bytes_served: sum(|one| one.bytes_served),
            // Of the words the later ones of the alphabet are worse.
            written_meanwhile: meanwhile
                .collect::<Option<Vec<_>>>()
                .and_then(|words| words.into_iter().max()),
        }
    }

    /// Of a run that has ended.
    fn of_run(summary: &Summary) -> Self {
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
    fn of_scan(report: &Report, meanwhile: Option<Meanwhile>) -> Self {
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
    sources: &[SourceConfig],
    domain: Option<&DomainConfig>,
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
    let (counts, source) = match known.sources.as_slice() {
        [] => (Counts::default(), typed(sources)),
        [first, ..] => {
            let source = mounted_source(Path::new(&first.source), known.sources.len());
            (Counts::sum(&known.sources), shown_name(&source))
        }
    };
    let source = domain.map_or(source, DomainConfig::shown);
    let named = known.sources.iter().any(|one| one.name.is_some());
    let ended = seconds();
    let object = Object {
        bmapfs_report: VERSION,
        version: env!("CARGO_PKG_VERSION"),
        task,
        source: &source,
        began: &shown(began),
        began_seconds: began,
        ended: &shown(ended),
        ended_seconds: ended,
        counts: &counts,
        sources: if named { &known.sources } else { &[] },
        frozen_seconds: known.frozen,
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

/// What the sources are called before they were opened.
fn typed(sources: &[SourceConfig]) -> String {
    let Some(first) = sources.first() else {
        return String::new();
    };
    let path = std::fs::canonicalize(&first.path).unwrap_or_else(|_| first.path.clone());
    shown_name(&mounted_source(&path, sources.len()))
}

fn shown_name(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
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
            sources: &[],
            frozen_seconds: None,
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
