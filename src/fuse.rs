//! The FUSE adapter: turns the kernel's requests into calls on a [`Volume`] and its answers into replies.
//!
//! No decision about blocks is made here. `kernel` and `requests` are the only files that name fuser.

mod gate;
mod kernel;
mod requests;
mod version;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Access;
use crate::sys;
use crate::threads;
use crate::volume::inode::Inode;
use crate::volume::tree::Tree;
use crate::volume::{Attr, FileKind, Handle, Result, Volume};

pub(crate) use gate::Gate;
pub(crate) use version::kernel_version;

/// How long the kernel may keep attributes: stamps change only with what is written.
const ATTR_TTL: Duration = Duration::from_secs(1);
/// How long it may keep a block's name: it stands for the same block for ever.
const NAME_TTL: Duration = Duration::from_secs(24 * 3600);
/// Listings that are begun on threads of their own at once; more are begun where requests are taken.
const MOST_BEGINNING: usize = 64;

/// What is mounted, as fuser wants it.
#[derive(Debug)]
pub(crate) struct Adapter {
    tree: Arc<Tree>,
    gate: Arc<Gate>,
    page_cache: bool,
    /// Cloned for each listing that is being begun.
    beginning: Arc<()>,
    /// How long the kernel may keep a directory's attributes.
    directory_ttl: Duration,
}

impl Adapter {
    /// `page_cache`: let the kernel keep pages; else every read comes here. Nothing comes once `gate` is shut.
    #[must_use]
    pub(crate) fn new(tree: Arc<Tree>, gate: Arc<Gate>, page_cache: bool) -> Self {
        // A directory's time changes with every write, and rsync looks at it when it has written all.
        let directory_ttl = if tree.is_writable() {
            Duration::ZERO
        } else {
            ATTR_TTL
        };
        Self {
            tree,
            gate,
            page_cache,
            beginning: Arc::default(),
            directory_ttl,
        }
    }

    /// Connects to the kernel through `fd`, which is mounted already. What is returned serves until the connection ends,
    /// on so many `threads`.
    pub(crate) fn connect(
        self,
        fd: OwnedFd,
        access: Access,
        threads: usize,
    ) -> io::Result<impl FnOnce() -> io::Result<()> + Send> {
        // Probed now: when fuser finds out, the mount is ready and would be lost.
        let clone_fd = threads > 1 && sys::can_clone_fuse(fd.as_fd());
        kernel::connect(self, fd, access, threads, clone_fd)
    }

    /// Asks the volume that has the inode of this number, unless the gate is shut.
    fn ask<R>(&self, number: u64, work: impl FnOnce(&dyn Volume, Inode) -> Result<R>) -> Result<R> {
        let (volume, inode) = self.tree.find(number)?;
        self.gate.pass(|| work(volume.as_ref(), inode))
    }

    /// How long the kernel may keep these attributes.
    fn attr_ttl(&self, attr: &Attr) -> &Duration {
        match attr.kind {
            FileKind::Directory => &self.directory_ttl,
            FileKind::File => &ATTR_TTL,
        }
    }

    /// Opens a directory, on a thread of its own: a listing may have to wait for a second to end or for the image to be
    /// flushed, and reads go on meanwhile.
    fn begin_listing(&self, number: u64, reply: impl FnOnce(Result<Handle>) + Send + 'static) {
        let (tree, gate) = (Arc::clone(&self.tree), Arc::clone(&self.gate));
        let beginning = Arc::clone(&self.beginning);
        let work = move || {
            reply(
                tree.find(number)
                    .and_then(|(volume, inode)| gate.pass(|| volume.open_directory(inode))),
            );
            drop(beginning);
        };
        if Arc::strong_count(&self.beginning) > MOST_BEGINNING + 1 {
            return work();
        }
        threads::detach("opendir", work);
    }
}

/// How long the kernel may keep a name.
fn name_ttl(lasting: bool) -> Duration {
    if lasting { NAME_TTL } else { Duration::ZERO }
}
