//! The command line: which of bmapfs's faces was called, and with what.
//!
//! Invariant: whatever the arguments are, the answer is a [`Command`] that contradicts nothing, or one usage
//! error on one line. The only thing asked of the system is the current directory.

pub mod options;

mod definition;
mod helpers;
mod known;
mod sources;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, ValueEnum};
use clap_complete::Shell;

use crate::config::{
    MountConfig, RunConfig, ScanConfig, SourceConfig, SumsConfig, UmountConfig, VerifyConfig,
};
use crate::exit::{Failure, OrFail, Result, Status};

use definition::Optional;
use options::{Unknown, Word};

pub use definition::command;
pub use helpers::umount_verbosity;

/// What bmapfs was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write this text to stdout: help, version, completions.
    Print(String),
    /// Mount an image.
    Mount(Box<MountRequest>),
    /// Mount it for one command.
    Run(Box<RunConfig>),
    /// Bring an index up to date.
    Scan(Box<ScanConfig>),
    /// Say what this machine has of all that bmapfs can use, and whether there are reflinks in these directories.
    Check(Vec<PathBuf>),
    /// Print what an index knows.
    Sums(Box<SumsConfig>),
    /// Compare a backup with an index.
    Verify(Box<VerifyConfig>),
    /// Unmount, for umount(8).
    Umount(UmountConfig),
}

/// A mount, and how mount(8) wants it done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// What is mounted where.
    pub config: MountConfig,
    /// `-N`: the mount namespace to enter before anything else.
    pub namespace: Option<PathBuf>,
    /// `-f`: all of this was only to be checked.
    pub fake: bool,
    /// What the user is told on stderr once the mount is ready.
    pub announcements: Vec<String>,
}

/// Reads the arguments, of which the first is the program's name.
///
/// # Errors
/// A usage error; or a system error, if a relative path cannot be made absolute.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // The wrappers that mount(8) and umount(8) call put one word before the arguments that they are given.
    let hidden = |clap: clap::Command| matches(clap, arguments.iter().skip(1));
    match arguments.get(1).and_then(|first| first.to_str()) {
        Some("--mount-helper") => {
            answer(hidden(definition::mount_helper())?, helpers::mount_helper)
        }
        Some("--umount-helper") => {
            answer(hidden(definition::umount_helper())?, helpers::umount_helper)
        }
        Some("run") => answer(hidden(definition::run())?, run),
        Some("scan") => answer(hidden(definition::scan())?, scan),
        Some("sums") => answer(hidden(definition::sums())?, known::sums),
        Some("verify") => answer(hidden(definition::verify())?, known::verify),
        Some("--check") => answer(hidden(definition::check())?, check),
        Some("--completions") => completions(arguments.get(2).map(OsString::as_os_str)),
        _ => answer(matches(definition::mount(), arguments.iter())?, mount),
    }
}

/// What clap made of the arguments: matches, or a text that was asked for.
enum Outcome {
    Matches(ArgMatches),
    Text(String),
}

fn matches<'a>(
    clap: clap::Command,
    arguments: impl Iterator<Item = &'a OsString>,
) -> Result<Outcome> {
    match clap.try_get_matches_from(arguments) {
        Ok(matches) => Ok(Outcome::Matches(matches)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(Outcome::Text(error.render().to_string()))
        }
        Err(error) => Err(Failure::usage(sentence(&error.render().to_string()))),
    }
}

fn answer(outcome: Outcome, read: fn(&ArgMatches) -> Result<Command>) -> Result<Command> {
    match outcome {
        Outcome::Matches(matches) => read(&matches),
        Outcome::Text(text) => Ok(Command::Print(text)),
    }
}

/// clap's first paragraph, which says what is wrong, and its tip if it has one, on one line.
fn sentence(rendered: &str) -> String {
    let mut paragraphs = rendered.split("\n\n").map(|paragraph| {
        paragraph
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    });
    let wrong = paragraphs.next().unwrap_or_default();
    let wrong = wrong.strip_prefix("error: ").unwrap_or(&wrong);
    match paragraphs.find(|paragraph| paragraph.starts_with("tip: ")) {
        Some(tip) => format!("{wrong}; {tip}"),
        None => format!("{wrong}; see bmapfs --help"),
    }
}

