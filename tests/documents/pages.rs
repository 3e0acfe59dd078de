//! The pages for people: short where they must be, and each link leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{root, text};

/// Every page in which links are checked.
const PAGES: [&str; 12] = [
    "CONTRIBUTING.md",
    "README.md",
    "bench/README.md",
    "doc/ARCHITECTURE.md",
    "doc/BACKUP.md",
    "doc/CHANGE-MAPS.md",
    "doc/COMPARISON.md",
    "doc/INDEX-FORMAT.md",
    "doc/LIBVIRT.md",
    "doc/PROMISES.md",
    "doc/RELEASE.md",
    "doc/RESTORE.md",
];

#[test]
fn the_readme_is_short() {
    let lines = text("README.md").lines().count();
    assert!(lines <= 380, "README.md has {lines} lines; doc/ has room");
}

/// A Markdown text without its blocks of code.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What a link to each heading of a Markdown text ends with.
fn anchors(page: &str) -> BTreeSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter_map(|line| {
        let name = line.trim_start_matches('#').strip_prefix(' ')?;
        line.starts_with('#').then_some(name)
    });
    headings
        .map(|name| {
            let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
            let kept: String = name.to_lowercase().chars().filter(kept).collect();
            kept.replace(' ', "-")
        })
        .collect()
}

/// Where the links of a Markdown text lead.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let behind = prose.split("](").skip(1);
    behind
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for page in PAGES {
        let content = text(page);
        let base = root().join(page);
        for target in links(&content) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => base.clone(),
                file => base.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{page}: {target} is not there");
            if !anchor.is_empty() {
                let headings = anchors(&fs::read_to_string(&path).unwrap());
                assert!(
                    headings.contains(anchor),
                    "{page}: {target}: no such heading in {headings:?}"
                );
            }
        }
    }
}

#[test]
fn the_readme_leads_to_every_page_of_doc() {
    let linked = links(&text("README.md"));
    for entry in fs::read_dir(root().join("doc")).unwrap() {
        let name = format!("doc/{}", entry.unwrap().file_name().into_string().unwrap());
        let is_page = Path::new(&name).extension().is_some_and(|end| end == "md");
        let found = linked
            .iter()
            .any(|link| link.split('#').next() == Some(&*name));
        assert!(found || !is_page, "README.md has no link to {name}");
        assert!(!is_page || PAGES.contains(&&*name), "{name} is not checked");
    }
}
