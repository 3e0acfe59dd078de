//! The backup job of a domain that runs, and the checkpoints that are made with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Indexes;
use super::definition::DiskDefinition;
use super::place::{Place, Scratch, domain_directory};
use super::virsh::Virsh;
use super::xml::quoted;

/// What the bitmap of an export is called.
pub(super) const BITMAP: &str = "bmapfs";

/// The socket of a job of ours, in a directory that is the domain's own.
const SOCKET: &str = "bmapfs.sock";

/// How long a job may take to end.
const ENDS: Duration = Duration::from_secs(60);

/// Between two looks at one that ends.
const TICK: Duration = Duration::from_millis(20);

/// A job that has begun.
#[derive(Debug)]
pub(super) struct Job {
    socket: PathBuf,
    checkpoint: Option<String>,
    /// By target: the checkpoints that the bitmaps begin with.
    since: Vec<(String, String)>,
    _scratch: Scratch,
}

/// What a job is asked for.
struct Asked<'a> {
    virsh: &'a Virsh,
    disks: &'a [DiskDefinition],
    place: &'a Place,
    scratch: &'a Scratch,
    socket: &'a Path,
}

impl Job {
    /// Begins one of all `disks`. `indexes`: with the checkpoints that the domain has. What was written since a checkpoint is
    /// told if the index is of it; if libvirt cannot, all is read, and if it can make no checkpoint there is none.
    pub(super) fn begin(
        virsh: &Virsh,
        shown: &str,
        id: &str,
        disks: &[DiskDefinition],
        indexes: Option<(&Indexes, &[String])>,
        place: &Place,
    ) -> Result<Self, String> {
        let scratch = Scratch::make(place)?;
        let socket = domain_directory(id)?.join(SOCKET);
        // Of a QEMU that was killed.
        let _ = std::fs::remove_file(&socket);
        let mut since = Vec::new();
        for disk in disks {
            if indexes.is_some() && !disk.keeps_bitmaps() {
                let target = &disk.target;
                log::info!(
                    "{shown}/{target}: of such a disk nobody can tell what changed: it is read in full"
                );
                continue;
            }
            let known = indexes
                .and_then(|(indexes, there)| indexes.known_state(shown, &disk.target, there));
            since.extend(known.map(|name| (disk.target.clone(), name)));
        }
        let keeps = disks.iter().any(DiskDefinition::keeps_bitmaps);
        let new = indexes
            .filter(|_| keeps)
            .map(|(indexes, there)| new_name(indexes, there));
        let asked = Asked {
            virsh,
            disks,
            place,
            scratch: &scratch,
            socket: &socket,
        };
        let (mut checkpoint, mut begun) = (new, Err(String::new()));
        if !since.is_empty() {
            begun = asked.attempt(checkpoint.as_deref(), &since);
            if let Err(why) = &begun {
                log::warn!("{shown}: what changed cannot be told: {why}: everything is read");
            }
        }
        if begun.is_err() {
            since.clear();
            begun = asked.attempt(checkpoint.as_deref(), &since);
        }
        if let (Err(why), Some(_)) = (&begun, &checkpoint) {
            let why = why.clone();
            checkpoint = None;
            begun = asked.attempt(None, &since);
            if begun.is_ok() {
                log::warn!(
                    "{shown}: no checkpoint can be made: {why}: the next run reads everything"
                );
            }
        }
        begun?;
        Ok(Self {
            socket,
            checkpoint,
            since,
            _scratch: scratch,
        })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn checkpoint(&self) -> Option<&str> {
        self.checkpoint.as_deref()
    }

    /// The checkpoint since which the disk's bitmap tells what was written.
    pub(super) fn since(&self, target: &str) -> Option<String> {
        let mut each = self.since.iter();
        each.find(|(of, _)| of == target)
            .map(|(_, name)| name.clone())
    }

    /// Ends it. Its scratch files are gone after that. `false`: it may be there still; that was told.
    pub(super) fn end(self, virsh: &Virsh, shown: &str) -> bool {
        match virsh.job() {
            Ok(job) if !is_on(job.as_deref(), &self.socket) => {
                log::warn!(
                    "{shown}: its backup job ended before bmapfs ended it: the domain was shut down, or somebody ended the job"
                );
                true
            }
            // Also if that cannot be told: libvirt may just have been started again.
            _ => {
                let ended = abort(virsh);
                if let Err(why) = &ended {
                    log::error!(
                        "{shown}: its backup job cannot be ended: {why}: the next run ends it, or virsh domjobabort"
                    );
                }
                ended.is_ok()
            }
        }
    }
}

impl Asked<'_> {
    fn attempt(&self, checkpoint: Option<&str>, since: &[(String, String)]) -> Result<(), String> {
        let place = self.place.path();
        let write = |name: &str, text: String| {
            let file = place.join(name);
            std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
            Ok::<_, String>(file)
        };
        let backup = write("backup.xml", self.backup(since)?)?;
        let checkpoint = checkpoint.map(|name| write("checkpoint.xml", self.checkpoint(name)));
        let begun = self
            .virsh
            .begin(&backup, checkpoint.transpose()?.as_deref());
        let job = begun.as_ref().err().and_then(|_| self.virsh.job().ok()?);
        if is_on(job.as_deref(), self.socket) {
            // It has begun, and the answer was lost.
            abort(self.virsh)?;
        }
        begun
    }

