//! Writes that are mostly zeros (-o zero=detect): long runs of zeros become holes instead of taking space.

use std::io;

use super::{Image, write_span};
use crate::geometry::Span;

/// Zeros are looked for in pieces of this many bytes of the image, aligned: what file systems can punch.
const PIECE: u64 = 4096;
/// Runs shorter than this are written: many small holes cost more than they save.
const SHORTEST: u64 = 64 << 10;
static NOTHING: [u8; 4096] = [0; 4096];

/// A part of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Where in the data it starts.
    start: usize,
    /// The byte after its last.
    end: usize,
    /// All of it is zeros, long and aligned enough to be a hole.
    zeros: bool,
}

/// Writes all of `data`, or as much as can be, with long runs of zeros as holes: the error counts only if nothing
/// could be written.
pub(crate) fn write(image: &dyn Image, data: &[u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    for part in parts(data, offset) {
        let at = offset + part.start as u64;
        let written = if part.zeros {
            let end = offset + part.end as u64;
            image
                .zero(Span::new(at, end))
                .map(|()| part.end - part.start)
        } else {
            write_span(image, &data[part.start..part.end], at)
        };
        match written {
            Ok(len) => done += len,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
        if done < part.end {
            break;
        }
    }
    Ok(done)
}

/// Cuts `data`, which goes to byte `offset` of the image, into parts to write and parts to zero, in order.
fn parts(data: &[u8], offset: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut written = 0;
    let mut run: Option<(usize, usize)> = None;
    let mut at = usize::try_from(offset.next_multiple_of(PIECE) - offset)
        .unwrap_or(usize::MAX)
        .min(data.len());
    let end_run = |run: &mut Option<(usize, usize)>, written: &mut usize, parts: &mut Vec<Part>| {
        if let Some((start, end)) = run
            .take()
            .filter(|(start, end)| (end - start) as u64 >= SHORTEST)
        {
            if start > *written {
                parts.push(Part {
                    start: *written,
                    end: start,
                    zeros: false,
                });
            }
            parts.push(Part {
                start,
                end,
                zeros: true,
            });
            *written = end;
        }
    };
    while at + NOTHING.len() <= data.len() {
        let next = at + NOTHING.len();
        if data[at..next] == NOTHING {
            run = Some((run.map_or(at, |(start, _)| start), next));
        } else {
            end_run(&mut run, &mut written, &mut parts);
        }
        at = next;
    }
    end_run(&mut run, &mut written, &mut parts);
    if written < data.len() {
        parts.push(Part {
            start: written,
            end: data.len(),
            zeros: false,
        });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_the_data_and_zero_only_zeros(
            offset in 0_u64..20_000,
            runs in prop::collection::vec((any::<bool>(), 1_usize..200_000), 0..6),
        ) {
            let data: Vec<u8> = runs.iter().flat_map(|(zero, len)| vec![u8::from(!zero); *len]).collect();
            let mut end = 0;
            for part in parts(&data, offset) {
                prop_assert_eq!(part.start, end);
                prop_assert!(part.end > part.start);
                end = part.end;
                if part.zeros {
                    prop_assert!(data[part.start..part.end].iter().all(|byte| *byte == 0));
                    prop_assert!((part.end - part.start) as u64 >= SHORTEST);
                    prop_assert_eq!((offset + part.start as u64) % PIECE, 0);
                    prop_assert_eq!((offset + part.end as u64) % PIECE, 0);
                }
            }
            prop_assert_eq!(end, data.len());
        }
    }

    #[test]
    fn a_long_aligned_run_is_found() {
        let mut data = vec![1; 300_000];
        data[10_000..200_000].fill(0);
        let found: Vec<_> = parts(&data, 0)
            .into_iter()
            .filter(|part| part.zeros)
            .collect();
        assert_eq!(
            found,
            [Part {
                start: 12_288,
                end: 196_608,
                zeros: true
            }]
        );
        assert_eq!(parts(&vec![0; 60_000], 0).len(), 1, "too short");
    }
}
