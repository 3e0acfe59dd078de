//! P12's second half: the directory has the names that it has. Nothing else can be made, moved or removed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::support::blocks::{names, refused};
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

#[test]
fn p12_names_are_fixed() {
    let scene = Scene::new();
    let content = pattern(1, 20_000);
    let image = scene.file("a.img", &content);
    for (options, errno) in [("-b 4K -rw", libc::EPERM), ("-b 4K", libc::EROFS)] {
        let mount = scene.mount(&image).with(options).up();
        let (block, other) = (mount.block(1), mount.block(2));
        let new = mount.point().join("new");
        let node = |kind| mknod(&new, kind, Mode::S_IRUSR, 0).map_err(io::Error::from);
        refused("creating", fs::File::create(&new), errno);
        // What --resize would allow has an errno of its own.
        let past = if errno == libc::EPERM {
            libc::EFBIG
        } else {
            errno
        };
        refused("creating block 5", fs::File::create(mount.block(5)), past);
        refused("mkdir", fs::create_dir(&new), errno);
        refused("link", fs::hard_link(&block, &new), errno);
        refused("symlink", symlink(&block, &new), errno);
        refused("a FIFO", node(SFlag::S_IFIFO), errno);
        refused("a regular node", node(SFlag::S_IFREG), errno);
        refused("renaming a block", fs::rename(&block, &new), errno);
        refused(
            "renaming a block over another",
            fs::rename(&block, &other),
            errno,
        );
        refused("removing a block", fs::remove_file(&block), errno);
        assert_eq!(names(mount.point()).len(), 5, "{options}");
        assert!(fs::symlink_metadata(&new).is_err());
        assert_same("the image", &mount.image(), &content);
        mount.unmount();
    }
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}
