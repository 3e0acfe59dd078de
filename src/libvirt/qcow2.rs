//! What the header of a qcow2 image tells.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::image::Behind;

const FORMAT: &str = "qcow2";
/// Among the incompatible features of the format's header: the data is in another file.
const EXTERNAL_DATA: u8 = 1 << 2;

/// The file of a disk that is off, noted before anything else is read of it, if all of the disk is in it.
pub(super) fn behind(image: &Path, format: &str) -> Option<Behind> {
    let is_file = || std::fs::metadata(image).is_ok_and(|stat| stat.is_file());
    if format != FORMAT || !is_file() {
        return None;
    }
    let behind = Behind::note(File::open(image).ok()?, FORMAT).ok()?;
    is_all(behind.file()).then_some(behind)
}

/// Whether it has no backing file: qemu-nbd takes the bitmap of the first image of a chain that has one of the name, and
/// that tells of this image alone. In doubt it has one.
pub(super) fn rests_on_nothing(image: &Path) -> bool {
    // Where the name of the backing file begins.
    let mut place = [1; 8];
    let read = File::open(image).and_then(|image| image.read_exact_at(&mut place, 8));
    read.is_ok() && place == [0; 8]
}

/// Whether there is neither a backing file nor an external data file. In doubt there is.
fn is_all(image: &File) -> bool {
    let mut header = [0; 80];
    if image.read_exact_at(&mut header, 0).is_err() {
        return false;
    }
    // Numbers have their lowest byte last. The old kind has no features.
    let features = match &header[..8] {
        b"QFI\xfb\0\0\0\x02" => 0,
        b"QFI\xfb\0\0\0\x03" => header[79],
        _ => return false,
    };
    header[8..16] == [0; 8] && features & EXTERNAL_DATA == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_one_file_is_told_by_its_header() {
        let header = |version, backing, features| {
            let mut bytes = b"QFI\xfb\0\0\0".to_vec();
            bytes.push(version);
            bytes.resize(16, backing);
            bytes.resize(79, 0);
            bytes.push(features);
            bytes
        };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        let is_all = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            behind(&path, "qcow2").is_some()
        };
        // Dirty, and of the old kind, where something else is in this place.
        for whole in [header(3, 0, 0), header(3, 0, 1), header(2, 0, 255)] {
            assert!(is_all(&whole), "{whole:?}");
        }
        assert!(behind(&path, "qcow").is_none());
        for other in [
            header(3, 0, 4),
            header(3, 0, 5),
            header(3, 8, 0),
            header(2, 8, 0),
            header(1, 0, 0),
            header(4, 0, 0),
            header(3, 0, 0)[..79].to_vec(),
            vec![0; 104],
            Vec::new(),
        ] {
            assert!(!is_all(&other), "{other:?}");
        }
        assert!(behind(place.path(), "qcow2").is_none());
        assert!(behind(&place.path().join("none"), "qcow2").is_none());
    }
}
