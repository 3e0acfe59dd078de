//! A domain as libvirt describes it: what it is called, whether it runs, and its disks.

use std::path::{Path, PathBuf};

use super::xml::{self, Element};

/// Bytes of what disks are counted in.
const SECTOR: u64 = 512;

/// What is read of a domain's XML.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) uuid: String,
    /// Of a domain that runs.
    pub(super) id: Option<String>,
    pub(super) disks: Vec<DiskDefinition>,
}

/// What is read of a disk's.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an element of its own"
)]
pub(super) struct DiskDefinition {
    /// What the guest calls it, more or less.
    pub(super) target: String,
    /// disk, cdrom, floppy or lun.
    device: String,
    /// file, block, network, ...
    kind: String,
    /// raw, qcow2, ...
    format: String,
    /// Of a file or device, which may be missing in a drive.
    path: Option<PathBuf>,
    /// The storage pool that it is in, and its name there.
    pub(super) volume: Option<(String, String)>,
    /// It has one, of whatever kind.
    has_source: bool,
    readonly: bool,
    /// What is written to it is gone when the domain ends.
    transient: bool,
    /// Other domains may write it, too.
    pub(super) shareable: bool,
    encrypted: bool,
    /// The guest sees a part of the file.
    sliced: bool,
}

impl Definition {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut disk = DiskDefinition::default();
        xml::walk(text, |element| {
            let path: Vec<&str> = element.path.iter().map(String::as_str).collect();
            match (path.as_slice(), &element.text) {
                (["domain"], None) => found.id = element.attribute("id").map(str::to_owned),
                (["domain", "name"], Some(text)) => found.name.clone_from(text),
                (["domain", "uuid"], Some(text)) => found.uuid.clone_from(text),
                (["domain", "devices", "disk", below @ ..], None) => disk.read(below, element),
                (["domain", "devices", "disk"], Some(_)) => {
                    found.disks.push(std::mem::take(&mut disk));
                }
                _ => {}
            }
        })?;
        if found.name.is_empty() || found.uuid.is_empty() {
            return Err("it is no domain".to_owned());
        }
        Ok(found)
    }
}

impl DiskDefinition {
    /// An element has begun, with these names below the disk's own.
    fn read(&mut self, below: &[&str], element: &Element<'_>) {
        let text = |name: &str| element.attribute(name).unwrap_or_default().to_owned();
        match below {
            [] => (self.kind, self.device) = (text("type"), text("device")),
            ["driver"] => self.format = text("type"),
            ["source"] => {
                let path = element.attribute("file").or(element.attribute("dev"));
                self.path = path.map(PathBuf::from);
                let pool = element.attribute("pool");
                self.volume = pool.map(|pool| (pool.to_owned(), text("volume")));
                self.has_source = true;
            }
            ["source", "slices", "slice"] => self.sliced = true,
            ["encryption"] | ["source", "encryption"] => self.encrypted = true,
            ["target"] => self.target = text("dev"),
            ["readonly"] => self.readonly = true,
            ["transient"] => self.transient = true,
            ["shareable"] => self.shareable = true,
            _ => {}
        }
    }

