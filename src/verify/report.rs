//! What came of a comparison, for people and for programs.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::geometry::BlockIndex;

/// Some blocks, as runs of block numbers, ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Blocks {
    /// How many.
    pub blocks: u64,
    /// The runs.
    pub ranges: Vec<(u64, u64)>,
}

impl Blocks {
    /// Adds a block, which must come after all others.
    pub(super) fn add(&mut self, block: BlockIndex) {
        let number = block.get();
        self.blocks += 1;
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.ranges.push((number, number)),
        }
    }
}

/// What was found, in blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Blocks of the image, or of the part of it.
    pub blocks: u64,
    /// As the index has them, content and time.
    pub right: u64,
    /// Other content with the time that the index has.
    pub damaged: Blocks,
    /// Their files cannot be read, and nothing is known of what they hold.
    pub unreadable: Blocks,
    /// Without a file.
    pub missing: Blocks,
    /// Files past the image's end.
    pub surplus: Blocks,
    /// Another time, with the content that the index has or that of a time before.
    pub older: Blocks,
    /// Other content with a time that the index never had for the block.
    pub newer: Blocks,
    /// The index is not certain of them; their files were not read.
    pub unknown: Blocks,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    fn lists(&self) -> [(&'static str, &Blocks); 7] {
        [
            ("damaged", &self.damaged),
            ("unreadable", &self.unreadable),
            ("missing", &self.missing),
            ("surplus", &self.surplus),
            ("older", &self.older),
            ("newer", &self.newer),
            ("unknown", &self.unknown),
        ]
    }

    /// Whether every block is right, and there is nothing else.
    #[must_use]
    pub(crate) fn is_right(&self) -> bool {
        self.lists().iter().all(|(_, blocks)| blocks.blocks == 0)
    }

    /// Whether several blocks were compared, or their files looked for, and none is right, as with a backup of something
    /// else. A single one may be wrong by itself.
    #[must_use]
    pub(crate) fn is_all_wrong(&self) -> bool {
        let compared = self.blocks - self.unknown.blocks - self.unreadable.blocks;
        self.right == 0 && compared > 1
    }

    /// Lines of a list's name and NUMBER or FIRST-LAST.
    #[must_use]
    pub(crate) fn listed(&self) -> String {
        let mut text = String::new();
        for (name, blocks) in self.lists() {
            for (first, last) in &blocks.ranges {
                // Writing to a string does not fail.
                let _ = if first == last {
                    writeln!(text, "{name} {first}")
                } else {
                    writeln!(text, "{name} {first}-{last}")
                };
            }
        }
        text
    }
}

impl fmt::Display for Report {
    /// The counts, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks: {} right", self.blocks, self.right)?;
        for (name, blocks) in self.lists() {
            write!(f, ", {} {name}", blocks.blocks)?;
        }
        let (bytes, seconds) = (self.bytes_read, self.seconds);
        write!(f, "; {bytes} bytes read in {seconds:.1} seconds")
    }
}
