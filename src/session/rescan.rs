//! SIGHUP: the images of a mount are looked at again while it is served.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use super::content::{Content, Member};
use crate::blocks::Blocks;
use crate::scan::Tally;
use crate::threads;

/// A scan that SIGHUP has asked for, while the mount is served.
#[derive(Debug, Default)]
pub(super) struct Rescan(Option<(JoinHandle<()>, Arc<Tally>)>);

impl Rescan {
    pub(super) fn begin(&mut self, members: &[Member]) {
        let images = members.iter().filter_map(|member| match &member.content {
            Content::Blocks(blocks) => Some((member.path.clone(), Arc::clone(blocks))),
            Content::Reverse(_) => None,
        });
        let images: Vec<_> = images.collect();
        if images.is_empty() {
            log::info!("SIGHUP: a directory of block files is looked at only when it is mounted");
            return;
        }
        if images.iter().any(|(_, blocks)| blocks.is_snapshot()) {
            log::info!("SIGHUP: this mount shows a snapshot, which does not change");
            return;
        }
        let running = |(thread, _): &(JoinHandle<()>, _)| !thread.is_finished();
        if self.0.as_ref().is_some_and(running) {
            log::info!("SIGHUP: a scan is under way already");
            return;
        }
        let tally = Arc::new(Tally::default());
        let shared = Arc::clone(&tally);
        let started = thread::Builder::new()
            .name("rescan".to_owned())
            .spawn(move || {
                let look = |(path, blocks): &(PathBuf, Arc<Blocks>)| {
                    let path = path.display();
                    match blocks.look_again(&shared.beside()) {
                        Ok(()) => log::info!("SIGHUP: {path} was looked at again"),
                        Err(e) => log::warn!("SIGHUP: looking at {path} again: {e}"),
                    }
                };
                threads::for_each(&images, look);
            });
        match started {
            Ok(thread) => self.0 = Some((thread, tally)),
            Err(e) => log::warn!("SIGHUP: no thread: {e}"),
        }
    }

    pub(super) fn end(&mut self) {
        if let Some((thread, tally)) = self.0.take() {
            tally.cancel.store(true, Relaxed);
            // A panic in it has ended the process.
            let _ = thread.join();
        }
    }
}
