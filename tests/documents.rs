//! What README, manual pages and help say agrees with each other and with the program.

mod arrows;
mod index_format;
mod pages;
mod promises;
mod release;
mod rust_version;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::support::command::{Outcome, tool};

const MANUALS: [&str; 2] = ["doc/bmapfs.8", "doc/mount.bmapfs.8"];
/// Words that only `bmapfs run` takes.
const ONLY_RUN: [&str; 2] = ["shrunk", "strict"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn bmapfs(arguments: &str) -> Outcome {
    tool(env!("CARGO_BIN_EXE_bmapfs")).words(arguments).run()
}

/// What lies between two pieces of text, of which the first counts from the start.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("no {from:?}"));
    let rest = &text[start + from.len()..];
    let end = rest
        .find(to)
        .unwrap_or_else(|| panic!("no {to:?} after {from:?}"));
    &rest[..end]
}

fn set<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> BTreeSet<String> {
    words
        .into_iter()
        .map(|word| word.as_ref().to_owned())
        .collect()
}

/// The long options in a text, without their values.
fn long_options(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back();
        let name: String = text[at + 2..]
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect();
        if !before.is_some_and(|c| c == '-' || c.is_alphanumeric()) && !name.is_empty() {
            found.insert(name);
        }
    }
    found
}

/// The long options that stand at the beginning of a help text's lines.
fn of_help(arguments: &str) -> BTreeSet<String> {
    let help = bmapfs(arguments).ok();
    let options = between(&help, "\nOptions:\n", "\n\n");
    // A description that goes on is indented more deeply.
    let names = options
        .lines()
        .filter(|line| line.trim_start().starts_with('-') && line.find('-') < Some(8));
    names
        .flat_map(|line| long_options(line.trim_start().split("  ").next().unwrap()))
        .collect()
}

fn everything_in_help() -> BTreeSet<String> {
    [
        "--help",
        "run --help",
        "scan --help",
        "sums --help",
        "verify --help",
    ]
    .iter()
    .flat_map(|arguments| of_help(arguments))
    .collect()
}

/// The rows of the table of a Markdown text that begins with this line, as cells.
fn table<'a>(text: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let (_, rest) = text
        .split_once(head)
        .unwrap_or_else(|| panic!("no table {head}"));
    let rows = rest.trim_start().lines().skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// Every table of this head, as one.
fn tables<'a>(text: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    text.match_indices(head)
        .flat_map(|(at, _)| table(&text[at..], head))
        .collect()
}

/// What is in backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The words of an option list without their values; `[no]dev` is two.
fn words(list: &str) -> Vec<String> {
    list.split([',', ' '])
        .map(|word| word.split("[=").next().unwrap().split('=').next().unwrap())
        .filter(|word| !word.is_empty())
        .flat_map(
            |word| match word.strip_prefix('[').and_then(|w| w.split_once(']')) {
                Some((prefix, rest)) => vec![rest.to_owned(), format!("{prefix}{rest}")],
                None => vec![word.to_owned()],
            },
        )
        .collect()
}

/// Words as they are compared: in bmapfs's own, `_` and `-` are the same.
fn normal(words: &BTreeSet<String>) -> BTreeSet<String> {
    words.iter().map(|word| word.replace('_', "-")).collect()
}

/// A manual page's macros and escapes taken away, so that its lines are what people read.
fn plain(roff: &str) -> Vec<String> {
    roff.lines()
        .map(|line| {
            let line = line.replace("\\-", "-").replace("\\e", "\\");
            let line = line.replace("\\fI", "").replace("\\fR", "");
            let is_font = line
                .strip_prefix('.')
                .is_some_and(|l| l.starts_with(['B', 'I']));
            match line.split_once(' ') {
                Some((_, rest)) if is_font => rest.replace(['"', ' '], "").replace(',', ", "),
                _ => line,
            }
        })
        .collect()
}

/// What the entries of a section of a manual page are called: the lines after `.TP`.
fn entries(page: &str, section: &str) -> Vec<String> {
    let mut here = false;
    let mut entry = false;
    let mut found = Vec::new();
    for line in plain(&text(page)) {
        if let Some(name) = line
            .strip_prefix(".SH ")
            .or_else(|| line.strip_prefix(".SS "))
        {
            here = name == section;
        } else if here && entry {
            found.push(line.clone());
        }
        entry = line == ".TP";
    }
    assert!(!found.is_empty(), "{page} has no entries in {section}");
    found
}

