//! The Debian package in a fresh Debian that systemd boots, from its installation to its purge.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::tool;
use crate::support::namespace::Namespace;
use crate::support::scene::Scene;

/// Beside what every Debian has: the program's own needs, systemd, and what the test looks with.
const PACKAGES: &str = "systemd,systemd-sysv,fuse3,rsync,mount,man-db";
/// Boots with the machine: the test itself.
const UNIT: &str = "[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/guest.sh
StandardOutput=file:/guest.log
StandardError=inherit
";

/// The package of what is built for these tests, as this version.
fn package(scene: &Scene, version: &str) -> PathBuf {
    let file = scene.path(format!("bmapfs-{version}.deb"));
    // As if Cargo had built it for a release, which takes long.
    let target = scene.dir("target");
    tool("cp")
        .arg(scene.program())
        .arg(scene.dir("target/release"))
        .ok();
    tool("make")
        .with_environment()
        .words("--no-print-directory pack DEB_OPTIONS=--fast")
        .arg(format!("DEB_VERSION={version}"))
        .arg(format!("DEB={}", file.display()))
        .arg(format!("CARGO_TARGET_DIR={}", target.display()))
        .within(Path::new(env!("CARGO_MANIFEST_DIR")))
        .patient(5)
        .ok();
    file
}

/// A Debian of the release and from the sources that this machine has.
fn debian(scene: &Scene, namespace: &Namespace) -> PathBuf {
    let root = scene.path("root");
    let settings = tool("apt-config").arg("dump").with_environment().ok();
    let settings: Vec<&str> = settings
        .lines()
        .filter(|line| line.starts_with("Acquire::"))
        .collect();
    let settings = scene.file("apt.conf", settings.join("\n").as_bytes());
    let mut sources = vec![PathBuf::from("/etc/apt/sources.list")];
    let more = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    sources.extend(more.map(|entry| entry.unwrap().path()));
    let is_used = |file: &PathBuf| {
        let kind = file.extension().unwrap_or_default();
        (kind == "list" || kind == "sources") && file.metadata().is_ok_and(|of| of.len() > 0)
    };
    sources.retain(is_used);
    let tool = namespace.tool("mmdebstrap");
    tool.with_environment()
        .words("--variant=minbase --quiet --dpkgopt=force-unsafe-io")
        .arg(format!("--include={PACKAGES}"))
        .arg(format!("--aptopt={}", settings.display()))
        // Of which release, the sources say.
        .arg("")
        .arg(&root)
        .args(sources)
        .patient(5)
        .ok();
    root
}

#[test]
fn from_its_installation_to_its_purge() {
    let scene = Scene::new();
    // Both that make the root and that boot it copy all mounts that there are.
    let namespace = Namespace::bare(&scene);
    let root = debian(&scene, &namespace);
    for (name, version) in [("old.deb", "0.1.0"), ("new.deb", env!("CARGO_PKG_VERSION"))] {
        fs::copy(package(&scene, version), root.join(name)).unwrap();
    }
    let lintian = tool("lintian")
        .words("--fail-on error,warning --tag-display-limit 0")
        .arg(root.join("new.deb"));
    let said = lintian.patient(2).run();
    assert_eq!((said.code(), &*said.stdout), (0, ""), "{said:#?}");

    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/package/guest.sh");
    fs::copy(guest, root.join("guest.sh")).unwrap();
    let units = root.join("etc/systemd/system");
    fs::write(units.join("guest.service"), UNIT).unwrap();
    let wanted = units.join("multi-user.target.wants/guest.service");
    std::os::unix::fs::symlink("../guest.service", wanted).unwrap();
    // Nothing else is to happen meanwhile.
    std::os::unix::fs::symlink("/dev/null", units.join("timers.target")).unwrap();
    let boot = namespace.tool("systemd-nspawn").words(
        "--quiet --boot --register=no --keep-unit --bind=/dev/fuse --console=pipe --directory",
    );
    let outcome = boot.arg(&root).patient(3).run();
    let log = fs::read_to_string(root.join("guest.log")).unwrap_or_default();
    assert_eq!(
        log.lines().next_back(),
        Some("all is well"),
        "{log}\n{outcome:#?}"
    );
}
