//! What people get wrong: each is one line on standard error and the right exit status; nothing is changed
//! and nothing mounted.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;

use crate::support::command::{Tool, tool};
use crate::support::devices::LoopDevice;
use crate::support::machine::{Identity, daemons_with, mounts_at};
use crate::support::mounted::one_line;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

pub(super) const USAGE: i32 = 1;
pub(super) const FAILED: i32 = 32;

/// Runs it, and expects one line that has all of `names`.
pub(super) fn says(tool: Tool, code: i32, names: &[&str]) {
    let line = one_line(&tool.fails(code));
    assert!(line.starts_with("bmapfs: "), "{line}");
    for name in names {
        assert!(line.contains(name), "'{name}' is not in: {line}");
    }
}

/// A scene with an image and a mount point, and the checks that both are as they were.
pub(super) struct Untouched {
    pub(super) scene: Scene,
    content: Vec<u8>,
}

impl Untouched {
    pub(super) fn new() -> Self {
        let scene = Scene::new();
        let content = pattern(1, 100_000);
        scene.file("a.img", &content);
        scene.dir("mnt");
        Self { scene, content }
    }

    /// `bmapfs OPTIONS SRC mnt`, both in the scene's directory.
    fn refuses(&self, options: &str, source: &str, code: i32, names: &[&str]) {
        self.refuses_words(
            &options
                .split_whitespace()
                .chain([source, "mnt"])
                .collect::<Vec<_>>(),
            code,
            names,
        );
    }

    fn refuses_words(&self, words: &[&str], code: i32, names: &[&str]) {
        let dir = self.scene.path("");
        says(self.scene.bmapfs().within(&dir).args(words), code, names);
        self.check();
    }

    pub(super) fn check(&self) {
        let point = self.scene.path("mnt");
        assert!(mounts_at(&point).is_empty(), "something is mounted");
        assert_eq!(
            fs::read_dir(&point).unwrap().count(),
            0,
            "something is in the mount point"
        );
        assert_same(
            "the image",
            &fs::read(self.scene.path("a.img")).unwrap(),
            &self.content,
        );
        let program = self.scene.program();
        wait_until("no process is left", || {
            daemons_with(program.as_os_str()).is_empty()
        });
    }
}

#[test]
fn bad_sources() {
    let test = Untouched::new();
    // An empty one would be the backup of an empty image.
    fs::write(test.scene.dir("directory").join("notes"), b"").unwrap();
    nix::unistd::mkfifo(&test.scene.path("fifo"), Mode::S_IRUSR).unwrap();
    symlink("nowhere", test.scene.path("dangling")).unwrap();
    symlink("circle", test.scene.path("circle")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(test.scene.path("socket")).unwrap();
    for options in ["", "-rw", "-f"] {
        test.refuses(
            options,
            "missing",
            FAILED,
            &["missing", "No such file or directory"],
        );
        test.refuses(
            options,
            "missing/below",
            FAILED,
            &["missing/below", "No such file or directory"],
        );
        test.refuses(
            options,
            "a.img/below",
            FAILED,
            &["a.img/below", "Not a directory"],
        );
        test.refuses(
            options,
            "dangling",
            FAILED,
            &["dangling", "No such file or directory"],
        );
        test.refuses(options, "circle", FAILED, &["circle"]);
        let reason = "it is not a backup made from a mount";
        test.refuses(options, "directory", FAILED, &["directory", reason]);
        test.refuses(options, "fifo", USAGE, &["fifo", "FIFO"]);
        test.refuses(options, "socket", USAGE, &["socket"]);
        test.refuses(
            options,
            "/dev/null",
            USAGE,
            &["/dev/null", "character device"],
        );
        test.refuses_words(
            &[options, "", "mnt"]
                .into_iter()
                .skip(usize::from(options.is_empty()))
                .collect::<Vec<_>>(),
            USAGE,
            &["SRC", "empty"],
        );
    }
    drop(socket);
}

#[test]
fn unreadable_sources() {
    let test = Untouched::new();
    let secret = test.scene.file("secret.img", b"secret");
    tool("chmod").arg("600").arg(&secret).ok();
    let point = test.scene.dir_of("own", Identity::User);
    let as_user = || test.scene.bmapfs().identity(Identity::User);
    says(
        as_user().args([&secret, &point]),
        USAGE,
        &["secret.img", "Permission denied"],
    );
    says(
        as_user().arg("-rw").args([&secret, &point]),
        USAGE,
        &["secret.img", "Permission denied"],
    );
    // Readable, but not writable.
    let image = test.scene.path("a.img");
    says(
        as_user().arg("-rw").args([&image, &point]),
        USAGE,
        &["a.img", "Permission denied"],
    );
    assert!(mounts_at(&point).is_empty());
    test.check();
}

#[test]
fn bad_mount_points() {
    let test = Untouched::new();
    test.scene.file("file", b"");
    test.scene.dir("in/side");
    test.scene.file("in/side/b.img", &[1; 5000]);
    for options in [&[][..], &["-rw"], &["-f"]] {
        let refuses = |source: &str, point: &str, code: i32, names: &[&str]| {
            let words: Vec<&str> = options.iter().copied().chain([source, point]).collect();
            test.refuses_words(&words, code, names);
        };
        refuses(
            "a.img",
            "missing",
            FAILED,
            &["missing", "No such file or directory"],
        );
        refuses("a.img", "file", FAILED, &["file", "irectory"]);
        refuses("a.img", "a.img", FAILED, &["a.img"]);
        refuses("a.img", "", USAGE, &["MOUNTPOINT", "empty"]);
        // It would hide its own source.
        refuses("in/side/b.img", "in/side", FAILED, &["in/side"]);
        refuses("in/side/b.img", "in", FAILED, &["in"]);
    }
    let outcome = test
        .scene
        .bmapfs()
        .within(&test.scene.path(""))
        .arg("a.img")
        .run();
    assert_eq!(outcome.code(), USAGE);
    test.check();
    // A user can only mount on what is the user's own.
    let said = test
        .scene
        .mount(test.scene.path("a.img"))
        .at("mnt")
        .by(Identity::User)
        .refused(USAGE);
    assert!(said.contains("mnt"), "{said}");
    test.check();
}

#[test]
fn a_second_mount_of_the_same_source_on_the_same_point() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(2, 100_000));
    for options in ["", "-rw"] {
        let mount = scene.mount(&image).with(options).up();
        for again in ["", "-rw"] {
            let words = again.split_whitespace();
            says(
                scene.bmapfs().args(words).arg(&image).arg(mount.point()),
                FAILED,
                &["mnt", "already"],
            );
            assert_eq!(mounts_at(mount.point()).len(), 1);
        }
        mount.unmount();
    }
}