fn mount(matches: &ArgMatches) -> Result<Command> {
    let settings = options::resolve(&words(matches)?, Unknown::Refuse)?;
    let mut typed = sources::typed(matches);
    let mountpoint = typed.pop();
    let (Some(mountpoint), false) = (mountpoint, typed.is_empty()) else {
        let missing = match mountpoint {
            None => "SRC and MOUNTPOINT are missing",
            Some(_) => "MOUNTPOINT is missing",
        };
        return Err(Failure::usage(format!("{missing}; see bmapfs --help")));
    };
    let sources = sources::all(&typed, &settings)?;
    let config = mount_config(mountpoint, sources, settings)?;
    let request = MountRequest {
        config,
        namespace: None,
        fake: false,
        announcements: Vec::new(),
    };
    Ok(Command::Mount(Box::new(request)))
}

fn run(matches: &ArgMatches) -> Result<Command> {
    let settings = options::resolve(&words(matches)?, Unknown::Refuse)?;
    let (shrunk, strict) = (settings.shrunk, settings.strict);
    let command: Vec<OsString> = matches
        .get_many("CMD")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if command.is_empty() {
        return Err(Failure::usage(
            "CMD is missing: it stands behind --, as in bmapfs run SRC -- CMD",
        ));
    }
    let typed = sources::typed(matches);
    let domain = sources::domain(matches, &typed, &settings)?;
    let sources = match &domain {
        Some(_) => Vec::new(),
        None => sources::all(&typed, &settings)?,
    };
    Ok(Command::Run(Box::new(RunConfig {
        mount: MountConfig {
            sources,
            ..config_at(PathBuf::new(), settings)
        },
        domain,
        shrunk,
        strict,
        report: named_file(matches, "report")?,
        command,
    })))
}

fn scan(matches: &ArgMatches) -> Result<Command> {
    // There is always an index.
    let mut all = vec![Word::flag("--index", "index", None)];
    all.extend(words(matches)?);
    let settings = options::resolve(&all, Unknown::Refuse)?.not_for_run()?;
    if settings.volume.writable {
        return Err(Failure::usage("write: a scan never writes"));
    }
    let typed = sources::typed(matches);
    let domain = sources::domain(matches, &typed, &settings)?;
    let sources = match &domain {
        Some(_) => Vec::new(),
        None => sources::all(&typed, &settings)?,
    };
    let bmap = named_file(matches, "bmap")?;
    if bmap.is_some() && sources.len() > 1 {
        return Err(sources::one_only("--bmap", sources.len()));
    }
    if let (Some(_), Some(domain)) = (&bmap, &domain) {
        return Err(Failure::usage(format!(
            "{}: --bmap has no meaning for a domain",
            domain.shown()
        )));
    }
    let mut index = settings.index.unwrap_or_default();
    let dry_run = matches.get_flag("dry-run");
    if bmap.is_some() {
        if dry_run && index.changes.map.is_some() {
            return Err(Failure::usage(
                "--bmap and --dry-run with --changed exclude each other; nothing is read then",
            ));
        }
        // The map is made of what is read.
        index.rescan = true;
    }
    Ok(Command::Scan(Box::new(ScanConfig {
        sources,
        domain,
        volume: settings.volume,
        index,
        threads: settings.threads,
        verbosity: settings.verbosity,
        dry_run,
        bmap,
        report: named_file(matches, "report")?,
        list: matches.get_flag("verbose"),
        json: matches.get_flag("json"),
    })))
}

fn check(matches: &ArgMatches) -> Result<Command> {
    let directories = matches.get_many::<OsString>("DIR").into_iter().flatten();
    directories
        .map(|directory| absolute(directory))
        .collect::<Result<_>>()
        .map(Command::Check)
}

fn completions(shell: Option<&OsStr>) -> Result<Command> {
    let shell = shell.map(OsStr::to_string_lossy).unwrap_or_default();
    let Ok(shell) = Shell::from_str(&shell, false) else {
        let known: Vec<_> = Shell::value_variants()
            .iter()
            .map(ToString::to_string)
            .collect();
        let known = known.join(", ");
        return Err(Failure::usage(format!(
            "--completions '{shell}': no such shell; there are {known}"
        )));
    };
    let mut script = Vec::new();
    let mut command = definition::command()
        .subcommand(definition::run().name("run"))
        .subcommand(definition::scan().name("scan"))
        .subcommand(definition::sums().name("sums"))
        .subcommand(definition::verify().name("verify"));
    clap_complete::generate(shell, &mut command, "bmapfs", &mut script);
    let script = String::from_utf8(script).or_fail(Status::Internal, || "writing completions")?;
    Ok(Command::Print(script))
}

