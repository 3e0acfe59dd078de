use std::ffi::OsStr;

use super::*;
use crate::exit::Status;

fn words(text: &str) -> Vec<Word> {
    Word::list(OsStr::new(text)).unwrap()
}

fn settings(text: &str) -> Settings {
    resolve(&words(text), Unknown::Refuse).unwrap_or_else(|failure| panic!("{text}: {failure}"))
}

fn refusal(text: &str) -> String {
    let failure = Word::list(OsStr::new(text))
        .and_then(|words| resolve(&words, Unknown::Refuse))
        .expect_err(text);
    assert_eq!(failure.status(), Status::Usage, "{text}");
    failure.to_string()
}

#[test]
fn without_options_the_mount_is_read_only_and_private() {
    let settings = settings("");
    assert_eq!(settings.volume.block_size, BlockSize::DEFAULT);
    assert!(!settings.volume.writable && !settings.volume.force && settings.volume.latch);
    assert_eq!(settings.volume.owner, OwnerConfig::default());
    assert_eq!(settings.kernel, KernelConfig::default());
    assert_eq!((settings.threads, settings.foreground), (None, false));
    assert_eq!(settings.verbosity, Verbosity::Normal);
}

#[test]
fn every_option_reaches_its_setting() {
    let all = settings(
        "block-size=64K,write,threads=3,uid=0,gid=4294967294,umask=0027,allow_other,quiet,foreground,force,no-latch,salvage",
    );
    assert_eq!(all.volume.block_size.to_string(), "64K");
    assert!(all.volume.writable && all.volume.force && !all.volume.latch);
    assert!(all.volume.salvage && !settings("").volume.salvage);
    let owner = OwnerConfig {
        uid: Some(0),
        gid: Some(4_294_967_294),
        umask: Some(0o027),
    };
    assert_eq!(all.volume.owner, owner);
    assert_eq!(all.threads, NonZeroUsize::new(3));
    assert_eq!((all.verbosity, all.foreground), (Verbosity::Quiet, true));
    assert_eq!(all.kernel.access, Access::Everybody);
    let debug = settings("debug,kernel_cache,allow_root,ro");
    assert_eq!(
        (debug.verbosity, debug.foreground),
        (Verbosity::Debug, true)
    );
    assert_eq!(
        (debug.kernel.access, debug.kernel.page_cache),
        (Access::OwnerAndRoot, true)
    );
    assert!(debug.read_only_asked);
}

#[test]
fn own_words_are_spelt_with_either_dash() {
    for (one, other) in [
        ("block-size=4K", "block_size=4K"),
        ("bs=4K", "block_size=4K"),
        ("no-latch", "no_latch"),
        ("allow-other", "allow_other"),
        ("kernel-cache", "kernel_cache"),
        ("direct-io", "direct_io"),
    ] {
        // What was typed is kept as it was typed.
        let meant = |list| Settings {
            typed: Typed::default(),
            ..settings(list)
        };
        assert_eq!(meant(one), meant(other), "{one} {other}");
    }
}

#[test]
fn what_mount_and_systemd_and_libfuse_pass_is_swallowed() {
    let nothing = settings("");
    for word in [
        "rw",
        "defaults",
        "auto",
        "noauto",
        "user",
        "user=alice",
        "users",
        "nouser",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "x-systemd.automount",
        "x-systemd.idle-timeout=1min",
        "X-mount.mkdir=0755",
        "comment=a",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "atime",
        "diratime",
        "nodiratime",
        "silent",
        "loud",
        "iversion",
        "mand",
        "nomand",
        "uhelper=udisks2",
        "helper=x",
        "nonempty",
        "default_permissions",
        "subtype=bmapfs",
        "direct_io",
    ] {
        assert_eq!(settings(word), nothing, "{word}");
    }
}

#[test]
fn kernel_flags_keep_their_order_and_the_later_of_two_opposites_wins() {
    for (text, flags) in [
        ("nodev,nosuid,noexec,noatime", "nodev nosuid noexec noatime"),
        ("rw,noexec,nosuid,nodev,dev,suid", "noexec dev suid"),
        ("suid,nosuid", "nosuid"),
        ("noexec,exec", "exec"),
        ("sync,dirsync,async", "dirsync async"),
        ("nodev,nodev", "nodev"),
    ] {
        assert_eq!(settings(text).kernel.flags.join(" "), flags, "{text}");
    }
}

