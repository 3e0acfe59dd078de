//! The command line as clap is told it: names, help texts, examples.
//!
//! Invariant: every flag with a long name is in [`FLAGS`], and there stands under its word of an option list,
//! so that a flag and its word cannot drift apart. Values are read elsewhere; here they are only collected.

mod flags;
mod known;

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, ValueHint};

pub(super) use flags::{FLAGS, Flag, Optional};
pub(super) use known::{check, sums, verify};

const ABOUT: &str = "Mounts a disk image or block device as a directory of block files, so that rsync, restic, \
    borg, cp or tar copy only the blocks that changed, and can put them back.";

const AFTER: &str = "\
Mount options (-o): every long option above is one (-o write,block-size=64K), and
  ro              read-only, which is the default; not with write
  bs=SIZE         short for block-size
  force           go on although someone else uses SRC
  no-latch        go on writing after a write past a block's end was refused
  staging=SIZE    memory for files under temporary names [default: 64 blocks, at most 1G]
  zero=detect     make long runs of zeros that are written holes: the default with sparse
  zero=keep       write zeros as they come, which is the default without
  snapshot-keep=yes   leave the snapshot for the next run to compare with, which is the default
  snapshot-keep=no    leave none; with snapshot
  kernel_cache    let the kernel keep pages: if nobody else writes SRC; not with write
  direct_io       keep no pages, which is the default; not with kernel_cache
  id=NAME         what SRC is called in the state directory; with index
  rescan          read all of SRC, whatever the index knows; with index
  recheck=N       also read an N-th part of what need not be read, another one each time
  era-block-size=SIZE    length of a block of era_invalidate; with changed
  shrunk          of bmapfs run: go on although SRC is empty, or smaller than the index remembers
  strict          of bmapfs run: status 9 if SRC was written meanwhile, or CMD skipped changes
  allow_root      let root in, beside the user who mounts; not with allow_other
  fsname=NAME     what is shown as the mounted source, in place of SRC
  max_read=BYTES, context=..., fscontext=..., defcontext=..., rootcontext=...,
  [no]dev, [no]suid, [no]exec, [a]sync, dirsync, noatime    as in mount(8)
'rw' does not allow writing, because mount(8) passes it unasked: only write does.

