//! The disks of a libvirt domain as sources (promise P35): which indexes they have, the moment, and the definition beside
//! them.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use super::freeze::{Frozen, Step};
use super::prepare::interrupted;
use super::source::{Freeze, Source, index_file};
use crate::blocks::Summary;
use crate::config::{DomainConfig, Freezing, IndexConfig, VolumeConfig};
use crate::exit::Result;
use crate::index::{Meanwhile, named_state};
use crate::libvirt::{Domain, Indexes};
use crate::scan::Tally;

/// What the disk with this target is called: by this name its index and its inodes are known.
pub(super) fn disk_name(domain: &DomainConfig, target: &str) -> PathBuf {
    PathBuf::from(format!("libvirt:{}/{target}", domain.name))
}

/// Finds the domain; nothing is begun.
pub(super) fn find(
    config: &DomainConfig,
    volume: &VolumeConfig,
    index: Option<&IndexConfig>,
) -> Result<Domain> {
    let indexes = match index {
        None => None,
        Some(index) => Some(indexes(config, volume, index)?),
    };
    Domain::find(config, indexes)
}

/// Where the indexes are, and what they are of.
fn indexes(config: &DomainConfig, volume: &VolumeConfig, index: &IndexConfig) -> Result<Indexes> {
    // That of no disk, in their directory.
    let any = index_file(index, &disk_name(config, ""), volume)?;
    let tag = blake3::hash(any.as_os_str().as_encoded_bytes()).to_hex();
    let (config, volume, index) = (config.clone(), volume.clone(), index.clone());
    let state = move |target: &str| {
        let file =
            index_file(&index, &disk_name(&config, target), &volume).map_err(|e| e.to_string())?;
        named_state(&file).map_err(|e| format!("index {}: {e}", file.display()))
    };
    Ok(Indexes {
        tag: tag[..12].to_owned(),
        state: Box::new(state),
    })
}

/// The moment: all disks as they are then, open.
pub(super) fn open(
    domain: &mut Domain,
    config: &DomainConfig,
    volume: &VolumeConfig,
    index: Option<&IndexConfig>,
    mountpoint: Option<&Path>,
    tally: &Tally,
) -> Result<(Vec<Source>, Option<Freeze>)> {
    let freeze = begin(domain, config.freeze.as_ref(), tally)?;
    if tally.cancel.load(Relaxed) {
        return Err(interrupted());
    }
    let disks = domain.disks()?.into_iter();
    let sources = disks.map(|disk| {
        let name = disk_name(config, &disk.target);
        Source::of_disk(disk, &name, volume, index, mountpoint)
    });
    Ok((sources.collect::<Result<_>>()?, freeze))
}

/// Whether what was copied was so at one time. While a domain runs, its job sees to that; while it is off, only its being off
/// does: who reads a raw image does not keep it from being started.
pub(super) fn is_of_one_moment(domain: &Domain, summaries: &[Summary]) -> bool {
    let any = |what| summaries.iter().any(|summary| summary.meanwhile == what);
    !any(Meanwhile::Written) && (!any(Meanwhile::Unknown) || domain.is_off_now())
}

fn begin(domain: &mut Domain, freeze: Option<&Freezing>, tally: &Tally) -> Result<Option<Freeze>> {
    let Some(freeze) = freeze.filter(|_| domain.runs()) else {
        domain.begin()?;
        return Ok(None);
    };
    let steps = match freeze {
        Freezing::Commands(commands) => Step::typed(commands)?,
        Freezing::Agent => domain
            .agent()
            .map(|(shown, command)| Step { shown, command }),
    };
    let frozen = Frozen::begin(steps, tally)?;
    let begun = domain.begin();
    let (lasted, thawed) = frozen.thaw();
    begun?;
    Ok(Some(Freeze { lasted, thawed }))
}
