use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use super::*;

const KNOWN: KnownBlock = KnownBlock {
    digest: [1; 32],
    stamp: 100,
    latest: 120,
};

#[test]
fn p28_only_what_the_next_copy_would_skip_is_damaged() {
    for (same, time, verdict) in [
        (true, 100, Verdict::Right),
        (false, 100, Verdict::Damaged),
        (true, 98, Verdict::Older),
        (true, 102, Verdict::Older),
        (true, 122, Verdict::Older),
        (false, 98, Verdict::Older),
        // A client has set the time back: the file is of before that.
        (false, 120, Verdict::Older),
        (false, 121, Verdict::Newer),
    ] {
        assert_eq!(Verdict::of(&KNOWN, same, time), verdict, "{same} {time}");
    }
}

#[test]
fn verdicts_survive_the_way_through_a_number() {
    for number in 0..7 {
        let verdict = Verdict::from_number(number).unwrap();
        assert_eq!(verdict as u8, number);
    }
    assert_eq!(Verdict::from_number(7), None);
}

#[test]
fn p28_another_block_size_is_known_only_where_it_is_certain() {
    let k4 = BlockSize::MIN;
    // Lengths by block number; the index has 4 blocks of 4K and one of 100 bytes.
    for (files, other) in [
        (&[(0, 8192), (1, 8192), (2, 100)][..], Some("8K")),
        (&[(0, 32_768)], Some("32K")),
        (&[(0, 8192), (1, 8192)], Some("8K")),
        (&[(0, 4096), (1, 4096)], None),
        // Cut short, or longer than it should be.
        (&[(0, 100), (1, 4096)], None),
        (&[(0, 8192), (1, 4096), (2, 4096)], None),
        (&[(0, 8192), (1, 8192), (2, 8193)], None),
        (&[(1, 8192), (2, 8192)], None),
        (&[], None),
    ] {
        let place = tempfile::tempdir().unwrap();
        for (number, len) in files {
            let name = BlockIndex::new(*number).unwrap().to_string();
            std::fs::write(place.path().join(name), vec![0; *len]).unwrap();
        }
        let directory = Directory::open(place.path()).unwrap();
        let blocks: Vec<_> = files
            .iter()
            .map(|(number, _)| BlockIndex::new(*number).unwrap())
            .collect();
        let geometry = Geometry::new(4 * 4096 + 100, k4).unwrap();
        let found = other_block_size(&directory, &blocks, geometry);
        assert_eq!(
            found.map(|size| size.to_string()).as_deref(),
            other,
            "{files:?}"
        );
        // The image is shorter than a block by now, and the backup is of before.
        let geometry = Geometry::new(100, k4).unwrap();
        let found = other_block_size(&directory, &blocks, geometry);
        assert_ne!(found, Some(k4), "{files:?}");
    }
    // Smaller blocks are more than the image has.
    let place = tempfile::tempdir().unwrap();
    let blocks: Vec<_> = (0..4).filter_map(BlockIndex::new).collect();
    for block in &blocks {
        std::fs::write(place.path().join(block.to_string()), [0; 4096]).unwrap();
    }
    let directory = Directory::open(place.path()).unwrap();
    let geometry = |size| Geometry::new(size, BlockSize::DEFAULT).unwrap();
    let found = other_block_size(&directory, &blocks, geometry(4 * 4096));
    assert_eq!(found, Some(k4));
    let only = other_block_size(&directory, &blocks[..2], geometry(4096));
    assert_eq!(
        only, None,
        "all of an image that became short, and a surplus file"
    );
    let cut = other_block_size(&directory, &blocks, geometry(4 << 22));
    assert_eq!(cut, None);
}

#[test]
fn p28_errors_of_the_connection_are_not_damage() {
    for (number, of_the_file) in [
        (libc::EIO, true),
        (libc::EUCLEAN, true),
        (libc::ELOOP, true),
        (libc::ENOSPC, true),
        (libc::EDQUOT, true),
        (libc::EACCES, false),
        (libc::ENOTCONN, false),
        (libc::ESTALE, false),
        (libc::EMFILE, false),
        (libc::ENOMEM, false),
        (libc::ENOENT, false),
    ] {
        let error = io::Error::from_raw_os_error(number);
        assert_eq!(tells_of_the_file(&error), of_the_file, "{error}");
    }
}

#[test]
fn p28_a_file_that_is_copied_just_now_is_not_damaged() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("00000000");
    let (old, new) = (vec![1; 1 << 20], vec![2; 1 << 20]);
    let at = |seconds| {
        FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    };
    let copy = |file: &File, content: &[u8], seconds| {
        file.write_all_at(content, 0).unwrap();
        file.set_times(at(seconds)).unwrap();
    };
    let file = File::create(&path).unwrap();
    copy(&file, &old, 100);
    let geometry = Geometry::new(1 << 20, BlockSize::DEFAULT).unwrap();
    let known = Known::of(geometry, &[(*blake3::hash(&old).as_bytes(), 100)]);
    let request = Request {
        known: &known,
        backup: place.path(),
        sparse: false,
        part: Part::ALL,
    };
    let (block, end) = (geometry.last().unwrap(), AtomicBool::new(false));
    thread::scope(|scope| {
        // As rsync --inplace does, again and again.
        scope.spawn(|| {
            while !end.load(Relaxed) {
                copy(&file, &new, 102);
                copy(&file, &old, 100);
            }
        });
        let verification = Verification::begin(request).unwrap();
        let mut seen = Vec::new();
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(500) {
            seen.push(verification.look_at(block, &Tally::default()).ok());
        }
        end.store(true, Relaxed);
        let wrong = |verdict: &Option<_>| matches!(verdict, None | Some(Verdict::Damaged));
        assert!(!seen.is_empty() && !seen.iter().any(wrong), "{seen:?}");
    });
}
