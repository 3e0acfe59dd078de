//! The oldest Rust that will do is the one that Cargo.toml names, and README and Makefile promise the same. The compiler
//! that builds this may be newer, and clippy finds only what is missing in the older library: the one newer piece of the
//! language that is easily written, a condition of several parts with a `let` among them (Rust 1.88), is looked for here.

use std::fs;
use std::path::{Path, PathBuf};

use super::{between, root, text};

/// All files of Rust below a directory.
fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Whether a line of formatted code has a ` && ` that is in no brackets.
fn joins(line: &str) -> bool {
    let open = |text: &str| text.matches(['(', '[']).count() > text.matches([')', ']']).count();
    line.match_indices(" && ").any(|(at, _)| !open(&line[..at]))
}

/// The lines of code, as rustfmt puts them, that have or go on a condition with a `let` and something else in it.
fn let_chains(code: &str) -> Vec<&str> {
    let condition = |line: &str| {
        let line = line.strip_prefix("} else ").unwrap_or(line);
        line.starts_with("if let ") || line.starts_with("while let ")
    };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = code.lines().collect();
    let is_chain = |(number, line): &(usize, &&str)| {
        let bare = line.trim_start();
        if bare.starts_with("//") {
            return false;
        }
        // What a line that begins with && belongs to stands less far in, and closes nothing.
        let closes = |line: &str| line.starts_with([')', ']', '}']) && !line.starts_with("} else ");
        let opener = lines[..*number].iter().rev().find(|before| {
            !before.is_empty() && indent(before) < indent(line) && !closes(before.trim_start())
        });
        line.contains("&& let ")
            || condition(bare) && joins(bare)
            || bare.starts_with("&& ") && opener.is_some_and(|line| condition(line.trim_start()))
    };
    let found = lines.iter().enumerate().filter(is_chain);
    found.map(|(_, line)| *line).collect()
}

#[test]
fn the_oldest_rust_that_is_promised_can_read_the_code() {
    let oldest = between(&text("Cargo.toml"), "rust-version = \"", "\"").to_owned();
    let minor: u32 = oldest.strip_prefix("1.").unwrap().parse().unwrap();
    for page in ["README.md", "Makefile"] {
        let promise = format!("Rust {oldest} or newer");
        assert!(text(page).contains(&promise), "{page}: {promise}");
    }
    if minor >= 88 {
        return;
    }
    let mut files = Vec::new();
    for directory in ["src", "tests", "bench"] {
        sources(&root().join(directory), &mut files);
    }
    assert!(files.len() > 100);
    for file in files {
        if file.ends_with("rust_version.rs") {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let chains = let_chains(&code);
        assert!(chains.is_empty(), "{}: {chains:?}", file.display());
    }
}

#[test]
fn let_chains_are_found() {
    for code in [
        "    if let Some(a) = b && c {",
        "    if a && let Some(b) = c {",
        "    if let Some(a) = b\n        && c\n    {",
        "    } else if let Some(a) = b(\n        c,\n    )\n        && d\n    {",
        "    while let Some(a) = b.c()\n        && !d\n    {",
        "    if let Some(a) = b.c(|d| {\n        d\n    })\n        && e\n    {",
        "    if a\n        && let Some(b) = c\n    {",
    ] {
        assert_eq!(let_chains(code).len(), 1, "{code}");
    }
    for code in [
        "    if let Some(a) = b(c && d) {",
        "    if let Some(a) = b\n        .c(|d| {\n            d\n                && e\n        })\n    {",
        "    if let Some(a) = b {\n        c = d\n            && e;",
        "    if a\n        && b\n    {",
        "    // if let Some(a) = b && c {",
        "    let a = b && c;",
    ] {
        assert_eq!(let_chains(code), [""; 0], "{code}");
    }
}
