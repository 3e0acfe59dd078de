//! A mount namespace in which bmapfs is installed as `make install` does it, so that mount(8) and umount(8)
//! find its helpers while the machine itself is not changed.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::command::{Running, Tool, hold_mounts, tool};
use super::machine::{self, Identity, MountEntry};
use super::scene::{Scene, is_in_a_scene};
use super::wait_until;

/// A private mount namespace, held by a sleeping process. All mounts in it end with it.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Running,
    dir: PathBuf,
}

impl Namespace {
    /// A namespace where `/usr/local/bin/bmapfs` is the program under test and `/sbin` has its helpers.
    pub(crate) fn new(scene: &Scene) -> Self {
        let namespace = Self::bare(scene);
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for helper in ["mount.bmapfs", "umount.fuse.bmapfs"] {
            let script =
                fs::read(repository.join(helper)).unwrap_or_else(|e| panic!("{helper}: {e}"));
            let copy = scene.dir("sbin").join(helper);
            fs::write(&copy, script).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        }
        scene.program();
        // mount(8) keeps its table of helpers there.
        namespace.tool("mount").words("-t tmpfs none /run").ok();
        namespace.overlay("bin", Path::new("/usr/local/bin"));
        namespace.overlay("sbin", &fs::canonicalize("/sbin").unwrap());
        namespace
    }

    /// A namespace with nothing changed.
    pub(crate) fn bare(scene: &Scene) -> Self {
        let _alone = hold_mounts();
        let holder = tool("unshare")
            .words("--mount --propagation private sleep infinity")
            .spawn();
        let name = format!("/proc/{}/comm", holder.pid());
        wait_until("the namespace is there", || {
            fs::read_to_string(&name).unwrap_or_default() == "sleep\n"
        });
        let namespace = Self {
            holder,
            dir: scene.path(""),
        };
        // Mounts of other tests would live on in the copy.
        for mount in machine::mounts_of(&namespace.process()).iter().rev() {
            if is_in_a_scene(&mount.point) && !mount.point.starts_with(&namespace.dir) {
                namespace.tool("umount").arg("-l").arg(&mount.point).run();
            }
        }
        namespace
    }

    /// Lays the files of the scene's directory `name` over those of a directory of the machine.
    pub(crate) fn overlay(&self, name: &str, onto: &Path) {
        let layers = format!(
            "lowerdir={}:{}",
            self.dir.join(name).display(),
            onto.display()
        );
        self.tool("mount")
            .args(["-t", "overlay", "-o", &layers, "overlay"])
            .arg(onto)
            .ok();
    }

    /// Writes a file and lays it over /etc, as for fstab and fuse.conf.
    pub(crate) fn set_etc(&self, name: &str, content: &str) {
        let dir = self.dir.join("etc");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), content).unwrap();
        self.overlay("etc", Path::new("/etc"));
    }

    /// A program to be run in the namespace.
    pub(crate) fn tool(&self, program: impl AsRef<OsStr>) -> Tool {
        tool("nsenter")
            .args(["--target", &self.process(), "--mount", "--"])
            .arg(program)
    }

    /// A program to be run in the namespace as the tests' own user, with the environment of a login.
    pub(crate) fn user_tool(&self, program: impl AsRef<OsStr>) -> Tool {
        let (uid, gid) = Identity::User.ids().unwrap();
        let identity = [format!("--reuid={uid}"), format!("--regid={gid}")];
        self.tool("setpriv")
            .args(identity)
            .args(["--clear-groups", "--"])
            .arg(program)
    }

    /// The mounts on exactly this path in the namespace, lowest first.
    pub(crate) fn mounts_at(&self, point: &Path) -> Vec<MountEntry> {
        machine::mounts_of(&self.process())
            .into_iter()
            .filter(|m| m.point == point)
            .collect()
    }

    /// How a path of the namespace is reached from outside it.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process()));
        root.join(path.strip_prefix("/").unwrap())
    }

    fn process(&self) -> String {
        self.holder.pid().to_string()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A daemon lives in the namespace, and so keeps it: the mounts have to go first.
        let mounts = machine::mounts_of(&self.process());
        for mount in mounts
            .iter()
            .rev()
            .filter(|m| m.point.starts_with(&self.dir))
        {
            self.tool("umount").arg("-l").arg(&mount.point).run();
        }
    }
}
