//! What doc/LIBVIRT.md and README.md have to be typed, with other names and paths.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::blocks::{self, concatenated};
use crate::support::command::{Outcome, tool};
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

use super::rig::Rig;

/// The commands below a line of a page, the first or a later block of them.
fn recipe(page: &str, line: &str, number: usize) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let page = fs::read_to_string(page).unwrap();
    let (_, below) = page
        .split_once(line)
        .unwrap_or_else(|| panic!("no {line:?}"));
    let block = below.split("```\n").nth(2 * number + 1).unwrap();
    assert!(!block.is_empty());
    block.to_owned()
}

/// A host where commands of the pages can be typed.
struct Host<'a> {
    scene: &'a Scene,
    /// What stands in the page, and what is typed in its place.
    other: Vec<(String, String)>,
}

impl<'a> Host<'a> {
    /// It knows these domains and no others.
    fn new(scene: &'a Scene, domains: &[&str]) -> Self {
        let place = scene.path("").display().to_string();
        let index = format!("--index={place}index/");
        for directory in ["backup", "restored", "mnt", "media", "index"] {
            scene.dir(directory);
        }
        let host = Self {
            scene,
            other: [
                ("/backup/", format!("{place}backup/")),
                ("/var/lib/libvirt/images/", format!("{place}restored/")),
                ("/mnt/", format!("{place}mnt/")),
                ("/media", format!("{place}media")),
                ("--index ", format!("{index} ")),
                ("bmapfs sums ", format!("bmapfs sums {index} ")),
            ]
            .map(|(from, to)| (from.to_owned(), to))
            .to_vec(),
        };
        // rsync says -l USER.
        host.program(
            "ssh",
            "[ \"$1\" = -l ] && shift 2; shift; exec sh -c \"$*\"",
        );
        let known = domains.join(" -e ");
        host.program(
            "virsh",
            &format!(
                "case \"$*\" in 'list '*) /usr/bin/virsh \"$@\" | grep -x -e '' -e {known};; *) exec /usr/bin/virsh \"$@\";; esac"
            ),
        );
        host
    }

    /// One whose domain `web` is this one.
    fn of(rig: &'a Rig<'_>) -> Self {
        let mut host = Self::new(rig.scene, &[&rig.name]);
        let name = &rig.name;
        for from in ["libvirt:web", "--inactive web", "start web"] {
            let to = from.replace("web", name);
            host.other.push((from.to_owned(), to));
        }
        host
    }

    fn program(&self, name: &str, script: &str) {
        self.scene.script("programs", name, script);
    }

    fn types(&self, commands: &str) -> Outcome {
        let mut script = commands.to_owned();
        for (from, to) in &self.other {
            script = script.replace(from, to);
        }
        let path = format!(
            "{}:{}:/usr/sbin:/usr/bin:/sbin:/bin",
            self.scene.path("programs").display(),
            self.scene.program().parent().unwrap().display()
        );
        tool("sh")
            .args(["-c", &script])
            .env("PATH", path)
            .env("LIBVIRT_DEFAULT_URI", "qemu:///system")
            .within(&self.scene.path(""))
            .run()
    }

    fn backup(&self, name: &str) -> PathBuf {
        self.scene.path("backup").join(name)
    }
}

/// All lines succeed.
fn each(commands: &str) -> String {
    format!("set -e\n{commands}")
}