#[test]
fn data_for_the_kernel_keeps_its_commas_in_quotes() {
    let kernel =
        settings("context=\"u:r:t:s0,c1\",rootcontext=u:r:t,max_read=131072,fsname=a\\,b").kernel;
    assert_eq!(
        kernel.data,
        [
            "context=\"u:r:t:s0,c1\"",
            "rootcontext=u:r:t",
            "max_read=131072"
        ]
    );
    assert_eq!(kernel.fsname.as_deref(), Some(OsStr::new("a,b")));
    assert!(refusal("context=a\\\"\\,evil").contains("double quote"));
}

#[test]
fn of_two_values_the_later_counts() {
    assert_eq!(
        settings("bs=4K,block-size=8K")
            .volume
            .block_size
            .to_string(),
        "8K"
    );
    assert_eq!(settings("uid=1,uid=2").volume.owner.uid, Some(2));
}

#[test]
fn rw_takes_ro_back_and_never_means_write() {
    for (text, writable, read_only_asked) in [
        ("rw", false, false),
        ("ro", false, true),
        ("ro,rw", false, false),
        ("rw,ro", false, true),
        ("ro,rw,write", true, false),
    ] {
        let settings = settings(text);
        assert_eq!(
            (settings.volume.writable, settings.read_only_asked),
            (writable, read_only_asked),
            "{text}"
        );
    }
}

#[test]
fn a_refusal_names_the_option_as_typed_and_why() {
    for (text, named, why) in [
        ("frobnicate", "-o frobnicate:", "unknown option"),
        ("ro,offset=4096", "-o offset=4096:", "unknown option"),
        ("bs", "-o bs:", "a value is missing"),
        ("bs=", "-o bs=:", "a value is missing"),
        ("bs=4X", "-o bs=4X:", "'4X' is not a size"),
        (
            "block-size=3000",
            "-o block-size=3000:",
            "power of two from 4K to 1G",
        ),
        ("bs=0", "-o bs=0:", "power of two"),
        ("bs=1P", "-o bs=1P:", "not a size"),
        ("write=yes", "-o write=yes:", "takes no value"),
        ("nodev=1", "-o nodev=1:", "takes no value"),
        ("threads=0", "-o threads=0:", "from 1 to 256"),
        ("threads=257", "-o threads=257:", "from 1 to 256"),
        ("threads=+1", "-o threads=+1:", "from 1 to 256"),
        ("uid=-1", "-o uid=-1:", "a number"),
        ("uid=alice", "-o uid=alice:", "a number"),
        ("gid=4294967295", "-o gid=4294967295:", "to 4294967294"),
        ("umask=8", "-o umask=8:", "octal"),
        ("umask=1000", "-o umask=1000:", "octal"),
        ("max_read=lots", "-o max_read=lots:", "a number"),
        ("fsname=", "-o fsname=:", "a value is missing"),
        ("subtype=other", "-o subtype=other:", "always bmapfs"),
        ("auto_unmount", "-o auto_unmount:", "SIGTERM"),
        ("blkdev", "-o blkdev:", "not offered"),
        ("ro,remount", "-o remount:", "mount it again"),
        ("context=\"a", "-o context=\"a:", "not closed"),
    ] {
        let sentence = refusal(text);
        assert!(sentence.starts_with(named), "{text}: {sentence}");
        assert!(sentence.contains(why), "{text}: {sentence}");
    }
}

#[test]
fn a_snapshot_stays_unless_that_is_not_wanted() {
    assert_eq!(settings("").volume.snapshot, None);
    for (text, keep) in [
        ("snapshot", true),
        ("snapshot,snapshot-keep=yes", true),
        ("snapshot_keep=no,snapshot", false),
        ("snapshot,snapshot-keep=no,snapshot-keep=yes", true),
    ] {
        let snapshot = settings(text).volume.snapshot.unwrap();
        assert_eq!(
            (snapshot.keep, snapshot.typed.as_str()),
            (keep, "-o snapshot"),
            "{text}"
        );
    }
    let sentence = refusal("snapshot-keep=no");
    assert!(
        sentence.contains("-o snapshot-keep=no has no meaning without --snapshot"),
        "{sentence}"
    );
    for wrong in [
        "snapshot,snapshot-keep=maybe",
        "snapshot,snapshot-keep",
        "snapshot=x",
    ] {
        refusal(wrong);
    }
}

