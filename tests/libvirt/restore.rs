//! A backup is a virtual machine again.

use std::fs;

use crate::support::command::tool;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::daemons::virsh;
use super::rig::{DISKS, Rig};

/// Where the boot sector writes a copy of itself, as a sector of 512 bytes.
const MARKER: u8 = 200;

/// In 16-bit mode: writes itself to sector [`MARKER`] of the disk that it was read from, by INT 13h, and stops.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x11, 0x7c, // mov si, the packet below
        0xb8, 0x00, 0x43, // mov ax, write
        0xb2, 0x80, // mov dl, the first disk
        0xcd, 0x13, // int 13h
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
        0x10, 0x00, 0x01, 0x00, // one sector
        0x00, 0x7c, 0x00, 0x00, // from here
        MARKER, 0, 0, 0, 0, 0, 0, 0,
    ];
    sector.resize(510, 0x5a);
    sector.extend([0x55, 0xaa]);
    sector
}

#[test]
fn p35_a_restored_domain_boots() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.virsh("destroy").ok();
    rig.boots(&boot_sector());
    rig.rsync().ok();
    rig.expect_nothing_left(0);
    // Restored as doc/LIBVIRT.md says.
    let restored = format!("{}-restored", rig.name);
    let mut definition = fs::read_to_string(rig.backup.join("domain.xml")).unwrap();
    definition = definition
        .replace(&rig.name, &restored)
        .replace(&rig.uuid(), &uuid());
    for (target, _) in DISKS {
        let format = if target == "vdc" { "raw" } else { "qcow2" };
        let image = scene.path(format!("restored-{target}"));
        let mount = scene
            .mount(rig.backup.join(target))
            .at(&format!("mnt-{target}"))
            .up();
        tool("qemu-img")
            .words("convert -O")
            .arg(format)
            .arg(mount.point().join("image"))
            .arg(&image)
            .ok();
        let old = format!("images/{target} &lt;a&amp;b&apos;s&gt;.img");
        let file = scene.path(old);
        assert!(definition.contains(file.to_str().unwrap()), "{definition}");
        definition = definition.replace(file.to_str().unwrap(), image.to_str().unwrap());
    }
    let definition = scene.file("restored.xml", definition.as_bytes());
    virsh().arg("define").arg(definition).ok();
    let _undefined = Undefined(&restored);
    virsh().arg("start").arg(&restored).ok();
    wait_until("it has booted and written", || {
        let counts = virsh().arg("domblkstat").arg(&restored).arg("vda").ok();
        counts.lines().any(|line| line.ends_with(" wr_req 1"))
    });
    virsh().arg("destroy").arg(&restored).ok();
    let raw = scene.path("restored.raw");
    tool("qemu-img")
        .words("convert -O raw")
        .arg(scene.path("restored-vda"))
        .arg(&raw)
        .ok();
    let (written, sector) = (fs::read(raw).unwrap(), boot_sector());
    let marker = usize::from(MARKER) * sector.len();
    assert_eq!(written[marker..marker + sector.len()], sector);
    assert_ne!(rig.content("vda")[marker..marker + sector.len()], sector);
}

fn uuid() -> String {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    uuid.trim().to_owned()
}

/// Ends a domain.
struct Undefined<'a>(&'a str);

impl Drop for Undefined<'_> {
    fn drop(&mut self) {
        virsh().arg("destroy").arg(self.0).run();
        virsh().arg("undefine").arg(self.0).run();
    }
}
