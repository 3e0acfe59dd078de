//! Files, links, locks and disks that are in the way.

use super::lock::PATIENCE;
use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

fn open(path: &Path) -> Result<FileStore, StoreError> {
    FileStore::open(path, None)
}

fn refusal(path: &Path) -> Refused {
    match open(path) {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{}: {other:?}", path.display()),
    }
}

fn place_of(store: &FileStore) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    store
        .load()
        .unwrap()?
        .input
        .read_to_end(&mut bytes)
        .unwrap();
    Some(bytes.strip_prefix(&MAGIC)?.to_owned())
}

fn save(store: &FileStore, bytes: &[u8]) -> io::Result<()> {
    store.save(
        &mut |out| out.write_all(&[&MAGIC, bytes].concat()),
        &mut |_| Ok(b"!".to_vec()),
    )
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
    let store = open(&path).unwrap();
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
    let store = open(&directory.path().join("index")).unwrap();
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
    let _first = open(&path).unwrap();
    let start = Instant::now();
    let second = open(&path);
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
    let first = open(&path).unwrap();
    let noted = |ceiling, size| Noted { ceiling, size };
    first.note(noted(77, Some(4096))).unwrap();
    first.ending();
    let start = Instant::now();
    let waiting = thread::spawn(move || open(&path));
    thread::sleep(PATIENCE + Duration::from_millis(700));
    save(&first, b"last").unwrap();
    drop(first);
    let second = waiting.join().unwrap().unwrap();
    assert!(start.elapsed() > PATIENCE);
    assert_eq!(place_of(&second).unwrap(), b"last!");
    assert_eq!(
        second.noted(),
        Some(noted(77, Some(4096))),
        "the note outlives its writer"
    );
    second.note(noted(5, None)).unwrap();
    assert_eq!(second.noted(), Some(noted(5, None)));
}

#[test]
fn p21_a_link_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for target in ["there", "dangling"] {
        let (link, target) = (directory.path().join(target), elsewhere.path().join(target));
        if target.ends_with("there") {
            std::fs::write(&target, MAGIC).unwrap();
        }
        symlink(&target, &link).unwrap();
        save(&open(&link).unwrap(), b"new").unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), target);
        assert_eq!(place_of(&open(&target).unwrap()).unwrap(), b"new!");
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
        (circle, libc::ELOOP),
    ] {
        match open(&path) {
            Err(StoreError::Io(e)) => assert_eq!(e.raw_os_error(), Some(errno), "{e}"),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    for path in [
        directory.path(),
        Path::new("/"),
        &directory.path().join(".."),
    ] {
        assert_eq!(refusal(path), Refused::Kind("a directory"));
    }
}

#[test]
fn p21_only_an_index_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let lock = directory.path().join("index.lock");
    std::fs::write(&path, b"a letter").unwrap();
    assert_eq!(refusal(&path), Refused::Foreign);
    assert_eq!(names(directory.path()), ["index"], "nothing is made");
    std::fs::write(&lock, b"").unwrap();
    assert_eq!(
        refusal(&path),
        Refused::Foreign,
        "an empty lock file says nothing"
    );
    std::fs::write(&lock, b"a letter").unwrap();
    for content in [&b""[..], &MAGIC] {
        std::fs::write(&path, content).unwrap();
        let why = Box::new(Refused::ForeignLock);
        assert_eq!(refusal(&path), Refused::Lock("index.lock".to_owned(), why));
        assert_eq!(std::fs::read(&lock).unwrap(), b"a letter");
    }
    std::fs::write(&path, b"damaged").unwrap();
    std::fs::write(&lock, b"1 using 1700000000\n").unwrap();
    let store = open(&path).unwrap();
    save(&store, b"new").unwrap();
    assert_eq!(place_of(&store).unwrap(), b"new!");
    drop(store);
    std::fs::remove_file(&lock).unwrap();
    for content in [&b""[..], b"bmapfs index 99\nof a later version"] {
        std::fs::write(&path, content).unwrap();
        std::fs::remove_file(&lock).ok();
        save(&open(&path).unwrap(), b"new").unwrap();
    }
}

#[test]
fn p21_the_image_is_never_replaced_by_any_name() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    // Empty, so that its content says nothing.
    let file = File::create(&image).unwrap();
    let id = FileId::of(&file.metadata().unwrap());
    std::fs::hard_link(&image, directory.path().join("hard")).unwrap();
    std::fs::hard_link(&image, directory.path().join("a.lock")).unwrap();
    symlink("image", directory.path().join("link")).unwrap();
    let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let opened = |path: &Path| match FileStore::open(path, Some(id)) {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{}: {other:?}", path.display()),
    };
    for name in ["image", "hard", "link"] {
        assert_eq!(opened(&directory.path().join(name)), Refused::Source);
    }
    assert_eq!(opened(Path::new(&descriptor)), Refused::Source);
    let lock = Refused::Lock("a.lock".to_owned(), Box::new(Refused::Source));
    assert_eq!(opened(&directory.path().join("a")), lock);
    // Nor for the name of its temporary file.
    let store = FileStore::open(&directory.path().join("b"), Some(id)).unwrap();
    let temporary = Temporary::make(&store.spot).unwrap().name.clone();
    std::fs::hard_link(&image, directory.path().join(&temporary)).unwrap();
    save(&store, b"new").unwrap_err();
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert_eq!(file.metadata().unwrap().nlink(), 4, "no name is lost");
}

