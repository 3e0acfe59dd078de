//! A domain, its index and its backup.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::blocks::concatenated;
use crate::support::command::{Outcome, Running, Tool, tool};
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::daemons::{Libvirt, virsh};
use super::host::Host;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 65_536;

/// Blocks of the disks vda and vdb, which are qcow2, and vdc, which is raw.
pub(super) const DISKS: [(&str, u64); 3] = [("vda", 640), ("vdb", 200), ("vdc", 100)];

/// A domain, and what bmapfs makes of it.
#[derive(Debug)]
pub(super) struct Rig<'a> {
    pub(super) scene: &'a Scene,
    pub(super) name: String,
    pub(super) backup: PathBuf,
    /// How often the guest has written.
    writes: Cell<u64>,
    /// Where it is, if not in this machine's own libvirt.
    host: Cell<Option<&'a Host>>,
    _libvirt: Option<Libvirt>,
}

/// A run whose command waits.
#[derive(Debug)]
pub(super) struct Paused {
    pub(super) run: Running,
    go: PathBuf,
    /// What bmapfs says.
    pub(super) said: PathBuf,
}

impl Paused {
    pub(super) fn go(self) -> ExitStatus {
        fs::write(&self.go, b"").unwrap();
        self.run.finish()
    }
}

/// What a sync did.
#[derive(Debug)]
pub(super) struct Synced {
    /// What rsync transferred, as `vda/00000001`.
    pub(super) files: Vec<String>,
    /// What bmapfs said.
    pub(super) said: String,
}

impl<'a> Rig<'a> {
    /// One without a domain.
    pub(super) fn bare(scene: &'a Scene) -> Self {
        Self::of(scene, None)
    }

    /// A domain that runs, with content on all of its disks.
    pub(super) fn new(scene: &'a Scene) -> Self {
        Self::of(scene, None).running()
    }

    /// The same, in a libvirt of the test's own.
    pub(super) fn on(scene: &'a Scene, host: &'a Host) -> Self {
        Self::of(scene, Some(host)).running()
    }

    fn of(scene: &'a Scene, host: Option<&'a Host>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        scene.dir("images");
        Self {
            name: format!("bmapfs-test-{}-{count}", std::process::id()),
            backup: scene.dir("backup"),
            writes: Cell::new(100),
            host: Cell::new(host),
            _libvirt: host.is_none().then(Libvirt::get),
            scene,
        }
    }

    fn running(self) -> Self {
        for (target, blocks) in DISKS {
            // The last part is a hole.
            let content = pattern(blocks, usize::try_from((blocks - 20) * BLOCK).unwrap());
            let raw = self.scene.file(format!("{target}.raw"), &content);
            File::options()
                .write(true)
                .open(&raw)
                .unwrap()
                .set_len(blocks * BLOCK)
                .unwrap();
            let format = if target == "vdc" { "raw" } else { "qcow2" };
            tool("qemu-img")
                .words("convert -f raw -O")
                .arg(format)
                .arg(&raw)
                .arg(self.image(target))
                .ok();
            fs::remove_file(raw).unwrap();
        }
        self.start(&self.definition());
        self
    }

    /// Starts its domain.
    pub(super) fn start(&self, definition: &str) {
        let definition = self.scene.file("domain.xml", definition.as_bytes());
        self.libvirt().arg("define").arg(definition).ok();
        self.virsh("start").ok();
    }

    /// The file of a disk: its name is escaped in XML, and must come out of it again.
    pub(super) fn image(&self, target: &str) -> PathBuf {
        self.scene
            .path("images")
            .join(format!("{target} <a&b's>.img"))
    }