fn mount_config(
    mountpoint: &OsStr,
    sources: Vec<SourceConfig>,
    settings: options::Settings,
) -> Result<MountConfig> {
    let settings = settings.not_for_run()?;
    if mountpoint.is_empty() {
        return Err(empty("MOUNTPOINT"));
    }
    Ok(MountConfig {
        sources,
        ..config_at(absolute(mountpoint)?, settings)
    })
}

fn config_at(mountpoint: PathBuf, settings: options::Settings) -> MountConfig {
    MountConfig {
        sources: Vec::new(),
        mountpoint,
        volume: settings.volume,
        typed: settings.typed,
        index: settings.index,
        kernel: settings.kernel,
        threads: settings.threads,
        foreground: settings.foreground,
        verbosity: settings.verbosity,
    }
}

/// All options in the order in which they were typed, flags and the words of every `-o` alike.
pub fn words(matches: &ArgMatches) -> Result<Vec<Word>> {
    let mut words = Vec::new();
    for flag in definition::FLAGS {
        if !matches.try_contains_id(flag.word).is_ok_and(|there| there) {
            continue;
        }
        let spelling = flag.spelling();
        if flag.value.is_none() {
            if matches.get_flag(flag.word) {
                let at = matches.indices_of(flag.word).into_iter().flatten().last();
                words.push((at, vec![Word::flag(&spelling, flag.word, None)]));
            }
            continue;
        }
        let values = matches
            .get_many::<OsString>(flag.word)
            .into_iter()
            .flatten();
        for (at, value) in matches
            .indices_of(flag.word)
            .into_iter()
            .flatten()
            .zip(values)
        {
            words.push((
                Some(at),
                // Of a value that may be left out, nothing behind the equals sign is none.
                vec![Word::flag(
                    &spelling,
                    flag.word,
                    Some(value.as_os_str())
                        .filter(|value| !value.is_empty() || flag.optional == Optional::No),
                )],
            ));
        }
    }
    let lists = matches
        .get_many::<OsString>("options")
        .into_iter()
        .flatten();
    for (at, list) in matches
        .indices_of("options")
        .into_iter()
        .flatten()
        .zip(lists)
    {
        words.push((Some(at), Word::list(list)?));
    }
    words.sort_by_key(|(at, _)| *at);
    Ok(words.into_iter().flat_map(|(_, words)| words).collect())
}

/// A path argument, which clap has made sure is there; an empty one would silently mean the current directory.
fn given<'a>(matches: &'a ArgMatches, id: &str) -> Result<&'a OsStr> {
    let value = matches
        .get_one::<OsString>(id)
        .map(OsString::as_os_str)
        .unwrap_or_default();
    if value.is_empty() {
        Err(empty(id))
    } else {
        Ok(value)
    }
}

fn empty(id: &str) -> Failure {
    Failure::usage(format!("{id} is empty: it must name a file"))
}

/// The file that an option names and that is replaced as a whole, if it is given.
fn named_file(matches: &ArgMatches, id: &str) -> Result<Option<PathBuf>> {
    match matches.get_one::<OsString>(id) {
        None => Ok(None),
        Some(file) if file == "-" => Err(Failure::usage(format!(
            "--{id} -: it does not go to stdout; name a file"
        ))),
        Some(_) => absolute(given(matches, id)?).map(Some),
    }
}

fn path(matches: &ArgMatches, id: &str) -> Option<PathBuf> {
    matches.get_one::<OsString>(id).map(PathBuf::from)
}

/// A daemon's directory is `/`, so a relative path must be made absolute here. Symbolic links stay.
fn absolute(path: &OsStr) -> Result<PathBuf> {
    let path = Path::new(path);
    std::path::absolute(path).or_fail(Status::System, || {
        format!("finding the current directory, for {}", path.display())
    })
}

#[cfg(test)]
mod tests;
