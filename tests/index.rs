//! The index, `bmapfs run` and `bmapfs scan` (promises P20 to P24), with the tools that the stamps are for.

mod below;
mod bmap;
mod changed;
mod damage;
mod disk;
mod evidence;
mod first;
mod killed;
mod live;
mod place;
mod replaced;
mod rig;
mod run;
mod run_ends;
mod scan;
mod skip;
mod stamps;
mod sync;
mod throttle;
mod tools;
mod torn;
mod unsaved;
mod verify;
mod verify_meanwhile;
mod verify_refusals;
