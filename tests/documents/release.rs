//! The version that is released is the same wherever it stands.

use super::{MANUALS, between, text};

#[test]
fn every_place_has_the_version_of_cargo_toml() {
    let version = env!("CARGO_PKG_VERSION");
    let changes = text("CHANGELOG.md");
    let head = between(&changes, "\n## ", "\n");
    let (newest, date) = head.split_once(", ").unwrap();
    assert_eq!(newest, version, "CHANGELOG.md");
    for page in MANUALS {
        let title = text(page).lines().next().unwrap().to_owned();
        let stands = format!("{date} \"bmapfs {version}\"");
        assert!(title.contains(&stands), "{page}: {title} has no {stands}");
    }
    let debian = text("debian/changelog");
    assert_eq!(between(&debian, "bmapfs (", ")"), version);
    let package = format!("apt install ./bmapfs_{version}_amd64.deb");
    assert!(text("README.md").contains(&package), "README.md: {package}");
}
