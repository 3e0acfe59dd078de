//! `bmapfs --check`, `bmapfs sums` and `bmapfs verify` as clap is told them.

use clap::{Arg, Command, ValueHint};

use super::{FLAGS, bytes, json, named, options, source, switch};

const AFTER_SUMS: &str = "\
SRC need not be there: only its name is used, to find the index. -o takes id=NAME and the long options.
Exit status: 0; 9 if the index is not certain of some blocks, which are left out; 32 if it is in use,
lost, damaged, or of another block size.";

const AFTER_VERIFY: &str = "\
Nothing is changed, and SRC need not be there: only its name is used, to find the index.
-o takes id=NAME and the long options.
  damaged     other content with the time that the index has: remove these files, and the next run
              copies them
  unreadable  I/O errors, or something that is no file: look after the disk before you remove them
  missing     blocks without a file
  surplus     files past the image's end
  older       another time: not copied since it changed; the next run copies them
  newer       other content and a time that the index never had: a copy that was cut off, or one that
              was made without this index; the next run copies them
  unknown     the index is not certain of them
Exit status: 0 if all blocks are right; 9 if not; 32 if the index is in use, lost, damaged, or of
another block size.";

const AFTER_CHECK: &str = "\
Each line begins with a word:
  ok          it is there
  missing     it is not, and without it you cannot mount
  optional    it is not, and the line says what cannot be done and what to do
Exit status: 0 if nothing is missing, else 2.";

/// `bmapfs --check`.
pub(in crate::cli) fn check() -> Command {
    named("bmapfs --check")
        .about("Says what this machine has of all that bmapfs can use, and what to do for the rest. Makes a mount to try it.")
        .override_usage("bmapfs --check [DIR...]")
        .after_help(AFTER_CHECK)
        .arg(
            Arg::new("DIR")
                .num_args(0..)
                .value_parser(bytes())
                .value_hint(ValueHint::DirPath)
                .help("Where images are: are there reflinks, for --snapshot? You must be allowed to make files there"),
        )
}

/// `bmapfs sums`.
pub(in crate::cli) fn sums() -> Command {
    named("bmapfs sums")
        .about(
            "Prints what the index knows of SRC's blocks, as lines that b3sum --check reads in the backup's directory.",
        )
        .override_usage("bmapfs sums [OPTIONS] SRC")
        .after_help(AFTER_SUMS)
        .arg(source())
        .args(of_an_index(&[]))
        .arg(options())
}

/// `bmapfs verify`.
pub(in crate::cli) fn verify() -> Command {
    named("bmapfs verify")
        .about("Reads a directory of block files and compares it with what the index knows of SRC's blocks.")
        .override_usage("bmapfs verify [OPTIONS] SRC BACKUP")
        .after_help(AFTER_VERIFY)
        .arg(source())
        .arg(
            Arg::new("BACKUP")
                .required(true)
                .value_parser(bytes())
                .value_hint(ValueHint::DirPath)
                .help("The directory that the block files were copied to"),
        )
        .args(of_an_index(&["quiet", "threads"]))
        .arg(
            Arg::new("part")
                .long("part")
                .value_name("K/N")
                .value_parser(bytes())
                .help("Only the K-th of N parts of the blocks, as in 3/10; each block is in one of them"),
        )
        .arg(switch(
            "verbose",
            'v',
            "List the blocks that are not right, as LIST NUMBER or LIST FIRST-LAST",
        ))
        .arg(json())
        .arg(options())
}

/// The flags of what only reads an index, and `more`.
fn of_an_index(more: &'static [&'static str]) -> impl Iterator<Item = Arg> {
    FLAGS
        .iter()
        .filter(|flag| {
            ["block-size", "index", "sparse"].contains(&flag.word) || more.contains(&flag.word)
        })
        .map(|flag| match flag.word {
            "index" => flag
                .arg()
                .help("Go by this index [default: the one for this SRC in the state directory]"),
            "sparse" => flag
                .arg()
                .help("The backup was made with --sparse: blocks of zeros need no file"),
            _ => flag.arg(),
        })
}
