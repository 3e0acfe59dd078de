//! An ordinary user's own libvirt, `qemu:///session`, which each test can have for itself.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::command::{Running, Tool, tool};
use crate::support::machine::{self, Identity};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, Synced};

#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) scene: &'a Scene,
    /// Ended in this order.
    daemons: Vec<Running>,
    domains: RefCell<Vec<String>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        for place in ["home", "run", "backup", "images"] {
            scene.dir_of(place, Identity::User);
        }
        fs::set_permissions(scene.path("run"), Permissions::from_mode(0o700)).unwrap();
        let mut session = Self {
            scene,
            daemons: Vec::new(),
            domains: RefCell::default(),
        };
        let daemon = |name: &str| {
            let daemon = session.tool(name).log_to(Path::new("/dev/null"));
            daemon.spawn()
        };
        let log = daemon("virtlogd");
        let socket = scene.path("run/libvirt/virtlogd-sock");
        wait_until("virtlogd listens", || socket.exists());
        session.daemons.push(daemon("libvirtd"));
        session.daemons.push(log);
        let socket = scene.path("run/libvirt/libvirt-sock");
        wait_until("libvirtd listens", || socket.exists());
        session
    }

    /// A program that the user runs.
    pub(super) fn tool(&self, name: impl AsRef<Path>) -> Tool {
        let user = tool(name.as_ref()).identity(Identity::User);
        user.env("HOME", self.scene.path("home"))
            .env("XDG_RUNTIME_DIR", self.scene.path("run"))
    }

    pub(super) fn virsh(&self, words: &str) -> Tool {
        self.tool("virsh")
            .words("-q -c qemu:///session")
            .words(words)
    }

    /// An image with this content.
    pub(super) fn image(&self, name: &str, format: &str, content: &[u8]) -> PathBuf {
        let (raw, image) = (
            self.scene.file("raw", content),
            self.scene.path("images").join(name),
        );
        let convert = tool("qemu-img").words("convert -f raw -O").arg(format);
        convert.arg(raw).arg(&image).ok();
        Identity::User.own(&image);
        image
    }

    /// A domain with these disks, which runs.
    pub(super) fn start(&self, name: &str, disks: &[String]) {
        let definition = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{}</devices></domain>",
            disks.concat()
        );
        let definition = self
            .scene
            .file(format!("{name}.xml"), definition.as_bytes());
        self.virsh("define").arg(definition).ok();
        self.domains.borrow_mut().push(name.to_owned());
        self.virsh("start").arg(name).ok();
    }

    pub(super) fn destroy(&self, name: &str) {
        self.virsh("destroy").arg(name).ok();
    }

    /// What has the guest write a block with these bytes: the words after virsh.
    pub(super) fn writes(name: &str, target: &str, block: u64, byte: u8) -> [String; 4] {
        let number = target.as_bytes()[2] - b'a';
        let write = format!(
            "qemu-io -d /machine/peripheral/virtio-disk{number}/virtio-backend \"write -P {byte} {} {BLOCK}\"",
            block * BLOCK
        );
        let words = ["qemu-monitor-command", name, "--hmp", &write];
        words.map(str::to_owned)
    }

    pub(super) fn write(&self, name: &str, target: &str, block: u64, byte: u8) {
        let words = Self::writes(name, target, block, byte);
        let said = self.virsh("").args(words).ok();
        assert!(!said.contains("rror"), "{said}");
    }

    /// `bmapfs WORD` with an index, up to the domain, which may have a disk behind it.
    pub(super) fn bmapfs(&self, word: &str, domain: &str) -> Tool {
        let index = format!("--index={}/", self.scene.path("home/index").display());
        let bmapfs = self.tool(self.scene.program()).arg(word);
        let bmapfs = bmapfs.words("-b 64K --connect qemu:///session").arg(index);
        bmapfs.arg(format!("libvirt:{domain}"))
    }

    pub(super) fn rsync(&self, domain: &str) -> Tool {
        let run = self.bmapfs("run", domain);
        run.words("-- rsync -a --inplace --delete --itemize-changes {}/")
            .arg(self.backup())
    }

    pub(super) fn sync(&self, domain: &str) -> Synced {
        Rig::synced(self.rsync(domain).run())
    }

    pub(super) fn backup(&self) -> PathBuf {
        self.scene.path("backup")
    }

    pub(super) fn uuid(&self, name: &str) -> String {
        self.virsh("domuuid").arg(name).ok().trim().to_owned()
    }

    /// No job, mount, server or scratch file, and so many checkpoints.
    pub(super) fn expect_nothing_left(&self, name: &str, checkpoints: usize) {
        assert_ne!(self.virsh("backup-dumpxml").arg(name).run().code(), 0);
        let listed = self.virsh("checkpoint-list --name").arg(name).ok();
        let listed: Vec<_> = listed.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(listed.len(), checkpoints, "{listed:?}");
        assert_eq!(self.mounts(), Vec::<PathBuf>::new());
        let uuid = self.uuid(name);
        assert!(!self.scene.path("run/bmapfs-libvirt").join(&uuid).exists());
        assert!(!Rig::scratch_of(&uuid).exists());
        let servers = machine::processes_with(&uuid);
        let is_server =
            |line: &&String| line.starts_with("nbdfuse") || line.starts_with("qemu-nbd");
        let servers: Vec<_> = servers.iter().filter(is_server).collect();
        assert!(servers.is_empty(), "{servers:?}");
    }

    /// What is mounted of the user's.
    pub(super) fn mounts(&self) -> Vec<PathBuf> {
        let mounts = machine::mounts_of("self").into_iter();
        let mounts = mounts.map(|mount| mount.point);
        mounts
            .filter(|point| point.starts_with(self.scene.path("run")))
            .collect()
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for name in self.domains.borrow().iter() {
            self.virsh("destroy").arg(name).run();
        }
        for daemon in self.daemons.drain(..) {
            daemon.signal(Signal::SIGTERM);
            daemon.finish();
        }
    }
}

/// A disk in a definition.
pub(super) fn disk(kind: &str, format: &str, source: &str, target: &str) -> String {
    format!(
        "<disk type='{kind}' device='disk'><driver name='qemu' type='{format}'/>{source}\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

/// One in a file.
pub(super) fn in_file(format: &str, file: &Path, target: &str) -> String {
    let source = format!("<source file='{}'/>", file.display());
    disk("file", format, &source, target)
}