#[test]
fn p35_all_domains_of_a_host_each_night() {
    let scenes = [Scene::new(), Scene::new()];
    let rigs = [Rig::new(&scenes[0]), Rig::new(&scenes[1])];
    let names = [&*rigs[0].name, &*rigs[1].name];
    let host = Host::new(&scenes[0], &names);
    let night = recipe("doc/LIBVIRT.md", "## All VMs of a host, each night\n", 0);
    // The first is busy.
    let busy = rigs[0].paused("true");
    let outcome = host.types(&night);
    assert_eq!(outcome.code(), 1, "{outcome:#?}");
    let said: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{outcome:#?}");
    assert!(
        said[0].contains(&format!("libvirt:{}: another bmapfs", names[0])),
        "{outcome:#?}"
    );
    assert_eq!(said[1], format!("failed: {}", names[0]));
    assert!(!host.backup(names[0]).exists());
    assert!(host.backup(names[1]).join("domain.xml").exists());
    assert!(busy.go().success());
    // Nothing that cron would send.
    for _ in 0..2 {
        let outcome = host.types(&night);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
        assert_eq!(outcome.code(), 0);
    }
    // One is off, and would not be listed.
    rigs[0].virsh("destroy").ok();
    let all = night.replace("list --name", "list --name --all");
    assert_ne!(all, night);
    for night in [&night, &all] {
        host.types(night).ok();
    }
    rigs[1].virsh("destroy").ok();
    for rig in &rigs {
        for target in ["vda", "vdb", "vdc"] {
            let copied = concatenated(&host.backup(&rig.name).join(target));
            assert_same(target, &copied, &rig.content(target));
        }
    }
    // A libvirt that does not answer is not one without domains.
    host.program("virsh", "echo 'error: no libvirt' >&2; exit 1");
    let outcome = host.types(&night);
    assert_eq!(outcome.code(), 1, "{outcome:#?}");
    assert_eq!(outcome.stderr, "error: no libvirt\n");
}

#[test]
fn p35_a_domain_is_restored_on_another_host() {
    let run = recipe("doc/LIBVIRT.md", "# Virtual machines", 0);
    restored(&run, 2, &[]);
}

#[test]
fn p35_a_domain_is_restored_from_a_sparse_backup() {
    let run = recipe("README.md", "**With libvirt**", 0);
    let run = run.replace("--index", "-b 64K --sparse --index");
    let other = [
        ("bmapfs /", "bmapfs --sparse /"),
        ("run -w", "run -b 64K -w"),
    ];
    restored(&run, 81, &other);
}

/// Backs a domain up by `run`, which makes so many files of vdc, and restores it by the page with what is `other` in it.
fn restored(run: &str, files: usize, other: &[(&str, &str)]) {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let host = Host::of(&rig);
    // It looks like another format, and names a file of the host as what it rests on.
    let trap = scene.path("trap");
    tool("qemu-img")
        .words("create -q -f qcow2 -F raw -b /etc/hostname")
        .arg(&trap)
        .arg("1M")
        .ok();
    let len = fs::metadata(&trap).unwrap().len() / 512 * 512;
    rig.virsh("destroy").ok();
    tool("qemu-io")
        .words("-f qcow2 -c")
        .arg(format!("write -s {} 0 {len}", trap.display()))
        .arg(rig.image("vda"))
        .ok();
    rig.virsh("start").ok();
    host.types(run).ok();
    assert_eq!(blocks::names(&host.backup("web/vdc")).len(), files);
    rig.virsh("destroy").ok();
    let targets = ["vda", "vdb", "vdc"];
    let had = targets.map(|target| rig.content(target));
    assert_eq!(had[0][..4], *b"QFI\xfb");
    // That host is gone.
    rig.virsh("undefine --checkpoints-metadata").ok();
    let files = ["web.qcow2", "web-b.qcow2", "web-data.img"];
    let definition = host.backup("web/domain.xml");
    let mut text = fs::read_to_string(&definition).unwrap();
    for (target, file) in targets.into_iter().zip(files) {
        fs::remove_file(rig.image(target)).unwrap();
        let old = format!("images/{target} &lt;a&amp;b&apos;s&gt;.img");
        assert!(text.contains(&old), "{text}");
        text = text.replace(&old, &format!("restored/{file}"));
    }
    fs::write(&definition, text).unwrap();
    let heading = "## Restoring a VM, to this host or another\n";
    let [whole, raw] = [0, 1].map(|number| {
        let typed = recipe("doc/LIBVIRT.md", heading, number);
        let change = |typed: String, (from, to): &(&str, &str)| typed.replace(from, to);
        other.iter().fold(typed, change)
    });
    host.types(&each(&raw.replace("vdb", "vdc"))).ok();
    let (disk, _) = whole.split_once("virsh").unwrap();
    let disk = disk.replace("vda", "vdb").replace("web.qcow2", files[1]);
    host.types(&each(&disk)).ok();
    host.types(&each(&whole)).ok();
    assert_eq!(rig.virsh("domstate").ok().trim(), "running");
    rig.virsh("destroy").ok();
    for ((target, file), had) in targets.into_iter().zip(files).zip(&had) {
        let format = if target == "vdc" { "raw" } else { "qcow2" };
        let (image, back) = (scene.path("restored").join(file), scene.path("back"));
        tool("qemu-img")
            .args(["convert", "-f", format, "-O", "raw"])
            .args([&image, &back])
            .ok();
        assert_same(target, &fs::read(back).unwrap(), had);
    }
}

/// A disk with a partition, whose file system is in use.
fn disk_in_use(scene: &Scene) -> PathBuf {
    let (disk, used) = (scene.sparse("disk.raw", 40 << 20), scene.path("used.raw"));
    tool("sfdisk")
        .words("--quiet --no-reread --no-tell-kernel")
        .arg(&disk)
        .input(b"label: gpt\nstart=1MiB, size=38MiB\n")
        .ok();
    let place = format!("--offset {} --sizelimit {}", 1 << 20, 38 << 20);
    let device = LoopDevice::with(&place, &disk);
    tool("mkfs.ext4").words("-q -F").arg(device.path()).ok();
    let point = scene.dir("making");
    let mount = || tool("mount").arg(device.path()).arg(&point).ok();
    mount();
    fs::create_dir(point.join("etc")).unwrap();
    fs::write(point.join("etc/fstab"), pattern(3, 300_000)).unwrap();
    tool("umount").arg(&point).ok();
    mount();
    fs::write(point.join("new"), b"in the log").unwrap();
    tool("sync").arg("-f").arg(&point).ok();
    fs::copy(&disk, &used).unwrap();
    tool("umount").arg(&point).ok();
    used
}

#[test]
fn p35_one_file_comes_back() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let host = Host::of(&rig);
    rig.virsh("destroy").ok();
    tool("qemu-img")
        .words("convert -f raw -O qcow2")
        .args([&disk_in_use(&scene), &rig.image("vda")])
        .ok();
    rig.virsh("start").ok();
    host.types(&recipe("doc/LIBVIRT.md", "# Virtual machines", 0))
        .ok();
    let commands = recipe("doc/LIBVIRT.md", "**One file**", 0);
    host.types(&each(&commands)).ok();
    let back = fs::read(scene.path("fstab")).unwrap();
    assert_same("fstab", &back, &pattern(3, 300_000));
    // As it is in the page for a reason.
    let without = commands.replace(",noload", "");
    assert_ne!(host.types(&each(&without)).code(), 0);
    tool("umount").arg(scene.path("mnt/vda")).ok();
}

