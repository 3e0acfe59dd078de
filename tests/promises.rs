//! The promises of the specification, each test named after the promise that it holds bmapfs to.

mod durability;
mod extents;
mod fixed_names;
mod growth;
mod identity;
mod in_use;
mod latch;
mod layout;
mod life;
mod locks;
mod memory;
mod metadata;
mod reading;
mod signals;
mod sparse;
mod stacking;
mod stamps;
mod unseen;
mod writing;
mod zeroing;
