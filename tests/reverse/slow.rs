//! Storage that does not answer: whoever reads other blocks does not notice.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

const BLOCK: usize = 65_536;

#[test]
fn other_blocks_are_read_while_one_does_not_answer() {
    let scene = Scene::new();
    let content = pattern(1, 20 * BLOCK);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    // One block file comes from a file system whose daemon can be stopped.
    let far = scene
        .mount(scene.file("far.img", &content))
        .with("-b 64K")
        .at("far")
        .up();
    let block = backup.join("00000005");
    tool("mount")
        .arg("--bind")
        .args([far.block(5), block.clone()])
        .ok();
    let mount = scene.mount(&backup).at("image").up();
    let path = mount.point().join("image");

    far.signal(Signal::SIGSTOP);
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            tool("cmp")
                .args(["-n", "65536", "-i", "327680"])
                .args([&path, &scene.path("far.img")])
                .spawn()
        })
        .collect();
    // The first opens the block's file and waits there, the others wait for the first.
    let opening = format!("{} ", libc::SYS_openat);
    wait_until("a reader has come to the block", || {
        let threads = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
        threads.flatten().any(|thread| {
            fs::read_to_string(thread.path().join("syscall"))
                .is_ok_and(|call| call.starts_with(&opening))
        })
    });
    let image = File::open(&path).unwrap();
    for index in (0..20).filter(|index| *index != 5) {
        let mut out = vec![0; BLOCK];
        image
            .read_exact_at(&mut out, (index * BLOCK) as u64)
            .unwrap();
        assert_same(
            "another block",
            &out,
            &content[index * BLOCK..(index + 1) * BLOCK],
        );
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), content.len() as u64);
    assert!(
        waiting
            .iter_mut()
            .all(|reader| reader.child().try_wait().unwrap().is_none()),
        "those still wait"
    );
    far.signal(Signal::SIGCONT);
    for reader in waiting {
        assert!(reader.finish().success());
    }
    drop(image);
    mount.unmount();
    tool("umount").arg(&block).ok();
    far.unmount();
}
