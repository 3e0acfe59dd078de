//! The disks of a libvirt domain at one moment, as files (promise P35): libvirt's pull-mode backup of one that runs, the
//! images of one that is off.
//!
//! libvirt and QEMU's NBD server are talked to by their own programs, so that nothing of them is needed to build bmapfs.
//! This room knows no blocks, and of an index only which state it is of.
//!
//! Invariant: what is begun here is ended here, whatever happens, by [`Domain::end`] or when it is dropped: job, servers,
//! scratch files. A checkpoint of ours is there exactly as long as an index is of its state. What a bmapfs that was
//! killed has left is removed by the next, which tells by a lock that nobody uses it.

mod definition;
mod export;
mod job;
mod place;
mod programs;
mod qcow2;
mod virsh;
mod xml;

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use crate::changes::ChangeMap;
use crate::config::DomainConfig;
use crate::exit::{Failure, Result, Status};
use crate::geometry::Span;
use crate::image::Behind;

use definition::{Definition, DiskDefinition};
use export::{Export, serve_image};
use job::Job;
use place::Place;
use programs::{NBDFUSE, NBDINFO, QEMU_NBD, Server, VIRSH};
use virsh::Virsh;

/// Gives the name of the state that the index of the disk with a target is of; `None`: of none that has a name. An error says
/// why that cannot be told now.
type StateOf = Box<dyn Fn(&str) -> std::result::Result<Option<String>, String>>;

/// What the indexes of a domain's disks are of.
pub(crate) struct Indexes {
    /// The same for all runs that use the same indexes, and no others.
    pub(crate) tag: String,
    pub(crate) state: StateOf,
}

impl fmt::Debug for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indexes")
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

impl Indexes {
    /// The checkpoint that the disk's index is of, if it is among those that are `there`. Otherwise everything is read, and
    /// a line says why.
    fn known_state(&self, shown: &str, target: &str, there: &[String]) -> Option<String> {
        let why = match (self.state)(target) {
            Ok(Some(name)) if there.contains(&name) => return Some(name),
            Ok(Some(name)) => format!("the checkpoint {name} is gone"),
            // There is no index, or it is of no moment of the domain.
            Ok(None) => return None,
            Err(why) => format!("what changed cannot be told: {why}"),
        };
        log::warn!("{shown}/{target}: {why}: everything is read");
        None
    }
}

/// A disk that can be read.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) target: String,
    pub(crate) content: Content,
    /// What was written since a state that has this name.
    pub(crate) written: Option<(String, ChangeMap)>,
    /// The name of the state that it is in.
    pub(crate) state: Option<String>,
    /// The file of an export that all of it is in.
    pub(crate) behind: Option<Behind>,
}

/// Where a disk's bytes are.
#[derive(Debug)]
pub(crate) enum Content {
    /// In a file or device of the host's.
    Image(PathBuf),
    /// In a file that an NBD server is behind, and that nobody can write; these parts read as zeros.
    Export(PathBuf, Vec<Span>),
}

/// A domain whose disks are read.
#[derive(Debug)]
pub(crate) struct Domain {
    /// As in `libvirt:web`.
    shown: String,
    virsh: Virsh,
    definition: Definition,
    /// Those that are read.
    disks: Vec<DiskDefinition>,
    indexes: Option<Indexes>,
    /// The checkpoints that it had in the beginning; asked for if there are to be indexes.
    checkpoints: Vec<String>,
    /// Ended before what they rest on.
    servers: Vec<Server>,
    job: Option<Job>,
    place: Place,
}

