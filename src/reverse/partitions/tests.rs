//! Tables made by hand: sound, damaged and lying ones. What real tools make is tried in tests/reverse.

use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm;

use super::*;

/// Length of the images, in bytes.
const SIZE: usize = 1 << 20;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// An entry of a boot record: type, first sector and sectors.
type Entry = (u8, u32, u32);

/// Writes a boot record at a sector.
pub(crate) fn boot_record(image: &mut [u8], sector: usize, entries: &[Entry]) {
    let at = sector * 512;
    for (index, (kind, first, len)) in entries.iter().enumerate() {
        let at = at + 446 + index * 16;
        image[at + 4] = *kind;
        put(image, at + 8, &first.to_le_bytes());
        put(image, at + 12, &len.to_le_bytes());
    }
    put(image, at + 510, &[0x55, 0xAA]);
}

/// Entries of a GPT: number, first and last sector.
type Entries<'a> = &'a [(usize, u64, u64)];

/// Writes one copy of a GPT with 128 entries, whose header is sector `number`.
fn gpt_copy(image: &mut [u8], sector: usize, number: usize, array: usize, entries: Entries<'_>) {
    let at = array * sector;
    for (index, first, last) in entries {
        let at = at + (index - 1) * 128;
        image[at..at + 16].fill(7);
        put(image, at + 32, &first.to_le_bytes());
        put(image, at + 40, &last.to_le_bytes());
    }
    let sum = crc32fast::hash(&image[at..at + 128 * 128]);
    let at = number * sector;
    put(image, at, b"EFI PART\0\0\x01\0");
    put(image, at + 12, &92_u32.to_le_bytes());
    put(image, at + 24, &(number as u64).to_le_bytes());
    put(image, at + 72, &(array as u64).to_le_bytes());
    put(image, at + 80, &128_u32.to_le_bytes());
    put(image, at + 84, &128_u32.to_le_bytes());
    put(image, at + 88, &sum.to_le_bytes());
    seal(image, at);
}

/// Makes a header's own checksum right.
fn seal(image: &mut [u8], at: usize) {
    image[at + 16..at + 20].fill(0);
    let sum = crc32fast::hash(&image[at..at + 92]);
    put(image, at + 16, &sum.to_le_bytes());
}

/// An image with a whole GPT.
fn gpt(sector: usize, entries: Entries<'_>) -> Vec<u8> {
    let mut image = vec![0; SIZE];
    boot_record(&mut image, 0, &[(0xEE, 1, u32::MAX)]);
    let last = SIZE / sector - 1;
    gpt_copy(&mut image, sector, 1, 2, entries);
    let array = last - 128 * 128 / sector;
    gpt_copy(&mut image, sector, last, array, entries);
    image
}

fn table(image: &[u8]) -> Table {
    let disk = Disk {
        span: Span::new(0, image.len() as u64),
        read: &|out, offset| {
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&image[at..at + out.len()]);
            Ok(())
        },
    };
    read(&disk).unwrap()
}

/// Numbers and places in sectors of 512 bytes, and the warning.
fn told(image: &[u8]) -> (Vec<(u32, u64, u64)>, String) {
    let table = table(image);
    let partitions = table.partitions.iter();
    let shown = partitions.map(|p| (p.number, p.span.start / 512, p.span.end / 512));
    (shown.collect(), table.warning().unwrap_or_default())
}

fn sound(shown: &[(u32, u64, u64)]) -> (Vec<(u32, u64, u64)>, String) {
    (shown.to_vec(), String::new())
}

#[test]
fn a_gpt_is_read_with_both_lengths_of_sectors() {
    let image = gpt(512, &[(1, 64, 99), (3, 200, 200), (128, 100, 101)]);
    let expected = [(1, 64, 100), (3, 200, 201), (128, 100, 102)];
    assert_eq!(told(&image), sound(&expected));
    let image = gpt(4096, &[(2, 8, 99), (5, 100, 100)]);
    assert_eq!(told(&image), sound(&[(2, 64, 800), (5, 800, 808)]));
    // What the protective MBR says beside that it is one does not matter: a hybrid one has partitions, too.
    let mut image = gpt(512, &[(1, 64, 99)]);
    boot_record(&mut image, 0, &[(0x83, 64, 5), (0xEE, 1, 63)]);
    assert_eq!(told(&image), sound(&[(1, 64, 100)]));
}

