//! Each promise has its tests, and each test that is named after a promise has that promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{root, text};

/// The numbers of promises behind `before`, in a text.
fn promises(text: &str, before: &str) -> BTreeSet<u32> {
    text.match_indices(before)
        .filter_map(|(at, found)| {
            let digits: String = text[at + found.len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().ok()
        })
        .collect()
}

/// All Rust sources below a directory, as one text.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            all += &fs::read_to_string(&path).unwrap();
        }
    }
    all
}

#[test]
fn every_promise_has_a_test_and_every_such_test_a_promise() {
    let promised = promises(&text("doc/PROMISES.md"), "**P");
    let tests = sources(&root().join("tests")) + &sources(&root().join("src"));
    let tested = promises(&tests, "fn p");
    assert!(promised.len() >= 25, "{promised:?}");
    assert_eq!(tested, promised, "tests (left) and doc/PROMISES.md");
}
