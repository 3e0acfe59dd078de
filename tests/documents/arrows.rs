//! doc/ARCHITECTURE.md has a table of which room of src/ may use which: it is what the code does.
//!
//! Code of tests does not count. It is told apart in this way: a file or directory that its parent declares under
//! `#[cfg(test)]`, and in a file everything from a `#[cfg(test)]` at the beginning of a line to the end of that item. (rustfmt
//! puts that end at the beginning of a line.) `#[cfg(test)]` within an item is refused, so that there is nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{root, table, text};

type Arrows = BTreeMap<String, BTreeSet<String>>;

const TESTS: &str = "#[cfg(test)]";

/// One source file, without comments and without what is of tests.
struct Source {
    path: PathBuf,
    lines: Vec<String>,
    /// The modules that it declares for tests.
    tests: BTreeSet<String>,
}

/// `mod x;`, with any visibility.
fn declared(line: &str) -> Option<&str> {
    let name = line.strip_suffix(';')?;
    let (before, name) = name.rsplit_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

fn source(path: &Path, content: &str) -> Source {
    let mut found = Source {
        path: path.to_owned(),
        lines: Vec::new(),
        tests: BTreeSet::new(),
    };
    let mut lines = content.lines();
    while let Some(line) = lines.next() {
        if line == TESTS {
            let item = lines.next().unwrap();
            if let Some(name) = declared(item) {
                found.tests.insert(name.to_owned());
            } else if item.ends_with('{') {
                lines.by_ref().find(|line| *line == "}").unwrap();
            } else {
                panic!("{}: what is this of tests: {item}", path.display());
            }
            continue;
        }
        assert!(!line.contains("cfg(test)"), "{}: {line}", path.display());
        if !line.trim_start().starts_with("//") {
            found.lines.push(line.to_owned());
        }
    }
    found
}

/// The file of a module and the files of the modules in it, without those of tests.
fn module(file: &Path, into: &mut Vec<Source>) {
    let found = source(file, &fs::read_to_string(file).unwrap());
    let directory = file.with_extension("");
    let below = match fs::read_dir(&directory) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    for path in below {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_file() && !found.tests.contains(name) {
            module(&path, into);
        }
    }
    into.push(found);
}

/// The first names behind `before` in a line: the rooms that it names, if `before` is the crate.
fn named<'a>(line: &'a str, before: &str) -> Vec<&'a str> {
    line.match_indices(before)
        .map(|(at, found)| {
            let rest = &line[at + found.len()..];
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

/// The rooms that a file uses; `crate_name` is what it calls the crate.
fn uses(source: &Source, room: &str, crate_name: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let out = "super::".repeat(depth);
    for line in &source.lines {
        let path = source.path.display();
        assert!(
            !line.contains(&out),
            "{path}: {line}: out of the room with `crate::`"
        );
        for name in named(line, crate_name) {
            assert!(!name.is_empty(), "{path}: {line}: a line for each room");
            if name != room {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

/// What the code does: the rooms that src/lib.rs declares, and main.
fn built() -> Arrows {
    let src = root().join("src");
    let house = source(&src.join("lib.rs"), &text("src/lib.rs"));
    let mut arrows = Arrows::new();
    for room in house.lines.iter().filter_map(|line| declared(line)) {
        let mut files = Vec::new();
        module(&src.join(format!("{room}.rs")), &mut files);
        let used = files.iter().flat_map(|file| {
            let depth = file.path.strip_prefix(&src).unwrap().components().count();
            uses(file, room, "crate::", depth)
        });
        arrows.insert(room.to_owned(), used.collect());
    }
    let main = source(&src.join("main.rs"), &text("src/main.rs"));
    arrows.insert("main".to_owned(), uses(&main, "main", "bmapfs::", 1));
    arrows
}

/// What the page allows.
fn allowed() -> Arrows {
    let page = text("doc/ARCHITECTURE.md");
    let rows = table(&page, "| room | what it is for | may use |");
    let rows = rows.iter().map(|row| {
        let [room, _, used] = row[..] else {
            panic!("{row:?}")
        };
        let used = used.split(", ").filter(|name| *name != "-");
        (
            room.trim_matches('`').to_owned(),
            used.map(str::to_owned).collect(),
        )
    });
    rows.collect()
}

/// Rooms that use each other, in a circle, if there are any: what is left when all rooms are taken away that use nothing
/// that is left, or are used by nothing that is.
fn circle(arrows: &Arrows) -> BTreeSet<String> {
    let mut left: BTreeSet<String> = arrows.keys().cloned().collect();
    loop {
        let before = left.clone();
        left.retain(|room| {
            let used = before.iter().any(|other| arrows[other].contains(room));
            used && arrows[room].iter().any(|used| before.contains(used))
        });
        if left == before {
            return left;
        }
    }
}

#[test]
fn rooms_use_what_the_architecture_allows_and_nothing_else() {
    let (built, allowed) = (built(), allowed());
    assert!(built["session"].contains("fuse"), "{built:?}");
    let rooms = |arrows: &Arrows| arrows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        rooms(&built),
        rooms(&allowed),
        "rooms of src/lib.rs (left) and doc/ARCHITECTURE.md"
    );
    for (room, used) in &built {
        let allowed = &allowed[room];
        let new: Vec<_> = used.difference(allowed).collect();
        assert!(new.is_empty(), "{room} uses {new:?}, which is not allowed");
        let unused: Vec<_> = allowed.difference(used).collect();
        assert!(unused.is_empty(), "{room} may use {unused:?} and does not");
    }
    let circle = circle(&built);
    assert!(circle.is_empty(), "there is a circle in {circle:?}");
}

#[test]
fn fuser_and_unsafe_stay_where_they_belong() {
    let src = root().join("src");
    let mut naming = BTreeSet::new();
    for room in built().keys() {
        let mut files = Vec::new();
        module(&src.join(format!("{room}.rs")), &mut files);
        for file in &files {
            if file.lines.iter().any(|line| line.contains("fuser::")) {
                naming.insert(file.path.strip_prefix(&src).unwrap().to_owned());
            }
        }
        for line in files.iter().flat_map(|file| &file.lines) {
            let is_unsafe = named(line, "unsafe ").len() + named(line, "allow(unsafe").len() > 0;
            assert!(!is_unsafe || room == "sys", "{room}: {line}");
        }
    }
    let expected = ["fuse/kernel.rs", "fuse/requests.rs"].map(PathBuf::from);
    assert_eq!(naming, expected.into(), "files that name fuser");
}

#[test]
fn a_circle_is_found() {
    let arrows = |list: &[(&str, &[&str])]| -> Arrows {
        let of = |(room, used): &(&str, &[&str])| {
            let used = used.iter().map(|name| (*name).to_owned()).collect();
            ((*room).to_owned(), used)
        };
        list.iter().map(of).collect()
    };
    let floors = arrows(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
    assert!(circle(&floors).is_empty());
    let round = arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["b", "d"]), ("d", &[])]);
    assert_eq!(
        circle(&round),
        BTreeSet::from(["b", "c"].map(str::to_owned))
    );
}

#[test]
fn code_of_tests_does_not_count() {
    let content = "use crate::image;\n\
                   /// As crate::cli.\n\
                   #[cfg(test)]\n\
                   pub(crate) mod faulty;\n\
                   #[cfg(test)]\n\
                   mod tests {\n    use crate::clock;\n    fn f() {\n    }\n}\n\
                   fn g() {\n    crate::geometry::h();\n}\n";
    let found = source(Path::new("x.rs"), content);
    assert_eq!(found.tests, BTreeSet::from(["faulty".to_owned()]));
    let used = uses(&found, "x", "crate::", 1);
    assert_eq!(
        used,
        BTreeSet::from(["geometry".to_owned(), "image".to_owned()])
    );
}