#[test]
fn the_backup_of_a_gpt_stands_in_for_the_first_copy() {
    for sector in [512, 4096] {
        let whole = gpt(sector, &[(1, 64, 99)]);
        let unit = sector as u64 / 512;
        let expected = vec![(1, 64 * unit, 100 * unit)];
        let header = sector..sector + 92;
        for at in header.chain([2 * sector, 2 * sector + 40, 2 * sector + 128 * 128 - 1]) {
            let mut image = whole.clone();
            image[at] ^= 1;
            let (shown, warning) = told(&image);
            assert_eq!(shown, expected, "byte {at} of {sector}");
            let says = "its GPT is damaged, and the copy at its end is used";
            assert_eq!(warning, says, "byte {at} of {sector}");
        }
        // The other way round nothing is missing: the image may have grown.
        let mut image = whole.clone();
        image[SIZE - 60_000..].fill(0);
        assert_eq!(told(&image), (expected.clone(), String::new()));
        image[sector..sector + 92].fill(0);
        let (shown, warning) = told(&image);
        assert_eq!(shown, []);
        assert_eq!(warning, "it has a protective MBR, but no GPT that is whole");
    }
}

#[test]
fn headers_that_lie_are_damaged_ones() {
    let lies: [(usize, &[u8]); 7] = [
        (12, &91_u32.to_le_bytes()),
        (12, &u32::MAX.to_le_bytes()),
        (24, &2_u64.to_le_bytes()),
        (72, &u64::MAX.to_le_bytes()),
        (72, &(SIZE as u64 / 512 - 5).to_le_bytes()),
        (80, &u32::MAX.to_le_bytes()),
        (84, &0_u32.to_le_bytes()),
    ];
    for (at, lie) in lies {
        let mut image = gpt(512, &[(1, 64, 99)]);
        put(&mut image, 512 + at, lie);
        seal(&mut image, 512);
        let (shown, warning) = told(&image);
        assert_eq!(shown, [(1, 64, 100)], "{at}");
        assert!(warning.contains("the copy at its end"), "{at}: {warning}");
    }
}

#[test]
fn entries_that_cannot_be_true_are_left_out() {
    let end = SIZE as u64 / 512;
    let image = gpt(
        512,
        &[
            (1, 64, 99),
            (2, 100, end),
            (3, 500, 400),
            (4, 600, 700),
            (5, 650, 660),
            (6, 670, 800),
            (7, 801, 900),
            (8, u64::MAX, u64::MAX),
            (9, 0, u64::MAX),
            (10, 1000, end - 1),
        ],
    );
    let (shown, warning) = told(&image);
    assert_eq!(shown, [(1, 64, 100), (7, 801, 901), (10, 1000, end)]);
    assert_eq!(
        warning,
        "not shown: partition 2 (it reaches past the image's end), partition 3 (it ends before it begins), \
         partition 4 (it overlaps another) and 4 others"
    );
}

#[test]
fn an_mbr_has_primary_and_logical_partitions() {
    let mut image = vec![0; SIZE];
    boot_record(
        &mut image,
        0,
        &[(0x83, 63, 10), (0x0F, 100, 900), (0, 5, 5), (0x07, 80, 1)],
    );
    boot_record(&mut image, 100, &[(0x83, 2, 10), (0x05, 50, 20)]);
    // One that was deleted has left its link.
    boot_record(&mut image, 150, &[(0, 0, 0), (0x05, 70, 100)]);
    boot_record(&mut image, 170, &[(0x82, 1, 829)]);
    let expected = [(1, 63, 73), (4, 80, 81), (5, 102, 112), (6, 171, 1000)];
    assert_eq!(told(&image), sound(&expected));
    // An extended partition that is empty.
    boot_record(&mut image, 0, &[(0x83, 63, 10), (0x05, 1500, 100)]);
    assert_eq!(told(&image), sound(&[(1, 63, 73), (4, 80, 81)]));
}

#[test]
fn a_chain_of_logical_partitions_that_is_damaged_shows_those_before() {
    let chain = |records: &[(usize, [Entry; 2])]| {
        let mut image = vec![0; SIZE];
        boot_record(&mut image, 0, &[(0x83, 20, 30), (0x05, 100, 900)]);
        for (sector, entries) in records {
            boot_record(&mut image, *sector, entries);
        }
        told(&image)
    };
    let first = (100, [(0x83, 1, 9), (0x05, 50, 20)]);
    let says = "its chain of logical partitions ";
    for (second, rest) in [
        ((150, [(0x83, 1, 9), (0x05, 50, 20)]), "is a loop"),
        (
            (150, [(0x83, 1, 9), (0x05, 900, 20)]),
            "leaves the extended one",
        ),
        ((150, [(0x83, 1, 9), (0x05, 60, 20)]), "is broken"),
    ] {
        let expected = vec![(1, 20, 50), (5, 101, 110), (6, 151, 160)];
        assert_eq!(chain(&[first, second]), (expected, format!("{says}{rest}")));
    }
    let (shown, warning) = chain(&[first, (150, [(0x83, 1, 850), (0, 0, 0)])]);
    assert_eq!(shown, [(1, 20, 50), (5, 101, 110)]);
    assert_eq!(
        warning,
        "not shown: partition 6 (it leaves the extended one)"
    );

    let mut image = vec![0; SIZE];
    boot_record(&mut image, 0, &[(0x05, 10, 2000)]);
    for index in 0..900 {
        let next = u32::try_from(2 * (index + 1)).unwrap();
        boot_record(&mut image, 10 + 2 * index, &[(0x83, 1, 1), (0x05, next, 2)]);
    }
    let (shown, warning) = told(&image);
    assert_eq!((shown.len(), shown[255].0), (256, 260));
    assert_eq!(warning, format!("{says}does not end"));
}

