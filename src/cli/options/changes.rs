//! The options that name states of an image and say what changed between them.

use std::path::PathBuf;

use super::Word;
use crate::config::{ChangesConfig, MapConfig, MapFile};
use crate::exit::{Failure, Result};

/// The longest name of a state, in bytes.
const LONGEST_NAME: usize = 255;
/// What dm-era cuts a device into is a multiple of this, in bytes.
const ERA_UNIT: u64 = 4096;

/// One of them.
pub(super) enum ChangesSetting {
    Changed(MapFile),
    Since(String),
    As(String),
    /// In bytes.
    EraBlock(u64),
}

/// What was given, each with how it was typed.
#[derive(Default)]
pub(super) struct ChangesDraft {
    changed: Option<(MapFile, String)>,
    since: Option<(String, String)>,
    now: Option<(String, String)>,
    era_block: Option<(u64, String)>,
}

/// `--changed`: a file, or `-`.
pub(super) fn map_file(word: &Word) -> Result<MapFile> {
    if word.value()? == "-" {
        return Ok(MapFile::Stdin);
    }
    let path: Option<PathBuf> = word.optional_path()?;
    Ok(MapFile::Path(path.unwrap_or_default()))
}

/// `--since`, `--as`: what an administrator calls a state.
pub(super) fn state(word: &Word) -> Result<String> {
    let name = word.text()?;
    if name.len() > LONGEST_NAME || name.contains(['\n', '\0']) {
        return Err(word.refused("must be one line of at most 255 bytes"));
    }
    Ok(name)
}

/// `-o era-block-size`, in bytes.
pub(super) fn era_block(word: &Word) -> Result<u64> {
    let bytes = word.size()?;
    if bytes == 0 || bytes % ERA_UNIT != 0 {
        return Err(word.refused("must be a multiple of 4096 bytes: dm-era's sectors, times 512"));
    }
    Ok(bytes)
}

impl ChangesDraft {
    pub(super) fn apply(&mut self, setting: ChangesSetting, typed: String) {
        match setting {
            ChangesSetting::Changed(file) => self.changed = Some((file, typed)),
            ChangesSetting::Since(name) => self.since = Some((name, typed)),
            ChangesSetting::As(name) => self.now = Some((name, typed)),
            ChangesSetting::EraBlock(bytes) => self.era_block = Some((bytes, typed)),
        }
    }

    /// The first that was given, as typed: what needs an index, and is not for what `write` or the like does.
    pub(super) fn typed(&self) -> Option<&String> {
        let changed = self.changed.as_ref().map(|(_, typed)| typed);
        let since = self.since.as_ref().map(|(_, typed)| typed);
        let now = self.now.as_ref().map(|(_, typed)| typed);
        let era_block = self.era_block.as_ref().map(|(_, typed)| typed);
        changed.or(now).or(since).or(era_block)
    }

    pub(super) fn finish(self) -> Result<ChangesConfig> {
        let map = match (self.changed, self.since) {
            (Some((file, _)), Some((since, typed))) => {
                if let Some((now, as_typed)) = &self.now
                    && *now == since
                {
                    return Err(Failure::usage(format!(
                        "{typed} and {as_typed} name the same state: every state needs a name of its own"
                    )));
                }
                let era_block = self.era_block.map(|(bytes, _)| bytes);
                Some(MapConfig {
                    file,
                    since,
                    era_block,
                })
            }
            (Some((_, typed)), None) => {
                return Err(Failure::usage(format!(
                    "{typed} has no meaning without --since: the state from which on it tells what changed"
                )));
            }
            (None, since) => {
                let since = since.map(|(_, typed)| typed);
                let era_block = self.era_block.map(|(_, typed)| typed);
                if let Some(typed) = since.or(era_block) {
                    return Err(Failure::usage(format!(
                        "{typed} has no meaning without --changed"
                    )));
                }
                None
            }
        };
        Ok(ChangesConfig {
            map,
            now: self.now.map(|(name, _)| name),
        })
    }
}
