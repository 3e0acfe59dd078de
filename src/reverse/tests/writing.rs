//! Writing block files: private copies, new files, locks, many at once.

use super::*;
use crate::volume::testing::Read as _;

#[test]
fn a_block_with_two_names_is_copied_before_it_is_written() {
    let (place, image) = backup(2);
    let other = directory();
    for index in 0..3 {
        fs::hard_link(file(&place, index), file(&other, index)).unwrap();
    }
    fs::set_permissions(file(&place, 1), Permissions::from_mode(0o604)).unwrap();
    let reverse = open(&place, true, false);
    let handle = image_of(&reverse, true);
    // Open for reading first: the reader must come to see the copy.
    assert_eq!(read_all(&reverse).unwrap(), image);
    assert_eq!(reverse.write(handle, 4100, b"new"), Ok(3));
    let mut expected = image.clone();
    expected[4100..4103].copy_from_slice(b"new");
    assert_eq!(read_all(&reverse).unwrap(), expected);
    let stat = |place, index| fs::metadata(file(place, index)).unwrap();
    assert_eq!(stat(&place, 1).nlink(), 1);
    assert_eq!(stat(&place, 1).mode() & 0o7777, 0o604);
    assert_eq!(stat(&place, 0).nlink(), 2, "not written, not copied");
    // Linked while it is open for writing.
    fs::hard_link(file(&place, 1), file(&other, 11)).unwrap();
    assert_eq!(
        reverse.allocate(handle, Allocate::Zero, false, 4096, 4096),
        Ok(())
    );
    assert_eq!(
        reverse.allocate(handle, Allocate::Zero, false, 8192, 7),
        Ok(())
    );
    assert_eq!(reverse.sync(handle, false), Ok(()));
    assert_eq!(fs::read(file(&other, 11)).unwrap(), &expected[4096..8192]);
    expected[4096..8199].fill(0);
    assert_eq!(read_all(&reverse).unwrap(), expected);
    reverse.close().unwrap();
    for (index, part) in image.chunks(BLOCK).enumerate() {
        assert_eq!(fs::read(file(&other, index)).unwrap(), part, "{index}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
}

#[test]
fn missing_blocks_are_zeros_until_they_are_written() {
    let (place, mut image) = backup(6);
    for index in [2, 3, 5] {
        fs::remove_file(file(&place, index)).unwrap();
        image[index * BLOCK..(index + 1) * BLOCK].fill(0);
    }
    let said = Reverse::open(&config(&place, false, false), Arc::new(TestClock::new(1)))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("block 00000002 is missing and 2 more"),
        "{said}"
    );
    let reverse = open(&place, true, true);
    assert_eq!(read_all(&reverse).unwrap(), image);
    let handle = image_of(&reverse, true);
    let seek = |at: usize, how| {
        reverse
            .seek(handle, at as u64, how)
            .map(|at| at / BLOCK as u64)
    };
    assert_eq!(seek(0, Seek::Hole), Ok(2));
    assert_eq!(seek(2 * BLOCK, Seek::Data), Ok(4));
    assert_eq!(seek(5 * BLOCK, Seek::Hole), Ok(5));
    // Zeros need no file.
    assert_eq!(
        reverse.write(handle, 2 * 4096, &[0; 2 * BLOCK]),
        Ok(2 * BLOCK)
    );
    assert_eq!(
        reverse.allocate(handle, Allocate::Zero, false, 8192, 8192),
        Ok(())
    );
    assert!(!file(&place, 2).exists());
    assert_eq!(reverse.present(), 4);
    assert_eq!(reverse.write(handle, 3 * 4096 + 7, b"x"), Ok(1));
    image[3 * BLOCK + 7] = b'x';
    assert_eq!(read_all(&reverse).unwrap(), image);
    let made = fs::metadata(file(&place, 3)).unwrap();
    assert_eq!((made.len(), reverse.present()), (BLOCK as u64, 5));
    // One that somebody else makes under the mount is not believed, and not lost.
    fs::write(file(&place, 5), b"theirs").unwrap();
    assert_eq!(reverse.write(handle, 5 * 4096, b"x"), Err(Errno::EIO));
    assert_eq!(fs::read(file(&place, 5)).unwrap(), b"theirs");
}

#[test]
fn two_writers_exclude_each_other_and_leftovers_go() {
    let (place, _) = backup(1);
    let leftover = place.path().join(".00000001.bmapfs-new");
    fs::write(&leftover, b"half").unwrap();
    let reader = open(&place, false, false);
    assert!(leftover.exists());
    let refused = Reverse::open(&config(&place, true, false), Arc::new(TestClock::new(1)));
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("holds an flock on it") && said.ends_with("-o force"),
        "{said}"
    );
    drop(reader);
    let writer = open(&place, true, false);
    assert!(!leftover.exists());
    // A reader is warned only.
    let reader = open(&place, false, false);
    drop((reader, writer));
}