impl Domain {
    /// Finds it, and removes what a bmapfs that was killed has left of it. `indexes`: if there are to be any.
    pub(crate) fn find(config: &DomainConfig, indexes: Option<Indexes>) -> Result<Self> {
        for program in [VIRSH, NBDINFO, NBDFUSE] {
            program.look_for()?;
        }
        let shown = format!("libvirt:{}", config.name);
        let fails = |why: String| Failure::new(Status::MountFailed, format!("{shown}: {why}"));
        let mut virsh = Virsh::new(&config.connect, &config.name);
        if !virsh.is_session() && !geteuid().is_root() {
            let why = format!(
                "only root can read the disks of {}: of an ordinary user it needs --connect qemu:///session",
                config.connect
            );
            return Err(fails(why));
        }
        let definition = virsh.definition().map_err(fails)?;
        if definition.name != config.name {
            let why = format!(
                "that is the number of the domain {}: use its name",
                definition.name
            );
            return Err(fails(why));
        }
        virsh.is(&definition.uuid);
        let place = Place::take(&definition.uuid).map_err(fails)?;
        if let Some(id) = &definition.id {
            job::sweep(&virsh, id).map_err(fails)?;
        }
        let checkpoints = match &indexes {
            Some(_) => virsh.checkpoints().map_err(fails)?,
            None => Vec::new(),
        };
        let disks = choose(&shown, &definition, config.target.as_deref())?;
        let is_plain = |disk: &DiskDefinition| disk.path().is_none_or(|path| disk.is_as_in(path));
        let needs_server = |disk: &DiskDefinition| definition.id.is_none() && !is_plain(disk);
        if disks.iter().any(needs_server) {
            QEMU_NBD.look_for()?;
        }
        Ok(Self {
            shown,
            virsh,
            definition,
            disks,
            indexes,
            checkpoints,
            servers: Vec::new(),
            job: None,
            place,
        })
    }

    /// Whether anything can write its disks.
    pub(crate) fn runs(&self) -> bool {
        self.definition.id.is_some()
    }

    /// Whether libvirt says that it is off.
    pub(crate) fn is_off_now(&self) -> bool {
        self.virsh.definition().is_ok_and(|now| now.id.is_none())
    }

    /// What has its guest agent freeze its file systems, and what has it thaw them; each with its name.
    pub(crate) fn agent(&self) -> [(String, Command); 2] {
        ["domfsfreeze", "domfsthaw"].map(|word| {
            let mut command = self.virsh.command(word);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            (format!("{}: virsh {word}", self.shown), command)
        })
    }

    /// The moment, if it runs: from now on what is read is what its disks have now.
    pub(crate) fn begin(&mut self) -> Result<()> {
        let Some(id) = &self.definition.id else {
            return Ok(());
        };
        let job = Job::begin(
            &self.virsh,
            &self.shown,
            id,
            &self.disks,
            self.indexes
                .as_ref()
                .map(|indexes| (indexes, self.checkpoints.as_slice())),
            &self.place,
        );
        self.job = Some(job.map_err(|why| self.failed(&why))?);
        Ok(())
    }

    /// Makes its disks readable.
    pub(crate) fn disks(&mut self) -> Result<Vec<Disk>> {
        let disks = self.disks.clone();
        disks
            .iter()
            .map(|disk| self.disk(disk).map_err(|why| self.failed(&why)))
            .collect()
    }

    fn disk(&mut self, disk: &DiskDefinition) -> std::result::Result<Disk, String> {
        if let Some(job) = &self.job {
            let since = job.since(&disk.target);
            let state = job
                .checkpoint()
                .filter(|_| disk.keeps_bitmaps())
                .map(str::to_owned);
            let export = Export::new(job.socket(), &disk.target);
            return self.show(
                disk,
                &export,
                since.map(|since| (since, job::BITMAP)),
                state,
            );
        }
        let file = disk.file(|pool, name| self.virsh.volume(pool, name));
        let file = file.map_err(|why| {
            let target = &disk.target;
            format!(
                "{target}: while it is off this disk cannot be read: {why}: start it, or name its other disks, as {}/TARGET",
                self.shown
            )
        })?;
        if disk.is_as_in(&file) {
            return Ok(Disk {
                target: disk.target.clone(),
                content: Content::Image(file),
                written: None,
                state: None,
                behind: None,
            });
        }
        let indexes = self.indexes.as_ref().filter(|_| disk.keeps_bitmaps());
        let since = indexes
            .and_then(|indexes| indexes.known_state(&self.shown, &disk.target, &self.checkpoints));
        let since = since.filter(|_| {
            let alone = qcow2::rests_on_nothing(&file);
            if !alone {
                let (shown, target) = (&self.shown, &disk.target);
                log::warn!(
                    "{shown}/{target}: its image rests on another one, and no bitmap tells of both: everything is read"
                );
            }
            alone
        });
        // Only an index remembers it.
        let behind = indexes.and_then(|_| qcow2::behind(&file, disk.format()));
        let serve = |bitmap| {
            serve_image(
                &file,
                disk.format(),
                bitmap,
                self.place.path(),
                &disk.target,
            )
        };
        let (server, export, since) = match since {
            None => serve(None).map(|(server, export)| (server, export, None)),
            Some(since) => match serve(Some(&since)) {
                Ok((server, export)) => Ok((server, export, Some(since))),
                Err(why) => {
                    log::warn!("{}/{}: {why}: everything is read", self.shown, disk.target);
                    serve(None).map(|(server, export)| (server, export, None))
                }
            },
        }?;
        let behind = behind.filter(|behind| server.has_open(behind.file()));
        self.servers.push(server);
        let bitmap = since.clone().unwrap_or_default();
        let mut shown = self.show(
            disk,
            &export,
            since.map(|since| (since, bitmap.as_str())),
            None,
        )?;
        // If nothing was written since, it is still in that state. Else in one that has no name: of an image that is put
        // back the bitmap would not name what was written after the copy was made.
        let quiet =
            |(since, written): &(String, ChangeMap)| written.is_empty().then(|| since.clone());
        shown.state = shown.written.as_ref().and_then(quiet);
        shown.behind = behind;
        Ok(shown)
    }

