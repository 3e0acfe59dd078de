//! `--snapshot` on real XFS and Btrfs: clones that are served, and what two of them tell about changes.

mod crashes;
mod histories;
mod moment;
mod reference;
mod refusals;
mod rig;
mod serving;
