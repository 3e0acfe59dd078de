//! `bmapfs scan`: brings an index up to date without mounting, or says what that would read.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::mpsc::channel;

use super::images::{for_each, open_all, progress};
use super::indexing::Indexing;
use super::prepare::forward_signals;
use super::report::Known;
use super::run::enter_private_namespace;
use super::source::Source;
use super::{domain, not_thawed};
use nix::unistd::geteuid;

use crate::changes::ChangeMap;
use crate::config::ScanConfig;
use crate::exit::{OrFail, Result, Status};
use crate::host::replaced::Replaced;
use crate::index::{Meanwhile, Plan, Purpose, Report};
use crate::scan::{BlockMap, Tally};

/// What `bmapfs scan` has to say of one source.
#[derive(Debug)]
enum Scanned {
    /// It was done.
    Done {
        /// The counts.
        report: Report,
        /// Blocks with new times, as runs of block numbers, ends included; if they were asked for.
        restamped: Vec<(u64, u64)>,
        /// The image's size in bytes.
        size: u64,
        /// Whether the image was written meanwhile, if that is known.
        meanwhile: Option<Meanwhile>,
    },
    /// It would be done so: a dry run with a map of changes.
    Planned {
        /// What would be read.
        plan: Plan,
        /// Its blocks were asked for.
        list: bool,
    },
}

/// Scans, and writes what there is to say to `out`. `map`: what [`super::read_map`] has read. `known`: takes what there is
/// to report. The signals of [`crate::host::daemon::served_signals`] must be blocked in every thread.
pub fn scan(
    config: &ScanConfig,
    map: Option<&ChangeMap>,
    known: &mut Known,
    out: &mut dyn io::Write,
) -> Result<()> {
    if config.domain.is_some() && geteuid().is_root() {
        // What is mounted for it goes with this process.
        enter_private_namespace()?;
    }
    let (events, _inbox) = channel();
    let tally = forward_signals(events, false)?;
    let (volume, index) = (&config.volume, Some(&config.index));
    // Ended after what rests on it.
    let mut domain = match &config.domain {
        Some(of) => Some(domain::find(of, volume, index)?),
        None => None,
    };
    let (sources, freeze) = match domain.as_mut().zip(config.domain.as_ref()) {
        Some((domain, of)) => domain::open(domain, of, volume, index, None, &tally)?,
        None => open_all(&config.sources, volume, index, None, config.dry_run, &tally)?,
    };
    known.freeze(freeze);
    if let Some(freeze) = freeze {
        log::info!("{}", freeze.describe());
    }
    let mapping = match (&config.bmap, sources.first()) {
        (Some(file), Some(source)) => Some(Mapping::begin(file, source)?),
        _ => None,
    };
    let scanned = {
        let _progress = progress("scanning", &sources, &tally, config.verbosity);
        for_each(&sources, &tally, |source, tally| {
            scan_one(config, map, mapping.as_ref(), source, tally)
        })
    };
    let scanned = scanned.map_err(|(failure, _)| failure)?;
    let names = sources.iter().map(|source| source.name.as_deref());
    let mut mapping = mapping;
    for ((scanned, source), name) in scanned.iter().zip(&sources).zip(names.clone()) {
        if let Scanned::Done {
            report,
            size,
            meanwhile,
            ..
        } = scanned
        {
            known.scanned(source, name, report, *meanwhile);
            mapping.take().map_or(Ok(()), |map| map.finish(*size))?;
        }
    }
    let paths = sources.iter().map(|source| source.path.as_path());
    let all = names.zip(paths).zip(&scanned);
    let all = all.map(|((name, path), scanned)| OfSource {
        name,
        path,
        scanned,
    });
    let all: Vec<_> = all.collect();
    let text = if config.json {
        object(&all)?
    } else {
        all.iter().map(OfSource::text).collect()
    };
    out.write_all(text.as_bytes())
        .or_fail(Status::System, || "writing to stdout")?;
    match freeze {
        Some(freeze) if !freeze.thawed => Err(not_thawed()),
        _ => Ok(()),
    }
}

fn scan_one(
    config: &ScanConfig,
    map: Option<&ChangeMap>,
    mapping: Option<&Mapping<'_>>,
    source: &Source,
    tally: &Tally,
) -> Result<Scanned> {
    let purpose = Purpose::Scan {
        list: config.list,
        dry_run: config.dry_run,
    };
    let request = Indexing {
        source,
        volume: &config.volume,
        map,
        bmap: mapping.map(|mapping| &mapping.map),
        threads: config.threads,
    };
    if config.dry_run && map.is_some() {
        let plan = request.plan(&config.index, tally)?;
        let list = config.list;
        return Ok(Scanned::Planned { plan, list });
    }
    let index = request.open(&config.index, purpose, tally)?;
    let (report, restamped) = (index.report(), index.restamped());
    let size = index.geometry().image_size();
    let mut meanwhile = None;
    if !config.dry_run {
        source.index_saved();
        let closed = index.close();
        meanwhile = Some(closed.or_fail(Status::System, || "saving the index")?);
    }
    Ok(Scanned::Done {
        report,
        restamped,
        size,
        meanwhile,
    })
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

/// A source that was scanned: its directory in a mount, if it has one, and its path.
struct OfSource<'a> {
    name: Option<&'a OsStr>,
    path: &'a Path,
    scanned: &'a Scanned,
}

impl OfSource<'_> {
    /// For people.
    fn text(&self) -> String {
        // A list begins on a line of its own.
        let head = |lines: &str| match self.name {
            Some(_) if lines.is_empty() => format!("{}: ", self.path.display()),
            Some(_) => format!("{}:\n", self.path.display()),
            None => String::new(),
        };
        match self.scanned {
            Scanned::Done {
                report, restamped, ..
            } => {
                let lines = runs(restamped);
                head(&lines) + &lines + &counts(report)
            }
            Scanned::Planned { plan, list } => {
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
                head(&shown)
                    + &shown
                    + &format!(
                        "{read} of {blocks} blocks would be read, {bytes} bytes with their holes, and {checked} others \
                         to recheck\n"
                    )
            }
        }
    }
}

/// One JSON object: of the source, or with one for each that has a name.
fn object(all: &[OfSource<'_>]) -> Result<String> {
    #[derive(serde::Serialize)]
    struct Named<'a> {
        name: Option<String>,
        source: String,
        #[serde(flatten)]
        counts: &'a Counts<'a>,
    }
    #[derive(serde::Serialize)]
    #[serde(untagged)]
    enum Counts<'a> {
        Done(&'a Report),
        Planned(&'a Plan),
    }
    #[derive(serde::Serialize)]
    struct Several<'a> {
        sources: Vec<Named<'a>>,
    }
    let counts = all.iter().map(|one| match one.scanned {
        Scanned::Done { report, .. } => Counts::Done(report),
        Scanned::Planned { plan, .. } => Counts::Planned(plan),
    });
    let counts: Vec<_> = counts.collect();
    let object = match (all, counts.as_slice()) {
        ([only], [counts]) if only.name.is_none() => serde_json::to_string(counts),
        _ => {
            let sources = all.iter().zip(&counts).map(|(one, counts)| Named {
                name: one.name.map(|name| name.to_string_lossy().into_owned()),
                source: one.path.to_string_lossy().into_owned(),
                counts,
            });
            serde_json::to_string(&Several {
                sources: sources.collect(),
            })
        }
    };
    let object = object.or_fail(Status::Internal, || "printing the counts")?;
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
