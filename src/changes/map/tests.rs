use proptest::prelude::*;

use super::*;

mod wrong;

const THIN: &str = r#"<superblock uuid="" time="2" transaction="3" data_block_size="128" nr_data_blocks="64">
  <diff left="1" right="2">
    <same begin="0" length="2"/>
    <different begin="2" length="2"/>
    <left_only begin="6" length="1"/>
    <same begin="8" length="1"/>
    <right_only begin="12" length="2"/>
  </diff>
</superblock>
"#;
const THIN_VERBOSE: &str = r#"<superblock uuid="" time="2" transaction="3" data_block_size="128" nr_data_blocks="64">
  <diff left="2" right="1">
    <same>
      <range begin="0" data_begin="0" length="2"/>
    </same>
    <different>
      <range begin="2" left_data_begin="20" right_data_begin="2" length="1"/>
      <range begin="3" left_data_begin="30" right_data_begin="3" length="1"/>
    </different>
    <right_only>
      <range begin="6" data_begin="9" length="1"/>
    </right_only>
    <left_only>
      <range begin="12" data_begin="30" length="2"/>
    </left_only>
  </diff>
</superblock>
"#;
const ERA: &str = r#"<blocks>
  <range begin="2" end = "4"/>
  <block block="6"/>
  <range begin="12" end = "14"/>
</blocks>
"#;
const RBD: &str = r#"[{"offset":131072,"length":131072,"exists":"true"},{"offset":393216,"length":65536,"exists":"false"},
{"offset":786432,"length":131072,"exists":"true"}]"#;
const NBD: &str = r#"[
{ "offset": 0, "length": 131072, "type": 0, "description": "clean"},
{ "offset": 131072, "length": 131072, "type": 1, "description": "dirty"},
{ "offset": 262144, "length": 131072, "type": 0, "description": "clean"},
{ "offset": 393216, "length": 65536, "type": 1, "description": "dirty"},
{ "offset": 458752, "length": 327680, "type": 0, "description": "clean"},
{ "offset": 786432, "length": 131072, "type": 1, "description": "dirty"}
]
"#;
const LINES: &str = "# a remark\n131072 131072\n393216\t65536\r\n\n 786432 131072\n";

/// All of the same changes, in 64 KiB: 2-3, 6, 12-13.
const SAME: [&str; 6] = [THIN, THIN_VERBOSE, ERA, RBD, NBD, LINES];
const UNIT: u64 = 65_536;
const SIZE: u64 = 14 * UNIT;

fn parse(text: &str) -> Result<ChangeMap, MapError> {
    let era = text.contains("<blocks").then_some(UNIT);
    ChangeMap::parse(text.as_bytes(), era)
}

fn within(text: &str, size: u64) -> Result<ChangedRanges, MapError> {
    parse(text)?.within(size)
}

fn ranges(text: &str, size: u64) -> Vec<(u64, u64)> {
    let told = within(text, size).unwrap_or_else(|e| panic!("{text}: {e}"));
    let ranges = told.ranges().iter();
    ranges.map(|span| (span.start, span.end)).collect()
}

fn refusal(text: &str, size: u64) -> String {
    let sentence = match within(text, size) {
        Ok(told) => panic!("{text}: {told:?}"),
        Err(e) => e.to_string(),
    };
    assert!(!sentence.contains('\n'), "{sentence}");
    sentence
}

#[test]
fn every_format_tells_the_same() {
    let expected = [(2, 4), (6, 7), (12, 14)].map(|(start, end)| (start * UNIT, end * UNIT));
    for text in SAME {
        assert_eq!(ranges(text, SIZE), expected, "{text}");
    }
}

#[test]
fn formats_know_themselves() {
    for (text, format) in SAME.into_iter().zip([
        Format::ThinDelta,
        Format::ThinDelta,
        Format::EraInvalidate,
        Format::RbdDiff,
        Format::NbdInfo,
        Format::Lines,
    ]) {
        assert_eq!(parse(text).unwrap().format, format);
        let marked = format!("\u{feff}{text}");
        assert_eq!(parse(&marked).unwrap().format, format);
    }
}

#[test]
fn nothing_changed_is_a_map() {
    for text in [
        "<superblock data_block_size=\"128\"><diff left=\"1\" right=\"2\"></diff></superblock>",
        "<?xml version=\"1.0\"?><superblock data_block_size=\"128\"><!-- --><diff/></superblock>",
        "<superblock data_block_size=\"128\"><diff><same begin=\"0\" length=\"3\"/></diff></superblock>",
        "<blocks>\n</blocks>\n",
        "<blocks/>",
        "[]",
        " [ ]\n",
        "[{\"offset\":0,\"length\":917504,\"type\":0,\"description\":\"clean\"}]",
        "# nothing\n",
    ] {
        assert_eq!(ranges(text, SIZE), [], "{text}");
    }
}

