//! The flags that have a long name, each of which is a mount option too.

use clap::{Arg, ArgAction};

use super::bytes;

/// A flag that is a mount option too.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Flag {
    /// Its long name, which is its word in an option list.
    pub(in crate::cli) word: &'static str,
    pub(in crate::cli) short: Option<char>,
    /// What its value is called; `None`: it takes none.
    pub(in crate::cli) value: Option<&'static str>,
    /// The value may be left out.
    pub(in crate::cli) optional: Optional,
    help: &'static str,
}

/// Whether a value may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Optional {
    No,
    /// If it is there, an equals sign is before it.
    AfterEquals,
    /// Then another option, or nothing, must follow.
    Yes,
}

/// Every flag with a long name, in the order of the help.
pub(in crate::cli) const FLAGS: [Flag; 20] = [
    flag(
        "write",
        Some('w'),
        None,
        "Allow writing; -rw and -o write are the same",
    ),
    flag(
        "block-size",
        Some('b'),
        Some("SIZE"),
        "Length of a block file: a power of two from 4K to 1G [default: 4M]",
    ),
    Flag {
        optional: Optional::AfterEquals,
        ..flag(
            "index",
            None,
            Some("FILE"),
            "Keep the blocks' times between mounts, in FILE, or in a file for each SRC in a directory if it is DIR/ [default: in \
             the state directory]",
        )
    },
    flag(
        "sparse",
        None,
        None,
        "Blocks without data have no file: the directory is the map of the image",
    ),
    flag(
        "resize",
        None,
        None,
        "A regular image may grow and shrink by its last block file; with -w",
    ),
    flag(
        "snapshot",
        None,
        None,
        "Serve a reflink snapshot of SRC; with --index, read only what differs from the last one",
    ),
    Flag {
        optional: Optional::Yes,
        ..flag(
            "freeze",
            None,
            Some("CMD"),
            "What /bin/sh runs before the snapshots are made, so that nobody writes SRC meanwhile; with --thaw. \
             Without CMD, and with libvirt:DOMAIN: the guest agent does that",
        )
    },
    flag(
        "thaw",
        None,
        Some("CMD"),
        "What /bin/sh runs right after the snapshots, once, whatever failed; with --freeze",
    ),
    flag(
        "changed",
        None,
        Some("FILE"),
        "Read only what FILE says has changed since --since: thin_delta, era_invalidate, rbd diff or nbdinfo made it, \
         or it has lines of OFFSET LENGTH; - is stdin; with --index",
    ),
    flag(
        "since",
        None,
        Some("ID"),
        "The state from which on FILE tells; if the index is of another, everything is read",
    ),
    flag(
        "as",
        None,
        Some("ID"),
        "What SRC's present state is called, for the next --since; with --index",
    ),
    flag(
        "foreground",
        Some('f'),
        None,
        "Stay in the foreground, log to stderr",
    ),
    flag(
        "debug",
        Some('d'),
        None,
        "Log one line an operation, in the foreground",
    ),
    flag("quiet", Some('q'), None, "Log warnings and errors only"),
    flag(
        "threads",
        None,
        Some("N"),
        "FUSE worker threads, 1 to 256 [default: by the number of processors]",
    ),
    flag(
        "salvage",
        None,
        None,
        "Open also blocks that cannot be read, for what is left of them",
    ),
    flag(
        "uid",
        None,
        Some("UID"),
        "Owner that block files show, as a number [default: SRC's]",
    ),
    flag(
        "gid",
        None,
        Some("GID"),
        "Group that block files show, as a number [default: SRC's]",
    ),
    flag(
        "umask",
        None,
        Some("MASK"),
        "Permission bits that block files do not show, in octal",
    ),
    flag(
        "allow-other",
        None,
        None,
        "Let other users in, as far as owner, group and mode allow it",
    ),
];

const fn flag(
    word: &'static str,
    short: Option<char>,
    value: Option<&'static str>,
    help: &'static str,
) -> Flag {
    Flag {
        word,
        short,
        value,
        optional: Optional::No,
        help,
    }
}

impl Flag {
    /// How an error names it: the way it is most often typed.
    pub(in crate::cli) fn spelling(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}"),
            None => format!("--{}", self.word),
        }
    }

    pub(super) fn arg(self) -> Arg {
        let arg = Arg::new(self.word).long(self.word).help(self.help);
        let arg = if let Some(short) = self.short {
            arg.short(short)
        } else {
            arg
        };
        let arg = match self.optional {
            Optional::No => arg,
            optional => arg
                .num_args(0..=1)
                .require_equals(optional == Optional::AfterEquals)
                .default_missing_value(""),
        };
        match self.value {
            // The last of several counts, but all are checked.
            Some(name) => arg
                .value_name(name)
                .value_parser(bytes())
                .action(ArgAction::Append),
            None => arg.action(ArgAction::SetTrue),
        }
    }
}