#[test]
fn p21_what_has_come_to_the_name_meanwhile_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let store = open(&path).unwrap();
    save(&store, b"one").unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"a letter").unwrap();
    let error = save(&store, b"two").unwrap_err();
    assert!(error.to_string().contains("no index"), "{error}");
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    save(&store, b"two").unwrap_err();
    std::fs::remove_file(&path).unwrap();
    symlink("elsewhere", &path).unwrap();
    save(&store, b"two").unwrap_err();
    assert_eq!(names(directory.path()), ["index", "index.lock"]);
    std::fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        save(&store, b"two").unwrap();
    }
    // An index that was put back.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, MAGIC).unwrap();
    save(&store, b"three").unwrap();
    assert_eq!(place_of(&store).unwrap(), b"three!");
}

#[test]
fn p21_a_damaged_index_is_replaced_but_not_what_comes_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    save(&open(&path).unwrap(), b"one").unwrap();
    let damage = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    damage(b"BMAPFS INDEX");
    let store = open(&path).unwrap();
    std::fs::rename(&path, directory.path().join("damaged")).unwrap();
    damage(b"a letter");
    save(&store, b"two").unwrap_err();
    std::fs::rename(directory.path().join("damaged"), &path).unwrap();
    save(&store, b"two").unwrap();
    assert_eq!(place_of(&store).unwrap(), b"two!");
}

#[test]
fn p21_links_that_others_can_make_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (open_dir, target) = (
        directory.path().join("open"),
        directory.path().join("target"),
    );
    std::fs::create_dir(&open_dir).unwrap();
    std::fs::create_dir(&target).unwrap();
    symlink("../target/index", open_dir.join("index")).unwrap();
    symlink("../target", open_dir.join("dir")).unwrap();
    let set = |mode| {
        std::fs::set_permissions(&open_dir, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let paths = [open_dir.join("index"), open_dir.join("dir/index")];
    let refused = || {
        paths
            .iter()
            .all(|path| matches!(refusal(path), Refused::Link(_)))
    };
    let followed = || paths.iter().for_each(|path| drop(open(path).unwrap()));
    for mode in [0o700, 0o755, 0o1777, 0o1775] {
        set(mode);
        followed();
    }
    for mode in [0o777, 0o770, 0o775, 0o702] {
        set(mode);
        assert!(refused(), "{mode:o}");
    }
    // A lock file that is a link never is one.
    set(0o755);
    symlink("../target/index", open_dir.join("b.lock")).unwrap();
    let why = Box::new(Refused::Kind("a symbolic link"));
    let lock = Refused::Lock("b.lock".to_owned(), why);
    assert_eq!(refusal(&open_dir.join("b")), lock);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT RUN (needs root): a link of another user");
        return;
    }
    let other = |path: &Path| std::os::unix::fs::lchown(path, Some(1000), Some(1000)).unwrap();
    other(&open_dir.join("index"));
    other(&open_dir.join("dir"));
    set(0o755);
    followed();
    for mode in [0o1777, 0o1775] {
        set(mode);
        assert!(refused(), "{mode:o}");
    }
    // The directory's owner may.
    other(&open_dir);
    followed();
    assert_eq!(names(&target), ["index.lock"]);
}

#[test]
fn p21_what_a_save_that_was_killed_has_left_goes_with_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let left = |store: &FileStore| {
        let temporary = Temporary::make(&store.spot).unwrap();
        std::mem::forget(temporary);
    };
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    let store = open(&one).unwrap();
    left(&store);
    drop(store);
    let saving = open(&other).unwrap();
    left(&saving);
    assert_eq!(names(directory.path()).len(), 4);
    save(&open(&one).unwrap(), b"new").unwrap();
    let names = names(directory.path());
    assert_eq!(names.len(), 4, "{names:?}");
    let temporary = names.iter().find(|name| name.starts_with('.')).unwrap();
    saving.spot.remove(OsStr::new(temporary)).unwrap();
    drop(Temporary::make(&saving.spot).unwrap());
}

#[test]
fn a_directory_that_a_mount_would_hide_is_told_by_whatever_path() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path();
    std::fs::create_dir_all(base.join("mnt/below")).unwrap();
    std::fs::create_dir_all(base.join("beside")).unwrap();
    symlink("../mnt/below/index", base.join("beside/link")).unwrap();
    symlink("mnt", base.join("to-mnt")).unwrap();
    for (path, below) in [
        ("mnt/index", true),
        ("mnt/below/index", true),
        ("to-mnt/index", true),
        ("beside/link", true),
        ("mnt/../beside/index", false),
        ("mnt/below/../../index", false),
        ("index", false),
        ("missing/index", false),
        ("mnt", false),
    ] {
        assert_eq!(
            lies_below(&base.join(path), &base.join("mnt")),
            below,
            "{path}"
        );
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
    let store = open(&path).unwrap();
    save(&store, b"old").unwrap();
    let error = save(&store, &vec![7; 1 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(names(small.0.path()), ["index", "index.lock"]);
    assert_eq!(place_of(&store).unwrap(), b"old!");
    save(&store, b"new").unwrap();
    drop(store);
    small.mount(&["-o", "remount,ro"]);
    match open(&path) {
        Err(StoreError::Io(e)) => assert_eq!(e.raw_os_error(), Some(libc::EROFS)),
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(&path).unwrap().ends_with(b"new!"));
}
