//! bmapfs shows a disk image or block device as a directory of block files.
//!
//! The way of the data is [`image`] -> [`blocks`] -> [`fuse`] -> [`host::mount`]; [`session`] wires them
//! and nothing below it knows a mount point. Only `main` prints errors and exits.

pub mod blocks;
pub mod budget;
pub mod buffer;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod exit;
pub mod fuse;
pub mod geometry;
pub mod host;
pub mod image;
pub mod index;
mod one_line;
mod order;
pub mod per_block;
pub mod reverse;
pub mod scan;
pub mod session;
pub mod snapshot;
mod stamp;
pub mod sys;
pub mod volume;

#[cfg(test)]
mod model;
