//! Domains of libvirt's as SRC (promise P35): a real libvirtd, and real domains under QEMU without KVM. Most have no operating
//! system; what a guest would write is written by QEMU's monitor on the guest's device. Those with a guest agent run Linux.

#[cfg(target_arch = "x86_64")]
mod agent;
mod daemons;
mod disks;
mod doubt;
mod endings;
#[cfg(target_arch = "x86_64")]
mod guest;
mod host;
mod interrupted;
mod moved;
mod nights;
mod off;
mod recipes;
mod restore;
mod rig;
mod session;
mod user;
