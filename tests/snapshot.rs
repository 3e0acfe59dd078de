//! `--snapshot` on real XFS and Btrfs: clones that are served, and what two of them tell about changes.

mod histories;
