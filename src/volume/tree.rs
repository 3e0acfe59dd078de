//! What is mounted: one volume; or several, each in a directory of its own, below a directory of their names (promise P33).
//!
//! Invariant: an inode's number tells which volume it is of. It depends on the volume's name and on what the volume shows,
//! not on which others there are, since restic and borg know files by it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::inode::Inode;
use super::top::{Entry, Top};
use super::{Errno, Listed, Result, Volume};
use crate::clock::Clock;
use crate::config::OwnerConfig;

/// The low bits of a number are the inode of a volume, those above them tell which.
const LOW_BITS: u32 = 36;
const LOW: u64 = (1 << LOW_BITS) - 1;
/// Which volume an inode is of, from 1 up; 0 is what is mounted itself. Some programs take numbers for signed ones.
const KEYS: u64 = 1 << (63 - LOW_BITS);

/// One of several volumes, and where it is.
#[derive(Debug)]
pub(crate) struct Member {
    /// The directory's name.
    pub(crate) name: OsString,
    /// What is in it, by a path or another name that stays the same from run to run.
    pub(crate) identity: OsString,
    pub(crate) volume: Arc<dyn Volume>,
}

/// All that is mounted.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Arc<dyn Volume>,
    /// By the high bits of their inodes. None: what is mounted is one volume.
    members: BTreeMap<u64, Arc<dyn Volume>>,
}

impl Tree {
    /// One volume, whose root is the mount's.
    pub(crate) fn one(volume: Arc<dyn Volume>) -> Self {
        Self {
            root: volume,
            members: BTreeMap::new(),
        }
    }

    /// Volumes of different names, each in a directory.
    pub(crate) fn named(members: Vec<Member>, owner: OwnerConfig, clock: Arc<dyn Clock>) -> Self {
        let mut keyed = BTreeMap::new();
        let mut entries = Vec::new();
        for Member {
            name,
            identity,
            volume,
        } in members
        {
            // If two of them have the same, which is one case in thousands of mounts, one moves.
            let mut key = key(&name, &identity);
            while keyed.contains_key(&key) {
                key = key % (KEYS - 1) + 1;
            }
            keyed.insert(key, Arc::clone(&volume));
            entries.push(Entry { name, key, volume });
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            root: Arc::new(Top::new(entries, owner, clock)),
            members: keyed,
        }
    }

    /// The volume whose root is the mount's.
    pub(crate) fn root(&self) -> &dyn Volume {
        self.root.as_ref()
    }

    /// Whether anything may be changed.
    pub(crate) fn is_writable(&self) -> bool {
        self.root.is_writable()
    }

    /// Which volume the inode of this number is of, and which it is there. ENOENT: there is none.
    pub(crate) fn find(&self, number: u64) -> Result<(&Arc<dyn Volume>, Inode)> {
        let (key, low) = self.split(number);
        let volume = match key {
            0 => Some(&self.root),
            _ => self.members.get(&key),
        };
        volume.zip(Inode::from_number(low)).ok_or(Errno::ENOENT)
    }

    /// The number of an inode that the volume of the inode `asked` has told of.
    pub(crate) fn number(&self, asked: u64, inode: Inode) -> u64 {
        match (self.split(asked).0, inode) {
            _ if self.members.is_empty() => inode.number(),
            (0, Inode::Other(key)) => (key << LOW_BITS) | Inode::Root.number(),
            // Past the bound nothing is found, after so many temporary files as nobody makes.
            (key, inode) => (key << LOW_BITS) | inode.number().min(LOW),
        }
    }

    /// The number of what is in the directory `asked`.
    pub(crate) fn number_listed(&self, asked: u64, listed: &Listed<'_>) -> u64 {
        if listed.name == ".." {
            Inode::Root.number()
        } else {
            self.number(asked, listed.entry.attr.inode)
        }
    }

    /// Which volume, and the inode's number there.
    fn split(&self, number: u64) -> (u64, u64) {
        if self.members.is_empty() {
            (0, number)
        } else {
            (number >> LOW_BITS, number & LOW)
        }
    }
}

/// The key of a volume, always the same.
fn key(name: &OsStr, identity: &OsStr) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes());
    // Which no name has.
    hasher.update(b"/");
    hasher.update(identity.as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u64::from(u32::from_le_bytes([a, b, c, d])) % (KEYS - 1) + 1
}

#[cfg(test)]
mod tests;
