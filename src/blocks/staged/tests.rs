//! Staged files: their names, their memory, and who waits for whom.

use std::sync::mpsc::channel;
use std::thread::Scope;

use nix::unistd::gettid;

use super::*;

#[test]
fn p12_a_temporary_name_holds_the_eight_digits_of_its_block() {
    for (name, block) in [
        (".00000005.Ab12Cd", Some(5)),
        ("00000005.abc.partial", Some(5)),
        (".00000005.123456", Some(5)),
        ("x00000007", Some(7)),
        ("00000005", None),
        (".000000055.x", None),
        (".0000005.x", None),
        ("tmp.1234", None),
        ("", None),
    ] {
        let found = Staging::block_in(OsStr::new(name)).map(BlockIndex::get);
        assert_eq!(found, block, "{name}");
    }
}

#[test]
fn p12_memory_is_bounded_and_comes_back() {
    let staging = Staging::new(Arc::new(Budget::new(100)));
    let create = Create::default();
    let one = staging
        .create(OsStr::new("a.00000001"), 80, 0, &create)
        .unwrap();
    let two = staging
        .create(OsStr::new("a.00000002"), 80, 0, &create)
        .unwrap();
    assert_eq!(staging.resize(&mut one.lock(), 81), Err(Errno::EFBIG));
    assert_eq!(staging.resize(&mut one.lock(), 80), Ok(()));
    assert_eq!(staging.resize(&mut two.lock(), 21), Err(Errno::ENOSPC));
    assert_eq!(staging.resize(&mut two.lock(), 20), Ok(()));
    one.opened();
    staging.take(OsStr::new("a.00000001"), StagedPlace::Removed);
    assert_eq!(
        staging.resize(&mut two.lock(), 21),
        Err(Errno::ENOSPC),
        "it is still open"
    );
    staging.closed(&one);
    assert_eq!(staging.resize(&mut two.lock(), 80), Ok(()));
    assert_eq!(staging.leftovers(), (vec![OsString::from("a.00000002")], 2));
}

/// Starts `work` on a thread of its own and waits until that waits for a lock.
fn waits<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) {
    let (tell, told) = channel();
    scope.spawn(move || {
        tell.send(gettid()).unwrap();
        work();
    });
    let place = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
    let futex = format!("{} ", libc::SYS_futex);
    while !std::fs::read_to_string(&place).unwrap().starts_with(&futex) {
        std::thread::yield_now();
    }
}

#[test]
fn nobody_waits_for_the_names_while_one_file_is_written_to_its_block() {
    let staging = Staging::new(Arc::new(Budget::new(100)));
    let name = OsStr::new("a.00000001");
    let file = staging.create(name, 80, 0, &Create::default()).unwrap();
    file.opened();
    std::thread::scope(|scope| {
        let written = file.lock();
        waits(scope, || staging.closed(&file));
        assert!(staging.files.try_write().is_ok(), "a handle is closed");
        waits(scope, || drop(staging.from(0)));
        assert!(staging.files.try_write().is_ok(), "a listing");
        drop(written);
    });
    assert_eq!(file.lock().handles, 0);
}

#[test]
fn p12_what_is_opened_while_its_last_handle_is_closed_stays() {
    let staging = Staging::new(Arc::new(Budget::new(100)));
    let name = OsStr::new("a.00000001");
    let file = staging.create(name, 80, 0, &Create::default()).unwrap();
    file.opened();
    staging.resize(&mut file.lock(), 80).unwrap();
    staging.take(name, StagedPlace::Removed);
    std::thread::scope(|scope| {
        let names = staging.files.read().unwrap();
        waits(scope, || staging.closed(&file));
        assert_eq!(file.lock().handles, 0);
        file.opened();
        drop(names);
    });
    assert_eq!(file.lock().content.len(), 80);
    assert!(staging.numbered(file.id).is_some());
    staging.closed(&file);
    assert_eq!(staging.memory.used(), 0);
    assert!(staging.numbered(file.id).is_none());
}

#[test]
fn p12_what_is_held_is_counted_not_what_is_used_of_it() {
    const MOST: u64 = 10_000;
    let staging = Staging::new(Arc::new(Budget::new(15_000)));
    let create = Create::default();
    let [one, two] = ["a.00000001", "a.00000002"].map(|name| {
        let made = staging.create(OsStr::new(name), MOST, 0, &create);
        made.unwrap()
    });
    let check = || {
        let held = one.lock().content.capacity() + two.lock().content.capacity();
        assert_eq!(held as u64, staging.memory.used());
    };
    for len in (100..=MOST).step_by(100) {
        assert_eq!(staging.resize(&mut one.lock(), len), Ok(()));
        check();
    }
    // To the last byte, although twice as much would not fit.
    for len in (100..=5000).step_by(100) {
        assert_eq!(staging.resize(&mut two.lock(), len), Ok(()));
        check();
    }
    assert_eq!(staging.resize(&mut two.lock(), 5001), Err(Errno::ENOSPC));
    assert_eq!(staging.resize(&mut one.lock(), 7), Ok(()));
    check();
    staging.take(OsStr::new("a.00000001"), StagedPlace::Removed);
    staging.take(OsStr::new("a.00000002"), StagedPlace::Removed);
    assert_eq!(staging.memory.used(), 0);
}
