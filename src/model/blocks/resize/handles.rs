//! The requests to what is open.

use super::expect::{File, TemporaryPlace};
use super::world::{World, text};
use super::{Len, Name};
use crate::volume::inode::Inode;
use crate::volume::testing::Read as _;
use crate::volume::{Allocate, Create, Errno, Handle, Result, Volume};

/// A handle as a client and the model know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    handle: Handle,
    inode: Inode,
    /// What was opened.
    file: File,
    write: bool,
    /// Of a temporary file that is a block now: it was used since.
    went_on: bool,
}

impl World {
    pub(super) fn client(&self, number: u8) -> Option<usize> {
        (!self.clients.is_empty()).then(|| usize::from(number) % self.clients.len())
    }

    /// What the handle is of now. Of a temporary file that was renamed over a block, the block; an error if it
    /// was cut off before the handle was used there.
    pub(super) fn target(&mut self, client: usize) -> Result<File> {
        let Client { file, went_on, .. } = self.clients[client];
        let File::Temporary(number) = file else {
            return Ok(file);
        };
        let TemporaryPlace::Block(block) = self.model.temporary[number].place else {
            return Ok(file);
        };
        if !went_on && !self.model.has(block) {
            return Err(Errno::ENOENT);
        }
        if !went_on && self.clients[client].write {
            self.model.lengths.opened(block);
        }
        self.clients[client].went_on = true;
        Ok(File::Block(block))
    }

    fn push(&mut self, handle: Handle, inode: Inode, file: File, write: bool) {
        self.clients.push(Client {
            handle,
            inode,
            file,
            write,
            went_on: false,
        });
        if self.clients.len() > 8 {
            self.release(0);
        }
    }

    pub(super) fn create(&mut self, name: Name, exclusive: bool, truncate: bool, write: bool) {
        let create = Create {
            mode: 0o600,
            exclusive,
            truncate,
            write,
            ..Create::default()
        };
        let made = self.blocks.create(Inode::Root, &text(name), &create);
        let expected = match self.model.find(name) {
            Ok(_) if exclusive => Err(Errno::EEXIST),
            Ok(file) => {
                self.model.opened(file, write);
                let truncated = if truncate {
                    self.model.truncate(file, 0)
                } else {
                    Ok(())
                };
                if truncated.is_err() {
                    self.model.closed(file, write);
                }
                truncated.map(|()| file)
            }
            Err(_) => self.model.create(name).inspect(|file| {
                self.model.opened(*file, write);
                if let File::Block(block) = file {
                    self.model.lengths.cut(*block, 0);
                }
            }),
        };
        assert_eq!(made.map(|_| ()), expected.map(|_| ()), "create {name:?}");
        if let (Ok((entry, handle)), Ok(file)) = (made, expected) {
            self.push(handle, entry.attr.inode, file, write);
        }
    }

    pub(super) fn open(&mut self, name: Name, write: bool) {
        let found = self.blocks.lookup(Inode::Root, &text(name));
        if let (Ok(found), Ok(file)) = (found, self.model.find(name)) {
            let handle = self.blocks.open(found.attr.inode, write).unwrap();
            self.model.opened(file, write);
            self.push(handle, found.attr.inode, file, write);
        }
    }

    pub(super) fn truncate_open(&mut self, handle: u8, len: Len) {
        let Some(client) = self.client(handle) else {
            return;
        };
        let inode = self.clients[client].inode;
        let file = match self.clients[client].file {
            File::Temporary(number) => match self.model.temporary[number].place {
                TemporaryPlace::Block(block) => File::Block(block),
                _ => File::Temporary(number),
            },
            file @ File::Block(_) => file,
        };
        let size = self.bytes(len);
        self.change_size(inode, file, size);
    }

    pub(super) fn write(&mut self, handle: u8, offset: Len, len: Len, fill: u8) {
        let (Some(client), offset, len) =
            (self.client(handle), self.bytes(offset), self.bytes(len))
        else {
            return;
        };
        // Not past the end of a whole block: that is asked of mounts without --resize elsewhere.
        if len == 0 || offset >= self.model.setup.block {
            return;
        }
        let data = vec![fill; len];
        let Client { handle, write, .. } = self.clients[client];
        let written = self.blocks.write(handle, offset as u64, &data);
        let expected = self.target(client).and_then(|file| {
            if write {
                self.model.write(file, offset, &data)
            } else {
                Err(Errno::EBADF)
            }
        });
        assert_eq!(written, expected, "{:?}", self.clients[client]);
    }

    pub(super) fn read(&mut self, handle: u8, offset: Len, len: Len) {
        let (Some(client), offset, len) =
            (self.client(handle), self.bytes(offset), self.bytes(len))
        else {
            return;
        };
        let mut out = vec![0xAA; len];
        let handle = self.clients[client].handle;
        let got = self.blocks.read(handle, offset as u64, &mut out, true);
        match self.target(client) {
            Ok(file) => assert!(out[..got.unwrap()] == *self.model.read(file, offset, len)),
            Err(e) => assert_eq!(got, Err(e)),
        }
    }

    pub(super) fn zero(&mut self, handle: u8, offset: Len, len: Len, keep_size: bool) {
        let (Some(client), offset, len) =
            (self.client(handle), self.bytes(offset), self.bytes(len))
        else {
            return;
        };
        let Client { handle, write, .. } = self.clients[client];
        // The kernel refuses it for others.
        if !write || len == 0 {
            return;
        }
        let zeroed =
            self.blocks
                .allocate(handle, Allocate::Zero, keep_size, offset as u64, len as u64);
        let expected = self
            .target(client)
            .and_then(|file| self.model.zero(file, offset, len, keep_size));
        assert_eq!(zeroed, expected);
    }

    pub(super) fn reserve(&mut self, handle: u8, end: Len) {
        let (Some(client), end) = (self.client(handle), self.bytes(end)) else {
            return;
        };
        let Client { handle, write, .. } = self.clients[client];
        // The kernel refuses it for others.
        if !write || end == 0 {
            return;
        }
        let reserved = self
            .blocks
            .allocate(handle, Allocate::Reserve, false, 0, end as u64);
        let expected = self
            .target(client)
            .and_then(|file| self.model.reserve(file, end));
        assert_eq!(reserved, expected);
    }

    pub(super) fn release(&mut self, number: u8) {
        let Some(client) = self.client(number) else {
            return;
        };
        let Client {
            handle,
            file,
            write,
            went_on,
            ..
        } = self.clients.remove(client);
        self.blocks.release(handle);
        if let (File::Temporary(number), true) = (file, went_on) {
            if let TemporaryPlace::Block(block) = self.model.temporary[number].place {
                self.model.closed(File::Block(block), write);
            }
        }
        self.model.closed(file, write);
    }
}
