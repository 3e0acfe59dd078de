//! What is asked of libvirt, by virsh.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::definition::Definition;
use super::programs::VIRSH;
use super::xml;

/// One domain of one libvirt.
#[derive(Debug)]
pub(super) struct Virsh {
    connect: String,
    /// Its name, or its UUID once that is known: a name may look like a number.
    domain: String,
}

/// What libvirt says of a domain that has no backup job, and of one that is off.
const NO_JOB: [&str; 2] = ["no domain backup job present", "domain is not running"];

type Said<T> = Result<T, String>;

impl Virsh {
    pub(super) fn new(connect: &str, domain: &str) -> Self {
        Self {
            connect: connect.to_owned(),
            domain: domain.to_owned(),
        }
    }

    /// A command on the domain, to be run by others.
    pub(super) fn command(&self, command: &str) -> Command {
        let mut virsh = VIRSH.command();
        virsh.args(["-q", "-c", &self.connect, command]);
        virsh.arg(format!("--domain={}", self.domain));
        virsh
    }

    fn run(&self, command: &str, more: &[OsString]) -> Said<String> {
        let mut virsh = self.command(command);
        let out = VIRSH.output(virsh.args(more))?;
        String::from_utf8(out).map_err(|e| format!("virsh {command}: {e}"))
    }

    /// The domain as it is now.
    pub(super) fn definition(&self) -> Said<Definition> {
        Definition::read(&self.run("dumpxml", &[])?)
    }

    /// As it would be defined elsewhere. libvirt leaves out secrets unless it is asked for them.
    pub(super) fn inactive(&self) -> Said<String> {
        self.run("dumpxml", &["--inactive".into()])
    }

    /// Whether it is this user's own libvirt. Root's is the host's.
    pub(super) fn is_session(&self) -> bool {
        self.connect.starts_with("qemu:///session")
    }

    /// The path of a volume in a storage pool.
    pub(super) fn volume(&self, pool: &str, name: &str) -> Said<String> {
        let (pool, name) = (format!("--pool={pool}"), format!("--vol={name}"));
        let path = VIRSH.run(&["-q", "-c", &self.connect, "vol-path", &pool, &name])?;
        let path = String::from_utf8(path).map_err(|e| format!("virsh vol-path: {e}"))?;
        Ok(path.trim_end_matches('\n').to_owned())
    }

    /// From now on the domain is the one with this UUID.
    pub(super) fn is(&mut self, uuid: &str) {
        uuid.clone_into(&mut self.domain);
    }

    /// The socket of the backup job that the domain has. `None`: it has none, is off, or is not there any more.
    pub(super) fn job(&self) -> Said<Option<String>> {
        let gone = format!("failed to get domain '{}'", self.domain);
        let has_none =
            |why: &str| why.ends_with(&gone) || NO_JOB.iter().any(|none| why.contains(none));
        let text = match self.run("backup-dumpxml", &[]) {
            Err(why) if has_none(&why) => return Ok(None),
            text => text?,
        };
        let mut socket = String::new();
        xml::walk(&text, |element| {
            if element.is(&["domainbackup", "server"]) {
                socket.extend(element.attribute("socket"));
            }
        })?;
        Ok(Some(socket))
    }

    /// What else is done with the domain, which runs, such as a migration.
    pub(super) fn other_work(&self) -> Said<Option<String>> {
        let text = self.run("domjobinfo", &[])?;
        let line = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(value.trim().to_owned())
        };
        let kind = line("Job type:").unwrap_or_default();
        Ok((kind != "None").then(|| line("Operation:").unwrap_or(kind)))
    }

    pub(super) fn begin(&self, backup: &Path, checkpoint: Option<&Path>) -> Said<()> {
        let mut words = vec![backup.into()];
        words.extend(checkpoint.map(OsString::from));
        self.run("backup-begin", &words).map(|_| ())
    }

    pub(super) fn abort(&self) -> Said<()> {
        self.run("domjobabort", &[]).map(|_| ())
    }

    pub(super) fn checkpoints(&self) -> Said<Vec<String>> {
        let names = self.run("checkpoint-list", &["--name".into()])?;
        let names = names.lines().map(str::trim).filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    }

    /// Deletes a checkpoint. `record`: only what libvirt knows of it, since the bitmaps are gone.
    pub(super) fn delete_checkpoint(&self, name: &str, record: bool) -> Said<()> {
        let mut words = vec![format!("--checkpointname={name}").into()];
        words.extend(record.then(|| OsString::from("--metadata")));
        self.run("checkpoint-delete", &words).map(|_| ())
    }
}
