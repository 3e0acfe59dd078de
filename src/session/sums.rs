//! `bmapfs sums`: what an index knows, for `b3sum --check` (promise P28).

use std::io::{BufWriter, Write};

use super::verdict::NOT_AS_IT_SEEMS;
use crate::config::{IndexPlace, SumsConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::geometry::BlockIndex;
use crate::index::{self, Known, KnownError};
use crate::sys::links;

/// Writes a line for each block that is certain. The status to exit with: 9 if some are not.
pub fn sums(config: &SumsConfig, out: &mut dyn Write) -> Result<u8> {
    let known = read_known(config)?;
    let writing = || "writing to stdout";
    let mut out = BufWriter::new(out);
    let mut left_out = None;
    for block in (0..known.geometry().blocks()).filter_map(BlockIndex::new) {
        let Some(certain) = known.block(block) else {
            let (count, _) = left_out.get_or_insert((0_u64, block));
            *count += 1;
            continue;
        };
        if config.sparse && !known.has_file(block, &certain) {
            continue;
        }
        let digest = blake3::Hash::from_bytes(certain.digest).to_hex();
        writeln!(out, "{digest}  {block}").or_fail(Status::System, writing)?;
    }
    out.flush().or_fail(Status::System, writing)?;
    let Some((count, first)) = left_out else {
        return Ok(Status::Success.code());
    };
    log::warn!(
        "{}: the index is not certain of {count} of {} blocks, the first is {first}: they are left out; the next copy of \
         them, by bmapfs run, makes them certain",
        config.source.display(),
        known.geometry().blocks()
    );
    Ok(NOT_AS_IT_SEEMS)
}

/// Reads the index that `config` means. SRC need not be there.
pub(super) fn read_known(config: &SumsConfig) -> Result<Known> {
    let named = || {
        let typed = &config.source;
        // The disk of a domain is known by its name.
        let real = || {
            std::fs::canonicalize(typed)
                .or_else(|_| links::resolve(typed))
                .ok()
        };
        let real = typed.is_absolute().then(real).flatten();
        let source = real.unwrap_or_else(|| typed.clone());
        let directory = match &config.index.place {
            IndexPlace::File(file) => return Ok(file.clone()),
            IndexPlace::Directory(directory) => Some(directory.as_path()),
            IndexPlace::State => None,
        };
        index::known_path(
            directory,
            &source,
            config.index.id.as_deref(),
            config.block_size,
        )
    };
    let file = named().or_fail(
        Status::MountFailed,
        || "looking for the state directory (set XDG_STATE_HOME, or use --index=FILE)",
    )?;
    let known = Known::read(&file, config.block_size).map_err(|e| {
        let status = match &e {
            KnownError::Refused(why) if why.is_mistake() => Status::Usage,
            _ => Status::MountFailed,
        };
        Failure::new(status, format!("index {}: {e}", file.display()))
    })?;
    if let Some(warning) = known.warning() {
        log::warn!("index {}: {warning}", file.display());
    }
    Ok(known)
}
