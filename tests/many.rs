//! Several sources in one mount (P33), at one moment (P34).

mod freeze;
mod moment;
mod rig;
mod user;
