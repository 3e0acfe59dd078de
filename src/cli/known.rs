//! `bmapfs sums` and `bmapfs verify`, which only read an index.

use std::ffi::OsString;

use clap::ArgMatches;

use super::options::{self, Unknown, Word};
use super::{Command, absolute, given, sources, words};
use crate::config::{SumsConfig, VerifyConfig};
use crate::exit::{Failure, Result};
use crate::geometry::Part;

pub(super) fn sums(matches: &ArgMatches) -> Result<Command> {
    let (config, _) = known(matches, "sums", &[])?;
    Ok(Command::Sums(Box::new(config)))
}

pub(super) fn verify(matches: &ArgMatches) -> Result<Command> {
    let (known, settings) = known(matches, "verify", &["quiet", "threads"])?;
    let part = match matches.get_one::<OsString>("part") {
        None => Part::ALL,
        Some(text) => text
            .to_string_lossy()
            .parse()
            .map_err(|e| Failure::usage(format!("--part {}: {e}", text.to_string_lossy())))?,
    };
    Ok(Command::Verify(Box::new(VerifyConfig {
        known,
        backup: absolute(given(matches, "BACKUP")?)?,
        part,
        verbosity: settings.verbosity,
        threads: settings.threads,
        list: matches.get_flag("verbose"),
        json: matches.get_flag("json"),
    })))
}

/// Which index to read, for one of bmapfs's faces that does nothing else with SRC. `more`: other options that it takes.
fn known(
    matches: &ArgMatches,
    face: &str,
    more: &[&str],
) -> Result<(SumsConfig, options::Settings)> {
    // There is always an index.
    let mut all = vec![Word::flag("--index", "index", None)];
    all.extend(words(matches)?);
    let names = ["block-size", "index", "id", "sparse"];
    options::only(&all, &[&names[..], more].concat(), face)?;
    let settings = options::resolve(&all, Unknown::Refuse)?;
    let config = SumsConfig {
        source: sources::one_of_known(given(matches, "SRC")?)?,
        block_size: settings.volume.block_size,
        index: settings.index.clone().unwrap_or_default(),
        sparse: settings.volume.sparse,
    };
    Ok((config, settings))
}
