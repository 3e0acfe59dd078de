//! A domain as libvirt describes it: what it is called, whether it runs, and its disks.

use std::path::PathBuf;

use super::xml;

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
pub(super) struct DiskDefinition {
    /// What the guest calls it, more or less.
    pub(super) target: String,
    /// disk, cdrom, floppy or lun.
    device: String,
    /// file, block, network, ...
    kind: String,
    /// raw, qcow2, ...
    pub(super) format: String,
    /// Of a file or device, which may be missing in a drive.
    pub(super) path: Option<PathBuf>,
    /// It has one, of whatever kind.
    has_source: bool,
    readonly: bool,
}

impl Definition {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut disk = DiskDefinition::default();
        let within = |below: &[&'static str]| {
            let mut path = vec!["domain", "devices", "disk"];
            path.extend_from_slice(below);
            path
        };
        let (whole, driver, source, target, readonly) = (
            within(&[]),
            within(&["driver"]),
            within(&["source"]),
            within(&["target"]),
            within(&["readonly"]),
        );
        xml::walk(text, |element| {
            let text = |name: &str| element.attribute(name).unwrap_or_default().to_owned();
            let begins = element.text.is_none();
            match &element.text {
                Some(text) if element.is(&["domain", "name"]) => found.name.clone_from(text),
                Some(text) if element.is(&["domain", "uuid"]) => found.uuid.clone_from(text),
                Some(_) if element.is(&whole) => found.disks.push(std::mem::take(&mut disk)),
                _ => {}
            }
            if !begins {
                return;
            }
            if element.is(&["domain"]) {
                found.id = element.attribute("id").map(str::to_owned);
            } else if element.is(&whole) {
                (disk.kind, disk.device) = (text("type"), text("device"));
            } else if element.is(&driver) {
                disk.format = text("type");
            } else if element.is(&source) {
                let path = element.attribute("file").or(element.attribute("dev"));
                disk.path = path.map(PathBuf::from);
                disk.has_source = true;
            } else if element.is(&target) {
                disk.target = text("dev");
            } else if element.is(&readonly) {
                disk.readonly = true;
            }
        })?;
        if found.name.is_empty() || found.uuid.is_empty() {
            return Err("it is no domain".to_owned());
        }
        Ok(found)
    }
}

impl DiskDefinition {
    /// Why it is not part of a backup, if it is not.
    pub(super) fn left_out(&self) -> Option<&'static str> {
        match self.device.as_str() {
            "cdrom" | "floppy" if !self.has_source => Some("an empty drive"),
            "cdrom" | "floppy" => Some("a removable medium"),
            "lun" => Some("a device that is passed through"),
            _ if self.readonly => Some("read-only"),
            _ => None,
        }
    }

    /// Whether libvirt can note in it what is written.
    pub(super) fn keeps_bitmaps(&self) -> bool {
        self.format == "qcow2"
    }

    pub(super) fn is_raw(&self) -> bool {
        self.format.is_empty() || self.format == "raw"
    }

    /// The file or device that it is in, if it is in one.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        let plain = self.kind == "file" || self.kind == "block";
        self.path.as_ref().filter(|_| plain)
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
                let file = disk.file().map(|file| file.to_str().unwrap());
                (
                    disk.target.as_str(),
                    disk.format.as_str(),
                    file,
                    disk.left_out(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("vda", "qcow2", Some("/srv/a'b.qcow2"), None),
                ("vdb", "raw", Some("/dev/vg/b"), None),
                ("vdc", "raw", None, None),
                ("sda", "", None, Some("an empty drive")),
                ("sdb", "", Some("/x.iso"), Some("a removable medium")),
                ("vdd", "", Some("/x"), Some("read-only")),
            ]
        );
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
