//! XML as far as maps need it: elements with numbers in their attributes, and nothing else.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::changes::parts::{MapError, number};

/// One element.
#[derive(Debug)]
pub(super) struct Element<'a> {
    start: BytesStart<'a>,
}

impl Element<'_> {
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(self.start.name().as_ref()).into_owned()
    }

    /// The attribute's value as a number; `None`: there is no such attribute.
    pub(super) fn find(&self, name: &str) -> Result<Option<u64>, MapError> {
        // All are looked at, so that one that is not well-formed or there twice is found.
        let mut found = None;
        for attribute in self.start.attributes() {
            let attribute = attribute.map_err(|e| MapError::new(e.to_string()))?;
            if attribute.key.as_ref() == name.as_bytes() {
                found = Some(number(&String::from_utf8_lossy(&attribute.value))?);
            }
        }
        Ok(found)
    }

    /// The attribute's value as a number.
    pub(super) fn number(&self, name: &str) -> Result<u64, MapError> {
        self.find(name)?
            .ok_or_else(|| MapError::new(format!("'{}' has no {name}", self.name())))
    }

    pub(super) fn unknown(&self) -> MapError {
        MapError::new(format!("'{}' is not known here", self.name()))
    }
}

/// What is told of a document, in order.
pub(super) trait Visitor {
    /// An element begins. `depth`: how many it is in.
    fn open(&mut self, depth: usize, element: &Element<'_>) -> Result<(), MapError>;

    /// The element at this depth ends.
    fn close(&mut self, depth: usize) -> Result<(), MapError>;
}

/// Walks through a whole document, which must be one element, well-formed to its end, without words in it.
pub(super) fn walk(text: &str, visitor: &mut dyn Visitor) -> Result<(), MapError> {
    let mut reader = Reader::from_str(text);
    let line_at = |position: u64| {
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        let before = &text.as_bytes()[..position.min(text.len())];
        1 + before.split(|byte| *byte == b'\n').skip(1).count()
    };
    let mut depth = 0;
    let mut ended = false;
    loop {
        let event = reader.read_event().map_err(|e| {
            MapError::new(format!("it is cut off or no XML: {e}"))
                .in_line(line_at(reader.error_position()))
        })?;
        let done = match event {
            Event::Start(_) | Event::Empty(_) if ended => {
                Err(MapError::new("there is something after the end"))
            }
            Event::Start(start) => {
                depth += 1;
                visitor.open(depth - 1, &Element { start })
            }
            Event::Empty(start) => {
                ended = depth == 0;
                visitor
                    .open(depth, &Element { start })
                    .and_then(|()| visitor.close(depth))
            }
            // The reader has made sure that it is the end of what began last.
            Event::End(_) => {
                depth -= 1;
                ended = depth == 0;
                visitor.close(depth)
            }
            Event::Text(words) if words.trim_ascii().is_empty() => Ok(()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => Ok(()),
            Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) | Event::DocType(_) => {
                Err(MapError::new("there is text where there must be elements"))
            }
            Event::Eof if ended => return Ok(()),
            Event::Eof => Err(MapError::new("the map is cut off")),
        };
        done.map_err(|e| e.in_line(line_at(reader.buffer_position())))?;
    }
}

/// The name of the outermost element.
pub(super) fn root(text: &str) -> Result<String, MapError> {
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start) | Event::Empty(start)) => return Ok(Element { start }.name()),
            Ok(Event::Eof) => return Err(MapError::new("the map is cut off")),
            Ok(_) => {}
            Err(e) => return Err(MapError::new(format!("it is cut off or no XML: {e}"))),
        }
    }
}
