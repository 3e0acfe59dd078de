//! The libvirt of this machine: started by the first test that needs it, if it does not run, and ended by the last.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::support::command::{Running, Tool, tool};
use crate::support::wait_until;

/// The libvirt of this machine, which there is only one of.
#[derive(Debug)]
struct Daemons {
    /// Those that the tests have started; ended in this order.
    running: Vec<Running>,
    /// Another run of these tests waits for the end of this one, which would end its daemons.
    _alone: Flock<File>,
}

/// How many tests use it. Started by the first, and ended by the last.
static LIBVIRT: Mutex<(usize, Option<Daemons>)> = Mutex::new((0, None));

/// The libvirt of this machine, in use.
#[derive(Debug)]
pub(super) struct Libvirt;

impl Libvirt {
    pub(super) fn get() -> Self {
        let mut shared = LIBVIRT.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.1.is_none() {
            let lock = File::create("/run/bmapfs-tests-libvirt").unwrap();
            let alone = Flock::lock(lock, FlockArg::LockExclusive);
            let alone = alone.map_err(|(_, e)| e).unwrap();
            let running = if answers() { Vec::new() } else { start() };
            shared.1 = Some(Daemons {
                running,
                _alone: alone,
            });
        }
        shared.0 += 1;
        Self
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let mut shared = LIBVIRT.lock().unwrap_or_else(PoisonError::into_inner);
        shared.0 -= 1;
        if shared.0 > 0 {
            return;
        }
        if let Some(mut daemons) = shared.1.take() {
            for daemon in daemons.running.drain(..) {
                daemon.signal(Signal::SIGTERM);
                daemon.finish();
            }
        }
    }
}

fn answers() -> bool {
    virsh().words("list --name").run().code() == 0
}

fn start() -> Vec<Running> {
    // As udev makes it: if QEMU as root can use it and libvirt's user cannot, libvirt looks for QEMU's abilities without end.
    if Path::new("/dev/kvm").exists() {
        tool("chgrp").words("kvm /dev/kvm").ok();
        tool("chmod").words("0660 /dev/kvm").ok();
    }
    let daemon = |name: &str| tool(name).log_to(Path::new("/dev/null")).spawn();
    let log = daemon("virtlogd");
    let main = daemon("libvirtd");
    wait_until("libvirtd answers", answers);
    vec![main, log]
}

pub(super) fn virsh() -> Tool {
    tool("virsh").words("-q -c qemu:///system")
}