    /// A disk in its definition.
    pub(super) fn disk(&self, target: &str) -> String {
        let file = self.image(target).to_str().unwrap().to_owned();
        let file = file
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('\'', "&apos;");
        let format = if target == "vdc" { "raw" } else { "qcow2" };
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{file}'/>\
             <target dev='{target}' bus='virtio'/></disk>"
        )
    }

    fn definition(&self) -> String {
        let disks = DISKS.map(|(target, _)| self.disk(target));
        format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><seclabel type='none'/>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{}\
             <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>\
             <graphics type='vnc' passwd='a-secret'><listen type='none'/></graphics></devices></domain>",
            self.name,
            disks.concat()
        )
    }

    /// It has moved.
    pub(super) fn is_on(&self, host: &'a Host) {
        self.host.set(Some(host));
    }

    /// A program where it is.
    pub(super) fn tool(&self, program: impl AsRef<OsStr>) -> Tool {
        match self.host.get() {
            Some(host) => host.tool(program),
            None => tool(program),
        }
    }

    /// Virsh, where it is.
    fn libvirt(&self) -> Tool {
        self.host.get().map_or_else(virsh, Host::virsh)
    }

    /// A command of virsh's on the domain.
    pub(super) fn virsh(&self, command: &str) -> Tool {
        let (command, more) = command.split_once(' ').unwrap_or((command, ""));
        self.libvirt().arg(command).arg(&self.name).words(more)
    }

    /// The guest writes these blocks, each time with something else.
    pub(super) fn write(&self, target: &str, blocks: &[u64]) {
        let number = DISKS.iter().position(|(name, _)| *name == target).unwrap();
        for block in blocks {
            self.writes.set(self.writes.get() + 1);
            let (pattern, at) = (self.writes.get() % 250 + 1, block * BLOCK);
            self.monitor(&format!(
                "qemu-io -d /machine/peripheral/virtio-disk{number}/virtio-backend \"write -P {pattern} {at} {BLOCK}\""
            ));
        }
    }

    /// The guest overwrites a whole disk, as far as that goes.
    pub(super) fn try_write_all(&self, target: &str) {
        let (number, (_, blocks)) = DISKS
            .into_iter()
            .enumerate()
            .find(|(_, (name, _))| *name == target)
            .unwrap();
        for at in (0..blocks * BLOCK).step_by(1 << 20) {
            let write = format!(
                "qemu-io -d /machine/peripheral/virtio-disk{number}/virtio-backend \"write -P 7 {at} 1M\""
            );
            self.virsh("qemu-monitor-command --hmp").arg(write).run();
        }
    }

    fn monitor(&self, command: &str) {
        let said = self.virsh("qemu-monitor-command --hmp").arg(command).ok();
        assert!(!said.contains("rror"), "{command}: {said}");
    }

    /// What a guest would read now. The domain must be off.
    pub(super) fn content(&self, target: &str) -> Vec<u8> {
        let raw = self.scene.path(format!("{target}.content"));
        tool("qemu-img")
            .words("convert -O raw")
            .arg(self.image(target))
            .arg(&raw)
            .ok();
        fs::read(raw).unwrap()
    }

    /// `bmapfs WORD` with an index, up to the domain.
    pub(super) fn bmapfs(&self, word: &str) -> Tool {
        self.bmapfs_of(word, "")
    }

    /// The same, of `/TARGET` alone.
    pub(super) fn bmapfs_of(&self, word: &str, disk: &str) -> Tool {
        let index = format!("--index={}/", self.scene.dir("index").display());
        let source = format!("libvirt:{}{disk}", self.name);
        self.tool(self.scene.program())
            .arg(word)
            .words("-b 64K")
            .arg(index)
            .arg(source)
    }

    /// `bmapfs run`, up to the command.
    pub(super) fn run(&self) -> Tool {
        self.bmapfs("run").arg("--")
    }

    /// `bmapfs run` with a script, in which `$1` is the mount and `$2` the backup.
    pub(super) fn script(&self, script: &str) -> Tool {
        self.run()
            .args(["sh", "-ec", script, "sh", "{}"])
            .arg(&self.backup)
    }

    /// The same, with the script waiting: the job has begun, and nothing was read.
    pub(super) fn paused(&self, script: &str) -> Paused {
        self.paused_by(script, Tool::spawn)
    }

    /// The same, with the scratch files in this directory.
    pub(super) fn script_with_tmpdir(&self, script: &str, place: &Path) -> Paused {
        self.paused_by(script, |tool| tool.env("TMPDIR", place).spawn())
    }

    fn paused_by(&self, script: &str, spawn: impl FnOnce(Tool) -> Running) -> Paused {
        let (running, go) = (self.scene.path("running"), self.scene.path("go"));
        for old in [&running, &go] {
            fs::remove_file(old).ok();
        }
        // A test that fails takes its directory along.
        let wait = format!(
            "touch '{0}'; while [ ! -e '{1}' ]; do [ -e '{0}' ] || exit 78; sleep 0.02; done; {script}",
            running.display(),
            go.display()
        );
        let said = self.scene.path("said");
        let run = spawn(self.script(&wait).log_to(&said));
        wait_until("the command runs", || running.exists());
        Paused { run, go, said }
    }

    pub(super) fn rsync(&self) -> Tool {
        self.run()
            .words("rsync -a --inplace --delete --itemize-changes {}/")
            .arg(&self.backup)
    }

    /// Backs up, and expects that one checkpoint is there after that, unless the domain is off, and else nothing.
    pub(super) fn sync(&self) -> Synced {
        let synced = Self::synced(self.rsync().run());
        self.expect_nothing_left(1);
        synced
    }

    pub(super) fn synced(outcome: Outcome) -> Synced {
        let said = outcome.stderr.clone();
        let listed = outcome.ok();
        let files = listed.lines().filter_map(|line| line.strip_prefix(">f"));
        let mut files: Vec<String> = files
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect();
        files.sort();
        Synced { files, said }
    }

    pub(super) fn checkpoints(&self) -> Vec<String> {
        let names = self.virsh("checkpoint-list --name").ok();
        names
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn has_job(&self) -> bool {
        self.virsh("backup-dumpxml").run().code() == 0
    }

    /// No job, no scratch file, no server, and so many checkpoints.
    pub(super) fn expect_nothing_left(&self, checkpoints: usize) {
        assert!(!self.has_job());
        assert_eq!(
            self.checkpoints().len(),
            checkpoints,
            "{:?}",
            self.checkpoints()
        );
        let uuid = self.uuid();
        assert!(!self.scratch().exists());
        let place = Path::new("/run/bmapfs-libvirt").join(&uuid);
        assert!(!place.exists());
        let processes = crate::support::machine::processes_with(&uuid);
        let servers: Vec<_> = processes
            .iter()
            .filter(|line| line.contains("nbd"))
            .collect();
        assert!(servers.is_empty(), "{servers:?}");
    }

    pub(super) fn uuid(&self) -> String {
        self.virsh("domuuid").ok().trim().to_owned()
    }

    /// Where the scratch files of a job are.
    pub(super) fn scratch(&self) -> PathBuf {
        Self::scratch_of(&self.uuid())
    }

    pub(super) fn scratch_of(uuid: &str) -> PathBuf {
        let base =
            std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        base.join(format!("bmapfs-libvirt-{uuid}"))
    }

    /// A command of qemu-io's on vda. The domain must be off.
    pub(super) fn qemu_io(&self, command: &str) {
        tool("qemu-io")
            .words("-f qcow2 -c")
            .arg(command)
            .arg(self.image("vda"))
            .ok();
    }

    /// It starts with this boot sector. It must be off.
    pub(super) fn boots(&self, sector: &[u8]) {
        let boot = self.scene.file("boot", sector);
        self.qemu_io(&format!("write -s {} 0 512", boot.display()));
    }

    /// Ends the domain, and expects that the backup has what is on its disks.
    pub(super) fn expect_backup_at_end(&self) {
        self.virsh("destroy").ok();
        self.expect_backup_is_content();
    }

    /// Expects that the backup has what is on its disks. The domain must be off.
    pub(super) fn expect_backup_is_content(&self) {
        for (target, _) in DISKS {
            self.expect_backup(target, &self.content(target));
        }
    }

    pub(super) fn expect_backup(&self, target: &str, content: &[u8]) {
        assert_same(target, &concatenated(&self.backup.join(target)), content);
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        self.virsh("destroy").run();
        self.virsh("undefine --checkpoints-metadata").run();
    }
}

/// The files of these blocks of a disk.
pub(super) fn files(target: &str, blocks: &[u64]) -> Vec<String> {
    blocks
        .iter()
        .map(|block| format!("{target}/{block:08}"))
        .collect()
}
