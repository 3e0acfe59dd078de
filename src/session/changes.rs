//! Maps of changes on their way in: read while whoever started bmapfs still waits for it, checked when the image's
//! size is known.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::changes::{ChangeMap, Named};
use crate::config::{ChangesConfig, IndexConfig, MapConfig, MapFile};
use crate::exit::{Failure, OrFail, Result, Status};

/// No map is longer, in bytes: it is kept in memory while it is read.
const LONGEST: u64 = 1 << 30;

/// Reads the map that `--changed` names, if it does. Must be called before the first fork: the file may be stdin, and
/// the signals that end a reading are not blocked yet.
pub fn read_map(index: Option<&IndexConfig>) -> Result<Option<ChangeMap>> {
    let Some(map) = index.and_then(|index| index.changes.map.as_ref()) else {
        return Ok(None);
    };
    let mut text = Vec::new();
    match &map.file {
        MapFile::Stdin => io::stdin().lock().take(LONGEST + 1).read_to_end(&mut text),
        MapFile::Path(path) => {
            open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text))
        }
    }
    .or_fail(Status::MountFailed, || attempt(map))?;
    if text.len() as u64 > LONGEST {
        let sentence = format!("{}: it is longer than 1G: it is no map", attempt(map));
        return Err(Failure::new(Status::MountFailed, sentence));
    }
    ChangeMap::parse(&text, map.era_block)
        .or_fail(Status::MountFailed, || attempt(map))
        .map(Some)
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    Ok(file)
}

/// What the index is told of an image of `size` bytes, if there is anything to tell.
pub(super) fn named(
    config: &ChangesConfig,
    map: Option<&ChangeMap>,
    source: &Path,
    size: u64,
) -> Result<Option<Named>> {
    let told = match config.map.as_ref().zip(map) {
        Some((config, map)) => match map.within(size) {
            Err(why) if why.is_past_end() => {
                let (source, name) = (source.display(), name(config));
                log::warn!("{source}: {name}: {why}; everything is read");
                None
            }
            ranges => {
                let ranges = ranges.or_fail(Status::MountFailed, || attempt(config))?;
                Some((config.since.clone(), ranges))
            }
        },
        None => None,
    };
    if told.is_none() && config.now.is_none() {
        return Ok(None);
    }
    Ok(Some(Named {
        source: source.display().to_string(),
        told,
        now: config.now.clone(),
    }))
}

fn name(map: &MapConfig) -> String {
    match &map.file {
        MapFile::Stdin => "standard input".to_owned(),
        MapFile::Path(path) => path.display().to_string(),
    }
}

fn attempt(map: &MapConfig) -> String {
    format!("reading what changed: {}", name(map))
}
