//! The FUSE adapter: turns the kernel's requests into calls on a [`Volume`] and its answers into replies.
//!
//! No decision about blocks is made here. With `session` the only place that names fuser.

mod convert;
mod gate;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use fuser::{FopenFlags, INodeNo, InitFlags, KernelConfig};

use crate::volume::inode::Inode;
use crate::volume::{Errno, Handle, Result, Volume};

pub(crate) use gate::Gate;

/// How long the kernel may keep attributes: stamps change only with what is written.
const ATTR_TTL: Duration = Duration::from_secs(1);
/// How long it may keep a block's name: it stands for the same block for ever.
const NAME_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest write request, in bytes. The kernel's own limit is 1 MiB unless raised by sysctl.
const MAX_WRITE: u32 = 1 << 20;
/// Requests of asynchronous and direct I/O that may wait in the kernel at once.
const MAX_BACKGROUND: u16 = 64;
/// Listings that are begun on threads of their own at once; more are begun where requests are taken.
const MOST_BEGINNING: usize = 64;

/// A [`Volume`] as fuser wants it.
#[derive(Debug)]
pub(crate) struct Adapter<V: Volume> {
    volume: Arc<V>,
    gate: Arc<Gate>,
    page_cache: bool,
    /// Cloned for each listing that is being begun.
    beginning: Arc<()>,
    /// How long the kernel may keep the root's attributes.
    root_ttl: Duration,
}

impl<V: Volume> Adapter<V> {
    /// `page_cache`: let the kernel keep pages; else every read comes here. Nothing comes once `gate` is shut.
    #[must_use]
    pub(crate) fn new(volume: Arc<V>, gate: Arc<Gate>, page_cache: bool) -> Self {
        // The root's time changes with every write, and rsync looks at it when it has written all.
        let root_ttl = if volume.is_writable() {
            Duration::ZERO
        } else {
            ATTR_TTL
        };
        Self {
            volume,
            gate,
            page_cache,
            beginning: Arc::default(),
            root_ttl,
        }
    }

    /// Asks the volume, unless the gate is shut.
    fn ask<R>(&self, work: impl FnOnce(&V) -> Result<R>) -> Result<R> {
        self.gate.pass(|| work(&self.volume))
    }

    fn attr_ttl(&self, inode: Inode) -> &Duration {
        if inode == Inode::Root {
            &self.root_ttl
        } else {
            &ATTR_TTL
        }
    }

    fn open_flags(&self, write: bool) -> FopenFlags {
        if self.page_cache {
            return FopenFlags::FOPEN_KEEP_CACHE;
        }
        let direct = FopenFlags::FOPEN_DIRECT_IO;
        if write {
            direct | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        } else {
            direct | FopenFlags::FOPEN_NOFLUSH
        }
    }

    /// Opens a directory, on a thread of its own: a listing may have to wait for a second to end or for the image to be
    /// flushed, and reads go on meanwhile.
    fn begin_listing(&self, ino: INodeNo, reply: impl FnOnce(Result<Handle>) + Send + 'static) {
        let (volume, gate) = (Arc::clone(&self.volume), Arc::clone(&self.gate));
        let beginning = Arc::clone(&self.beginning);
        let work = move || {
            reply(inode(ino).and_then(|inode| gate.pass(|| volume.open_directory(inode))));
            drop(beginning);
        };
        if Arc::strong_count(&self.beginning) > MOST_BEGINNING + 1 {
            return work();
        }
        // If there can be no thread, the reply is dropped unsent, and the kernel's caller gets EIO.
        if let Err(e) = std::thread::Builder::new()
            .name("opendir".to_owned())
            .spawn(work)
        {
            log::warn!("opendir {ino}: no thread: {e}");
        }
    }
}

/// How long the kernel may keep a name.
fn name_ttl(lasting: bool) -> Duration {
    if lasting { NAME_TTL } else { Duration::ZERO }
}

fn inode(number: INodeNo) -> Result<Inode> {
    Inode::from_number(number.0).ok_or(Errno::ENOENT)
}

/// Asks the kernel for what makes reading fast; what it does not have is done without.
fn negotiate(config: &mut KernelConfig) {
    for wish in [
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        // Always, not by the kernel's guess: a walk over a million blocks is seven times as fast.
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    ] {
        if let Err(missing) = config.add_capabilities(wish) {
            log::debug!("this kernel has no {missing:?}");
        }
    }
    let limits = [
        config.set_max_write(MAX_WRITE).err(),
        config
            .set_max_background(MAX_BACKGROUND)
            .err()
            .map(u32::from),
        config
            .set_time_granularity(Duration::from_secs(1))
            .err()
            .map(|_| 1),
    ];
    if limits.iter().any(Option::is_some) {
        log::debug!("limits that were not granted: {limits:?}");
    }
}