#[test]
fn more_blocks_than_may_be_open_lose_nothing() {
    let (place, mut image) = backup(20);
    let reverse =
        Reverse::open_keeping(3, &config(&place, true, false), Arc::new(TestClock::new(1)))
            .unwrap();
    let handle = image_of(&reverse, true);
    for round in 0..3_u8 {
        for index in 0..20 {
            let at = index * BLOCK + usize::from(round);
            image[at] = round;
            assert_eq!(reverse.write(handle, at as u64, &[round]), Ok(1));
        }
    }
    assert!(reverse.dirty.pending().len() <= 3, "the others are durable");
    assert_eq!(read_all(&reverse).unwrap(), image);
    reverse.close().unwrap();
    assert_eq!(reverse.dirty.pending(), []);
}

#[test]
fn readers_and_writers_of_many_blocks_at_once() {
    let (place, image) = backup(40);
    let other = directory();
    for index in 0..41 {
        fs::hard_link(file(&place, index), file(&other, index)).unwrap();
    }
    let reverse =
        Reverse::open_keeping(4, &config(&place, true, false), Arc::new(TestClock::new(1)))
            .unwrap();
    // Each thread has every fourth byte of each block.
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let reverse = &reverse;
            scope.spawn(move || {
                let handle = image_of(reverse, true);
                for index in 0..40 {
                    let index = (index + thread * 3) % 40;
                    for byte in 0..16 {
                        let at = (index * BLOCK + byte * 4 + thread) as u64;
                        let mark = u8::try_from(thread + 1).unwrap();
                        assert_eq!(reverse.write(handle, at, &[mark]), Ok(1));
                        let mut seen = [0];
                        assert_eq!(reverse.read(handle, at, &mut seen, true), Ok(1));
                        assert_eq!(seen[0], mark, "own write at {at}");
                    }
                }
                reverse.sync(handle, true).unwrap();
            });
        }
    });
    let mut expected = image.clone();
    for index in 0..40 {
        for byte in 0..64 {
            expected[index * BLOCK + byte] = u8::try_from(byte % 4 + 1).unwrap();
        }
    }
    assert_eq!(read_all(&reverse).unwrap(), expected);
    for (index, part) in image.chunks(BLOCK).enumerate() {
        assert_eq!(
            fs::read(file(&other, index)).unwrap(),
            part,
            "version {index}"
        );
    }
}

#[test]
fn a_failed_sync_is_told_to_every_handle_that_wrote() {
    let (place, _) = backup(2);
    let reverse = open(&place, true, false);
    let [first, second, idle] = [0; 3].map(|_| image_of(&reverse, true));
    reverse.write(first, 0, b"x").unwrap();
    reverse.write(second, 4096, b"x").unwrap();
    reverse.sync_errors.note();
    assert_eq!(reverse.flush(first), Err(Errno::EIO), "at each close");
    assert_eq!(reverse.sync(first, false), Err(Errno::EIO));
    assert_eq!(reverse.sync(first, false), Ok(()), "once");
    assert_eq!(reverse.sync(second, false), Err(Errno::EIO));
    assert_eq!(reverse.sync(idle, false), Ok(()));
}
