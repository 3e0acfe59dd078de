//! Any tool can restore: staged files, sparse directories, images that grow and shrink. With the real tools, on
//! real mounts and file systems.

mod huge;
mod killed;
mod map;
mod other_size;
mod refused;
mod removing;
mod resize;
mod rig;
mod staging;
mod thin;
mod writing;
