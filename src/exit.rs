//! Exit statuses, which are mount(8)'s, the error that carries one up to `main`, and why other programs fail.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use crate::one_line::one_line;

/// What a bmapfs process ends with. The values are those of mount(8) and umount(8), because a mount
/// helper's status becomes mount's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All went well.
    Success = 0,
    /// The command line is wrong, or the caller may not do what it asks.
    Usage = 1,
    /// The system refused something that is not the caller's mistake: fork, /dev/fuse, memory.
    System = 2,
    /// A bug in bmapfs.
    Internal = 4,
    /// A signal ended the work before it was done.
    Interrupted = 8,
    /// The mount or unmount itself failed: source or mount point unusable, source in use.
    MountFailed = 32,
}

impl Status {
    /// The number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 1,
            Self::System => 2,
            Self::Internal => 4,
            Self::Interrupted => 8,
            Self::MountFailed => 32,
        }
    }

    /// The status with this number; a number that bmapfs never uses counts as [`Status::Internal`].
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::Usage,
            2 => Self::System,
            8 => Self::Interrupted,
            32 => Self::MountFailed,
            _ => Self::Internal,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// An error on its way to `main`: one sentence (with its causes) and the status to exit with.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    cause: anyhow::Error,
}

/// The result of everything that is not on the way of a read or write.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this status and sentence.
    pub fn new(
        status: Status,
        sentence: impl fmt::Display + fmt::Debug + Send + Sync + 'static,
    ) -> Self {
        Self {
            status,
            cause: anyhow::Error::msg(sentence),
        }
    }

    /// A mistake of the caller's.
    pub fn usage(sentence: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self::new(Status::Usage, sentence)
    }

    /// The status that the process exits with.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }
}

impl fmt::Display for Failure {
    /// All on one line, outermost first, joined with colons: `attempt: object: reason`. Control characters in names
    /// are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&format!("{:#}", self.cause)))
    }
}

/// Turns any error into a [`Failure`]: says what was attempted and on which object, and picks the status.
pub trait OrFail<T> {
    /// `Err(e)` becomes `attempt: e` with `status`.
    fn or_fail<C, F>(self, status: Status, attempt: F) -> Result<T>
    where
        C: fmt::Display + Send + Sync + 'static,
        F: FnOnce() -> C;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for std::result::Result<T, E> {
    fn or_fail<C, F>(self, status: Status, attempt: F) -> Result<T>
    where
        C: fmt::Display + Send + Sync + 'static,
        F: FnOnce() -> C,
    {
        self.map_err(|e| Failure {
            status,
            cause: e.into().context(attempt()),
        })
    }
}

/// Why a program that others start has failed: its last words, on one line, or how it ended.
pub(crate) fn why_it_failed(status: ExitStatus, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("error: "));
    let words: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    match (words.as_slice(), status.code(), status.signal()) {
        ([], Some(code), _) => format!("it ended with status {code}"),
        ([], None, signal) => format!("signal {} ended it", signal.unwrap_or_default()),
        (words, ..) => one_line(&words.join(": ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_survive_the_way_through_a_number() {
        for status in [
            Status::Success,
            Status::Usage,
            Status::System,
            Status::Internal,
            Status::Interrupted,
            Status::MountFailed,
        ] {
            assert_eq!(Status::from_code(status.code()), status);
        }
        assert_eq!(Status::from_code(77), Status::Internal);
    }

    #[test]
    fn a_failure_is_one_line_outermost_first() {
        let inner: std::result::Result<(), _> = Err(std::io::Error::other("no\nluck"));
        let failure = inner
            .or_fail(Status::MountFailed, || "opening /a")
            .unwrap_err();
        assert_eq!(failure.to_string(), "opening /a: no\\nluck");
        assert_eq!(failure.status(), Status::MountFailed);
    }
}
