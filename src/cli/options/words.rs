//! The words that bmapfs gives a meaning of its own, one row each.
//!
//! A new option is a row here, the field of [`crate::config`] that it sets, and a line of the help; with a flag also a
//! row of the flags.

use super::{Draft, Word, changes};
use crate::config::Verbosity;
use crate::exit::Result;

/// The most FUSE worker threads that can be asked for.
const MAX_THREADS: usize = 256;

/// The most runs in which all of an image can be rechecked.
const MAX_PARTS: u32 = 1_000_000;

/// One word.
pub(super) struct OwnWord {
    /// Its names; in these '-' and '_' are the same. Under the first one it is looked up.
    pub(super) names: &'static [&'static str],
    pub(super) used: Use,
    pub(super) set: Set,
}

/// Where a word has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Everywhere,
    /// Not where SRC is a directory of block files.
    Images,
    /// Of images, for `bmapfs run` alone.
    Run,
}

/// What a word does.
#[derive(Clone, Copy)]
pub(super) enum Set {
    /// It takes no value.
    Alone(fn(&mut Draft)),
    /// It may take a value; an error says what is wrong with it.
    Value(fn(&mut Draft, &Word) -> Result<()>),
}

use Set::{Alone, Value};
use Use::{Everywhere, Images, Run};

const fn row(names: &'static [&'static str], used: Use, set: Set) -> OwnWord {
    OwnWord { names, used, set }
}

/// All of them. Of those that do nothing here, the draft asks in the end whether they were given.
#[rustfmt::skip]
pub(super) const OWN: &[OwnWord] = &[
    row(&["block-size", "bs"], Everywhere, Value(|d, word| word.parse().map(|size| d.settings.typed.block_size = Some(size)))),
    row(&["write"], Everywhere, Alone(|d| d.settings.volume.writable = true)),
    row(&["threads"], Everywhere, Value(|d, word| word.threads(MAX_THREADS).map(|n| d.settings.threads = Some(n)))),
    // The highest number is chown(2)'s "leave it as it is".
    row(&["uid"], Everywhere, Value(|d, word| word.number(0..=u32::MAX - 1).map(|uid| d.settings.volume.owner.uid = Some(uid)))),
    row(&["gid"], Everywhere, Value(|d, word| word.number(0..=u32::MAX - 1).map(|gid| d.settings.volume.owner.gid = Some(gid)))),
    row(&["umask"], Everywhere, Value(|d, word| word.umask().map(|mask| d.settings.volume.owner.umask = Some(mask)))),
    row(&["allow-other"], Everywhere, Alone(|_| ())),
    row(&["allow-root"], Everywhere, Alone(|_| ())),
    row(&["foreground"], Everywhere, Alone(|d| d.settings.foreground = true)),
    row(&["debug"], Everywhere, Alone(|d| (d.settings.foreground, d.settings.verbosity) = (true, Verbosity::Debug))),
    row(&["quiet"], Everywhere, Alone(|d| d.settings.verbosity = Verbosity::Quiet)),
    row(&["force"], Everywhere, Alone(|d| d.settings.volume.force = true)),
    row(&["no-latch"], Images, Alone(|d| d.settings.volume.latch = false)),
    row(&["salvage"], Images, Alone(|d| d.settings.volume.salvage = true)),
    row(&["staging"], Images, Value(|d, word| word.size().map(|bytes| d.staging = Some(bytes)))),
    row(&["sparse"], Everywhere, Alone(|d| d.settings.volume.sparse = true)),
    row(&["resize"], Images, Alone(|d| d.settings.volume.resize = true)),
    row(&["snapshot"], Images, Alone(|_| ())),
    row(&["snapshot-keep"], Images, Value(|d, word| word.either("yes", "no").map(|keep| d.snapshot_keep = keep))),
    row(&["freeze"], Images, Value(|d, word| word.freeze().map(|command| d.freeze = command))),
    row(&["thaw"], Images, Value(|d, word| word.value().map(|command| d.thaw = Some(command.to_owned())))),
    row(&["zero"], Everywhere, Value(|d, word| word.either("detect", "keep").map(|detect| d.zero = Some(detect)))),
    row(&["index"], Images, Value(|d, word| word.index_place().map(|place| d.index.place = place))),
    row(&["id"], Images, Value(|d, word| word.text().map(|id| d.index.id = Some(id)))),
    row(&["rescan"], Images, Alone(|d| d.index.rescan = true)),
    row(&["recheck"], Images, Value(|d, word| word.number(0..=MAX_PARTS).map(|n| d.index.recheck = Some(n)))),
    row(&["changed"], Images, Value(|d, word| changes::map_file(word).map(|file| d.changes.changed = Some(file)))),
    row(&["since"], Images, Value(|d, word| changes::state(word).map(|id| d.changes.since = Some(id)))),
    row(&["as"], Images, Value(|d, word| changes::state(word).map(|id| d.changes.now = Some(id)))),
    row(&["era-block-size"], Images, Value(|d, word| changes::era_block(word).map(|bytes| d.changes.era_block = Some(bytes)))),
    row(&["shrunk"], Run, Alone(|d| d.settings.shrunk = true)),
    row(&["strict"], Run, Alone(|d| d.settings.strict = true)),
    row(&["kernel-cache"], Everywhere, Alone(|d| d.settings.kernel.page_cache = true)),
    row(&["direct-io"], Everywhere, Alone(|_| ())),
];
