//! Symbolic links: the real path of what need not be there, or must not be asked.
//!
//! Invariant: the file system that is mounted on the path itself is never asked: its daemon may be dead or be waiting
//! for us.

use std::io;
use std::path::{Path, PathBuf};

/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The absolute path of `path` without `.`, `..` and links. Only what is above the last component is looked
/// up in full; of the last it is only asked whether it is a link, which its file system does not see.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..MAX_LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return std::fs::canonicalize(&path);
        };
        let place = std::fs::canonicalize(parent)?.join(name);
        match std::fs::read_link(&place) {
            Ok(target) => path = place.with_file_name("").join(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_to_and_above_a_path_are_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("real/point")).unwrap();
        symlink("real", base.join("above")).unwrap();
        symlink("../above/point", base.join("real/link")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        for path in [
            "real/point",
            "above/point",
            "real/link",
            "above/./link/",
            "real/../above/point",
        ] {
            assert_eq!(
                resolve(&base.join(path)).unwrap(),
                base.join("real/point"),
                "{path}"
            );
        }
        assert_eq!(
            resolve(&base.join("real/absent")).unwrap(),
            base.join("real/absent")
        );
        symlink("real/absent", base.join("dangling")).unwrap();
        assert_eq!(
            resolve(&base.join("dangling")).unwrap(),
            base.join("real/absent")
        );
        assert!(resolve(&base.join("absent/x")).is_err());
        assert!(resolve(&base.join("loop")).is_err());
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
    }
}