    fn backup(&self, since: &[(String, String)]) -> Result<String, String> {
        let each = self.disks.iter().map(|disk| {
            let target = quoted(&disk.target);
            let since = since.iter().find(|(of, _)| *of == disk.target);
            let mode = match since {
                Some((_, name)) => {
                    let name = quoted(name);
                    format!("backupmode='incremental' incremental='{name}' exportbitmap='{BITMAP}'")
                }
                None => "backupmode='full'".to_owned(),
            };
            let scratch = quoted(&text(&self.scratch.file(&disk.target))?);
            Ok(format!(
                "<disk name='{target}' backup='yes' type='file' {mode} exportname='{target}'>\
                 <scratch file='{scratch}'/></disk>"
            ))
        });
        let each = each.collect::<Result<String, String>>()?;
        let socket = quoted(&text(self.socket)?);
        Ok(format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{socket}'/><disks>{each}</disks></domainbackup>"
        ))
    }

    fn checkpoint(&self, name: &str) -> String {
        let each = self.disks.iter().map(|disk| {
            let kind = if disk.keeps_bitmaps() { "bitmap" } else { "no" };
            format!(
                "<disk name='{}' checkpoint='{kind}'/>",
                quoted(&disk.target)
            )
        });
        let (name, each) = (quoted(name), each.collect::<String>());
        format!("<domaincheckpoint><name>{name}</name><disks>{each}</disks></domaincheckpoint>")
    }
}

fn text(path: &Path) -> Result<String, String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{}: libvirt takes no such name", path.display()))
}

/// Whether a domain's job, by its socket, is the one on `ours`.
fn is_on(job: Option<&str>, ours: &Path) -> bool {
    job.is_some_and(|socket| Path::new(socket) == ours)
}

/// Ends a job that a bmapfs of this user's that was killed has left, of the domain with this number, which runs. An error:
/// the domain has another, or that cannot be told.
pub(super) fn sweep(virsh: &Virsh, id: &str) -> Result<(), String> {
    let job = virsh.job()?;
    // Another user's may be at work: only that user's lock tells.
    let ours = domain_directory(id).map(|directory| directory.join(SOCKET));
    if ours.is_ok_and(|ours| is_on(job.as_deref(), &ours)) {
        log::debug!("ending the job of a bmapfs that was killed");
        return abort(virsh);
    }
    if job.is_some() {
        return Err("it has another backup job: wait for its end".to_owned());
    }
    match virsh.other_work()? {
        Some(work) => Err(format!(
            "it is busy with something else ({work}): wait for its end"
        )),
        None => Ok(()),
    }
}

/// Ends the domain's job, and waits for that.
fn abort(virsh: &Virsh) -> Result<(), String> {
    virsh.abort()?;
    let until = Instant::now() + ENDS;
    while virsh.job()?.is_some() {
        if Instant::now() > until {
            return Err("it does not end".to_owned());
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// The name of all checkpoints that are made for these indexes begins so.
fn beginning(indexes: &Indexes) -> String {
    format!("bmapfs-{}-", indexes.tag)
}

/// One that is not among those `there`.
fn new_name(indexes: &Indexes, there: &[String]) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut number = now.as_millis();
    loop {
        let name = format!("{}{number}", beginning(indexes));
        if !there.contains(&name) {
            return name;
        }
        number += 1;
    }
}

/// Deletes the checkpoints of ours that no index is of. In doubt they stay.
pub(super) fn drop_checkpoints<'a>(
    virsh: &Virsh,
    shown: &str,
    indexes: &Indexes,
    targets: impl Iterator<Item = &'a str>,
) {
    let states: Result<Vec<_>, _> = targets.map(|target| (indexes.state)(target)).collect();
    let (states, there) = match states.and_then(|states| Ok((states, virsh.checkpoints()?))) {
        Ok(known) => known,
        Err(why) => {
            log::warn!("{shown}: its checkpoints stay until the next run: {why}");
            return;
        }
    };
    let ours = beginning(indexes);
    let of_an_index = |name: &String| states.iter().flatten().any(|state| state == name);
    for name in there
        .iter()
        .filter(|name| name.starts_with(&ours) && !of_an_index(name))
    {
        let Err(why) = virsh.delete_checkpoint(name, false) else {
            continue;
        };
        if virsh.definition().is_ok_and(|now| now.id.is_none()) {
            log::info!("{shown}: the checkpoint {name} stays until the next run: {why}");
        } else if let Err(why) = virsh.delete_checkpoint(name, true) {
            log::warn!("{shown}: the checkpoint {name} cannot be deleted: {why}");
        } else {
            log::info!(
                "{shown}: the checkpoint {name} is deleted, but not all bitmaps of this name: {why}"
            );
        }
    }
}
