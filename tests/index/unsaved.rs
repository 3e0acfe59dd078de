//! P21: an index that cannot be saved counts as lost, as often as that happens.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::machine::Identity;
use crate::support::pattern::disk_like;
use crate::support::scene::Scene;

use super::rig::Rig;

const ALL: [u64; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

fn fill(path: &Path) {
    let filling = tool("dd")
        .arg("if=/dev/zero")
        .arg(format!("of={}", path.display()));
    assert_ne!(filling.words("bs=1024 status=none").run().code(), 0);
}

#[test]
fn p21_a_full_disk_costs_time_and_hides_nothing() {
    for kind in ["ext4", "tmpfs"] {
        let scene = Scene::new();
        let full = Filesystem::sized(&scene, kind, 2 << 20);
        let image = scene.file("a.img", &disk_like(1, 12 * 65_536));
        let rig = Rig::new(&scene, &image).with_index(full.path("a.index"));
        let backup = scene.dir("backup");
        rig.sync_well(&backup);
        rig.change(3, b"first  ");
        rig.sync_well(&backup);
        fill(&full.path("filler"));
        let mut shown = HashSet::new();
        for content in [b"second ", b"third  ", b"fourth "] {
            rig.change(3, content);
            let outcome = rig.sync(&backup);
            rig.same(&backup);
            assert_eq!(outcome.blocks, ALL, "{kind}: {}", outcome.said);
            let warnings = outcome.said.matches("warning").count();
            assert_eq!(warnings, 1, "{kind}: {}", outcome.said);
            assert!(outcome.said.contains("a.index"), "{}", outcome.said);
            let stamps = rig.stamps();
            let own = fs::metadata(&image).unwrap();
            let own = std::os::unix::fs::MetadataExt::mtime(&own);
            assert!(stamps.values().all(|stamp| *stamp != own), "{kind}");
            assert!(shown.insert(stamps), "{kind}: shown again");
            let strict = rig.run("-o strict").args(["touch", "started"]);
            let said = strict.within(scene.path("").as_path()).fails(32);
            assert!(said.contains("a.index"), "{said}");
            assert!(!scene.path("started").exists(), "the command has started");
            assert_eq!(rig.scan("").run().code(), 2);
        }
        fs::remove_file(full.path("filler")).unwrap();
        rig.change(3, b"fifth  ");
        rig.sync(&backup);
        rig.same(&backup);
        assert_eq!(rig.sync_well(&backup), [0; 0], "{kind}: of use again");
    }
}

#[test]
fn p21_a_state_directory_that_cannot_be_made() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(1, 12 * 65_536));
    Identity::User.own(&image);
    let state = scene.dir("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o555)).unwrap();
    let runtime = scene.dir_of("runtime", Identity::User);
    let run = |options: &str| {
        scene
            .bmapfs()
            .identity(Identity::User)
            .env("XDG_STATE_HOME", &state)
            .env("XDG_RUNTIME_DIR", &runtime)
            .words("run -b 64K --index")
            .words(options)
            .arg(&image)
            .args(["--", "sh", "-c", "cd {} && stat -c '%n %Y' *"])
            .run()
    };
    let mut shown = HashSet::new();
    for _ in 0..2 {
        let outcome = run("");
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        assert!(outcome.stderr.contains("cannot be saved"), "{outcome:?}");
        assert!(shown.insert(outcome.stdout), "shown again");
        let outcome = run("-o strict");
        assert_eq!((outcome.code(), &*outcome.stdout), (32, ""), "{outcome:?}");
    }
}
