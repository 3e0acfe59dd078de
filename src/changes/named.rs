//! Another program's map between two states that an administrator has named (`--changed --since --as`).
//!
//! Invariant: a map is used for the state that it begins with and no other, so that a night that failed cannot hide
//! its changes.

use super::{ChangeSource, ChangedRanges, Changes, ImageState};

/// How many blocks that a map does not name are read all the same.
const CHECKS: usize = 64;

/// What an administrator tells of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What the image is called in a log line.
    pub source: String,
    /// The state that a map begins with, and what changed since.
    pub told: Option<(String, ChangedRanges)>,
    /// The state that the image is in now.
    pub now: Option<String>,
}

impl ChangeSource for Named {
    fn since(&self, then: Option<&ImageState>) -> Option<Changes> {
        let (since, ranges) = self.told.as_ref()?;
        let known = match then {
            Some(ImageState::Named(known)) if known == since => {
                log::info!(
                    "{}: {} bytes may have changed since '{since}'",
                    self.source,
                    ranges.bytes()
                );
                return Some(Changes {
                    ranges: ranges.clone(),
                    checks: CHECKS,
                });
            }
            Some(ImageState::Named(known)) => format!("'{known}'"),
            Some(ImageState::Clone(clone)) => format!("the snapshot {}", clone.name),
            None => "a state without a name".to_owned(),
        };
        log::warn!(
            "{}: the changes are those since '{since}', and the index is of {known}: everything is read",
            self.source
        );
        None
    }

    fn now(&self) -> Option<ImageState> {
        self.now.clone().map(ImageState::Named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Span;

    #[test]
    fn a_map_is_used_for_its_own_state_only() {
        let ranges: ChangedRanges = [Span::new(0, 10)].into_iter().collect();
        let named = Named {
            source: "/a".to_owned(),
            told: Some(("n1".to_owned(), ranges.clone())),
            now: Some("n2".to_owned()),
        };
        let state = |id: &str| ImageState::Named(id.to_owned());
        let changes = Changes {
            ranges,
            checks: CHECKS,
        };
        assert_eq!(named.since(Some(&state("n1"))), Some(changes));
        for other in ["n0", "n2", "n1 ", "N1", ""] {
            assert_eq!(named.since(Some(&state(other))), None, "{other}");
        }
        assert_eq!(named.since(None), None);
        assert_eq!(named.now(), Some(state("n2")));
    }

    #[test]
    fn a_name_alone_tells_of_no_changes() {
        let named = Named {
            source: "/a".to_owned(),
            told: None,
            now: Some("n1".to_owned()),
        };
        assert_eq!(named.since(Some(&ImageState::Named("n1".to_owned()))), None);
        assert_eq!(named.now(), Some(ImageState::Named("n1".to_owned())));
    }
}
