//! Files, links, locks and disks that are in the way.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread;

fn place_of(store: &FileStore) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    store
        .load()
        .unwrap()?
        .input
        .read_to_end(&mut bytes)
        .unwrap();
    Some(bytes)
}

fn save(store: &FileStore, bytes: &[u8]) -> io::Result<()> {
    store.save(&mut |out| out.write_all(bytes), &mut |_| Ok(b"!".to_vec()))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn p21_what_is_saved_is_loaded_and_nobody_else_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let store = FileStore::open(&path).unwrap();
    assert_eq!(place_of(&store), None);
    save(&store, b"one").unwrap();
    save(&store, b"two").unwrap();
    assert_eq!(place_of(&store).unwrap(), b"two!");
    for name in names(directory.path()) {
        let mode = path.with_file_name(&name).metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(names(directory.path()), ["index", "index.lock"]);
}

#[test]
fn p21_a_save_that_fails_leaves_the_old_file_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::open(&directory.path().join("index")).unwrap();
    save(&store, b"old").unwrap();
    let full = || io::Error::from_raw_os_error(libc::ENOSPC);
    let early = store.save(
        &mut |out| {
            out.write_all(&vec![7; 1 << 20])?;
            Err(full())
        },
        &mut |_| Ok(Vec::new()),
    );
    let late = store.save(&mut |out| out.write_all(b"new"), &mut |_| Err(full()));
    for failed in [early, late] {
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
    assert_eq!(place_of(&store).unwrap(), b"old!");
    assert_eq!(names(directory.path()), ["index", "index.lock"]);
}

#[test]
fn p21_an_index_that_is_held_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let _first = FileStore::open(&path).unwrap();
    let start = Instant::now();
    let second = FileStore::open(&path);
    let process = std::process::id().to_string();
    match second {
        Err(StoreError::Held(holder)) => assert!(holder.contains(&process), "{holder}"),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() >= PATIENCE && start.elapsed() < 3 * PATIENCE);
}

#[test]
fn p21_a_holder_that_is_ending_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let first = FileStore::open(&path).unwrap();
    first.note_ceiling(77);
    first.ending();
    let start = Instant::now();
    let waiting = thread::spawn(move || FileStore::open(&path));
    thread::sleep(PATIENCE + Duration::from_millis(700));
    save(&first, b"last").unwrap();
    drop(first);
    let second = waiting.join().unwrap().unwrap();
    assert!(start.elapsed() > PATIENCE);
    assert_eq!(place_of(&second).unwrap(), b"last!");
    assert_eq!(
        second.noted_ceiling(),
        Some(77),
        "the note outlives its writer"
    );
    second.note_ceiling(5);
    assert_eq!(second.noted_ceiling(), Some(77), "and is never lowered");
}

#[test]
fn p21_a_link_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for target in ["there", "dangling"] {
        let (link, target) = (directory.path().join(target), elsewhere.path().join(target));
        if target.ends_with("there") {
            std::fs::write(&target, b"old").unwrap();
        }
        symlink(&target, &link).unwrap();
        let store = FileStore::open(&link).unwrap();
        save(&store, b"new").unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), target);
        assert_eq!(std::fs::read(&target).unwrap(), b"new!");
    }
    assert_eq!(names(directory.path()), ["dangling", "there"]);
}

#[test]
fn p21_what_is_no_place_for_a_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let circle = directory.path().join("circle");
    symlink(&circle, &circle).unwrap();
    for (path, errno) in [
        (directory.path().join("missing/index"), libc::ENOENT),
        (directory.path().to_owned(), libc::EISDIR),
        (circle, libc::ELOOP),
    ] {
        match FileStore::open(&path) {
            Err(StoreError::Io(e)) => assert_eq!(e.raw_os_error(), Some(errno), "{e}"),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
}

/// A file system that is gone when this is dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(&self, arguments: &[&str]) {
        let mut command = Command::new("mount");
        command.args(arguments).arg(self.0.path());
        assert!(command.status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Nothing else can be done about it here.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
#[ignore = "needs root and mounts, as make test has them"]
fn p21_a_full_or_read_only_disk_keeps_the_old_file() {
    let small = Small(tempfile::tempdir().unwrap());
    small.mount(&["-t", "tmpfs", "-o", "size=128k", "none"]);
    let path = small.0.path().join("index");
    let store = FileStore::open(&path).unwrap();
    save(&store, b"old").unwrap();
    let error = save(&store, &vec![7; 1 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(names(small.0.path()), ["index", "index.lock"]);
    assert_eq!(place_of(&store).unwrap(), b"old!");
    save(&store, b"new").unwrap();
    drop(store);
    small.mount(&["-o", "remount,ro"]);
    match FileStore::open(&path) {
        Err(StoreError::Io(e)) => assert_eq!(e.raw_os_error(), Some(libc::EROFS)),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"new!");
}
