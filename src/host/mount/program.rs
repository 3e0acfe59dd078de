//! Running the system's own programs: fusermount3, mount and umount.
//!
//! Invariant: nothing that they print reaches our stdout or stderr.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::{AccessFlags, access};

/// Where a program is looked for when PATH does not have it, as when mount(8), cron or systemd has set PATH.
const PLACES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// Where [`run`] finds `name`. `None`: it is not installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = PLACES.iter().map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(places)
        .map(|place| place.join(name))
        .find(|program| access(program, AccessFlags::X_OK).is_ok())
}

/// Runs `name` to its end, with its messages in English and its input empty; `prepare` gives it arguments.
/// The kind `NotFound`: it is not installed.
pub(super) fn run(name: &str, prepare: impl Fn(&mut Command)) -> io::Result<Output> {
    let places = PLACES.iter().map(|place| Path::new(place).join(name));
    for program in [name.into()].into_iter().chain(places) {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        prepare(&mut command);
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// What the program printed on stderr, on one line and without its name; if it failed in silence, its status.
pub(super) fn said(name: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix(name)
                .and_then(|line| line.strip_prefix(": "))
                .unwrap_or(line)
                .trim()
        })
        .collect();
    let text = lines.join("; ");
    if text.is_empty() && !output.status.success() {
        return format!("{name} failed with {}", output.status);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn what_it_says_becomes_one_line() {
        for (code, stderr, line) in [
            (1, "fusermount3: a: b\nfusermount3: c\n", "a: b; c"),
            (1, "fusermount3 x\n", "fusermount3 x"),
            (0, "", ""),
            (3, "", "fusermount3 failed with exit status: 3"),
        ] {
            let status = ExitStatus::from_raw(code << 8);
            let output = Output {
                status,
                stdout: Vec::new(),
                stderr: stderr.into(),
            };
            assert_eq!(said("fusermount3", &output), line);
        }
    }

    #[test]
    fn a_program_that_is_missing_is_told_apart() {
        let error = run("there-is-no-such-program", |_| {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let output = run("sh", |command| {
            command.args(["-c", "echo sh: no >&2; exit 7"]);
        });
        assert_eq!(said("sh", &output.unwrap()), "no");
    }
}
