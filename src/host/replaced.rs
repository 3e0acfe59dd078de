//! A file that is replaced as a whole, once all that goes into it is known.
//!
//! Invariant: until then it is what it was before, whatever happens.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file that is going to be replaced.
#[derive(Debug)]
pub(crate) struct Replaced {
    path: PathBuf,
    beginning: &'static [u8],
    new: NamedTempFile,
}

impl Replaced {
    /// Makes the new file, under a temporary name beside the old one. A link is followed, so that it stays one.
    ///
    /// # Errors
    /// There is something at `path` that is not empty and does not begin with `beginning`, so it is not an older one:
    /// maybe an image whose name was typed in the wrong place. Or nothing can be made there.
    pub(crate) fn open(path: &Path, beginning: &'static [u8]) -> io::Result<Self> {
        let path = match std::fs::canonicalize(path) {
            Ok(old) => {
                check(&old, beginning)?;
                old
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(e),
        };
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let new = tempfile::Builder::new()
            .prefix(".bmapfs-")
            // As far as the umask lets.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory.unwrap_or(Path::new(".")))?;
        Ok(Self {
            path,
            beginning,
            new,
        })
    }

    /// What is written to this is the new content.
    #[must_use]
    pub(crate) fn file(&self) -> &File {
        self.new.as_file()
    }

    /// Puts the new file in the old one's place.
    ///
    /// # Errors
    /// It cannot be written, or something else has come to its place since [`Self::open`].
    pub(crate) fn finish(self) -> io::Result<()> {
        self.new.as_file().sync_all()?;
        match check(&self.path, self.beginning) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.new.persist(&self.path).map_err(|e| e.error)?;
        Ok(())
    }
}

fn check(old: &Path, beginning: &[u8]) -> io::Result<()> {
    if !std::fs::metadata(old)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut found = Vec::new();
    File::open(old)?
        .take(beginning.len() as u64)
        .read_to_end(&mut found)?;
    if found.is_empty() || found == beginning {
        return Ok(());
    }
    Err(io::Error::other(
        "what is there is something else, and is not replaced",
    ))
}