    /// Why it is not part of a backup, if it is not.
    pub(super) fn left_out(&self) -> Option<&'static str> {
        match (self.device.as_str(), self.kind.as_str()) {
            ("cdrom" | "floppy", _) if !self.has_source => Some("an empty drive"),
            ("cdrom" | "floppy", _) => Some("a removable medium"),
            ("lun", _) => Some("a device that is passed through"),
            _ if self.readonly => Some("read-only"),
            _ if self.transient => Some("transient, and loses what is written to it"),
            (_, "dir") => Some("a directory of this host"),
            (_, "vhostuser" | "vhostvdpa") => Some("served by another program than QEMU"),
            _ => None,
        }
    }

    /// Whether libvirt can note in it what is written.
    pub(super) fn keeps_bitmaps(&self) -> bool {
        self.format == "qcow2"
    }

    pub(super) fn format(&self) -> &str {
        match self.format.as_str() {
            "" => "raw",
            format => format,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether the guest sees the bytes of this file or device. It sees whole sectors; in doubt, it does.
    pub(super) fn is_as_in(&self, file: &Path) -> bool {
        let ends_within_sector = || {
            let stat = std::fs::metadata(file);
            stat.is_ok_and(|stat| stat.is_file() && stat.len() % SECTOR != 0)
        };
        self.format() == "raw" && !ends_within_sector()
    }

    /// The file or device that has the bytes that the guest sees, in its format, while the domain is off. An error says why
    /// there is none. `volume`: gives the path of one of a storage pool's.
    pub(super) fn file(
        &self,
        volume: impl Fn(&str, &str) -> Result<String, String>,
    ) -> Result<PathBuf, String> {
        let path = match (&self.path, &self.volume) {
            _ if self.encrypted => return Err("it is encrypted".to_owned()),
            _ if self.sliced => return Err("it is a part of a file".to_owned()),
            (Some(path), _) if self.kind == "file" || self.kind == "block" => path.clone(),
            (_, Some((pool, name))) => volume(pool, name)?.into(),
            _ => PathBuf::new(),
        };
        let found = path.is_absolute().then_some(path);
        found.ok_or_else(|| "it is in no file or device of this host".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain type='kvm' id='7'>
  <name>a&amp;b</name><uuid>5d4a</uuid>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/srv/a&apos;b.qcow2' index='3'/>
      <backingStore type='file'><format type='raw'/><source file='/srv/base'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/b'/>
      <target dev='vdb'/></disk>
    <disk type='network' device='disk'><driver type='raw'/><source protocol='rbd' name='p/i'/><target dev='vdc'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
    <disk type='file' device='cdrom'><source file='/x.iso'/><target dev='sdb'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/x'/><target dev='vdd'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/x'/><target dev='vde'/><transient/></disk>
    <disk type='dir' device='disk'><driver type='fat'/><source dir='/x'/><target dev='vdf'/></disk>
    <disk type='vhostuser' device='disk'><source type='unix' path='/x'/><target dev='vdg'/></disk>
    <disk type='file' device='disk'><source file='/x'><encryption format='luks'/></source><target dev='vdh'/></disk>
    <disk type='file' device='disk'><source file='/x'/><encryption format='luks'/><target dev='vdi'/></disk>
    <disk type='file' device='disk'><source file='/x'><slices><slice type='storage' offset='1' size='2'/></slices></source>
      <target dev='vdj'/></disk>
    <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdk'/><shareable/></disk>
    <disk type='volume' device='disk'><source pool='rbd' volume='v'/><target dev='vdl'/></disk>
    <interface type='network'><source network='default'/><target dev='vnet0'/></interface>
  </devices></domain>";

    #[test]
    fn disks_are_read_without_their_backing_files() {
        let domain = Definition::read(DOMAIN).unwrap();
        assert_eq!(
            (domain.name.as_str(), domain.uuid.as_str()),
            ("a&b", "5d4a")
        );
        assert_eq!(domain.id.as_deref(), Some("7"));
        let shown: Vec<_> = domain
            .disks
            .iter()
            .map(|disk| {
                let volume = |pool: &str, name: &str| match pool {
                    "p" => Ok(format!("/pool/{name}")),
                    _ => Ok(format!("{pool}/{name}")),
                };
                let file = disk.file(volume);
                let file = file.map_or_else(|why| why, |file| file.to_str().unwrap().to_owned());
                (
                    disk.target.as_str(),
                    disk.format.as_str(),
                    file,
                    disk.left_out(),
                )
            })
            .collect();
        let none = "it is in no file or device of this host";
        assert_eq!(
            shown,
            [
                ("vda", "qcow2", "/srv/a'b.qcow2", None),
                ("vdb", "raw", "/dev/vg/b", None),
                ("vdc", "raw", none, None),
                ("sda", "", none, Some("an empty drive")),
                ("sdb", "", "/x.iso", Some("a removable medium")),
                ("vdd", "", "/x", Some("read-only")),
                (
                    "vde",
                    "",
                    "/x",
                    Some("transient, and loses what is written to it")
                ),
                ("vdf", "fat", none, Some("a directory of this host")),
                ("vdg", "", none, Some("served by another program than QEMU")),
                ("vdh", "", "it is encrypted", None),
                ("vdi", "", "it is encrypted", None),
                ("vdj", "", "it is a part of a file", None),
                ("vdk", "", "/pool/v", None),
                ("vdl", "", none, None),
            ]
            .map(|(target, format, file, why)| (target, format, file.to_owned(), why))
        );
        let shared = domain.disks.iter().filter(|disk| disk.shareable);
        assert_eq!(shared.map(|disk| &disk.target).collect::<Vec<_>>(), ["vdk"]);
        let keep = |disk: &DiskDefinition| disk.keeps_bitmaps();
        assert_eq!(domain.disks.iter().filter(|disk| keep(disk)).count(), 1);
    }

    #[test]
    fn a_domain_that_is_off_has_no_id() {
        let domain = Definition::read("<domain><name>a</name><uuid>u</uuid></domain>").unwrap();
        assert_eq!((domain.id, domain.disks), (None, Vec::new()));
        for text in [
            "",
            "<network><name>a</name><uuid>u</uuid></network>",
            "<domain/>",
        ] {
            Definition::read(text).unwrap_err();
        }
    }
}
