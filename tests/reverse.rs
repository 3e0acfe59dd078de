//! The reverse: a directory of block files mounted as the image that it was made from.

mod partitions;
mod reading;
mod refusing;
mod rig;
mod slow;
mod writing;
