//! A libvirt of a test's own: it can be ended and started again, and domains move from one to another.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::command::{Running, Tool, send_signal};
use crate::support::namespace::Namespace;
use crate::support::scene::Scene;
use crate::support::wait_until;

/// libvirtd in a mount namespace with directories of its own.
#[derive(Debug)]
pub(super) struct Host {
    namespace: Namespace,
    /// What is /run/libvirt there.
    run: PathBuf,
    libvirtd: RefCell<Option<Running>>,
    _virtlogd: Running,
}

impl Host {
    pub(super) fn new(scene: &Scene, name: &str) -> Self {
        let namespace = Namespace::bare(scene);
        let dir = |part: &str| scene.dir(&format!("{name}-{part}"));
        let (run, etc) = (dir("run"), dir("etc"));
        for (place, own) in [
            ("/run/libvirt", &run),
            ("/etc/libvirt", &etc),
            ("/var/lib/libvirt", &dir("lib")),
        ] {
            fs::create_dir_all(place).unwrap();
            // QEMU runs as another user.
            fs::set_permissions(own, fs::Permissions::from_mode(0o755)).unwrap();
            namespace
                .tool("mount")
                .arg("--bind")
                .arg(own)
                .arg(place)
                .ok();
        }
        // Otherwise two on one machine take themselves for the same.
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let config = format!("host_uuid = \"{}\"\n", uuid.trim());
        fs::write(etc.join("libvirtd.conf"), config).unwrap();
        let virtlogd = namespace.tool("virtlogd").arg("-p").arg(run.join("l.pid"));
        let host = Self {
            _virtlogd: virtlogd.log_to(Path::new("/dev/null")).spawn(),
            namespace,
            run,
            libvirtd: RefCell::new(None),
        };
        host.start();
        host
    }

    /// Starts libvirtd.
    pub(super) fn start(&self) {
        let pid = self.run.join("d.pid");
        fs::remove_file(&pid).ok();
        let libvirtd = self.tool("libvirtd").arg("-p").arg(pid);
        let running = libvirtd.log_to(&self.run.join("log")).spawn();
        *self.libvirtd.borrow_mut() = Some(running);
        wait_until("libvirtd answers", || {
            self.virsh().words("list --name").run().code() == 0
        });
    }

    /// Ends libvirtd by SIGKILL. Its domains run on.
    pub(super) fn kill(&self) {
        drop(self.libvirtd.take());
    }

    /// Sends libvirtd a signal.
    pub(super) fn signal(&self, signal: Signal) {
        self.libvirtd.borrow().as_ref().unwrap().signal(signal);
    }

    /// The processes of its domains.
    fn qemus(&self) -> Vec<(PathBuf, u32)> {
        let files = fs::read_dir(self.run.join("qemu")).into_iter().flatten();
        let files = files.map(|entry| entry.unwrap().path());
        let files = files.filter(|file| file.extension() == Some(OsStr::new("pid")));
        files
            .filter_map(|file| {
                Some((
                    file.clone(),
                    fs::read_to_string(file).ok()?.trim().parse().ok()?,
                ))
            })
            .collect()
    }

    /// QEMU crashes.
    pub(super) fn crash(&self, domain: &str) {
        let all = self.qemus();
        let of_domain = all
            .iter()
            .find(|(file, _)| file.file_stem() == Some(OsStr::new(domain)));
        send_signal(of_domain.unwrap().1, Signal::SIGKILL);
    }

    /// A program of this host.
    pub(super) fn tool(&self, program: impl AsRef<OsStr>) -> Tool {
        self.namespace.tool(program)
    }

    pub(super) fn virsh(&self) -> Tool {
        self.tool("virsh").words("-q -c qemu:///system")
    }

    /// What another host calls it.
    pub(super) fn uri(&self) -> String {
        let socket = self.run.join("libvirt-sock");
        format!("qemu+unix:///system?socket={}", socket.display())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that fails may have ended libvirtd, which would end them.
        for (_, pid) in self.qemus() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("qemu") {
                send_signal(pid, Signal::SIGKILL);
            }
        }
    }
}