Examples:
  bmapfs run --index disk.img -- rsync -a --inplace {}/ backup/   back up what changed
  bmapfs run -rw disk.img -- rsync -a --inplace backup/ {}/       restore
  bmapfs run --index libvirt:web -- rsync -a --inplace {}/ web/   all disks of a virtual machine, at one moment
  bmapfs run --index vm/*.img -- rsync -a --inplace {}/ backup/   several: backup/web.img/ ...
  bmapfs -b 64K /dev/vg0/vm /mnt                                  just mount, smaller blocks
  mount -t bmapfs disk.img /mnt -o write                          by mount(8), or in fstab
  umount /mnt                                                     with all data on the disk
  bmapfs verify disk.img backup/                                  is the backup what it should be?

Exit status, as mount(8)'s: 0 success, 1 usage or permission, 2 system error, 4 bug in bmapfs,
8 interrupted, 32 mount failure.";

const AFTER_RUN: &str = "\
bmapfs --help lists the mount options. The command may write SRC if -w is given.
Exit status: the command's; 128 + N if signal N ended it, 127 if there is no such command, 126 if
it cannot be run; 9 if it succeeded but part of SRC could not be read or writes were refused
(another block size), with -o strict also if SRC was written meanwhile or changed blocks were not
copied; else bmapfs's own.";

const AFTER_SCAN: &str = "bmapfs --help lists the mount options.";

/// The command line that users type, as help and completions show it.
#[must_use]
pub fn command() -> Command {
    named("bmapfs")
        .about(ABOUT)
        .override_usage(
            "bmapfs [OPTIONS] SRC... MOUNTPOINT\n       bmapfs run [OPTIONS] SRC... -- CMD [ARG...]\n       \
             bmapfs scan [OPTIONS] SRC...\n       bmapfs sums [OPTIONS] SRC\n       \
             bmapfs verify [OPTIONS] SRC BACKUP\n       bmapfs --check [DIR...]",
        )
        .after_help(AFTER)
        .arg(sources())
        .arg(mountpoint("Where to mount: a directory"))
        .arg(read())
        .args(FLAGS.map(Flag::arg))
        .arg(options())
}

/// A mount as it is parsed. SRC takes MOUNTPOINT, too, which is the last: clap would take the word before an option for it,
/// and options may stand between the two.
pub(super) fn mount() -> Command {
    named("bmapfs")
        .override_help(command().render_help())
        .arg(sources().required(false))
        .arg(read())
        .args(FLAGS.map(Flag::arg))
        .arg(options())
}

/// `bmapfs run`.
pub(super) fn run() -> Command {
    named("bmapfs run")
        .about(
            "Mounts SRC privately, runs CMD with {} replaced by the mount point (also in BMAPFS_MOUNT), unmounts, \
             and ends with CMD's status. Of several SRC, each is in {}/NAME.",
        )
        .override_usage("bmapfs run [OPTIONS] SRC... -- CMD [ARG...]")
        .after_help(AFTER_RUN)
        .arg(sources().required(false))
        .arg(connect())
        .arg(
            Arg::new("CMD")
                .last(true)
                .num_args(1..)
                .value_parser(bytes())
                .value_hint(ValueHint::CommandWithArguments)
                .help("The command and its arguments"),
        )
        .arg(read())
        .args(FLAGS.iter().filter(|flag| flag.word != "foreground").map(|flag| flag.arg()))
        .arg(report())
        .arg(options())
}

/// `bmapfs scan`.
pub(super) fn scan() -> Command {
    let shared = [
        "block-size",
        "index",
        "snapshot",
        "freeze",
        "thaw",
        "changed",
        "since",
        "as",
        "salvage",
        "quiet",
        "threads",
    ];
    named("bmapfs scan")
        .about("Brings the index of SRC up to date without mounting, and says what changed.")
        .override_usage("bmapfs scan [OPTIONS] SRC...")
        .after_help(AFTER_SCAN)
        .arg(sources().required(false))
        .arg(connect())
        .args(
            FLAGS
                .iter()
                .filter(|flag| shared.contains(&flag.word))
                .map(|flag| flag.arg()),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Leave the index as it is; with --changed only say what would be read"),
        )
        .arg(file(
            "bmap",
            "Read all of SRC and write a block map of it, for bmaptool",
        ))
        .arg(report())
        .arg(switch(
            "verbose",
            'v',
            "List the blocks that get new times, or would be read, as NUMBER or FIRST-LAST",
        ))
        .arg(json())
        .arg(options())
}

fn connect() -> Arg {
    Arg::new("connect")
        .long("connect")
        .value_name("URI")
        .value_parser(bytes())
        .help("With libvirt:DOMAIN as SRC: the libvirt of this host that has it [default: qemu:///system]")
}

fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print one JSON object")
}

/// A file that is replaced as a whole.
fn file(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id)
        .long(id)
        .value_name("FILE")
        .value_parser(bytes())
        .value_hint(ValueHint::FilePath)
        .help(help)
}

fn report() -> Arg {
    file(
        "report",
        "Replace FILE by a JSON object that tells how it ended, however it ends",
    )
}

fn read() -> Arg {
    switch(
        "read",
        'r',
        "Read, which is always on (so that -rw is two short flags)",
    )
}

/// `mount.bmapfs`, which mount(8) calls.
pub(super) fn mount_helper() -> Command {
    named("mount.bmapfs")
        .about("Mounts a disk image as block files, for mount(8); see bmapfs --help for the mount options.")
        .arg(source())
        .arg(mountpoint("Where to mount: a directory"))
        .arg(switch("sloppy", 's', "Leave out mount options that are not known"))
        .arg(switch("fake", 'f', "Check the arguments only"))
        .arg(switch("no-mtab", 'n', "For compatibility: no mtab is ever written"))
        .arg(switch("verbose", 'v', "Say what was done"))
        .args(helper_arguments())
        .arg(options())
}

/// `umount.fuse.bmapfs`, which umount(8) calls.
pub(super) fn umount_helper() -> Command {
    named("umount.fuse.bmapfs")
        .about("Unmounts block files, for umount(8), and waits until all is on the disk.")
        .arg(mountpoint(
            "What to unmount: the mount point, or the source",
        ))
        .arg(switch(
            "force",
            'f',
            "Abort what is under way instead of waiting for it",
        ))
        .arg(switch(
            "lazy",
            'l',
            "Detach now, end when nobody uses the mount any more",
        ))
        .arg(switch(
            "no-mtab",
            'n',
            "For compatibility: no mtab is ever written",
        ))
        .arg(switch(
            "read-only",
            'r',
            "For compatibility: a mount that stays is not made read-only",
        ))
        .arg(switch("verbose", 'v', "Say what was done"))
        .args(helper_arguments())
}

/// Said twice is said once; words on one line each, as far as the terminal allows.
fn named(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .args_override_self(true)
        .max_term_width(110)
}

fn bytes() -> ValueParser {
    clap::value_parser!(OsString)
}

fn switch(id: &'static str, short: char, help: &'static str) -> Arg {
    Arg::new(id)
        .short(short)
        .action(ArgAction::SetTrue)
        .help(help)
}

fn source() -> Arg {
    Arg::new("SRC")
        .required(true)
        .value_parser(bytes())
        .value_hint(ValueHint::FilePath)
        .help("The image: a regular file or block device; or a directory of block files, to see as one image")
}

/// One or several, and each may have a name.
fn sources() -> Arg {
    source().num_args(1..).value_name("SRC").help(
        "The image: a regular file or block device; or a directory of block files, to see as one image. Of several, each \
         is shown in a directory, called as its file, or NAME if it is NAME=SRC",
    )
}

fn mountpoint(help: &'static str) -> Arg {
    Arg::new("MOUNTPOINT")
        .required(true)
        .value_parser(bytes())
        .value_hint(ValueHint::DirPath)
        .help(help)
}

fn options() -> Arg {
    Arg::new("options")
        .short('o')
        .value_name("OPT[=VAL][,...]")
        .value_parser(bytes())
        .action(ArgAction::Append)
        .help("Mount options; may be repeated")
}

fn helper_arguments() -> [Arg; 2] {
    [
        Arg::new("namespace")
            .short('N')
            .value_name("NS")
            .value_parser(bytes())
            .help("Mount namespace to do it in: the path of its file"),
        Arg::new("type")
            .short('t')
            .value_name("TYPE")
            .value_parser(bytes())
            .help("Type of the file system: bmapfs or fuse.bmapfs"),
    ]
}
