//! What is done with the system around a mount: the process and its signals, the log, the mount point and its end.

pub mod daemon;
pub mod logging;
pub(crate) mod mount;
pub(crate) mod progress;
pub(crate) mod replaced;
pub mod unmount;
