//! bmapfs shows a disk image or block device as a directory of block files.
//!
//! The way of the data is [`image`] -> [`blocks`] -> [`fuse`] -> [`mount`]; [`session`] wires them
//! and nothing below it knows a mount point. Only `main` prints errors and exits.

pub mod blocks;
pub mod budget;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod exit;
pub mod fuse;
pub mod geometry;
pub mod image;
pub mod index;
pub mod inode;
pub mod joined;
pub mod logging;
pub mod mount;
mod one_line;
pub mod options;
pub mod per_block;
pub mod progress;
pub mod scan;
pub mod session;
pub mod snapshot;
pub mod sys;
pub mod unmount;
pub mod volume;
