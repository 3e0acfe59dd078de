//! A machine on which something that bmapfs needs is missing or forbidden: one line on standard error and the
//! right exit status.

use std::fs;
use std::path::Path;

use super::bad_input::{FAILED, USAGE, Untouched, says};
use crate::support::command::{Tool, tool};
use crate::support::machine::Identity;
use crate::support::mounted::one_line;
use crate::support::namespace::Namespace;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

const SYSTEM: i32 = 2;

/// Runs bmapfs in a namespace that lacks something.
fn in_namespace(
    namespace: &Namespace,
    scene: &Scene,
    identity: Identity,
    options: &str,
    point: &Path,
) -> Tool {
    let tool = match identity {
        Identity::Root => namespace.tool(scene.program()),
        _ => namespace.user_tool(scene.program()),
    };
    tool.words(options).arg(scene.path("a.img")).arg(point)
}

#[test]
fn without_dev_fuse() {
    let test = Untouched::new();
    let point = test.scene.dir_of("own", Identity::User);
    let namespace = Namespace::bare(&test.scene);
    // Something else is there that is no FUSE device.
    namespace
        .tool("mount")
        .words("--bind /dev/null /dev/fuse")
        .ok();
    for identity in [Identity::Root, Identity::User] {
        let tool = in_namespace(&namespace, &test.scene, identity, "", &point);
        let outcome = tool.run();
        assert!([SYSTEM, FAILED].contains(&outcome.code()), "{outcome:#?}");
        one_line(&outcome.stderr);
    }
    namespace.tool("umount").arg("/dev/fuse").ok();

    // An empty /dev but for the usual.
    let dev = test.scene.dir("dev");
    test.scene.file("dev/null", b"");
    namespace
        .tool("mount")
        .words("--bind /dev/null")
        .arg(dev.join("null"))
        .ok();
    namespace
        .tool("mount")
        .arg("--rbind")
        .args([dev.as_path(), Path::new("/dev")])
        .ok();
    for identity in [Identity::Root, Identity::User] {
        let tool = in_namespace(&namespace, &test.scene, identity, "", &point);
        says(tool, SYSTEM, &["/dev/fuse"]);
    }
    assert!(namespace.mounts_at(&point).is_empty());
    test.check();
}

#[test]
fn with_dev_fuse_forbidden() {
    let test = Untouched::new();
    let point = test.scene.dir_of("own", Identity::User);
    let namespace = Namespace::bare(&test.scene);
    let dev = test.scene.dir("dev");
    for node in ["null", "fuse"] {
        let file = test.scene.file(format!("dev/{node}"), b"");
        let device = Path::new("/dev").join(node);
        if node == "null" {
            namespace
                .tool("mount")
                .arg("--bind")
                .args([&device, &file])
                .ok();
        }
    }
    fs::remove_file(dev.join("fuse")).unwrap();
    tool("mknod")
        .words("-m 600")
        .arg(dev.join("fuse"))
        .words("c 10 229")
        .ok();
    namespace
        .tool("mount")
        .arg("--rbind")
        .args([dev.as_path(), Path::new("/dev")])
        .ok();
    let tool = in_namespace(&namespace, &test.scene, Identity::User, "", &point);
    let outcome = tool.run();
    assert!([USAGE, SYSTEM].contains(&outcome.code()), "{outcome:#?}");
    assert!(
        one_line(&outcome.stderr).contains("/dev/fuse"),
        "{outcome:#?}"
    );
    assert!(namespace.mounts_at(&point).is_empty());
    test.check();
}

#[test]
fn without_fusermount3() {
    let test = Untouched::new();
    let point = test.scene.dir_of("own", Identity::User);
    let namespace = Namespace::bare(&test.scene);
    let empty = test.scene.file("nothing", b"");
    for dir in ["/usr/bin", "/bin", "/usr/local/bin"] {
        let program = Path::new(dir).join("fusermount3");
        if program.exists() {
            namespace
                .tool("mount")
                .arg("--bind")
                .args([&empty, &program])
                .ok();
        }
    }
    // It is there, but cannot be run; and it is not in PATH at all.
    says(
        in_namespace(&namespace, &test.scene, Identity::User, "", &point),
        SYSTEM,
        &["fusermount3"],
    );
    test.check();
}

#[test]
fn without_the_right_to_mount() {
    let test = Untouched::new();
    let point = test.scene.dir_of("own", Identity::User);
    let (uid, gid) = Identity::User.ids().unwrap();
    let user = format!("--reuid={uid} --regid={gid} --clear-groups --no-new-privs");
    let root = "--bounding-set=-sys_admin --inh-caps=-sys_admin";
    for (rights, cause) in [(&*user, "NoNewPrivileges="), (root, "CAP_SYS_ADMIN")] {
        for verb in ["mount", "run"] {
            let tool = tool("setpriv").words(rights).arg(test.scene.program());
            let tool = match verb {
                "run" => tool.arg("run").arg(test.scene.path("a.img")),
                _ => tool.arg(test.scene.path("a.img")).arg(&point),
            };
            let tool = if verb == "run" {
                tool.words("-- true")
            } else {
                tool
            };
            says(tool, USAGE, &["Operation not permitted: ", cause]);
        }
    }
    test.check();
}

/// A limit on the length of files, which otherwise ends a process that writes past it.
#[test]
fn a_limit_on_the_length_of_files_is_an_error_of_the_write() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 3 * 65_536));
    let backup = scene.dir("backup");
    scene.file("backup/00000002", &pattern(2, 65_536));
    let outcome = tool("prlimit")
        .arg("--fsize=150000")
        .arg(scene.program())
        .words("run -rw -b 64K")
        .arg(&image)
        .words("-- rsync -a --inplace")
        .arg(backup.join(""))
        .arg("{}/")
        .run();
    assert_eq!(outcome.code(), 11, "{outcome:#?}");
    for part in [
        "File too large (27)",
        "byte 150000",
        "ulimit -f",
        "3 blocks",
    ] {
        assert!(outcome.stderr.contains(part), "{part}: {outcome:#?}");
    }
}

#[test]
fn allow_other_without_user_allow_other() {
    let test = Untouched::new();
    let point = test.scene.dir_of("own", Identity::User);
    let namespace = Namespace::bare(&test.scene);
    namespace.set_etc("fuse.conf", "# nothing\n");
    for options in ["--allow-other", "-o allow_other", "-o allow_root"] {
        let tool = in_namespace(&namespace, &test.scene, Identity::User, options, &point);
        says(tool, USAGE, &["user_allow_other", "/etc/fuse.conf"]);
        assert!(namespace.mounts_at(&point).is_empty());
    }
    fs::write(test.scene.path("etc/fuse.conf"), "user_allow_other\n").unwrap();
    namespace.tool("umount").arg("/etc").ok();
    namespace.set_etc("fuse.conf", "user_allow_other\n");
    in_namespace(
        &namespace,
        &test.scene,
        Identity::User,
        "--allow-other",
        &point,
    )
    .ok();
    assert_eq!(namespace.mounts_at(&point).len(), 1);
    namespace.tool("umount").arg(&point).ok();
    test.check();
}
