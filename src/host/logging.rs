//! Where log lines go: stderr while somebody may be reading it, the system log once bmapfs is a daemon.
//!
//! Invariant: logging never fails, never panics and, with a log daemon that hangs, waits a second a line at
//! most. A panic is logged like any other error and then aborts the process, whatever the build profile.

use std::fmt;
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{LogFormat, LoggerBackend, Severity};

use crate::config::Verbosity;
use crate::one_line::one_line;

/// How long one line may wait for the log daemon.
const PATIENCE: Duration = Duration::from_secs(1);

/// Facility "daemon" of syslog(3), in the place that it has in a message's priority.
const FACILITY: u8 = 3 << 3;

static LOGGER: Logger = Logger {
    sink: Mutex::new(Sink::Stderr),
};

/// Sends the `log` crate's records to stderr from now on, and turns panics into a logged abort.
pub fn init(verbosity: Verbosity) {
    log::set_max_level(match verbosity {
        Verbosity::Quiet => LevelFilter::Warn,
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
    });
    // It fails only if a logger is there already, which then is this one.
    if log::set_logger(&LOGGER).is_ok() {
        std::panic::set_hook(Box::new(abort_loudly));
    }
}

/// Sends all further records to the system log.
pub fn to_syslog() {
    LOGGER.redirect(Sink::Syslog(None));
}

fn abort_loudly(panic: &PanicHookInfo<'_>) {
    // Its own text is of two lines.
    let text = panic.to_string().replace('\n', " ");
    LOGGER.emit(Level::Error, &one_line(&format!("bug: {text}")));
    std::process::abort();
}

/// Other crates' words can be too strong: that a request was interrupted, or its connection ended, before the answer
/// came, is nobody's error. The kernel then says ENOENT.
fn level_of(record: &Record<'_>, text: &str) -> Level {
    let nobody_waits = || {
        let reason = std::io::Error::from_raw_os_error(libc::ENOENT);
        text == format!("Failed to send FUSE reply: {reason}")
    };
    if record.level() == Level::Error && !is_ours(record.metadata()) && nobody_waits() {
        Level::Debug
    } else {
        record.level()
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"))
}

enum Sink {
    Stderr,
    /// Connected at the first line, and again after the log daemon was restarted.
    Syslog(Option<syslog::Logger<LoggerBackend, Line>>),
}

struct Logger {
    sink: Mutex<Sink>,
}

impl Logger {
    fn redirect(&self, to: Sink) {
        match self.sink.lock() {
            Ok(mut sink) => *sink = to,
            Err(poisoned) => *poisoned.into_inner() = to,
        }
    }

    /// Writes one line. The text is complete before the lock is taken, so nothing under it can panic. Should
    /// the lock be held all the same by a thread that panics, stderr is better than a deadlock.
    fn emit(&self, level: Level, text: &str) {
        if std::thread::panicking() {
            match self.sink.try_lock() {
                Ok(mut sink) => sink.write(level, text),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().write(level, text),
                Err(TryLockError::WouldBlock) => Sink::Stderr.write(level, text),
            }
            return;
        }
        match self.sink.lock() {
            Ok(mut sink) => sink.write(level, text),
            Err(poisoned) => poisoned.into_inner().write(level, text),
        }
    }
}

impl Log for Logger {
    /// Other crates are heard only when they warn: what they count as information is not an administrator's.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata) || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = one_line(&record.args().to_string());
            let level = level_of(record, &text);
            if level <= log::max_level() {
                self.emit(level, &text);
            }
        }
    }

    fn flush(&self) {}
}

impl Sink {
    /// A line that cannot be written is dropped: there is nobody left to tell.
    fn write(&mut self, level: Level, text: &str) {
        match self {
            Self::Stderr => {
                let line = format!("bmapfs: {}{text}\n", label(level));
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            Self::Syslog(connection) => {
                for _ in 0..2 {
                    let logger = connection.take().or_else(connect);
                    let Some(mut logger) = logger else { return };
                    if send(&mut logger, level, text).is_ok() {
                        *connection = Some(logger);
                        return;
                    }
                }
            }
        }
    }
}

fn label(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    }
}

fn connect() -> Option<syslog::Logger<LoggerBackend, Line>> {
    let logger = syslog::unix(Line {
        pid: std::process::id(),
    })
    .ok()?;
    match &logger.backend {
        LoggerBackend::Unix(socket) => socket.set_write_timeout(Some(PATIENCE)).ok()?,
        LoggerBackend::UnixStream(stream) => {
            stream.get_ref().set_write_timeout(Some(PATIENCE)).ok()?;
        }
        LoggerBackend::Udp(..) | LoggerBackend::Tcp(..) => {}
    }
    Some(logger)
}

fn send(
    logger: &mut syslog::Logger<LoggerBackend, Line>,
    level: Level,
    text: &str,
) -> syslog::Result<()> {
    match level {
        Level::Error => logger.err(text),
        Level::Warn => logger.warning(text),
        Level::Info => logger.info(text),
        Level::Debug | Level::Trace => logger.debug(text),
    }
}

/// A syslog line without a time: the log daemon adds its own, in its own time zone, which the crate's
/// formatter does not know.
#[derive(Clone, Copy)]
struct Line {
    pid: u32,
}

impl<T: fmt::Display> LogFormat<T> for Line {
    fn format<W: Write>(&self, to: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = FACILITY | severity as u8;
        // One piece, because over a datagram socket each write is a message.
        let line = format!("<{priority}>bmapfs[{}]: {message}", self.pid);
        to.write_all(line.as_bytes()).map_err(syslog::Error::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_are_heard_only_when_they_warn() {
        for (target, level, heard) in [
            ("bmapfs", Level::Debug, true),
            ("bmapfs::session", Level::Info, true),
            ("bmapfs_like::x", Level::Info, false),
            (concat!("fuser", "::session"), Level::Info, false),
            (concat!("fuser", "::session"), Level::Warn, true),
        ] {
            let metadata = Metadata::builder().target(target).level(level).build();
            assert_eq!(LOGGER.enabled(&metadata), heard, "{target} {level}");
        }
    }

    #[test]
    fn a_reply_for_which_nobody_waits_is_no_error() {
        let error = |number| std::io::Error::from_raw_os_error(number);
        let failed = |number| format!("Failed to send FUSE reply: {}", error(number));
        let replying = concat!("fuser", "::reply");
        for (target, text, level) in [
            (replying, failed(libc::ENOENT), Level::Debug),
            (replying, failed(libc::EINVAL), Level::Error),
            (replying, failed(libc::ENODEV), Level::Error),
            (replying, error(libc::ENOENT).to_string(), Level::Error),
            ("bmapfs::x", failed(libc::ENOENT), Level::Error),
        ] {
            let record = Record::builder().target(target).level(Level::Error).build();
            assert_eq!(level_of(&record, &text), level, "{target}: {text}");
        }
    }

    #[test]
    fn a_syslog_line_is_one_message_with_facility_and_pid() {
        let mut line = Vec::new();
        Line { pid: 7 }
            .format(&mut line, Severity::LOG_WARNING, "degraded")
            .unwrap();
        assert_eq!(line, b"<28>bmapfs[7]: degraded");
    }
}
