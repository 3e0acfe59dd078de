use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::config::{DomainConfig, FreezeConfig, Freezing};

pub(super) fn parsed(arguments: &[&str]) -> Result<Command> {
    parse(
        std::iter::once("bmapfs")
            .chain(arguments.iter().copied())
            .map(OsString::from),
    )
}

pub(super) fn request(arguments: &[&str]) -> MountRequest {
    match parsed(arguments) {
        Ok(Command::Mount(request)) => *request,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn umount(arguments: &[&str]) -> UmountConfig {
    match parsed(arguments) {
        Ok(Command::Umount(config)) => config,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn text(arguments: &[&str]) -> String {
    match parsed(arguments) {
        Ok(Command::Print(text)) => text,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

pub(super) fn refusal(arguments: &[&str]) -> String {
    let failure = parsed(arguments).expect_err(&format!("{arguments:?}"));
    assert_eq!(failure.status(), Status::Usage, "{arguments:?}");
    failure.to_string()
}

#[test]
fn the_definitions_are_sound() {
    definition::command().debug_assert();
    definition::mount().debug_assert();
    definition::mount_helper().debug_assert();
    definition::umount_helper().debug_assert();
    definition::run().debug_assert();
    definition::scan().debug_assert();
    definition::sums().debug_assert();
    definition::verify().debug_assert();
    definition::check().debug_assert();
}

#[test]
fn flags_and_words_come_to_the_same() {
    for (flags, list) in [
        (&["-w"][..], "write"),
        (&["-rw"], "write"),
        (&["--write", "-w"], "write"),
        (&["-b", "64K"], "block-size=64K"),
        (&["-b64K"], "bs=64K"),
        (&["--block-size=64K"], "bs=64K"),
        (&["-f"], "foreground"),
        (&["-d"], "debug"),
        (&["-q"], "quiet"),
        (&["--threads", "2"], "threads=2"),
        (
            &["--uid=1", "--gid=2", "--umask=027"],
            "uid=1,gid=2,umask=027",
        ),
        (&["--allow-other"], "allow_other"),
        (&["-r"], "rw"),
        (&["-o", "bs=4K", "-b", "8K"], "bs=8K"),
        (&["-b", "8K", "-o", "bs=4K"], "bs=4K"),
        (&["-b", "8K", "-b", "4K"], "bs=4K"),
        (&["-o", "nodev", "-onosuid"], "nodev,nosuid"),
    ] {
        let flags = request(&[flags, &["/a", "/b"]].concat());
        assert_eq!(flags, request(&["/a", "-o", list, "/b"]), "{list}");
    }
}

#[test]
fn names_of_states_keep_their_spaces_and_commas() {
    let flags = ["--index=/i", "--changed", "-", "--since", "a b", "--as=c,d"];
    let flags = request(&[&flags[..], &["/a", "/b"]].concat());
    let list = "index=/i,changed=-,since=a b,as=c\\,d";
    let words = request(&["/a", "-o", list, "/b"]);
    assert_eq!(flags.config.index, words.config.index);
}

#[test]
fn every_flag_is_a_mount_option() {
    for flag in definition::FLAGS {
        let value = flag.value.map_or("", |_| "=4096");
        let word = format!("{}{value}", flag.word)
            .replace("umask=4096", "umask=0")
            .replace("threads=4096", "threads=1");
        // Some are for others only.
        let with = match flag.word {
            "resize" => "write",
            "changed" => "index,since=a",
            "since" => "index,changed=a",
            "as" => "index",
            "snapshot" => "freeze=a,thaw=b",
            "freeze" => "snapshot,thaw=a",
            "thaw" => "snapshot,freeze=a",
            _ => "direct_io",
        };
        assert!(
            parsed(&["-o", &word, "-o", with, "/a", "/b"]).is_ok(),
            "{word}"
        );
    }
}

#[test]
fn paths_become_absolute_and_keep_their_bytes() {
    let here = std::env::current_dir().unwrap();
    let config = request(&["disk.img", "/dev/fd/7"]).config;
    assert_eq!(config.sources[0].path, here.join("disk.img"));
    assert_eq!(config.mountpoint, Path::new("/dev/fd/7"));
    let odd = OsStr::from_bytes(b"/a,\xff\n");
    let arguments = [OsStr::new("bmapfs"), odd, OsStr::new("/b")].map(OsString::from);
    match parse(arguments).unwrap() {
        Command::Mount(request) => assert_eq!(request.config.sources[0].path.as_os_str(), odd),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        request(&["--", "/-a", "/b"]).config.sources[0].path,
        Path::new("/-a")
    );
}

#[test]
fn a_wrong_command_line_is_one_sentence() {
    for (arguments, part) in [
        (&[][..], "SRC and MOUNTPOINT are missing; see bmapfs --help"),
        (&["/a"], "MOUNTPOINT is missing"),
        (&["-w", "/a"], "MOUNTPOINT is missing"),
        (&["", "/b"], "SRC is empty"),
        (&["/a", "", "/b"], "SRC is empty"),
        (&["/a", ""], "MOUNTPOINT is empty"),
        (&["scan"], "<SRC>"),
        (&["run", "--", "true"], "<SRC>"),
        (&["run", "/a"], "CMD is missing: it stands behind --"),
        (
            &["run", "/a", "true"],
            "CMD is missing: it stands behind --",
        ),
        (&["run", "/a", "--"], "CMD is missing: it stands behind --"),
        (
            &["--mount-helper", "/a", "/b", "/c"],
            "unexpected argument '/c'",
        ),
        (&["--frob", "/a", "/b"], "unexpected argument '--frob'"),
        (
            &["--writ", "/a", "/b"],
            "a similar argument exists: '--write'",
        ),
        (&["/a", "/b", "-b"], "'--block-size <SIZE>'"),
        (&["-b", "4X", "/a", "/b"], "-b 4X: '4X' is not a size"),
        (&["-b", "", "/a", "/b"], "-b '': a value is missing"),
        (&["-b", "4X", "-b", "4K", "/a", "/b"], "-b 4X: "),
        (&["--threads=0", "/a", "/b"], "--threads 0: must be"),
        (
            &["-rw", "-o", "ro", "/a", "/b"],
            "-o ro and -w exclude each other",
        ),
        (
            &["-rw", "-o", "kernel_cache", "/a", "/b"],
            "-o kernel_cache and -w exclude each other",
        ),
        (&["-o", "frob", "/a", "/b"], "-o frob: unknown option"),
        (&["sums"], "<SRC>"),
        (&["sums", "/a", "-w"], "unexpected argument '-w'"),
        (
            &["sums", "/a", "-o", "rescan"],
            "-o rescan: has no meaning for bmapfs sums",
        ),
        (
            &["sums", "/a", "-o", "threads=2"],
            "-o threads=2: has no meaning for bmapfs sums",
        ),
        (&["verify", "/a"], "<BACKUP>"),
        (&["verify", "/a", ""], "BACKUP is empty"),
        (
            &["verify", "/a", "/b", "-o", "kernel_cache"],
            "-o kernel_cache: has no meaning for bmapfs verify",
        ),
        (
            &["verify", "/a", "/b", "-o", "nodev"],
            "-o nodev: has no meaning for bmapfs verify",
        ),
        (
            &["verify", "/a", "/b", "--part", "11/10"],
            "--part 11/10: '11/10' is not a part: use K/N",
        ),
        (&["--mount-helper", "/a"], "<MOUNTPOINT>"),
        (
            &["--mount-helper", "/a", "/b", "-t", "ext4"],
            "-t ext4: not a type",
        ),
        (
            &["--mount-helper", "/a", "/b", "-w"],
            "unexpected argument '-w'",
        ),
        (&["--umount-helper", ""], "MOUNTPOINT is empty"),
        (&["--completions"], "no such shell; there are bash"),
        (
            &["--completions", "ksh"],
            "--completions 'ksh': no such shell",
        ),
    ] {
        let sentence = refusal(arguments);
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
        assert!(
            !sentence.contains('\n') && !sentence.contains("error:"),
            "{sentence}"
        );
    }
}

#[test]
fn the_mount_helper_takes_what_mount_passes_in_any_order() {
    let plain = request(&["--mount-helper", "/a", "/b", "-o", "rw"]);
    assert_eq!(plain.config, request(&["/a", "/b"]).config);
    assert_eq!((plain.fake, &plain.namespace), (false, &None));
    for arguments in [
        &[
            "/a",
            "/b",
            "-sfnv",
            "-N",
            "/proc/1/ns/mnt",
            "-t",
            "fuse.bmapfs",
            "-o",
            "write,frob",
        ][..],
        &[
            "-o",
            "write,frob",
            "-vnfs",
            "/a",
            "-t",
            "bmapfs",
            "/b",
            "-N/proc/1/ns/mnt",
        ],
        &[
            "-s",
            "-f",
            "-n",
            "-v",
            "-v",
            "-o",
            "write",
            "-o",
            "frob",
            "-N",
            "/proc/1/ns/mnt",
            "/a",
            "/b",
        ],
    ] {
        let request = request(&[&["--mount-helper"], arguments].concat());
        assert!(
            request.fake && request.config.volume.writable,
            "{arguments:?}"
        );
        assert_eq!(
            request.namespace.as_deref(),
            Some(Path::new("/proc/1/ns/mnt"))
        );
        assert_eq!(
            request.announcements,
            ["-o frob: unknown option, ignored", "/a mounted on /b"]
        );
    }
}

#[test]
fn the_mount_helper_says_that_nothing_can_be_written_unless_that_was_asked_for() {
    for (list, said) in [
        ("rw", true),
        ("rw,nodev", true),
        ("ro", false),
        ("rw,write", false),
        ("ro,rw", true),
    ] {
        let announced = request(&["--mount-helper", "/a", "/b", "-o", list]).announcements;
        let expected = "/a is mounted read-only; use -o write to allow writing";
        assert_eq!(announced, vec![expected; usize::from(said)], "{list}");
    }
    assert!(request(&["/a", "/b"]).announcements.is_empty());
}

#[test]
fn the_umount_helper_takes_what_umount_passes_in_any_order() {
    let plain = umount(&["--umount-helper", "/b"]);
    assert!(!plain.lazy && !plain.force && !plain.verbose);
    assert_eq!(
        (plain.mountpoint.as_path(), plain.namespace),
        (Path::new("/b"), None)
    );
    for arguments in [
        &["/b", "-flnrv", "-N", "/ns", "-t", "fuse.bmapfs"][..],
        &["-v", "-r", "-N", "/ns", "-t", "fuse.bmapfs", "-lf", "/b"],
    ] {
        let config = umount(&[&["--umount-helper"], arguments].concat());
        assert!(
            config.lazy && config.force && config.verbose,
            "{arguments:?}"
        );
        assert_eq!(config.namespace.as_deref(), Some(Path::new("/ns")));
    }
}

#[test]
fn what_only_reads_an_index_takes_it_by_flags_or_words() {
    let sums = |arguments: &[&str]| match parsed(&[&["sums", "/a"], arguments].concat()) {
        Ok(Command::Sums(config)) => *config,
        other => panic!("{arguments:?}: {other:?}"),
    };
    let flags = sums(&["-b64K", "--index=/i", "--sparse"]);
    let words = sums(&["-o", "bs=64K,index=/i,sparse"]);
    assert_eq!(flags, words);
    assert_eq!(sums(&["-o", "id=x"]).index.id.as_deref(), Some("x"));
    let verify = parsed(&["verify", "/a", "/b", "--part", "3/10", "--threads=2"]);
    let Ok(Command::Verify(verify)) = verify else {
        panic!("{verify:?}")
    };
    assert_eq!(verify.known, sums(&[]));
    assert_eq!(verify.part, "3/10".parse().unwrap());
    assert_eq!(verify.threads.map(usize::from), Some(2));
}

#[test]
fn the_disk_of_a_domain_is_known_by_its_name() {
    for face in [&["sums"][..], &["verify", "-b64K"]] {
        let all = |source| [face, &[source, "/b"][..face.len()]].concat();
        let source = match parsed(&all("libvirt:web/vda")) {
            Ok(Command::Sums(config)) => config.source,
            Ok(Command::Verify(config)) => config.known.source,
            other => panic!("{face:?}: {other:?}"),
        };
        assert_eq!(source, Path::new("libvirt:web/vda"));
        for wrong in [
            "libvirt:web",
            "libvirt:",
            "libvirt:/vda",
            "libvirt:web/",
            "libvirt:a/b/c",
        ] {
            let said = parsed(&all(wrong)).unwrap_err().to_string();
            assert!(said.contains("libvirt:DOMAIN/TARGET"), "{said}");
        }
    }
}

#[test]
fn help_version_and_completions_are_for_stdout() {
    assert_eq!(
        text(&["--version"]),
        format!("bmapfs {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = text(&["--help"]);
    for part in [
        "Examples:",
        "-rw disk.img",
        "--block-size <SIZE>",
        "kernel_cache",
        "Exit status",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(text(&["--mount-helper", "--help"]).starts_with("Mounts a disk image"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            text(&["--completions", shell]).contains("block-size"),
            "{shell}"
        );
    }
}

fn domain(arguments: &[&str]) -> (DomainConfig, bool) {
    let (domain, empty) = match parsed(arguments) {
        Ok(Command::Run(config)) => (config.domain, config.mount.sources.is_empty()),
        Ok(Command::Scan(config)) => (config.domain, config.sources.is_empty()),
        other => panic!("{arguments:?}: {other:?}"),
    };
    (domain.unwrap(), empty)
}

#[test]
fn a_domain_is_a_source_of_its_own() {
    let run = |more: &[&str]| {
        let all = ["run"].iter().chain(more).chain(&["--", "true"]).copied();
        let (domain, alone) = domain(&all.collect::<Vec<_>>());
        assert!(alone);
        domain
    };
    let web = DomainConfig {
        name: "web".to_owned(),
        target: None,
        connect: "qemu:///system".to_owned(),
        freeze: None,
    };
    assert_eq!(run(&["libvirt:web"]), web);
    assert_eq!(domain(&["scan", "-b", "64K", "libvirt:web"]).0, web);
    let vda = run(&[
        "--index=/a/",
        "libvirt:web/vda",
        "--connect",
        "qemu:///session",
    ]);
    assert_eq!(
        (vda.target.as_deref(), vda.connect.as_str()),
        (Some("vda"), "qemu:///session")
    );
    assert_eq!(vda.shown(), "libvirt:web/vda");
    let agent = Some(Freezing::Agent);
    assert_eq!(run(&["libvirt:web", "--freeze"]).freeze, agent);
    assert_eq!(run(&["--freeze", "--index", "libvirt:web"]).freeze, agent);
    assert_eq!(run(&["-o", "freeze", "libvirt:web"]).freeze, agent);
    let commands = FreezeConfig {
        freeze: "a b".into(),
        thaw: "c".into(),
    };
    let commands = Some(Freezing::Commands(commands));
    assert_eq!(
        run(&["--freeze", "a b", "--thaw", "c", "libvirt:web"]).freeze,
        commands
    );
}

#[test]
fn what_a_domain_cannot_be() {
    for (arguments, word) in [
        (&["libvirt:web", "/mnt"][..], "for bmapfs run and scan"),
        (&["run", "libvirt:a", "libvirt:b", "--", "x"], "alone"),
        (&["run", "a=libvirt:a", "--", "x"], "alone"),
        (&["run", "libvirt:", "--", "x"], "libvirt:DOMAIN"),
        (&["run", "libvirt:a/", "--", "x"], "libvirt:DOMAIN"),
        (&["run", "libvirt:a/b/c", "--", "x"], "libvirt:DOMAIN"),
        (&["run", "-w", "libvirt:a", "--", "x"], "-w has no meaning"),
        (
            &["run", "--snapshot", "libvirt:a", "--", "x"],
            "--snapshot has no",
        ),
        (
            &["run", "--index=f", "libvirt:a", "--", "x"],
            "has no meaning for a domain",
        ),
        (
            &["run", "--index", "-o", "id=a", "libvirt:a", "--", "x"],
            "has no meaning for a domain",
        ),
        (
            &["run", "--index", "--as", "a", "libvirt:a", "--", "x"],
            "has no meaning for a domain",
        ),
        (
            &["scan", "--bmap", "b", "libvirt:a"],
            "--bmap has no meaning",
        ),
        (
            &["scan", "--connect", "qemu+ssh://h/system", "libvirt:a"],
            "this host",
        ),
        (
            &["scan", "--connect", "qemu:///system", "a"],
            "--connect has no meaning",
        ),
        (
            &["run", "--freeze", "libvirt:a", "--", "x"],
            "must stand behind",
        ),
        (
            &["run", "--freeze", "--thaw", "x", "libvirt:a", "--", "x"],
            "without a command",
        ),
        (
            &["run", "--freeze", "--snapshot", "a", "--", "x"],
            "guest agent",
        ),
        (
            &["run", "--freeze=a", "--thaw=b", "a", "--", "x"],
            "has no meaning without --snapshot",
        ),
    ] {
        let said = refusal(arguments);
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}
