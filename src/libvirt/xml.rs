//! XML as libvirt writes it: elements by their path, with names and paths escaped both ways.

use std::collections::BTreeMap;

use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

/// One element that has begun, or ended.
#[derive(Debug)]
pub(super) struct Element<'a> {
    /// The names of those that it is in, outermost first, and its own.
    pub(super) path: &'a [String],
    pub(super) attributes: BTreeMap<String, String>,
    /// What stands in it, if it has ended.
    pub(super) text: Option<String>,
}

impl Element<'_> {
    /// Whether it is the one with this path.
    pub(super) fn is(&self, path: &[&str]) -> bool {
        self.path
            .iter()
            .map(String::as_str)
            .eq(path.iter().copied())
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// Shows all elements of a document to `visit`: each when it begins, with its attributes, and when it ends, with its text.
/// An error says why it is no XML.
pub(super) fn walk(text: &str, mut visit: impl FnMut(&Element<'_>)) -> Result<(), String> {
    let mut reader = Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|e| e.to_string())?;
        let empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(start) | Event::Empty(start) => {
                path.push(String::from_utf8_lossy(start.name().as_ref()).into_owned());
                words.push(String::new());
                let mut attributes = BTreeMap::new();
                for attribute in start.attributes() {
                    let attribute = attribute.map_err(|e| e.to_string())?;
                    let name = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
                    let value = attribute
                        .normalized_value(XmlVersion::Implicit1_0)
                        .map_err(|e| e.to_string())?;
                    attributes.insert(name, value.into_owned());
                }
                visit(&Element {
                    path: &path,
                    attributes,
                    text: None,
                });
                if empty {
                    end(&mut path, &mut words, &mut visit);
                }
            }
            Event::End(_) => end(&mut path, &mut words, &mut visit),
            Event::Text(part) => add(&mut words, &part.decode().map_err(|e| e.to_string())?),
            Event::CData(part) => add(&mut words, &part.decode().map_err(|e| e.to_string())?),
            Event::GeneralRef(name) => {
                let part = if let Some(part) = name.resolve_char_ref().map_err(|e| e.to_string())? {
                    part.to_string()
                } else {
                    let name = name.decode().map_err(|e| e.to_string())?;
                    let part = resolve_predefined_entity(&name);
                    part.ok_or_else(|| format!("&{name}; is not known"))?
                        .to_owned()
                };
                add(&mut words, &part);
            }
            Event::Eof if path.is_empty() => return Ok(()),
            Event::Eof => return Err("it is cut off".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

fn add(words: &mut [String], part: &str) {
    if let Some(last) = words.last_mut() {
        last.push_str(part);
    }
}

fn end(path: &mut Vec<String>, words: &mut Vec<String>, visit: &mut impl FnMut(&Element<'_>)) {
    let element = Element {
        path,
        attributes: BTreeMap::new(),
        text: words.pop(),
    };
    visit(&element);
    path.pop();
}

/// `text` for an attribute's value or between two tags.
pub(super) fn quoted(text: &str) -> String {
    // Where these stand as they are, they count as spaces.
    escape(text)
        .replace('\n', "&#10;")
        .replace('\t', "&#9;")
        .replace('\r', "&#13;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_read_again() {
        for odd in [
            "a&b",
            "<x>",
            "it's \"so\"",
            "a\nb\tc\rd",
            "\u{e4}\u{1f4bf}",
            "&amp;",
            " ",
        ] {
            let text = format!("<a><b c='{0}'>{0}</b></a>", quoted(odd));
            let mut seen = Vec::new();
            walk(&text, |element| {
                if element.is(&["a", "b"]) {
                    seen.extend(element.attribute("c").map(str::to_owned));
                    seen.extend(element.text.clone());
                }
            })
            .unwrap();
            assert_eq!(seen, [odd, odd], "{text}");
        }
    }

    #[test]
    fn what_is_no_xml_is_an_error() {
        for text in [
            "<a>",
            "<a><b></a>",
            "<a b='1' b='2'/>",
            "<a>&nope;</a>",
            "<a",
            "<a b='&x;'/>",
        ] {
            walk(text, |_| ()).unwrap_err();
        }
    }
}
