//! What people do with bmapfs: the real tools, on real mounts, and what they get wrong.

mod bad_input;
mod bad_machine;
mod check;
mod checkers;
mod devices;
mod dying;
mod files;
mod helpers;
mod remote;
mod rsync;
mod strange_names;
mod stress;
