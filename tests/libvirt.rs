//! Domains of libvirt's as SRC (promise P35): a real libvirtd, and real domains under QEMU without KVM. They have no operating
//! system; what a guest would write is written by QEMU's monitor on the guest's device.

mod disks;
mod doubt;
mod endings;
mod nights;
mod restore;
mod rig;
mod session;
mod user;