#[test]
fn bad_block_sizes() {
    let test = Untouched::new();
    for size in [
        "0",
        "3000",
        "1P",
        "4X",
        "2K",
        "2G",
        "4K4",
        "4096.0",
        "abc",
        "99999999999999999999",
        "5M",
    ] {
        test.refuses_words(&["-b", size, "a.img", "mnt"], USAGE, &["-b", size]);
        test.refuses("-rw -o", &format!("bs={size}"), USAGE, &[]);
        test.refuses_words(
            &["-o", &format!("bs={size}"), "a.img", "mnt"],
            USAGE,
            &[size],
        );
        test.refuses_words(
            &["-o", &format!("block-size={size}"), "a.img", "mnt"],
            USAGE,
            &[size],
        );
    }
    test.refuses_words(&["-b", "", "a.img", "mnt"], USAGE, &["-b"]);
}

#[test]
fn bad_options() {
    let test = Untouched::new();
    for (options, names) in [
        ("-o nonsense", &["nonsense"][..]),
        ("-o write,nonsense=5,ro", &["nonsense"]),
        ("--nonsense", &["--nonsense"]),
        ("-x", &["-x"]),
        ("-o ro,write", &["ro", "write"]),
        ("-o ro -w", &["ro", "-w"]),
        ("-rw -o kernel_cache", &["kernel_cache", "-w"]),
        ("-o kernel_cache,direct_io", &["kernel_cache", "direct_io"]),
        ("-o allow_other,allow_root", &["allow_other", "allow_root"]),
        ("-o auto_unmount", &["auto_unmount"]),
        ("-o write=yes", &["write"]),
        ("-o loop", &["loop"]),
        ("--threads 0", &["--threads"]),
        ("--threads many", &["--threads"]),
        ("-o uid=-1", &["uid"]),
        ("--uid nobody!", &["--uid"]),
        ("-o gid=4294967296", &["gid"]),
        ("--umask 888", &["--umask"]),
        ("-o umask=", &["umask"]),
        ("a.img", &["a.img", "NAME=SRC"]),
    ] {
        test.refuses(options, "a.img", USAGE, names);
    }
    test.refuses_words(&[], USAGE, &[]);
    test.refuses_words(&["-o"], USAGE, &["-o"]);
}

#[test]
fn writing_to_what_is_read_only() {
    let test = Untouched::new();
    let device = LoopDevice::with("--read-only", &test.scene.path("a.img"));
    let path = device.path().to_str().unwrap();
    for options in ["-rw", "-rw -f", "-o write,force"] {
        test.refuses(options, path, USAGE, &[path, "read-only"]);
    }
    drop(device);
}
