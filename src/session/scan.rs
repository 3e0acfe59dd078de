//! `bmapfs scan`: brings an index up to date without mounting, or says what that would read.

use std::io;
use std::path::Path;
use std::sync::mpsc::channel;

use super::prepare::{Indexing, forward_signals};
use super::report::{Counts, Known};
use super::source::Source;
use crate::changes::ChangeMap;
use crate::config::ScanConfig;
use crate::exit::{OrFail, Result, Status};
use crate::host::replaced::Replaced;
use crate::index::{Plan, Purpose, Report};
use crate::scan::BlockMap;

/// What `bmapfs scan` has to say.
#[derive(Debug)]
pub enum Scanned {
    /// It was done.
    Done {
        /// The counts.
        report: Report,
        /// Blocks with new times, as runs of block numbers, ends included; if they were asked for.
        restamped: Vec<(u64, u64)>,
    },
    /// It would be done so: a dry run with a map of changes.
    Planned {
        /// What would be read.
        plan: Plan,
        /// Its blocks were asked for.
        list: bool,
    },
}

/// Scans. `map`: what [`super::read_map`] has read. `known`: takes what there is to report. The signals of [`crate::host::daemon::served_signals`] must be blocked
/// in every thread.
pub fn scan(config: &ScanConfig, map: Option<&ChangeMap>, known: &mut Known) -> Result<Scanned> {
    let (events, _inbox) = channel();
    let tally = forward_signals(events, false)?;
    let source = Source::open(
        &config.source,
        &config.volume,
        Some(&config.index),
        None,
        config.dry_run,
    )?;
    known.source = Some(source.path.clone());
    let purpose = Purpose::Scan {
        list: config.list,
        dry_run: config.dry_run,
    };
    let mapping = config
        .bmap
        .as_deref()
        .map(|file| Mapping::begin(file, &source))
        .transpose()?;
    let request = Indexing {
        source: &source,
        volume: &config.volume,
        map,
        bmap: mapping.as_ref().map(|mapping| &mapping.map),
        threads: config.threads,
    };
    if config.dry_run && map.is_some() {
        let plan = request.plan(&config.index, &tally)?;
        let list = config.list;
        return Ok(Scanned::Planned { plan, list });
    }
    let index = request.open(&config.index, purpose, config.verbosity, &tally)?;
    let (report, restamped) = (index.report(), index.restamped());
    let size = index.geometry().image_size();
    known.counts = Counts::of_scan(&report, None);
    if !config.dry_run {
        source.index_saved();
        let meanwhile = index
            .close()
            .or_fail(Status::System, || "saving the index")?;
        known.counts = Counts::of_scan(&report, Some(meanwhile));
    }
    if let Some(mapping) = mapping {
        mapping.finish(size)?;
    }
    Ok(Scanned::Done { report, restamped })
}

/// A block map that is going to be written.
struct Mapping<'a> {
    path: &'a Path,
    file: Replaced,
    map: BlockMap,
}

impl<'a> Mapping<'a> {
    /// Says what cannot be written before anything is read.
    fn begin(path: &'a Path, source: &Source) -> Result<Self> {
        let file =
            Replaced::open(path, BlockMap::BEGINNING).or_fail(Status::System, || writing(path))?;
        log::info!(
            "{}: all of it is read, for the block map",
            source.path.display()
        );
        Ok(Self {
            path,
            file,
            map: BlockMap::default(),
        })
    }

    /// Writes it, of an image of `size` bytes.
    fn finish(self, size: u64) -> Result<()> {
        let missing = match (size, self.map.unreadable()) {
            (0, _) => Err(io::Error::other("an image without a byte has none")),
            (_, Some(block)) => Err(io::Error::other(format!("block {block} cannot be read"))),
            _ => Ok(()),
        };
        missing
            .and_then(|()| self.map.write(size, self.file.file()))
            .and_then(|()| self.file.finish())
            .or_fail(Status::System, || writing(self.path))
    }
}

fn writing(path: &Path) -> String {
    format!("writing the block map {}", path.display())
}

impl Scanned {
    /// As text for people, or as one JSON object.
    pub fn text(&self, json: bool) -> Result<String> {
        match self {
            Self::Done { report, .. } if json => object(report),
            Self::Done { report, restamped } => Ok(runs(restamped) + &counts(report)),
            Self::Planned { plan, .. } if json => object(plan),
            Self::Planned { plan, list } => {
                let shown = if *list {
                    runs(&plan.ranges)
                } else {
                    String::new()
                };
                let Plan {
                    blocks,
                    read,
                    bytes,
                    checked,
                    ..
                } = plan;
                Ok(shown
                    + &format!(
                        "{read} of {blocks} blocks would be read, {bytes} bytes with their holes, and {checked} others \
                         to recheck\n"
                    ))
            }
        }
    }
}

fn object(value: &impl serde::Serialize) -> Result<String> {
    let object =
        serde_json::to_string(value).or_fail(Status::Internal, || "printing the counts")?;
    Ok(format!("{object}\n"))
}

fn runs(runs: &[(u64, u64)]) -> String {
    let runs = runs.iter().map(|(first, last)| {
        if first == last {
            format!("{first}\n")
        } else {
            format!("{first}-{last}\n")
        }
    });
    runs.collect()
}

fn counts(report: &Report) -> String {
    let Report {
        blocks,
        changed,
        new,
        unsettled,
        unreadable,
        unchanged,
        zero,
        bytes_read,
        rechecked,
        seconds,
        // A scan reads.
        first_pass: _,
    } = report;
    format!(
        "{blocks} blocks: {changed} changed, {new} new, {unchanged} unchanged, {unsettled} unsettled, \
         {unreadable} unreadable; {zero} zero; {bytes_read} bytes read, {rechecked} of them to recheck, in {seconds:.1} seconds\n"
    )
}
