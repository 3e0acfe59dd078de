//! bmapfs: reads the command line, does it, and ends with its status. Errors are printed here and only here.

use std::io::Write;
use std::process::ExitCode;

use bmapfs::cli::{self, Command, MountRequest};
use bmapfs::config::Verbosity;
use bmapfs::exit::{OrFail, Result, Status};
use bmapfs::host::daemon::{self, Role};
use bmapfs::host::{logging, unmount};
use bmapfs::session;

fn main() -> ExitCode {
    run().unwrap_or_else(|failure| {
        // Without anybody at stderr the status has to do.
        let _ = writeln!(std::io::stderr(), "bmapfs: {failure}");
        failure.status().into()
    })
}

fn run() -> Result<ExitCode> {
    match cli::parse(std::env::args_os())? {
        Command::Print(text) => print(&text),
        Command::Mount(request) => mount(*request).map(ExitCode::from),
        Command::Run(config) => {
            logging::init(config.mount.verbosity);
            let report = config.report.as_deref();
            let status = session::reported(
                report,
                "run",
                &config.mount.sources,
                config.domain.as_ref(),
                |known| {
                    let map = session::read_map(config.mount.index.as_ref())?;
                    daemon::start(true)?;
                    session::run(&config, map.as_ref(), known)
                },
            );
            status.map(ExitCode::from)
        }
        Command::Scan(config) => {
            logging::init(config.verbosity);
            let report = config.report.as_deref();
            let status = session::reported(
                report,
                "scan",
                &config.sources,
                config.domain.as_ref(),
                |known| {
                    let map = session::read_map(Some(&config.index))?;
                    daemon::start(true)?;
                    session::scan(&config, map.as_ref(), known, &mut std::io::stdout().lock())?;
                    Ok(Status::Success.code())
                },
            );
            status.map(ExitCode::from)
        }
        Command::Check(directories) => {
            logging::init(Verbosity::Normal);
            session::check(&directories, &mut std::io::stdout().lock()).map(ExitCode::from)
        }
        Command::Sums(config) => {
            logging::init(Verbosity::Normal);
            session::sums(&config, &mut std::io::stdout().lock()).map(ExitCode::from)
        }
        Command::Verify(config) => {
            logging::init(config.verbosity);
            daemon::start(true)?;
            session::verify(&config, &mut std::io::stdout().lock()).map(ExitCode::from)
        }
        Command::Umount(config) => {
            logging::init(cli::umount_verbosity(&config));
            if let Some(namespace) = &config.namespace {
                daemon::enter_namespace(namespace)?;
            }
            unmount::helper(&config).map(|()| Status::Success.into())
        }
    }
}

fn print(text: &str) -> Result<ExitCode> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .or_fail(Status::System, || "writing to stdout")?;
    Ok(Status::Success.into())
}

fn mount(request: MountRequest) -> Result<Status> {
    let MountRequest {
        config,
        namespace,
        fake,
        announcements,
    } = request;
    logging::init(config.verbosity);
    if let Some(namespace) = namespace {
        daemon::enter_namespace(&namespace)?;
    }
    if fake {
        return Ok(Status::Success);
    }
    let map = session::read_map(config.index.as_ref())?;
    let mut ready = match daemon::start(config.foreground)? {
        Role::Parent(outcome) => return outcome.map(|()| Status::Success),
        Role::Server(ready) => ready,
    };
    for line in announcements {
        ready.announce(line);
    }
    match session::serve(&config, map.as_ref(), &mut ready) {
        Ok(()) => Ok(Status::Success),
        Err(failure) if ready.fail(&failure) => Ok(failure.status()),
        Err(failure) => Err(failure),
    }
}