#[test]
fn manual_and_help_name_the_same_options_and_the_readme_no_others() {
    let help = everything_in_help();
    assert!(help.contains("index") && help.contains("json"), "{help:?}");
    let readme = text("README.md");
    let in_readme: BTreeSet<_> = table(&readme, "| option | meaning |")
        .iter()
        .flat_map(|row| long_options(row[0]))
        .collect();
    assert!(in_readme.len() > 4, "{in_readme:?}");
    let unknown: Vec<_> = in_readme.difference(&help).collect();
    assert!(unknown.is_empty(), "README.md has {unknown:?}");
    let in_manual: BTreeSet<_> = entries("doc/bmapfs.8", "OPTIONS")
        .iter()
        .flat_map(|entry| long_options(entry))
        .collect();
    assert_eq!(in_manual, help, "doc/bmapfs.8 (left) and the help texts");
}

#[test]
fn each_command_takes_what_the_manual_says() {
    let mount = of_help("--help");
    let mut run = of_help("run --help");
    assert!(run.insert("foreground".to_owned()), "-f is not for run");
    assert!(run.remove("report"), "--report is for run and scan");
    assert!(run.remove("connect"), "domains are for run and scan");
    assert_eq!(run, mount, "run takes what a mount does, and -f");
    let scan = of_help("scan --help");
    let shared = set(scan.intersection(&mount));
    assert_eq!(
        shared,
        set([
            "as",
            "block-size",
            "changed",
            "freeze",
            "help",
            "index",
            "quiet",
            "salvage",
            "since",
            "snapshot",
            "thaw",
            "threads",
            "version"
        ])
    );
    assert_eq!(
        set(scan.difference(&mount)),
        set(["bmap", "connect", "dry-run", "json", "report"])
    );
    let sums = set(["block-size", "help", "index", "sparse", "version"]);
    assert_eq!(of_help("sums --help"), sums);
    let mut verify = of_help("verify --help");
    for option in ["json", "part", "quiet", "threads"] {
        assert!(verify.remove(option), "verify takes --{option}");
    }
    assert_eq!(verify, sums);
}

/// The words of `-o` that have a meaning, as the help has them.
fn words_in_help() -> BTreeSet<String> {
    let help = bmapfs("--help").ok();
    let list = between(&help, "Mount options (-o):", "'rw' does not");
    let mut found = of_help("--help");
    found.remove("help");
    found.remove("version");
    for line in list.lines().skip(1) {
        let names = line.trim_start().split("  ").next().unwrap();
        found.extend(words(names));
    }
    found
}

#[test]
fn manual_and_help_name_the_same_words() {
    let help = words_in_help();
    assert!(
        help.contains("index") && help.contains("rescan"),
        "{help:?}"
    );
    let manual = text("doc/mount.bmapfs.8");
    let mut in_manual: BTreeSet<_> = entries("doc/mount.bmapfs.8", "Options of bmapfs")
        .iter()
        .flat_map(|entry| words(entry))
        .collect();
    in_manual.extend(listed(&manual, "Options for the kernel"));
    assert_eq!(
        normal(&in_manual),
        normal(&help),
        "doc/mount.bmapfs.8 (left) and bmapfs --help"
    );
}

/// The words that a section of the manual lists in bold, in running text.
fn listed(roff: &str, section: &str) -> BTreeSet<String> {
    let rest = between(roff, &format!(".SS {section}\n"), ".S");
    let mut found = BTreeSet::new();
    for line in rest.lines() {
        let Some((font, names)) = line.split_once(' ') else {
            continue;
        };
        // Every second word of .BR is bold; the others are commas and values.
        let bold = match font {
            ".BR" => 2,
            ".B" => 1,
            _ => continue,
        };
        let names = names
            .replace("\" \"", "")
            .replace('"', "")
            .replace("\\-", "-")
            .replace("\\fIBYTES\\fR", "");
        let names = names.split_whitespace().step_by(bold).flat_map(words);
        found.extend(names.filter(|name| !["mount", "bmapfs"].contains(&name.as_str())));
    }
    found
}

/// Whether the program takes an option list, found out without mounting.
fn checked(list: &str) -> Outcome {
    let arguments = ["--mount-helper", "-f", "/nowhere", "/mnt", "-o", list];
    tool(env!("CARGO_BIN_EXE_bmapfs")).args(arguments).run()
}