#[test]
fn p35_a_backup_is_checked() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let host = Host::of(&rig);
    let run = recipe("README.md", "**With libvirt**", 0);
    host.types(&run).ok();
    let check = recipe("doc/LIBVIRT.md", "## Checking a backup\n", 0);
    let good = host.types(&each(&check));
    assert_eq!((&*good.stdout, &*good.stderr), ("", ""));
    good.ok();
    // The next run has it.
    rig.virsh("desc --config --new-desc other").ok();
    let found = host.types(&check);
    assert_ne!(found.code(), 0);
    assert!(found.stdout.contains("domain.xml differ"), "{found:#?}");
    host.types(&run).ok();
    host.types(&each(&check)).ok();
    // Where a file is called like a disk.
    scene.dir(&format!("libvirt:{}/vda", rig.name));
    let verify = |disk: &str| {
        scene
            .bmapfs()
            .arg("verify")
            .arg(format!("--index={}/", scene.path("index").display()))
            .arg(format!("libvirt:{}{disk}", rig.name))
            .arg(host.backup("web").join(disk.trim_start_matches('/')))
            .within(&scene.path(""))
    };
    for (disk, blocks) in [("/vda", 10), ("/vdb", 4), ("/vdc", 2)] {
        let outcome = verify(disk).run();
        assert_eq!(outcome.stderr, "");
        let right = format!("{blocks} blocks: {blocks} right");
        assert!(outcome.stdout.starts_with(&right), "{outcome:#?}");
        outcome.ok();
    }
    let said = verify("").fails(1);
    assert!(said.contains("must be one disk of a domain"), "{said}");
    // What was not copied right is found, and is named.
    let damaged = host.backup("web/vdb/00000002");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[77] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::remove_file(host.backup("web/vda/00000003")).unwrap();
    let definition = host.backup("web/domain.xml");
    let text = fs::read_to_string(&definition).unwrap();
    fs::write(&definition, text.replace("32", "33")).unwrap();
    let found = host.types(&check);
    assert_ne!(found.code(), 0);
    for line in ["00000003: FAILED", "00000002: FAILED", "domain.xml differ"] {
        assert!(found.stdout.contains(line), "{found:#?}");
    }
    fs::remove_file(definition).unwrap();
    let found = host.types(&check);
    assert_ne!(found.code(), 0);
    assert!(
        found.stderr.contains("domain.xml: No such file"),
        "{found:#?}"
    );
}