#[test]
fn a_file_system_on_the_whole_disk_is_no_table() {
    let mut image = vec![0; SIZE];
    assert_eq!(told(&image), sound(&[]), "zeros");
    assert_eq!(told(&image[..511]), sound(&[]), "less than a sector");
    // What an old GPT has left at the end, under a file system without a boot sector.
    image = gpt(512, &[(1, 64, 99)]);
    image[..1024].fill(0);
    assert_eq!(told(&image), sound(&[]), "an old GPT");
    // A FAT file system: the signature, and nothing or a message where the entries would be.
    image.fill(0);
    put(&mut image, 510, &[0x55, 0xAA]);
    assert_eq!(told(&image), sound(&[]), "FAT");
    put(
        &mut image,
        400,
        b"Remove disks or other media.\xFF\r\nDisk error\xFF\r\nPress any key to restart\r\n",
    );
    put(
        &mut image,
        446,
        b"A disk read error occurred. Press Ctrl+Alt+Del to restart.",
    );
    assert_eq!(told(&image), sound(&[]), "NTFS");
}

#[test]
fn thousands_of_entries_are_shown() {
    let mut image = vec![0; 4 << 20];
    boot_record(&mut image, 0, &[(0xEE, 1, u32::MAX)]);
    let count = 5000_usize;
    for index in 0..count {
        let at = 1024 + index * 128;
        image[at] = 1;
        let first = 3000 + index as u64;
        put(&mut image, at + 32, &first.to_le_bytes());
        put(&mut image, at + 40, &first.to_le_bytes());
    }
    let sum = crc32fast::hash(&image[1024..1024 + count * 128]);
    gpt_copy(&mut image, 512, 1, 2, &[]);
    put(
        &mut image,
        512 + 80,
        &u32::try_from(count).unwrap().to_le_bytes(),
    );
    put(&mut image, 512 + 88, &sum.to_le_bytes());
    seal(&mut image, 512);
    let (shown, warning) = told(&image);
    assert_eq!(
        (shown.len(), shown[4999], &warning[..]),
        (5000, (5000, 7999, 8000), "")
    );
}

#[test]
fn a_table_that_cannot_be_read_is_an_error() {
    let disk = Disk {
        span: Span::new(0, 4096),
        read: &|_, _| Err(io::Error::from_raw_os_error(libc::EIO)),
    };
    assert_eq!(read(&disk).unwrap_err().raw_os_error(), Some(libc::EIO));
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![Just(0x83_u8), Just(5), Just(0), any::<u8>()];
    let place = || prop_oneof![4 => 0_u32..2100, 1 => any::<u32>()];
    (kind, place(), place())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_tables_say_what_is_shown_is_sound(
        records in prop::collection::vec((0_usize..60, prop::collection::vec(entry(), 4)), 0..20),
        primary in prop::collection::vec(entry(), 4),
        entries in prop::collection::vec((1_usize..129, 0_u64..2100, 0_u64..2100), 0..8),
        is_gpt in any::<bool>(),
    ) {
        let mut image = if is_gpt { gpt(512, &entries) } else { vec![0; SIZE] };
        for (sector, entries) in records.iter().filter(|_| !is_gpt) {
            boot_record(&mut image, *sector, entries);
        }
        if !is_gpt {
            boot_record(&mut image, 0, &primary);
        }
        let mut shown = table(&image).partitions;
        prop_assert!(shown.is_sorted_by_key(|partition| partition.number));
        shown.sort_by_key(|partition| partition.span.start);
        let mut end = 0;
        for partition in shown {
            prop_assert!(partition.number > 0 && partition.span.start >= end);
            prop_assert!(!partition.span.is_empty() && partition.span.end <= SIZE as u64);
            end = partition.span.end;
        }
    }
}
