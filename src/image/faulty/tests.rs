//! That the image in memory fails as it is told to, and what reads and writes make of it.

use super::*;
use crate::image::{read_span, write_span};

#[test]
fn p5_bytes_before_a_bad_place_are_still_read() {
    let image = Memory::new(pattern(100_000));
    for bad in [0, 1, 511, 512, 4096, 5000, 70_000, 99_999] {
        image.faults(|faults| faults.bad = vec![Span::new(bad, bad + 1)]);
        let met = image.met();
        let mut out = vec![0xAA; 100_000];
        let outcome = read_span(&image, &mut out, 0);
        assert!(image.met() > met, "the fault never happened");
        let good = bad - bad % 512;
        assert_eq!(outcome.len as u64, good, "the sectors before byte {bad}");
        assert_eq!(outcome.error.unwrap().raw_os_error(), Some(libc::EIO));
        assert!(out[..outcome.len] == image.bytes()[..outcome.len]);
    }
}

#[test]
fn p5_an_early_end_is_an_error() {
    let image = Memory::new(vec![7; 1000]);
    let outcome = read_span(&image, &mut [0; 2000], 0);
    assert_eq!((outcome.len, outcome.error.is_some()), (1000, true));
}

#[test]
fn short_and_interrupted_calls_are_continued() {
    let image = Memory::new(pattern(10_000));
    image.faults(|faults| {
        faults.longest_read = Some(7);
        faults.longest_write = Some(11);
        faults.interrupts = 3;
    });
    let mut out = vec![0; 9000];
    assert_eq!(read_span(&image, &mut out, 500).len, 9000);
    assert!(out[..] == image.bytes()[500..9500]);
    assert_eq!(image.met(), 3, "the interrupts never happened");
    image.faults(|faults| faults.interrupts = 3);
    assert_eq!(write_span(&image, &[1; 3000], 77).unwrap(), 3000);
    assert_eq!(image.met(), 6, "the interrupts never happened");
    let mut model = pattern(10_000);
    model[77..3077].fill(1);
    assert!(image.holds(&model));
}

#[test]
fn p10_holes_are_whole_units_of_zeros() {
    let image = Memory::new(vec![7; 3000]);
    image.zero(Span::new(500, 1600)).unwrap();
    assert_eq!(image.next_hole(0).unwrap(), 512);
    assert_eq!(image.next_data(700).unwrap(), Some(1536));
    assert_eq!(image.next_hole(1536).unwrap(), 3000);
    image.write_at(&[0], 1100).unwrap();
    assert_eq!(image.next_data(700).unwrap(), Some(1024));
    image.zero(Span::new(2000, 3000)).unwrap();
    assert_eq!(image.next_data(2048).unwrap(), None);
}
