//! The options that name states of an image and say what changed between them.

use std::path::PathBuf;

use super::Word;
use crate::config::{ChangesConfig, MapConfig, MapFile};
use crate::exit::{Failure, Result};

/// The longest name of a state, in bytes.
const LONGEST_NAME: usize = 255;
/// What dm-era cuts a device into is a multiple of this, in bytes.
const ERA_UNIT: u64 = 4096;

/// Their words; the first one that was given is named in errors.
pub(super) const WORDS: [&str; 4] = ["changed", "as", "since", "era-block-size"];

/// What was given.
#[derive(Default)]
pub(super) struct ChangesDraft {
    pub(super) changed: Option<MapFile>,
    pub(super) since: Option<String>,
    pub(super) now: Option<String>,
    /// In bytes.
    pub(super) era_block: Option<u64>,
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
    /// `given`: how a word was typed, if it was.
    pub(super) fn finish<'a>(
        self,
        given: &impl Fn(&str) -> Option<&'a String>,
    ) -> Result<ChangesConfig> {
        let typed = |name| given(name).map_or("", String::as_str);
        let map = match (self.changed, self.since) {
            (Some(file), Some(since)) => {
                if self.now.as_ref() == Some(&since) {
                    return Err(Failure::usage(format!(
                        "{} and {} name the same state: every state needs a name of its own",
                        typed("since"),
                        typed("as")
                    )));
                }
                Some(MapConfig {
                    file,
                    since,
                    era_block: self.era_block,
                })
            }
            (Some(_), None) => {
                return Err(Failure::usage(format!(
                    "{} has no meaning without --since: the state from which on it tells what changed",
                    typed("changed")
                )));
            }
            (None, _) => {
                if let Some(typed) = given("since").or(given("era-block-size")) {
                    return Err(Failure::usage(format!(
                        "{typed} has no meaning without --changed"
                    )));
                }
                None
            }
        };
        Ok(ChangesConfig { map, now: self.now })
    }
}
