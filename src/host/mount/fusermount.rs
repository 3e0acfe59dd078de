//! Mounting and unmounting as an ordinary user, through the set-user-ID program fusermount3.
//!
//! Invariant: what fusermount3 prints never reaches our stderr; it becomes part of an error or a log line.
//! This module must not know what is mounted.

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Output;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use super::program::{run, said};
use super::{above_stdio, reason};
use crate::exit::{self, Failure, Status};
use crate::sys;

const PROGRAM: &str = "fusermount3";
/// The variable that names the descriptor on which fusermount3 sends /dev/fuse.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Mounts on `mountpoint` and returns the /dev/fuse descriptor, close-on-exec and above 2.
pub(super) fn mount(mountpoint: &Path, options: &OsStr) -> exit::Result<OwnedFd> {
    let failed = |error: io::Error| {
        Failure::new(
            Status::System,
            format!("mounting {}: {}", mountpoint.display(), reason(&error)),
        )
    };
    let (ours, theirs) = socket_pair().map_err(failed)?;
    let arguments = [
        OsStr::new("-o"),
        options,
        OsStr::new("--"),
        mountpoint.as_os_str(),
    ];
    let output = call(&arguments, Some(&theirs)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Status::System,
            format!(
                "mounting {} as a user: there is no {PROGRAM}; install the package fuse3",
                mountpoint.display()
            ),
        ),
        _ => Failure::new(
            Status::System,
            format!("running {PROGRAM}: {}", reason(&error)),
        ),
    })?;
    let said = said(PROGRAM, &output);
    if !output.status.success() {
        let bound = nix::sys::prctl::get_no_new_privs().unwrap_or(false);
        return Err(refusal(mountpoint, &said, bound));
    }
    if !said.is_empty() {
        log::warn!("{PROGRAM}: {said}");
    }
    // The program has ended, so the descriptor either waits in the socket or never comes.
    receive(&ours).and_then(above_stdio).map_err(failed)
}

/// Unmounts what is topmost at `mountpoint`; `lazy` detaches it though it is busy. EBUSY is told apart, every
/// other failure carries what fusermount3 said.
pub(super) fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let mut arguments = vec![OsStr::new("-u")];
    if lazy {
        arguments.push(OsStr::new("-z"));
    }
    arguments.extend([OsStr::new("--"), mountpoint.as_os_str()]);
    let output = call(&arguments, None).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("running {PROGRAM}: {}", reason(&error)),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(PROGRAM, &output);
    if said.ends_with(Errno::EBUSY.desc()) {
        return Err(Errno::EBUSY.into());
    }
    Err(io::Error::other(said))
}

/// A connected pair of sockets: ours, and one that a program started by us inherits.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let theirs = above_stdio(theirs)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok((ours, theirs))
}

/// Runs fusermount3 to its end, with `socket` to send a descriptor on. The kind `NotFound`: it is not installed.
fn call(arguments: &[&OsStr], socket: Option<&OwnedFd>) -> io::Result<Output> {
    run(PROGRAM, |command| {
        command.args(arguments).env_remove(SOCKET_VARIABLE);
        if let Some(socket) = socket {
            command.env(SOCKET_VARIABLE, socket.as_raw_fd().to_string());
        }
    })
}

/// Turns what fusermount3 said into an error with the fitting status and, where one is known, the remedy. `bound`: this
/// process and what it starts get no more rights, so that fusermount3 cannot act as root.
fn refusal(mountpoint: &Path, said: &str, bound: bool) -> Failure {
    let shown = mountpoint.display();
    if said.contains("user_allow_other") {
        return Failure::usage(format!(
            "mounting {shown}: allow_other: users may not ask for it unless root puts the line user_allow_other \
             into /etc/fuse.conf"
        ));
    }
    let status = if said.contains("/dev/fuse") || said.contains("fuse device") {
        Status::System
    } else if [
        "not owned by",
        "no write access",
        "ermission denied",
        "not permitted",
        "privileged",
        "unknown option",
    ]
    .iter()
    .any(|words| said.contains(words))
    {
        Status::Usage
    } else {
        Status::MountFailed
    };
    let hint = match (said.ends_with(Errno::EPERM.desc()), bound) {
        (true, true) => {
            ": fusermount3 cannot become root here, because no_new_privs is set (NoNewPrivileges= in the unit of \
             systemd, no-new-privileges of the container)"
        }
        (true, false) => {
            ": fusermount3 must be set-user-ID root, not on a nosuid mount, and have CAP_SYS_ADMIN in a container"
        }
        _ => "",
    };
    Failure::new(status, format!("mounting {shown}: {said}{hint}"))
}

/// Takes the descriptor out of the socket.
fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut parts,
        Some(&mut control),
        flags,
    )?;
    let numbers = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    let number = numbers.and_then(|numbers| numbers.first().copied());
    sys::adopt_fd(number.ok_or_else(|| io::Error::other(format!("{PROGRAM} sent no descriptor")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_get_the_fitting_status() {
        for (text, status) in [
            (
                "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
                Status::Usage,
            ),
            (
                "failed to open /dev/fuse: Permission denied",
                Status::System,
            ),
            (
                "fuse device not found, try 'modprobe fuse' first",
                Status::System,
            ),
            ("user has no write access to mountpoint /m", Status::Usage),
            ("mountpoint /m not owned by user", Status::Usage),
            (
                "mounting over filesystem type 0x9fa0 is forbidden",
                Status::MountFailed,
            ),
        ] {
            let failure = refusal(Path::new("/m"), text, true);
            assert_eq!(failure.status(), status, "{text}");
            assert!(!failure.to_string().contains('\n'));
        }
        for (bound, cause) in [(true, "no_new_privs"), (false, "set-user-ID")] {
            let failure = refusal(
                Path::new("/m"),
                "mount failed: Operation not permitted",
                bound,
            );
            assert_eq!(failure.status(), Status::Usage);
            assert!(failure.to_string().contains(cause), "{failure}");
        }
        let failure = refusal(Path::new("/m"), "user_allow_other", false).to_string();
        assert!(
            failure.contains("user_allow_other") && failure.contains("/etc/fuse.conf"),
            "{failure}"
        );
    }

    #[test]
    fn a_descriptor_that_is_not_sent_is_an_error() {
        let (ours, theirs) = socket_pair().unwrap();
        assert_eq!(
            receive(&ours).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(theirs);
        assert!(receive(&ours).is_err());
    }
}