/// An option list in which a word of the manual has a value that can be, and what it needs beside it.
fn example(word: &str) -> String {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let value = match value {
        "SIZE" | "BYTES" => "4096",
        "NAME" | "ID" | "CMD" => "a",
        "UID" | "GID" | "N" => "1",
        "MASK" => "022",
        "FILE" => "-",
        value => value,
    };
    let word = format!("{name}={value}");
    let word = word.trim_end_matches('=');
    match name {
        "resize" => format!("write,{word}"),
        "id" | "rescan" | "recheck" | "as" | "shrunk" | "strict" => format!("index,{word}"),
        "changed" => format!("index,since=a,{word}"),
        "since" => format!("index,changed=-,{word}"),
        "era-block-size" => format!("index,changed=-,since=a,{word}"),
        "snapshot-keep" => format!("snapshot,{word}"),
        "freeze" => format!("snapshot,thaw=a,{word}"),
        "thaw" => format!("snapshot,freeze=a,{word}"),
        _ => word.to_owned(),
    }
}

#[test]
fn the_words_are_known_to_the_program_and_no_others() {
    let entries = entries("doc/mount.bmapfs.8", "Options of bmapfs");
    let words: Vec<_> = entries.iter().flat_map(|entry| entry.split(", ")).collect();
    assert!(words.contains(&"zero=keep"), "{words:?}");
    assert!(words.contains(&"index[=FILE]"), "{words:?}");
    for word in words {
        let word = word.split('[').next().unwrap();
        let outcome = checked(&example(word));
        let only_run = ONLY_RUN.contains(&word);
        assert_eq!(outcome.code(), i32::from(only_run), "{word}: {outcome:#?}");
        assert_eq!(outcome.stderr.contains("only for bmapfs run"), only_run);
    }
    let manual = text("doc/mount.bmapfs.8");
    for word in listed(&manual, "Options for the kernel") {
        let value = match word.as_str() {
            "max_read" => "=4096",
            word if word.ends_with("context") => "=a",
            _ => "",
        };
        checked(&format!("{word}{value}")).ok();
    }
    let ignored = listed(&manual, "Ignored options");
    assert!(ignored.len() >= 40, "{ignored:?}");
    for word in ignored {
        let example = match word.as_str() {
            "subtype" => "subtype=bmapfs",
            "x-" | "X-" => "x-anything",
            word => word,
        };
        checked(example).ok();
    }
    let refused = listed(&manual, "Refused options");
    assert_eq!(refused, set(["auto_unmount", "blkdev", "remount"]));
    for word in refused {
        let said = checked(&word).code();
        assert_eq!(said, 1, "{word} is refused");
    }
    assert_eq!(checked("no-such-word").code(), 1);
}

/// `NAME = NUMBER,` or `const NAME: u8 = NUMBER;` for every one in a source file.
fn constants(path: &str) -> BTreeMap<String, u32> {
    let source = text(path);
    let numbers = source.lines().filter_map(|line| {
        let line = line.trim().trim_end_matches([',', ';']);
        let (name, number) = line.split_once(" = ")?;
        let name = name.trim_start_matches("const ").split(':').next()?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    numbers.collect()
}

/// The number that a status is called by; `128 + N` counts as 128.
fn number(cell: &str) -> u32 {
    let digits: String = cell.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{cell:?} is no status"))
}

#[test]
fn exit_statuses_are_those_of_the_program() {
    let mut known: BTreeSet<u32> = constants("src/exit.rs").into_values().collect();
    assert!(known.len() > 4, "{known:?}");
    known.extend(constants("src/session/run.rs").into_values());
    known.extend(constants("src/session/verdict.rs").into_values());
    assert!(known.contains(&126), "{known:?}");
    let readme = text("README.md");
    let in_readme: BTreeSet<_> = tables(&readme, "| status | meaning |")
        .iter()
        .map(|row| number(row[0]))
        .collect();
    assert_eq!(in_readme, known, "README.md (left) and the source");
    let in_manual: BTreeSet<_> = entries("doc/bmapfs.8", "EXIT STATUS")
        .iter()
        .map(|entry| number(entry))
        .collect();
    assert_eq!(in_manual, known, "doc/bmapfs.8 (left) and the source");
}

#[test]
fn manual_pages_have_no_faults() {
    let manuals = MANUALS.map(|page| root().join(page));
    let outcome = tool("mandoc")
        .words("-T lint -W warning")
        .args(manuals)
        .run();
    assert_eq!(outcome.code(), 0, "{}", outcome.stdout);
}
