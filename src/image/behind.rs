//! The file that an image is in, in a format of its own, which another program reads (promises P23 and P35).
//!
//! Invariant: what is told of it was noted before that program has opened it, and holds for this file, however it is called.

use std::fs::File;
use std::io;

use super::Fingerprint;

/// A file that all of an image is in, open.
#[derive(Debug)]
pub(crate) struct Behind {
    file: File,
    format: &'static str,
    noted: Fingerprint,
}

impl Behind {
    /// Notes what it is like. From then on its image may be opened.
    pub(crate) fn note(file: File, format: &'static str) -> io::Result<Self> {
        file.sync_all()?;
        Fingerprint::let_tick_pass(&file)?;
        let noted = Fingerprint::of_file(&file)?.read_as(format);
        Ok(Self {
            file,
            format,
            noted,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What was noted, if it is so still.
    pub(super) fn fingerprint(&self) -> io::Result<Fingerprint> {
        let now = Fingerprint::of_file(&self.file)?.read_as(self.format);
        if now.proves_unwritten_since(&self.noted, true) {
            Ok(self.noted.clone())
        } else {
            Ok(Fingerprint::Unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_was_noted_holds_until_the_file_is_written() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        fs::write(&path, "one").unwrap();
        let note = || Behind::note(File::open(&path).unwrap(), "qcow2").unwrap();
        let behind = note();
        let noted = behind.fingerprint().unwrap();
        assert_ne!(noted, Fingerprint::Unknown);
        assert!(note().noted.proves_unwritten_since(&noted, true));
        // Another of its name is another.
        fs::rename(&path, place.path().join("kept")).unwrap();
        fs::write(&path, "one").unwrap();
        assert!(!note().noted.proves_unwritten_since(&noted, true));
        fs::rename(place.path().join("kept"), &path).unwrap();
        let behind = note();
        assert_ne!(behind.fingerprint().unwrap(), Fingerprint::Unknown);
        // The same file, as the image itself.
        let plain = Fingerprint::of_file(behind.file()).unwrap();
        assert!(!plain.proves_unwritten_since(&behind.noted, true));
        assert!(!behind.noted.proves_unwritten_since(&plain, true));
        let writer = File::options().write(true).open(&path).unwrap();
        writer.write_all_at(b"two", 0).unwrap();
        assert_eq!(behind.fingerprint().unwrap(), Fingerprint::Unknown);
        // Somebody who may be writing.
        assert_eq!(note().fingerprint().unwrap(), Fingerprint::Unknown);
        drop(writer);
        assert_ne!(note().fingerprint().unwrap(), Fingerprint::Unknown);
    }
}
