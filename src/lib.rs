//! bmapfs shows a disk image or block device as a directory of block files.
//!
//! The way of the data is `image` -> `blocks` -> `fuse` -> `host::mount`; [`session`] wires them
//! and nothing below it knows a mount point. Only `main` prints errors and exits.

mod blocks;
mod budget;
mod buffer;
pub mod changes;
pub mod cli;
mod clock;
pub mod config;
pub mod exit;
mod fuse;
pub mod geometry;
pub mod host;
mod image;
mod index;
mod libvirt;
mod one_line;
mod order;
mod per_block;
mod reverse;
mod scan;
pub mod session;
pub mod snapshot;
mod stamp;
pub mod sys;
mod threads;
mod verify;
mod volume;

#[cfg(test)]
mod model;