    /// `since`: the name of a state, and of the bitmap that tells what was written from then on.
    fn show(
        &mut self,
        disk: &DiskDefinition,
        export: &Export,
        since: Option<(String, &str)>,
        state: Option<String>,
    ) -> std::result::Result<Disk, String> {
        let target = &disk.target;
        let shown = format!("{}/{target}", self.shown);
        let written = since.and_then(|(since, bitmap)| match export.written(bitmap) {
            Ok(map) => Some((since, map)),
            Err(why) => {
                log::warn!("{shown}: what changed cannot be told: {why}: everything is read");
                None
            }
        });
        let zeros = export.zeros().unwrap_or_else(|why| {
            log::debug!("{shown}: where it has holes cannot be told: {why}");
            Vec::new()
        });
        let (server, file) = export.show(self.place.path(), target)?;
        self.servers.push(server);
        Ok(Disk {
            target: target.clone(),
            content: Content::Export(file, zeros),
            written,
            state,
            behind: None,
        })
    }

    /// Its definition, to define it again elsewhere.
    pub(crate) fn definition(&self) -> Result<String> {
        self.virsh.inactive().map_err(|why| self.failed(&why))
    }

    /// Ends all that was begun. Nobody may read its disks any more, and the indexes must be saved by now.
    pub(crate) fn end(&mut self) {
        while let Some(server) = self.servers.pop() {
            drop(server);
        }
        let job = self.job.take();
        let over = job.is_none_or(|job| job.end(&self.virsh, &self.shown));
        // During a job libvirt deletes no checkpoint.
        if let Some(indexes) = self.indexes.take().filter(|_| over) {
            let targets = self
                .definition
                .disks
                .iter()
                .map(|disk| disk.target.as_str());
            job::drop_checkpoints(&self.virsh, &self.shown, &indexes, targets);
        }
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(Status::MountFailed, format!("{}: {why}", self.shown))
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a command of [`Domain::agent`] failed, with these words, because there is no agent: libvirt has asked nobody.
pub(crate) fn lacks_agent(why: &str) -> bool {
    let without = ["not configured", "not connected"];
    without
        .iter()
        .any(|word| why.ends_with(&format!("QEMU guest agent is {word}")))
}

/// Those that are read: all that can be, or the one that was asked for.
fn choose(
    shown: &str,
    definition: &Definition,
    target: Option<&str>,
) -> Result<Vec<DiskDefinition>> {
    let fails = |why: &str| Failure::new(Status::MountFailed, format!("{shown}: {why}"));
    let mut chosen = Vec::new();
    for disk in &definition.disks {
        let asked = target.is_none_or(|target| target == disk.target);
        match disk.left_out() {
            // In one moment with the others only if no other domain has it: a backup must not lack it by chance.
            None if disk.shareable && target.is_none() => log::info!(
                "{shown}: {0} is left out: other domains may write it: it is read as {shown}/{0}",
                disk.target
            ),
            None if asked => chosen.push(disk.clone()),
            Some(why) if asked && target.is_some() => {
                return Err(fails(&format!(
                    "{} is {why}: it is not backed up",
                    disk.target
                )));
            }
            Some(why) if asked => log::info!("{shown}: {} is left out: {why}", disk.target),
            _ => {}
        }
    }
    match (chosen.is_empty(), target) {
        (false, _) => Ok(chosen),
        (true, Some(target)) => Err(fails(&format!("it has no disk {target}"))),
        (true, None) => Err(fails("it has no disk to back up")),
    }
}
