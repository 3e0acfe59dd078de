//! `domain.xml`: the definition of a domain, beside its disks in the mount (promise P35).
//!
//! Invariant: no time is shown for two contents (as promise P20 has it for blocks). With an index the last definition that was
//! shown is kept beside the indexes, as a file whose time is the one that was shown.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::source::index_file;
use crate::clock::{Clock, SystemClock};
use crate::config::{DomainConfig, IndexConfig, VolumeConfig};
use crate::exit::Result;
use crate::host::replaced::Replaced;
use crate::libvirt::Domain;
use crate::volume::plain::Plain;

/// What it is called in the mount.
pub(super) const NAME: &str = "domain.xml";
/// What libvirt's definitions begin with, so that nothing else is replaced.
const BEGINNING: &[u8] = b"<domain ";
/// The longest wait for a second to end.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The file that shows it.
pub(super) fn file(
    domain: &Domain,
    config: &DomainConfig,
    volume: &VolumeConfig,
    index: Option<&IndexConfig>,
) -> Result<Arc<Plain>> {
    let text = domain.definition()?.into_bytes();
    let kept = index
        .map(|index| kept_at(config, volume, index))
        .transpose()?;
    let stamp = match kept.as_deref().map(|kept| kept_stamp(kept, &text)) {
        Some(Ok(stamp)) => stamp,
        not_kept => {
            if let (Some(kept), Some(Err(e))) = (&kept, not_kept) {
                log::warn!("{}: {e}: {NAME} gets a new time", kept.display());
            }
            let stamp = SystemClock.now();
            // What a later run shows is of a later second.
            SystemClock.wait_past(stamp, LONGEST_WAIT);
            stamp
        }
    };
    Ok(Arc::new(Plain::new(text, stamp, volume.owner)))
}

fn kept_at(config: &DomainConfig, volume: &VolumeConfig, index: &IndexConfig) -> Result<PathBuf> {
    let name = PathBuf::from(format!("libvirt:{}", config.name));
    Ok(index_file(index, &name, volume)?.with_extension(NAME))
}

/// The time for this text: that of the file with it, or a later one, which the file has then.
fn kept_stamp(kept: &Path, text: &[u8]) -> io::Result<i64> {
    let last = match std::fs::metadata(kept) {
        Ok(stat) if stat.len() == text.len() as u64 && std::fs::read(kept)? == text => {
            return Ok(stat.mtime());
        }
        Ok(stat) => stat.mtime(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => i64::MIN,
        Err(e) => return Err(e),
    };
    let stamp = SystemClock.now().max(last.saturating_add(2));
    let new = Replaced::open(kept, BEGINNING)?;
    io::Write::write_all(&mut new.file(), text)?;
    new.file().set_permissions(Permissions::from_mode(0o600))?;
    let time = TimeSpec::new(stamp, 0);
    futimens(new.file(), &time, &time)?;
    new.finish()?;
    Ok(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_has_a_later_time_and_keeps_it() {
        let place = tempfile::tempdir().unwrap();
        let kept = place.path().join("a.domain.xml");
        let stamp = |text: &[u8]| kept_stamp(&kept, text).unwrap();
        let first = stamp(b"<domain a/>");
        assert_eq!(stamp(b"<domain a/>"), first);
        let second = stamp(b"<domain b/>");
        assert!(second > first);
        assert_eq!(stamp(b"<domain b/>"), second);
        assert!(stamp(b"<domain a/>") > second);
        // Something else of this name is not replaced.
        std::fs::write(&kept, "mine").unwrap();
        kept_stamp(&kept, b"<domain a/>").unwrap_err();
        assert_eq!(std::fs::read(&kept).unwrap(), b"mine");
    }
}
