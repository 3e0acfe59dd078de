//! The partitions beside the image, in a directory of block files.

use super::*;

/// A backup whose image has partitions 1, from byte 1536 up to 6144, and 6, from 10240 up to 20480.
fn partitioned(zeros: std::ops::Range<usize>) -> (TempDir, Vec<u8>) {
    let place = directory();
    let mut image = content(6 * BLOCK, 9);
    image[446..512].fill(0);
    boot_record(&mut image, 0, &[(0x83, 3, 9), (0x05, 14, 30)]);
    image[14 * 512..15 * 512].fill(0);
    boot_record(&mut image, 14, &[(0, 0, 0), (0x05, 3, 27)]);
    image[17 * 512..18 * 512].fill(0);
    boot_record(&mut image, 17, &[(0x83, 3, 20), (0x05, 25, 4)]);
    image[39 * 512..40 * 512].fill(0);
    boot_record(&mut image, 39, &[(0x83, 1, 4)]);
    image[zeros].fill(0);
    for (index, part) in image.chunks(BLOCK).enumerate() {
        let file = File::create(file(&place, index)).unwrap();
        file.set_len(BLOCK as u64).unwrap();
        if part.iter().any(|byte| *byte != 0) {
            fs::write(super::file(&place, index), part).unwrap();
        }
    }
    (place, image)
}

fn names(reverse: &Reverse, from: u64) -> Vec<(String, u64, u64)> {
    let root = reverse.open_directory(Inode::Root).unwrap();
    let mut seen = Vec::new();
    let mut sink = |listed: &Listed<'_>| {
        let name = listed.name.to_str().unwrap().to_owned();
        seen.push((name, listed.entry.attr.inode.number(), listed.next));
        true
    };
    reverse.list(root, from, &mut sink).unwrap();
    seen
}

#[test]
fn partitions_are_listed_and_found_by_their_numbers() {
    let (place, image) = partitioned(0..0);
    let reverse = open(&place, false, false);
    let own = |name: &str, inode, next| (name.to_owned(), inode, next);
    let expected = [
        own("image", 2, 3),
        own("image1", 3, 4),
        own("image5", 7, 5),
        own("image6", 8, 6),
    ];
    assert_eq!(names(&reverse, 2), expected);
    assert_eq!(names(&reverse, 4), expected[2..]);
    assert_eq!(names(&reverse, u64::MAX), []);
    assert_eq!((reverse.space().files, reverse.partition_count()), (5, 3));
    for name in [
        "image0",
        "image01",
        "image+1",
        "image2",
        "image-1",
        "image4294967297",
        "1",
        "imag",
    ] {
        let found = reverse.lookup(Inode::Root, OsStr::new(name));
        assert_eq!(found, Err(Errno::ENOENT), "{name}");
    }
    let image_attr = reverse.attr(Inode::from_number(2).unwrap()).unwrap();
    for (inode, place) in [(3, 1536..6144), (7, 10_240..20_480), (8, 20_480..22_528)] {
        let inode = Inode::from_number(inode).unwrap();
        let attr = reverse.attr(inode).unwrap();
        assert_eq!(attr.size, place.len() as u64);
        assert_eq!(
            (attr.stamp, attr.mode, attr.uid),
            (image_attr.stamp, image_attr.mode, image_attr.uid)
        );
        let handle = reverse.open(inode, false).unwrap();
        let mut out = vec![0; 50_000];
        assert_eq!(reverse.read(handle, 0, &mut out, true), Ok(place.len()));
        assert!(out[..place.len()] == image[place.clone()]);
        let tail = place.end - 100..place.end;
        let offset = (place.len() - 100) as u64;
        assert_eq!(reverse.read(handle, offset, &mut out, true), Ok(100));
        assert_eq!(out[..100], image[tail]);
        for past in [place.len() as u64, u64::MAX] {
            assert_eq!(reverse.read(handle, past, &mut out, true), Ok(0));
        }
    }
}

