//! Cuts the text behind `-o` into words: the grammar, and nothing of what a word means.
//!
//! Invariant: bytes go in and bytes come out, whatever their encoding. A comma ends a word unless it stands
//! in double quotes or behind a backslash, as mount(8) and libfuse have it; quotes and backslashes are taken
//! off. Words without a byte are skipped, so `-o ,ro,` is one word.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use thiserror::Error;

/// One word of an option list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawWord {
    /// What stands before the first `=`.
    pub name: OsString,
    /// What stands behind it; `None` without a `=`.
    pub value: Option<OsString>,
}

/// Why a text is not an option list.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum SplitError {
    /// A quote that nothing closes would swallow all that follows.
    #[error("a double quote is not closed")]
    OpenQuote,
    /// A backslash stands for the byte behind it.
    #[error("nothing follows the last backslash")]
    LastBackslash,
    /// `=value`.
    #[error("there is no option name before '='")]
    NoName,
}

/// Cuts an option list into its words, in order.
pub(super) fn split(text: &OsStr) -> Result<Vec<RawWord>, SplitError> {
    let mut words = Vec::new();
    let mut word = Unfinished::default();
    let mut quoted = false;
    let mut bytes = text.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => word.push(*bytes.next().ok_or(SplitError::LastBackslash)?),
            b'"' => quoted = !quoted,
            b',' if !quoted => words.extend(std::mem::take(&mut word).finish()?),
            b'=' if !quoted && word.value.is_none() => word.value = Some(Vec::new()),
            _ => word.push(byte),
        }
    }
    if quoted {
        return Err(SplitError::OpenQuote);
    }
    words.extend(word.finish()?);
    Ok(words)
}

#[derive(Default)]
struct Unfinished {
    name: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Unfinished {
    fn push(&mut self, byte: u8) {
        self.value.as_mut().unwrap_or(&mut self.name).push(byte);
    }

    fn finish(self) -> Result<Option<RawWord>, SplitError> {
        match (self.name.is_empty(), &self.value) {
            (true, None) => Ok(None),
            (true, Some(_)) => Err(SplitError::NoName),
            (false, _) => Ok(Some(RawWord {
                name: OsString::from_vec(self.name),
                value: self.value.map(OsString::from_vec),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(name: &str, value: Option<&[u8]>) -> RawWord {
        RawWord {
            name: name.into(),
            value: value.map(|value| OsStr::from_bytes(value).to_owned()),
        }
    }

    #[test]
    fn option_lists_are_cut_as_mount_cuts_them() {
        let table: [(&[u8], Vec<RawWord>); 11] = [
            (b"", vec![]),
            (b",,", vec![]),
            (b"ro", vec![word("ro", None)]),
            (
                b",ro,,bs=4M,",
                vec![word("ro", None), word("bs", Some(b"4M"))],
            ),
            (b"fsname=", vec![word("fsname", Some(b""))]),
            (b"fsname=a=b", vec![word("fsname", Some(b"a=b"))]),
            (
                b"context=\"a,b\",ro",
                vec![word("context", Some(b"a,b")), word("ro", None)],
            ),
            (
                b"fsname=a\\,b\\\\c\\\"d,ro",
                vec![word("fsname", Some(b"a,b\\c\"d")), word("ro", None)],
            ),
            (
                b"fsname=\"a\\\"b=\",ro",
                vec![word("fsname", Some(b"a\"b=")), word("ro", None)],
            ),
            (b"fsname=\xff\n ", vec![word("fsname", Some(b"\xff\n "))]),
            (b"a\\=b=c", vec![word("a=b", Some(b"c"))]),
        ];
        for (text, words) in table {
            let text = OsStr::from_bytes(text);
            assert_eq!(
                split(text).as_ref(),
                Ok(&words),
                "{}",
                text.to_string_lossy()
            );
        }
    }

    #[test]
    fn what_cannot_be_cut_is_an_error() {
        for (text, error) in [
            ("context=\"a,b", SplitError::OpenQuote),
            ("fsname=a\\", SplitError::LastBackslash),
            ("ro,=4M", SplitError::NoName),
        ] {
            assert_eq!(split(OsStr::new(text)), Err(error), "{text}");
        }
    }

    /// Writes a word the way a careful caller would: every special byte behind a backslash, or all in quotes.
    fn write(word: &RawWord, in_quotes: bool, text: &mut Vec<u8>) {
        let mut put = |bytes: &[u8], special: &[u8]| {
            for byte in bytes {
                if special.contains(byte) {
                    text.push(b'\\');
                }
                text.push(*byte);
            }
        };
        put(word.name.as_bytes(), b"\\\",=");
        let Some(value) = &word.value else { return };
        if in_quotes {
            put(b"=\"", b"");
            put(value.as_bytes(), b"\\\"");
            put(b"\"", b"");
        } else {
            put(b"=", b"");
            put(value.as_bytes(), b"\\\",");
        }
    }

    proptest! {
        #[test]
        fn a_list_is_found_again_in_its_text(
            list in prop::collection::vec(
                (
                    prop::collection::vec(any::<u8>(), 1..12),
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
                    any::<bool>(),
                ),
                0..8,
            )
        ) {
            let mut text = Vec::new();
            let mut expected = Vec::new();
            for (name, value, in_quotes) in list {
                let word = RawWord { name: OsString::from_vec(name), value: value.map(OsString::from_vec) };
                write(&word, in_quotes, &mut text);
                text.push(b',');
                expected.push(word);
            }
            prop_assert_eq!(split(OsStr::from_bytes(&text)), Ok(expected));
        }

        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = split(OsStr::from_bytes(&text));
        }
    }
}
