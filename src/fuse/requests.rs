//! The kernel's requests, one a function: each asks the volume, and its answer is the reply.

use std::ffi::OsStr;
use std::path::Path;

use fuser::{
    BsdFileFlags, Errno as ReplyErrno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::kernel::{self, attr, kind, set_time, whence};
use super::{ATTR_TTL, Adapter, name_ttl};
use crate::buffer::with_scratch;
use crate::volume::{Change, Create, Errno, Handle, Result, Volume};

/// Answers with the value, or with the errno and a debug line that names the request.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $send:expr, $($what:tt)+) => {
        match $result {
            Ok($value) => {
                log::debug!($($what)+);
                $send
            }
            Err(errno) => {
                log::debug!("{}: {errno}", format_args!($($what)+));
                $reply.error(kernel::errno(errno));
            }
        }
    };
}

fn handle(fh: FileHandle) -> Handle {
    Handle(fh.0)
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        kernel::negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.ask(parent.0, |volume, parent| volume.lookup(parent, name));
        answer!(reply, found, entry => {
            let (attr_ttl, name_ttl) = (self.attr_ttl(&entry.attr), name_ttl(entry.lasting));
            let number = self.tree.number(parent.0, entry.attr.inode);
            reply.entry_with_ttls(attr_ttl, &name_ttl, &attr(number, &entry.attr), Generation(0));
        }, "lookup {name:?}");
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.ask(ino.0, Volume::attr);
        answer!(reply, found, found => reply.attr(self.attr_ttl(&found), &attr(ino.0, &found)), "getattr {ino}");
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let changed = self.ask(ino.0, |volume, inode| volume.change(inode, &change));
        answer!(reply, changed, now => reply.attr(self.attr_ttl(&now), &attr(ino.0, &now)), "setattr {ino} {change:?}");
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let opened = self.ask(ino.0, |volume, inode| volume.open(inode, write));
        answer!(reply, opened, opened => {
            reply.opened(FileHandle(opened.0), kernel::open_flags(self.page_cache, write));
        }, "open {ino} write={write}");
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Only a read(2) that goes past the page cache has a lock owner. For the page cache, a short reply would
        // be the file's end, and the rest of the page zeros.
        let whole = lock_owner.is_none();
        let Ok(len) = usize::try_from(size) else {
            return reply.error(ReplyErrno::EINVAL);
        };
        let mut reply = Some(reply);
        let mut answer = |served: Result<&[u8]>| {
            if let Some(reply) = reply.take() {
                answer!(reply, served, bytes => reply.data(bytes), "read {ino} {size} at {offset}");
            }
        };
        let asked = self.ask(ino.0, |volume, _| {
            with_scratch(len, |out| {
                volume.read_and(handle(fh), offset, out, whole, &mut answer);
            });
            Ok(())
        });
        if let Err(errno) = asked {
            answer(Err(errno));
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.ask(ino.0, |volume, _| volume.write(handle(fh), offset, data));
        answer!(reply, written, len => {
            reply.written(u32::try_from(len).unwrap_or(0));
        }, "write {ino} {} at {offset}", data.len());
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let flushed = self.ask(ino.0, |volume, _| volume.flush(handle(fh)));
        answer!(reply, flushed, () => reply.ok(), "flush {ino}");
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let released = self.ask(ino.0, |volume, _| {
            volume.release(handle(fh));
            Ok(())
        });
        answer!(reply, released, () => reply.ok(), "release {ino}");
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let synced = self.ask(ino.0, |volume, _| volume.sync(handle(fh), datasync));
        answer!(reply, synced, () => reply.ok(), "fsync {ino} datasync={datasync}");
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let done = kernel::allocation(mode).and_then(|what| {
            self.ask(ino.0, |volume, _| {
                volume.allocate(handle(fh), what, keep_size, offset, length)
            })
        });
        answer!(reply, done, () => reply.ok(), "fallocate {ino} mode {mode} {length} at {offset}");
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        how: i32,
        reply: ReplyLseek,
    ) {
        let found = whence(how).and_then(|towards| {
            let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
            let found = self.ask(ino.0, |volume, _| volume.seek(handle(fh), offset, towards))?;
            i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
        });
        answer!(reply, found, found => reply.offset(found), "lseek {ino} {offset} whence {how}");
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.begin_listing(ino.0, move |opened| {
            answer!(reply, opened, opened => {
                reply.opened(FileHandle(opened.0), FopenFlags::empty());
            }, "opendir {ino}");
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.ask(ino.0, |volume, _| {
            volume.list(handle(fh), offset, &mut |listed| {
                let number = INodeNo(self.tree.number_listed(ino.0, listed));
                let kind = kind(listed.entry.attr.kind);
                !reply.add(number, listed.next, kind, listed.name)
            })
        });
        answer!(reply, listed, () => reply.ok(), "readdir {ino} from {offset}");
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.ask(ino.0, |volume, _| {
            volume.list(handle(fh), offset, &mut |listed| {
                let number = self.tree.number_listed(ino.0, listed);
                let found = attr(number, &listed.entry.attr);
                // One lifetime for both in this call: the attributes', unless the name's is shorter.
                let attr_ttl = *self.attr_ttl(&listed.entry.attr);
                let ttl = attr_ttl.min(name_ttl(listed.entry.lasting));
                !reply.add(
                    found.ino,
                    listed.next,
                    listed.name,
                    &ttl,
                    &found,
                    Generation(0),
                )
            })
        });
        answer!(reply, listed, () => reply.ok(), "readdirplus {ino} from {offset}");
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let released = self.ask(ino.0, |volume, _| {
            volume.release_directory(handle(fh));
            Ok(())
        });
        answer!(reply, released, () => reply.ok(), "releasedir");
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const UNIT: u32 = 4096;
        answer!(reply, self.gate.pass(|| Ok(self.tree.root().space())), space => {
            let units = space.bytes.div_ceil(u64::from(UNIT));
            reply.statfs(units, 0, 0, space.files, 0, UNIT, 255, UNIT);
        }, "statfs");
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let write = OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY;
        let create = Create {
            mode: mode & !umask,
            uid: request.uid(),
            gid: request.gid(),
            exclusive: flags & libc::O_EXCL != 0,
            truncate: flags & libc::O_TRUNC != 0,
            write,
        };
        let created = self.ask(parent.0, |volume, parent| {
            volume.create(parent, name, &create)
        });
        answer!(reply, created, (entry, opened) => {
            // One lifetime for name and attributes; staged names have none.
            let ttl = ATTR_TTL.min(name_ttl(entry.lasting));
            let flags = kernel::open_flags(self.page_cache, write);
            let number = self.tree.number(parent.0, entry.attr.inode);
            reply.created(&ttl, &attr(number, &entry.attr), Generation(0), FileHandle(opened.0), flags);
        }, "create {name:?} {create:?}");
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.ask(parent.0, |volume, parent| volume.remove(parent, name));
        answer!(reply, removed, () => reply.ok(), "unlink {name:?}");
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = kernel::rename_replaces(flags).and_then(|replace| {
            self.ask(parent.0, |volume, _| {
                if parent != newparent {
                    // mv(1) copies then.
                    return Err(Errno::EXDEV);
                }
                volume.rename(name, newname, replace)
            })
        });
        answer!(reply, renamed, () => reply.ok(), "rename {name:?} to {newname:?}");
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(kernel::errno(self.tree.root().refuse()));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(kernel::errno(self.tree.root().refuse()));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(kernel::errno(self.tree.root().refuse()));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(kernel::errno(self.tree.root().refuse()));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(kernel::errno(self.tree.root().refuse()));
    }

    // Extended attributes, ioctls and poll: the kernel remembers ENOSYS and does not ask again, as it would for
    // security.capability at each write.

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(ReplyErrno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(ReplyErrno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        // None, and not "not supported", of which tar and getfattr would warn for each file.
        if size == 0 {
            reply.size(0);
        } else {
            reply.data(&[]);
        }
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(ReplyErrno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(ReplyErrno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(ReplyErrno::ENOSYS);
    }
}
