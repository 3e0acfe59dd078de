//! doc/INDEX-FORMAT.md is right: stored indexes are read here by that page alone, without bmapfs's code.
//!
//! They are in tests/data/index, made by the first build that had this page's format, on ext4, and never made anew: an
//! index that a user has must be understood by every later build. (`src/index/format/tests.rs` reads the same files with the
//! code of bmapfs.) All are of the image of 12388 bytes that [`content`] has, in blocks of 4096:
//!
//! - `closed`: `bmapfs scan`; `bmapfs run -w IMAGE -- touch -d '2001-02-03 04:05:06 UTC' {}/00000002`; after 6 s twice with
//!   `--as night-1`, a scan and a run.
//! - `unsettled`: a scan; then a run that read 100 bytes of block 0 while block 3 was written. The index after that.
//! - `open`: block 3 was written back to what it was; then copied with its lock file while a run used it.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{quoted, root, table, text};

const BLOCK: usize = 4096;

/// Of the page: hashed, settled, stamped.
const ALL: u8 = 1 | 2 | 4;

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    digest: [u8; 32],
    stamp: i64,
    lead: u32,
    flags: u8,
}

/// The image's blocks.
fn content() -> [Vec<u8>; 4] {
    [
        vec![b'a'; BLOCK],
        vec![0; BLOCK],
        vec![b'c'; BLOCK],
        vec![b'd'; 100],
    ]
}

fn stored(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/data/index").join(name)).unwrap()
}

/// The steps of "The file", from the end to the beginning.
fn read(file: &[u8]) -> (Vec<Entry>, Value) {
    let rest = file.strip_prefix(b"bmapfs index 01\n").unwrap();
    let (before_sum, sum) = file.split_last_chunk::<32>().unwrap();
    assert_eq!(blake3::hash(before_sum).as_bytes(), sum);
    let (before_len, len) = before_sum.split_last_chunk::<4>().unwrap();
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap();
    let header: Value = serde_json::from_slice(&before_len[before_len.len() - len..]).unwrap();
    let records = &rest[..before_len.len() - len - 16];
    let entries: Vec<Entry> = records
        .chunks(45)
        .map(|record| Entry {
            digest: record[..32].try_into().unwrap(),
            stamp: i64::from_le_bytes(record[32..40].try_into().unwrap()),
            lead: u32::from_le_bytes(record[40..44].try_into().unwrap()),
            flags: record[44],
        })
        .collect();
    assert_eq!(header["records"], entries.len());
    (entries, header)
}

/// The members that a table of the page has.
fn members(head: &str) -> BTreeSet<String> {
    let page = text("doc/INDEX-FORMAT.md");
    let rows = table(&page, head);
    let names = rows.iter().flat_map(|row| quoted(row[0]));
    names.map(str::to_owned).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn records_are_where_the_page_says() {
    for (name, stamps, set_back, flags) in [
        (
            "closed.index",
            [1_795_903_132, 1_795_903_132, 981_173_106, 1_795_903_134],
            1_795_903_132 - 981_173_106,
            ALL,
        ),
        (
            "unsettled.index",
            [1_795_903_140, 1_795_903_140, 1_795_903_140, 1_795_903_142],
            0,
            1 | 4,
        ),
        (
            "open.index",
            [1_795_903_152, 1_795_903_140, 1_795_903_140, 1_795_903_142],
            0,
            ALL,
        ),
    ] {
        let (entries, _) = read(&stored(name));
        assert_eq!(entries.len(), 4, "{name}");
        for (number, (entry, content)) in entries.iter().zip(content()).enumerate() {
            let expected = Entry {
                digest: *blake3::hash(&content).as_bytes(),
                stamp: stamps[number],
                lead: if number == 2 { set_back } else { 0 },
                flags: if number == 0 { flags } else { ALL },
            };
            assert_eq!(*entry, expected, "{name}, block {number}");
        }
    }
}

#[test]
fn headers_have_the_members_of_the_page() {
    for (name, open, ceiling, state) in [
        (
            "closed.index",
            false,
            1_795_903_142,
            serde_json::json!({ "Named": "night-1" }),
        ),
        ("unsettled.index", false, 1_795_903_148, Value::Null),
        ("open.index", true, 1_795_903_753, Value::Null),
    ] {
        let (_, header) = read(&stored(name));
        let mut all = members("| member | value | meaning |");
        assert!(
            all.remove("recheck"),
            "which may be missing, and is in these"
        );
        assert_eq!(keys(&header), all);
        let place = members("| member of `place` | value | meaning |");
        assert_eq!(keys(&header["place"]), place);
        let mut file = members("| member of `File` | value | meaning |");
        assert!(file.remove("format"), "which these images have not");
        assert_eq!(keys(&header["moment"]["File"]), file);
        assert_eq!(header["block_size"], 4096);
        assert_eq!(header["image_size"], 12388);
        assert_eq!(header["source"], "/srv/example/disk.img");
        assert_eq!(header["open"], open, "{name}");
        assert_eq!(header["ceiling"], ceiling, "{name}");
        assert_eq!(header["state"], state, "{name}");
        assert_eq!(header["vouched"], false);
        assert_eq!(header["moment"]["File"]["size"], 12388);
    }
}

#[test]
fn lock_files_have_the_words_of_the_page() {
    for (name, state, ceiling) in [
        ("closed.index.lock", "ending", "1795903142"),
        ("open.index.lock", "using", "1795903753"),
    ] {
        let line = String::from_utf8(stored(name)).unwrap();
        let words: Vec<_> = line.lines().next().unwrap().split_whitespace().collect();
        let [holder, said, noted] = words[..] else {
            panic!("{name}: {line}")
        };
        assert!(holder.parse::<u32>().is_ok(), "{name}: {line}");
        assert_eq!((said, noted), (state, ceiling), "{name}");
    }
}

/// The bytes that a line of the example has, and where.
fn shown(line: &str) -> Option<(usize, Vec<u8>)> {
    let (at, rest) = line.split_once("  ")?;
    let bytes = rest.split_once("  ").map_or(rest, |(bytes, _)| bytes);
    let bytes = bytes.trim_end_matches(" ...").split(' ');
    let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16));
    Some((
        usize::from_str_radix(at, 16).ok()?,
        bytes.collect::<Result<_, _>>().ok()?,
    ))
}

#[test]
fn the_example_is_a_stored_index() {
    let page = text("doc/INDEX-FORMAT.md");
    let (_, example) = page.split_once("## An example").unwrap();
    let block = example.split("```").nth(1).unwrap();
    let lines: Vec<_> = block
        .trim()
        .lines()
        .map(|line| shown(line).expect(line))
        .collect();
    assert!(lines.len() > 10, "{lines:?}");
    let stored = stored("closed.index");
    for (at, bytes) in lines {
        assert_eq!(stored[at..at + bytes.len()], bytes, "at {at:x}");
    }
    let lock = fs::read_to_string(root().join("tests/data/index/closed.index.lock")).unwrap();
    assert!(
        example.contains(&format!("`{}`", lock.trim_end())),
        "{lock}"
    );
}