#[test]
fn the_last_block_may_reach_past_the_image() {
    let last = (12 * UNIT, SIZE - 100);
    for text in [THIN, THIN_VERBOSE, ERA] {
        assert_eq!(*ranges(text, SIZE - 100).last().unwrap(), last);
        assert_eq!(
            ranges(text, SIZE - UNIT + 1).last().unwrap().1,
            SIZE - UNIT + 1
        );
        let sentence = refusal(text, SIZE - UNIT);
        assert!(
            sentence.starts_with("it tells of byte 917503, and the image has 851968"),
            "{sentence}"
        );
        assert!(ranges(text, 10 * SIZE).len() == 3);
    }
    // An export is a whole number of sectors.
    assert_eq!(*ranges(NBD, SIZE - 100).last().unwrap(), last);
    for (text, size) in [(NBD, SIZE - 512), (RBD, SIZE - 1), (LINES, SIZE - 1)] {
        assert!(
            refusal(text, size).starts_with("it tells of byte"),
            "{text}"
        );
    }
    assert!(refusal(NBD, SIZE + 1).starts_with("it ends at byte 917504"));
    assert_eq!(ranges("512 100\n", 612), [(512, 612)]);
    assert!(refusal("512 100\n", 613).contains("612 is not a multiple of 512"));
}

#[test]
fn the_length_of_an_era_s_block_has_to_be_told_and_only_that() {
    let missing = ChangeMap::parse(ERA.as_bytes(), None)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("use -o era-block-size=SIZE"), "{missing}");
    for text in [THIN, RBD, NBD, LINES, "[]"] {
        let useless = ChangeMap::parse(text.as_bytes(), Some(UNIT)).unwrap_err();
        assert!(
            useless
                .to_string()
                .contains("era-block-size has no meaning"),
            "{text}"
        );
    }
}

fn told_by(text: &[u8]) -> Option<ChangedRanges> {
    let era = text
        .windows(7)
        .any(|word| word == b"<blocks")
        .then_some(UNIT);
    ChangeMap::parse(text, era).ok()?.within(SIZE).ok()
}

#[test]
fn no_map_that_is_cut_off_is_one() {
    for text in SAME {
        let whole = told_by(text.as_bytes()).unwrap();
        for end in 0..text.len() {
            let cut = &text.as_bytes()[..end];
            // Nothing but the map's own end can tell that lines are missing, and lines have none.
            let of_lines = text == LINES && cut.ends_with(b"\n");
            if let Some(told) = told_by(cut) {
                assert!(told == whole || of_lines, "{}", &text[..end]);
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::model::config(2_000, 20_000))]

    #[test]
    fn no_text_is_too_strange(which in 0..SAME.len(), edits in prop::collection::vec(any::<(u16, u16, u8)>(), 1..6)) {
        let mut text = SAME[which].as_bytes().to_vec();
        for (at, more, byte) in edits {
            let at = usize::from(at) % text.len();
            let end = (at + usize::from(more) % 40).min(text.len());
            match byte % 5 {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                2 => { text.drain(at..end); }
                3 => { let piece = text[at..end].to_vec(); text.extend(piece); }
                _ => text[at] = b"0123456789 \n<>/\"[]{},:#"[usize::from(more) % 22],
            }
            if text.is_empty() {
                break;
            }
        }
        // Whatever is made of it is in order and inside of the image.
        if let Some(told) = told_by(&text) {
            let mut end = 0;
            for span in told.ranges() {
                prop_assert!(!span.is_empty() && span.start >= end && span.end <= SIZE);
                end = span.end;
            }
        }
    }

    #[test]
    fn ranges_survive_the_way_through_every_format(sizes in prop::collection::vec((0_u64..5, 1_u64..5), 0..20)) {
        let mut at = 0;
        let mut spans = Vec::new();
        for (gap, len) in sizes {
            spans.push((at + gap, len));
            at += gap + len;
        }
        let size = (at + 1) * UNIT;
        let joined = |show: &dyn Fn(u64, u64) -> String, between: &str| {
            spans.iter().map(|(b, l)| show(*b, *l)).collect::<Vec<_>>().join(between)
        };
        let thin = joined(&|b, l| format!("<different begin=\"{b}\" length=\"{l}\"/>"), "");
        let era = joined(&|b, l| format!("<range begin=\"{b}\" end = \"{}\"/>", b + l), "");
        let rbd = joined(
            &|b, l| format!("{{\"offset\":{},\"length\":{},\"exists\":\"false\"}}", b * UNIT, l * UNIT),
            ",",
        );
        let lines = joined(&|b, l| format!("{} {}\n", b * UNIT, l * UNIT), "");
        let expected: ChangedRanges = spans.iter().map(|(b, l)| Span::new(b * UNIT, (b + l) * UNIT)).collect();
        for text in [
            format!("<superblock data_block_size=\"128\"><diff>{thin}</diff></superblock>"),
            format!("<blocks>{era}</blocks>"),
            format!("[{rbd}]"),
            format!("#\n{lines}"),
        ] {
            prop_assert_eq!(within(&text, size), Ok(expected.clone()), "{}", text);
        }
    }
}