#[test]
fn options_that_exclude_each_other_are_both_named_in_either_order() {
    for (one, other) in [
        ("ro", "write"),
        ("kernel_cache", "write"),
        ("kernel_cache", "direct_io"),
        ("allow_other", "allow_root"),
        ("snapshot", "write"),
        ("snapshot", "resize"),
        ("snapshot", "changed=a"),
        ("snapshot", "since=a"),
        ("snapshot", "as=a"),
    ] {
        for text in [format!("{one},{other}"), format!("{other},{one}")] {
            let sentence = refusal(&text);
            for named in [one, other] {
                assert!(
                    sentence.contains(&format!("-o {named}")),
                    "{text}: {sentence}"
                );
            }
        }
    }
    let mut mixed = words("ro");
    mixed.push(Word::flag("-w", "write", None));
    let sentence = resolve(&mixed, Unknown::Refuse).unwrap_err().to_string();
    assert!(sentence.starts_with("-o ro and -w exclude"), "{sentence}");
}

#[test]
fn sloppy_leaves_out_what_is_unknown_but_not_what_is_wrong() {
    let settings = resolve(&words("frob=1,ro"), Unknown::Ignore).unwrap();
    assert_eq!(settings.ignored, ["-o frob=1"]);
    assert!(settings.read_only_asked);
    assert!(resolve(&words("bs=4X"), Unknown::Ignore).is_err());
}

#[test]
fn what_a_directory_takes_in_another_way_is_known_as_typed() {
    let typed = |list: &str| {
        let words = Word::list(std::ffi::OsStr::new(list)).unwrap();
        resolve(&words, Unknown::Refuse).unwrap().typed
    };
    let plain = typed("sparse,write,force,zero=keep");
    assert_eq!(plain, Typed::default());
    assert_eq!(typed("bs=4M").block_size, Some(BlockSize::DEFAULT));
    for (list, first) in [
        ("write,resize", "-o resize"),
        ("no-latch,staging=1M", "-o no-latch"),
        ("salvage,staging=1M", "-o salvage"),
        ("index,rescan", "-o index"),
        ("as=a,index", "-o as=a"),
        ("strict", "-o strict"),
        ("shrunk", "-o shrunk"),
    ] {
        assert_eq!(typed(list).image_only.as_deref(), Some(first));
    }
}

#[test]
fn a_map_of_changes_needs_an_index_and_the_state_that_it_begins_with() {
    let index = settings("index,changed=/m,since=a,as=b,era-block-size=64K").index;
    let changes = index.unwrap().changes;
    let map = changes.map.unwrap();
    assert_eq!(map.file, crate::config::MapFile::Path("/m".into()));
    assert_eq!((map.since.as_str(), map.era_block), ("a", Some(65_536)));
    assert_eq!(changes.now.as_deref(), Some("b"));
    let alone = settings("as=b,index").index.unwrap().changes;
    assert_eq!((alone.map, alone.now.as_deref()), (None, Some("b")));
    let once = settings("index,changed=-,since=a").index.unwrap().changes;
    assert_eq!(once.map.unwrap().file, crate::config::MapFile::Stdin);
    let long = "n".repeat(256);
    for (text, parts) in [
        (
            "changed=/m,since=a",
            &["-o changed=/m", "without --index"][..],
        ),
        ("as=b", &["-o as=b", "without --index"]),
        ("since=a", &["-o since=a", "without --index"]),
        ("index,changed=/m", &["-o changed=/m", "without --since"]),
        (
            "index,changed=/m,as=b",
            &["-o changed=/m", "without --since"],
        ),
        ("index,since=a", &["-o since=a", "without --changed"]),
        ("index,era-block-size=4K", &["size=4K", "without --changed"]),
        ("index,write,as=b", &["-o as=b", "-o write", "exclude"]),
        (
            "index,write,changed=/m,since=a",
            &["-o changed=/m", "-o write", "exclude"],
        ),
        (
            "index,changed=/m,since=a,as=a",
            &["-o since=a", "-o as=a", "same state"],
        ),
        ("index,as=", &["-o as=:", "a value is missing"]),
        ("index,as", &["-o as:", "a value is missing"]),
        (
            "index,changed=,since=a",
            &["-o changed=:", "a value is missing"],
        ),
        (
            "index,as=a\nb",
            &["-o as=a", "one line of at most 255 bytes"],
        ),
        (
            &format!("index,as={long}"),
            &["one line of at most 255 bytes"],
        ),
        (
            "index,changed=/m,since=a,era-block-size=128",
            &["-o era-block-size=128:", "a multiple of 4096 bytes"],
        ),
        (
            "index,changed=/m,since=a,era-block-size=0",
            &["a multiple of 4096 bytes"],
        ),
    ] {
        let sentence = refusal(text);
        for part in parts {
            assert!(sentence.contains(part), "{text}: {sentence}");
        }
    }
    assert!(
        settings(&format!("index,as={}", &long[1..]))
            .index
            .is_some()
    );
}
