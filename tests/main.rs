//! Black-box tests of the bmapfs binary on real mounts: each promise of the specification, then the real
//! tools that people use bmapfs with.
//!
//! They need root, /dev/fuse and loop devices, and the tools that they run. Nothing is skipped: what is missing
//! is a failure that says what to install. They may run in parallel and in any order, and change nothing on
//! the machine beside the mode of /dev/fuse and a user of their own.

// An unwrap that fails is a failed test, in a helper as in the test itself.
#![allow(clippy::unwrap_used)]

mod documents;
mod index;
mod libvirt;
mod many;
mod package;
mod promises;
mod restore;
mod reverse;
mod snapshot;
mod support;
mod tools;
