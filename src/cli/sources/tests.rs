use std::path::PathBuf;

use super::*;
use crate::cli::tests::{parsed, refusal, request};
use crate::cli::{Command, MountRequest};
use crate::config::{FreezeConfig, IndexPlace, MountConfig, RunConfig, ScanConfig};

fn run(arguments: &[&str]) -> RunConfig {
    match parsed(&[&["run"], arguments, &["--", "true"]].concat()) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn scan(arguments: &[&str]) -> ScanConfig {
    match parsed(&[&["scan"], arguments].concat()) {
        Ok(Command::Scan(config)) => *config,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn mount(arguments: &[&str]) -> MountConfig {
    let MountRequest { config, .. } = request(&[arguments, &["/mnt"]].concat());
    assert_eq!(config.mountpoint, Path::new("/mnt"), "{arguments:?}");
    config
}

/// Each source as its path and its name, where it has one.
fn shown(sources: &[SourceConfig]) -> Vec<(String, Option<String>)> {
    let text = |text: &OsStr| text.to_str().unwrap().to_owned();
    let each = sources.iter().map(|source| {
        let name = source.name.as_deref().map(text);
        (text(source.path.as_os_str()), name)
    });
    each.collect()
}

#[test]
fn p33_several_sources_are_called_as_their_files_or_as_they_are_named() {
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    let long = "x".repeat(255);
    let long = (format!("{long}=/a"), format!("{long}x"));
    for (typed, expected) in [
        (&["/a.img"][..], &[("/a.img", None)][..]),
        (
            &["/a.img", "/v/b.img"],
            &[("/a.img", Some("a.img")), ("/v/b.img", Some("b.img"))],
        ),
        // The order is kept, since the first one gives the mount its name.
        (
            &["/v/b", "/dev/vg0/web", "/a"],
            &[
                ("/v/b", Some("b")),
                ("/dev/vg0/web", Some("web")),
                ("/a", Some("a")),
            ],
        ),
        (&["web=/a.img"], &[("/a.img", Some("web"))]),
        (
            &["web=/v/disk", "db=/w/disk", "/disk"],
            &[
                ("/v/disk", Some("web")),
                ("/w/disk", Some("db")),
                ("/disk", Some("disk")),
            ],
        ),
        // Only the first = counts, and only before a slash.
        (&["a=/b=c"], &[("/b=c", Some("a"))]),
        (&["/v/a=b"], &[("/v/a=b", None)]),
        (
            &["/v/a=b", "/c"],
            &[("/v/a=b", Some("a=b")), ("/c", Some("c"))],
        ),
        (
            &["/v/x/", "/c/."],
            &[("/v/x/", Some("x")), ("/c", Some("c"))],
        ),
        (&["a b,c=/d"], &[("/d", Some("a b,c"))]),
        (&[&long.0], &[("/a", Some(&long.1[1..]))]),
    ] {
        let expected: Vec<_> = expected
            .iter()
            .map(|(path, name)| ((*path).to_owned(), name.map(str::to_owned)))
            .collect();
        assert_eq!(shown(&mount(typed).sources), expected, "{typed:?}");
        assert_eq!(shown(&run(typed).mount.sources), expected, "{typed:?}");
        assert_eq!(shown(&scan(typed).sources), expected, "{typed:?}");
    }
    let relative = shown(&mount(&["./a=b"]).sources);
    assert_eq!(relative, [(format!("{here}/a=b"), None)]);
    let named = shown(&mount(&["a=b"]).sources);
    assert_eq!(named, [(format!("{here}/b"), Some("a".to_owned()))]);
}

#[test]
fn options_may_stand_before_between_and_behind_the_sources() {
    let plain = mount(&["-q", "-o", "nodev", "/a", "/b"]);
    assert_eq!(shown(&plain.sources).len(), 2);
    for typed in [
        &["/a", "-q", "/b", "-o", "nodev"][..],
        &["/a", "/b", "-q", "-onodev"],
        &["-o", "nodev", "/a", "/b", "-q"],
    ] {
        assert_eq!(mount(typed), plain, "{typed:?}");
    }
    let plain = run(&["-q", "--index", "/a", "/b"]);
    for typed in [
        &["/a", "-q", "/b", "--index"][..],
        &["/a", "/b", "--index", "-q"],
    ] {
        assert_eq!(run(typed), plain, "{typed:?}");
    }
    let plain = scan(&["--json", "/a", "/b"]);
    assert_eq!(scan(&["/a", "--json", "/b"]), plain);
    assert_eq!(scan(&["/a", "/b", "--json"]), plain);
    // Behind -- are words, whatever they begin with.
    let words = shown(&request(&["--", "-a", "/-b=c", "/mnt"]).config.sources);
    assert_eq!(words[0].1.as_deref(), Some("-a"));
    assert_eq!(words[1].1.as_deref(), Some("-b=c"));
}

#[test]
fn p33_two_of_one_name_and_what_has_no_name_are_refused() {
    let long = format!("{}=/a", "x".repeat(256));
    for (typed, part) in [
        (
            &["/v/disk", "/w/disk"][..],
            "/v/disk and /w/disk would both be called disk in the mount: name one of them, NAME=SRC",
        ),
        (&["/a", "/b", "/a"], "/a and /a would both be called a"),
        (
            &["a=/x", "/b", "/v/a"],
            "a=/x and /v/a would both be called a",
        ),
        (&["a=/x", "a=/y"], "a=/x and a=/y would both be called a"),
        (
            &["=/x"],
            "=/x: what is before the = is no name for a directory; if a file is called so, type ./=/x",
        ),
        (&[".=/x"], ".=/x: what is before the = is no name"),
        (&["..=/x", "/a"], "..=/x: what is before the = is no name"),
        (&[&long], "x=/a: what is before the = is too long"),
        (&["a="], "SRC is empty"),
        (&["/a", ""], "SRC is empty"),
        (
            &["/", "/a"],
            "/: its path does not end with a name; give it one, NAME=SRC",
        ),
        (&["/a", "/v/.."], "/v/..: its path does not end with a name"),
    ] {
        for face in ["mount", "run", "scan"] {
            let arguments = match face {
                "run" => [&["run"], typed, &["--", "true"]].concat(),
                "scan" => [&["scan"], typed].concat(),
                _ => [typed, &["/mnt"]].concat(),
            };
            let sentence = refusal(&arguments);
            assert!(sentence.contains(part), "{arguments:?}: {sentence}");
        }
    }
}

#[test]
fn what_is_for_one_source_is_refused_for_several_and_no_other() {
    for (options, said) in [
        (
            &["--index=/i"][..],
            "--index /i is for one SRC, and there are 2; --index=DIR/, which ends with a slash, has a file for each",
        ),
        (
            &["-o", "index=/i"],
            "-o index=/i is for one SRC, and there are 2; --index=DIR/",
        ),
        (
            &["--index", "-o", "id=x"],
            "-o id=x is for one SRC, and there are 2",
        ),
        (
            &["--index=/i/", "-o", "id=x"],
            "-o id=x is for one SRC, and there are 2",
        ),
        (
            &["--index", "--changed=-", "--since=a"],
            "--changed - is for one SRC, and there are 2",
        ),
        (
            &["--index", "--since=a", "--changed=-"],
            " is for one SRC, and there are 2",
        ),
        (
            &["--index", "--as=a"],
            "--as a is for one SRC, and there are 2",
        ),
    ] {
        for two in [&["/a", "/b"][..], &["x=/a", "y=/b"]] {
            for arguments in [
                [options, two, &["/mnt"]].concat(),
                [&["run"], options, two, &["--", "true"]].concat(),
                [&["scan"], options, two].concat(),
            ] {
                let sentence = refusal(&arguments);
                assert!(sentence.contains(said), "{arguments:?}: {sentence}");
            }
        }
        // One is one, whether it has a name or not.
        for one in ["/a", "x=/a"] {
            assert_eq!(mount(&[options, &[one]].concat()).sources.len(), 1);
        }
    }
    let said = refusal(&["scan", "--bmap=/m", "/a", "/b"]);
    assert_eq!(said, "--bmap is for one SRC, and there are 2");
    assert!(scan(&["--bmap=/m", "x=/a"]).bmap.is_some());
    let several = mount(&["--index", "-o", "rescan,recheck=4", "--sparse", "/a", "/b"]);
    assert_eq!(several.sources.len(), 2);
}

#[test]
fn an_index_is_in_a_directory_if_it_ends_with_a_slash() {
    let here = std::env::current_dir().unwrap();
    for (typed, place) in [
        ("--index", IndexPlace::State),
        ("--index=/i", IndexPlace::File(PathBuf::from("/i"))),
        ("--index=/i/", IndexPlace::Directory(PathBuf::from("/i/"))),
        ("-oindex=/i/", IndexPlace::Directory(PathBuf::from("/i/"))),
        ("--index=i/", IndexPlace::Directory(here.join("i/"))),
        ("--index=/", IndexPlace::Directory(PathBuf::from("/"))),
    ] {
        assert_eq!(mount(&[typed, "/a"]).index.unwrap().place, place, "{typed}");
        assert_eq!(scan(&[typed, "/a"]).index.place, place, "{typed}");
    }
}

#[test]
fn p34_freeze_and_thaw_go_together_and_with_a_snapshot_only() {
    for (options, said) in [
        (
            &["--snapshot", "--freeze=f"][..],
            "--freeze f has no meaning without --thaw: what it stops would stay so",
        ),
        (
            &["--snapshot", "-o", "freeze=f"],
            "-o freeze=f has no meaning without --thaw",
        ),
        (
            &["--snapshot", "--thaw", "t"],
            "--thaw t has no meaning without --freeze",
        ),
        (
            &["--freeze=f", "--thaw=t"],
            "--freeze f has no meaning without --snapshot",
        ),
        (&["--thaw=t"], "--thaw t has no meaning without --freeze"),
        (
            &["--snapshot", "--freeze=", "--thaw=t"],
            "--thaw t has no meaning with --freeze without a command",
        ),
        (
            &["--snapshot", "--freeze=f", "--thaw", ""],
            "--thaw '': a value is missing",
        ),
    ] {
        for arguments in [
            [options, &["/a", "/mnt"]].concat(),
            [&["run"], options, &["/a", "/b", "--", "true"]].concat(),
            [&["scan"], options, &["/a"]].concat(),
        ] {
            let sentence = refusal(&arguments);
            assert!(sentence.contains(said), "{arguments:?}: {sentence}");
        }
    }
}

#[test]
fn commands_for_the_shell_keep_their_commas_spaces_and_quotes() {
    let freeze = r#"virsh domfsfreeze "web,1" --mountpoint /a b, && echo '='"#;
    let thaw = "a;b,c=\\d\n-x";
    let options = ["--snapshot", "--freeze", freeze, "--thaw", thaw];
    let expected = Some(FreezeConfig {
        freeze: freeze.into(),
        thaw: thaw.into(),
    });
    let of = |config: MountConfig| config.volume.snapshot.unwrap().freeze;
    assert_eq!(of(mount(&[&options[..], &["/a", "/b"]].concat())), expected);
    assert_eq!(of(run(&[&options[..], &["/a"]].concat()).mount), expected);
    let scanned = scan(&[&options[..], &["/a"]].concat()).volume;
    assert_eq!(scanned.snapshot.unwrap().freeze, expected);
    // As words they need quotes for their commas, as every word does.
    let words = of(mount(&["-o", "snapshot,freeze=\"a b,c\",thaw=d e", "/a"]));
    let expected = Some(FreezeConfig {
        freeze: "a b,c".into(),
        thaw: "d e".into(),
    });
    assert_eq!(words, expected);
}

#[test]
fn the_mount_helper_takes_a_source_as_it_stands() {
    let here = std::env::current_dir().unwrap();
    for typed in ["web=disk.img", "=x", "a=", "..=b", "/v/a=b"] {
        let sources = request(&["--mount-helper", typed, "/mnt"]).config.sources;
        assert_eq!(sources.len(), 1, "{typed}");
        assert_eq!(sources[0].path, here.join(typed));
        assert_eq!(sources[0].name, None, "{typed}");
    }
    let refused = refusal(&["--mount-helper", "/a", "/b", "/mnt"]);
    assert!(refused.contains("unexpected argument '/mnt'"), "{refused}");
}
