//! A guest that runs Linux from its initramfs, writes all the time, and has a guest agent.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::blocks::concatenated;
use crate::support::command::{Tool, tool};
use crate::support::scene::Scene;
use crate::support::{DEADLINE, comes_true, wait_until};

use super::rig::Rig;

/// Its disks, each with an ext4.
const DISKS: [&str; 2] = ["vda", "vdb"];

/// The modules that it needs, which may also be part of the kernel.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_console", "ext4"];

/// Its first process. MODULES is the list of their files. It counts in both file systems, first in one and then in the other.
const INIT: &str = r"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in MODULES; do insmod /modules/$module; done
until mount -t ext4 /dev/vda /a; do usleep 10000; done
until mount -t ext4 /dev/vdb /b; do usleep 10000; done
n=0
while :; do
    n=$((n + 1))
    echo $n >>/a/count
    echo $n >>/b/count
    [ $((n % 50)) != 0 ] || sync
    usleep 2000
done &
until port=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name); do usleep 10000; done
port=${port%/name}
qemu-ga --method=virtio-serial --path=/dev/${port##*/} --statedir=/run
echo The agent has ended.
while :; do sleep 1000; done
";

#[derive(Debug)]
pub(super) struct Guest<'a> {
    pub(super) rig: Rig<'a>,
}

/// What is on a disk of a backup.
#[derive(Debug)]
pub(super) struct State {
    /// Whether its file system was in use.
    pub(super) needs_recovery: bool,
    pub(super) count: u64,
}

impl<'a> Guest<'a> {
    /// One that has booted, and whose agent answers.
    pub(super) fn new(scene: &'a Scene) -> Self {
        let rig = Rig::bare(scene);
        for target in DISKS {
            let raw = scene.sparse(format!("{target}.raw"), 32 << 20);
            tool("mke2fs").words("-q -t ext4").arg(&raw).ok();
            let convert = tool("qemu-img").words("convert -f raw -O qcow2");
            convert.arg(&raw).arg(rig.image(target)).ok();
        }
        let guest = Self { rig };
        guest.rig.start(&guest.definition());
        let answers = || guest.ask("guest-ping", "{}").run().code() == 0;
        let console = scene.path("console");
        assert!(
            comes_true(DEADLINE, answers),
            "no agent answers: {}",
            fs::read_to_string(console).unwrap_or_default()
        );
        guest
    }

    fn definition(&self) -> String {
        let scene = self.rig.scene;
        let kernel = kernel();
        let disks = DISKS.map(|target| self.rig.disk(target));
        format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/vmlinuz-{kernel}</kernel><initrd>{}</initrd>\
             <cmdline>console=ttyS0 loglevel=3 panic=-1</cmdline></os><seclabel type='none'/>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{}\
             <serial type='file'><source path='{}'/></serial>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>",
            self.rig.name,
            initramfs(scene, &kernel).display(),
            disks.concat(),
            scene.path("console").display(),
        )
    }

    /// A command for its agent.
    pub(super) fn ask(&self, command: &str, arguments: &str) -> Tool {
        let asked = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}");
        self.rig.virsh("qemu-agent-command").arg(asked)
    }

    pub(super) fn is_frozen(&self) -> bool {
        let status = self.ask("guest-fsfreeze-status", "{}").ok();
        assert!(
            status.contains("frozen") != status.contains("thawed"),
            "{status}"
        );
        status.contains("frozen")
    }

    /// Its agent ends.
    pub(super) fn kill_agent(&self) {
        let kill = "{\"path\":\"/bin/sh\",\"arg\":[\"-c\",\"kill $PPID\"]}";
        // It may not have the time to answer.
        self.ask("guest-exec", kill).run();
        wait_until("no agent answers", || {
            let ping = self.ask("guest-ping", "{}").run();
            ping.stderr.contains("not connected")
        });
    }

    /// It writes to each of its disks.
    pub(super) fn expect_it_writes(&self) {
        let written = |target: &str| {
            let counts = self.rig.virsh("domblkstat").arg(target).ok();
            let count = counts.lines().find_map(|line| line.split_once(" wr_req "));
            count.unwrap().1.parse::<u64>().unwrap()
        };
        for target in DISKS {
            let before = written(target);
            wait_until("the guest writes", || written(target) > before);
        }
    }

    /// What was backed up.
    pub(super) fn backed_up(&self) -> [State; 2] {
        DISKS.map(|target| {
            let content = concatenated(&self.rig.backup.join(target));
            let image = self.rig.scene.file("backed-up", &content);
            let header = tool("dumpe2fs").arg("-h").arg(&image).ok();
            let features = header
                .lines()
                .find(|line| line.starts_with("Filesystem features:"));
            let needs_recovery = features.unwrap().contains("needs_recovery");
            if !needs_recovery {
                tool("e2fsck").arg("-fn").arg(&image).ok();
            }
            let counted = tool("debugfs")
                .words("-R")
                .arg("cat /count")
                .arg(&image)
                .ok();
            let count = counted
                .lines()
                .last()
                .map_or(0, |last| last.parse().unwrap());
            State {
                needs_recovery,
                count,
            }
        })
    }
}

/// The newest of Debian's kernels for virtual machines.
fn kernel() -> String {
    let all = fs::read_dir("/lib/modules").map(|all| all.map(|one| one.unwrap().file_name()));
    let all = all
        .into_iter()
        .flatten()
        .map(|name| name.into_string().unwrap());
    let cloud = all.filter(|name| name.contains("-cloud-"));
    let newest = cloud.max_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit());
        numbers.flat_map(str::parse::<u32>).collect::<Vec<_>>()
    });
    newest.expect("no kernel in /lib/modules: is linux-image-cloud-amd64 installed?")
}

/// With busybox, the agent, and modules.
fn initramfs(scene: &Scene, kernel: &str) -> PathBuf {
    let root = scene.dir("initramfs");
    let add = |from: &Path, to: &str| {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for directory in ["a", "b", "dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let mut libraries = BTreeSet::new();
    for program in ["/bin/busybox", "/usr/sbin/qemu-ga"] {
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        add(Path::new(program), &format!("bin/{name}"));
        // Of what is linked statically it prints nothing.
        let needed = tool("ldd").arg(program).run().stdout;
        let words = needed
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        libraries.extend(words.map(str::to_owned));
    }
    for library in libraries {
        add(Path::new(&library), &library[1..]);
    }
    let mut modules: Vec<String> = Vec::new();
    for module in MODULES {
        let order = tool("modprobe")
            .args(["-S", kernel, "--show-depends", module])
            .ok();
        for file in order
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "))
        {
            let file = Path::new(file.trim());
            let name = file.file_name().unwrap().to_str().unwrap();
            if !modules.iter().any(|there| there == name) {
                add(file, &format!("modules/{name}"));
                modules.push(name.to_owned());
            }
        }
    }
    let init = root.join("init");
    fs::write(&init, INIT.replace("MODULES", &modules.join(" "))).unwrap();
    fs::set_permissions(init, fs::Permissions::from_mode(0o755)).unwrap();
    let archive = scene.path("initramfs.cpio");
    let pack = format!("find . | cpio --quiet -o -H newc >'{}'", archive.display());
    tool("sh").args(["-c", &pack]).within(&root).ok();
    archive
}
