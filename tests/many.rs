//! Several sources in one mount (P33), at one moment (P34).

mod crowd;
mod freeze;
mod moment;
mod refused;
mod rig;
mod syncs;
mod threads;
mod top;
mod user;