#[test]
fn a_partition_that_is_written_ends_where_it_ends() {
    let (place, image) = partitioned(0..0);
    let reverse = open(&place, true, false);
    let handle = file_of(&reverse, "image1", true);
    assert_eq!(reverse.write(handle, 4600, &[1; 100]), Ok(8));
    for past in [4608, 4609, u64::MAX] {
        assert_eq!(reverse.write(handle, past, &[1; 100]), Err(Errno::EFBIG));
        let zeroed = reverse.allocate(handle, Allocate::Zero, false, past, 1);
        assert_eq!(zeroed, Err(Errno::EFBIG));
    }
    let zeroed = reverse.allocate(handle, Allocate::Zero, false, 4000, 609);
    assert_eq!(zeroed, Err(Errno::EFBIG));
    assert_eq!(reverse.write(handle, 0, &[2; 3]), Ok(3));
    assert_eq!(reverse.sync(handle, false), Ok(()));
    let mut expected = image;
    expected[1536..1539].fill(2);
    expected[6136..6144].fill(1);
    assert!(read_all(&reverse).unwrap() == expected);
    let refused = reverse.remove(Inode::Root, OsStr::new("image1"));
    assert_eq!(refused, Err(Errno::EPERM));
    let refused = reverse.rename(OsStr::new("image1"), OsStr::new("x"), true);
    assert_eq!(refused, Err(Errno::EPERM));
    drop(reverse);

    let reverse = open(&place, false, false);
    let inode = Inode::from_number(3).unwrap();
    assert_eq!(reverse.open(inode, true), Err(Errno::EROFS));
    assert_eq!(reverse.change(inode, &Change::default()), Err(Errno::EROFS));
    let refused = reverse.remove(Inode::Root, OsStr::new("image1"));
    assert_eq!(refused, Err(Errno::EROFS));
}

#[test]
fn a_new_table_is_seen_at_the_next_mount() {
    let (place, _) = partitioned(0..0);
    let reverse = open(&place, true, false);
    let handle = file_of(&reverse, "image1", true);
    let table = image_of(&reverse, true);
    assert_eq!(reverse.write(table, 446, &[0; 64]), Ok(64));
    assert_eq!(reverse.write(handle, 0, b"still"), Ok(5));
    assert_eq!(reverse.partition_count(), 3);
    drop(reverse);
    assert_eq!(open(&place, false, false).partition_count(), 0);
}

#[test]
fn holes_and_space_are_those_of_the_partition() {
    // Blocks 3 and 4 are all hole.
    let (place, _) = partitioned(3 * BLOCK..5 * BLOCK);
    let reverse = open(&place, true, false);
    let sectors = |inode| {
        reverse
            .attr(Inode::from_number(inode).unwrap())
            .unwrap()
            .sectors
    };
    // Partition 1 has 9 sectors, in blocks 0 and 1; partition 5 has four of block 2, and holes.
    assert_eq!((sectors(2), sectors(3), sectors(7)), (32, 9, 4));
    let handle = file_of(&reverse, "image5", true);
    assert_eq!(reverse.seek(handle, 0, Seek::Data), Ok(0));
    assert_eq!(reverse.seek(handle, 0, Seek::Hole), Ok(2048));
    assert_eq!(reverse.seek(handle, 2048, Seek::Hole), Ok(2048));
    assert_eq!(reverse.seek(handle, 2048, Seek::Data), Err(Errno::ENXIO));
    assert_eq!(reverse.seek(handle, 10_240, Seek::Hole), Err(Errno::ENXIO));
    let whole = image_of(&reverse, false);
    let at = 5 * BLOCK as u64;
    assert_eq!(reverse.seek(whole, at - 100, Seek::Data), Ok(at));
    let first = file_of(&reverse, "image1", false);
    assert_eq!(reverse.seek(first, 10, Seek::Hole), Ok(4608));

    assert_eq!(reverse.write(handle, 10_000, b"x"), Ok(1));
    assert_eq!((sectors(2), sectors(7)), (40, 12));
    assert_eq!(reverse.seek(handle, 2048, Seek::Data), Ok(6144));
    assert_eq!(
        reverse.allocate(handle, Allocate::Zero, false, 6144, 4096),
        Ok(())
    );
    assert_eq!((sectors(2), sectors(7)), (32, 4));
}
