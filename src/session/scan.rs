//! `bmapfs scan`: brings an index up to date without mounting.

use std::sync::Arc;
use std::sync::mpsc::channel;

use super::prepare::{Indexing, forward_signals};
use crate::config::ScanConfig;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::image::{self, Image, Opened};
use crate::index::{Purpose, Report};

/// What `bmapfs scan` has to say.
#[derive(Debug)]
pub struct Scanned {
    /// The counts.
    pub report: Report,
    /// Blocks with new times, as runs of block numbers, ends included; if they were asked for.
    pub restamped: Vec<(u64, u64)>,
}

/// Scans. The signals of [`crate::daemon::served_signals`] must be blocked in every thread.
pub fn scan(config: &ScanConfig) -> Result<Scanned> {
    let (events, _inbox) = channel();
    let tally = forward_signals(events)?;
    let Opened { source, path } = image::open(&config.source, &config.volume)?;
    let image: Arc<dyn Image> = Arc::new(source);
    let purpose = Purpose::Scan {
        list: config.list,
        dry_run: config.dry_run,
    };
    let request = Indexing {
        image: &image,
        path: &path,
        volume: &config.volume,
        threads: config.threads.map(usize::from),
    };
    let index = request
        .open(&config.index, purpose, config.verbosity, &tally)?
        .ok_or_else(|| {
            Failure::new(
                Status::System,
                format!("scanning {}: its index cannot be saved", path.display()),
            )
        })?;
    let scanned = Scanned {
        report: index.report(),
        restamped: index.restamped(),
    };
    if !config.dry_run {
        index
            .close()
            .or_fail(Status::System, || "saving the index")?;
    }
    Ok(scanned)
}

impl Scanned {
    /// As text for people, or as one JSON object.
    pub fn text(&self, json: bool) -> Result<String> {
        let Report {
            blocks,
            changed,
            new,
            unsettled,
            unreadable,
            unchanged,
            zero,
            bytes_read,
            seconds,
        } = &self.report;
        if json {
            let object = serde_json::to_string(&self.report)
                .or_fail(Status::Internal, || "printing the counts")?;
            return Ok(format!("{object}\n"));
        }
        let runs = self.restamped.iter().map(|(first, last)| {
            if first == last {
                format!("{first}\n")
            } else {
                format!("{first}-{last}\n")
            }
        });
        let text = runs.collect::<String>()
            + &format!(
                "{blocks} blocks: {changed} changed, {new} new, {unchanged} unchanged, {unsettled} unsettled, \
                 {unreadable} unreadable; {zero} zero; {bytes_read} bytes read in {seconds:.1} seconds\n"
            );
        Ok(text)
    }
}
