//! Random histories of the block directory, of the index and of the reverse, each beside a model of it. Tests only.

mod blocks;
mod index;
mod reverse;
