//! What fingerprints prove, case by case.

use super::*;

fn file() -> FileFingerprint {
    FileFingerprint {
        trusted: true,
        lasting: true,
        writers: Some(false),
        boot: Some("boot".to_owned()),
        mount: Some(1),
        device: 1,
        inode: 1,
        size: 9,
        mtime: (100, 5),
        ctime: (100, 5),
        format: None,
    }
}

fn device() -> DeviceFingerprint {
    DeviceFingerprint {
        counts_all: true,
        boot: "boot".to_owned(),
        major: 8,
        minor: 0,
        sectors_written: 7,
        sectors_discarded: 0,
        start: 0,
        size: 9,
        sequence: Some(1),
    }
}

/// Whether the image was certainly not written: for another process, for one that held it, and what differs.
fn judge(now: &Fingerprint, then: &Fingerprint) -> (bool, bool, Option<bool>) {
    let proves = |held| now.proves_unwritten_since(then, held);
    (proves(false), proves(true), now.differs_from(then))
}

#[test]
fn p23_a_file_proves_what_it_can() {
    type Change = fn(&mut FileFingerprint);
    let same: [(Change, Change, _); 9] = [
        (|_| (), |_| (), (true, true, Some(false))),
        // What `then` was worth counts, and not what `now` is.
        (|now| now.trusted = false, |_| (), (true, true, Some(false))),
        (
            |_| (),
            |then| then.trusted = false,
            (false, false, Some(false)),
        ),
        (
            |_| (),
            |then| then.lasting = false,
            (false, true, Some(false)),
        ),
        (|now| now.writers = Some(true), |_| (), (true, true, None)),
        (|_| (), |then| then.writers = Some(true), (true, true, None)),
        (|now| now.writers = None, |_| (), (true, true, Some(false))),
        (
            |now| now.mount = None,
            |then| then.mount = None,
            (false, true, Some(false)),
        ),
        (
            |now| now.boot = None,
            |then| then.boot = None,
            (false, true, Some(false)),
        ),
    ];
    for (number, (of_now, of_then, wanted)) in same.into_iter().enumerate() {
        let (mut now, mut then) = (file(), file());
        of_now(&mut now);
        of_then(&mut then);
        let judged = judge(&Fingerprint::File(now), &Fingerprint::File(then));
        assert_eq!(judged, wanted, "{number}");
    }
    let other: [Change; 9] = [
        |now| now.boot = Some("other".to_owned()),
        |now| now.boot = None,
        |now| now.mount = Some(2),
        |now| now.mount = None,
        |now| now.device = 2,
        |now| now.inode = 2,
        |now| now.size = 8,
        |now| now.mtime.1 = 6,
        |now| now.ctime.1 = 6,
    ];
    for (number, change) in other.into_iter().enumerate() {
        let mut now = file();
        change(&mut now);
        let judged = judge(&Fingerprint::File(now), &Fingerprint::File(file()));
        assert_eq!(judged, (false, false, Some(true)), "{number}");
    }
}

#[test]
fn p24_a_device_proves_what_its_statistics_count() {
    type Change = fn(&mut DeviceFingerprint);
    let both: [(Change, _); 3] = [
        (|_| (), (true, true, Some(false))),
        (|both| both.sequence = None, (false, true, Some(false))),
        (|both| both.counts_all = false, (false, false, Some(false))),
    ];
    for (number, (change, wanted)) in both.into_iter().enumerate() {
        let mut both = device();
        change(&mut both);
        let judged = judge(
            &Fingerprint::Device(both.clone()),
            &Fingerprint::Device(both),
        );
        assert_eq!(judged, wanted, "{number}");
    }
    let other: [Change; 5] = [
        |now| now.boot = "other".to_owned(),
        |now| now.sequence = Some(2),
        |now| now.sequence = None,
        |now| now.sectors_written = 8,
        |now| now.sectors_discarded = 1,
    ];
    for (number, change) in other.into_iter().enumerate() {
        let mut now = device();
        change(&mut now);
        let judged = judge(&Fingerprint::Device(now), &Fingerprint::Device(device()));
        assert_eq!(judged, (false, false, Some(true)), "{number}");
    }
    for other in [Fingerprint::Unknown, Fingerprint::File(file())] {
        let judged = judge(&Fingerprint::Device(device()), &other);
        assert_eq!(judged, (false, false, None));
        assert_eq!(judge(&other, &Fingerprint::Device(device())), judged);
    }
    let nothing = judge(&Fingerprint::Unknown, &Fingerprint::Unknown);
    assert_eq!(nothing, (false, false, None));
}

#[test]
fn p23_what_a_file_s_times_are_worth() {
    let nothing = Duration::ZERO;
    // The file system, the age of the last write, the nanoseconds of ctime, writers: trusted.
    let table = [
        (Keeper::WellKnown, TICK, 5, Some(false), true),
        (Keeper::Local, TICK, 5, Some(false), true),
        (Keeper::Other, TICK, 5, Some(false), false),
        (Keeper::NeverWritten, TICK, 0, None, true),
        (Keeper::WellKnown, nothing, 5, Some(false), false),
        (Keeper::WellKnown, TICK, 0, Some(false), false),
        (Keeper::WellKnown, TICK, 5, Some(true), false),
        (Keeper::WellKnown, TICK, 5, None, false),
    ];
    for (keeper, age, nanos, writers, trusted) in table {
        let unjudged = FileFingerprint {
            ctime: (100, nanos),
            writers,
            ..file()
        };
        let now = unjudged.judged(keeper, age, 200);
        assert_eq!(
            now.trusted, trusted,
            "{keeper:?} {age:?} {nanos} {writers:?}"
        );
        assert_eq!(now.lasting, keeper == Keeper::WellKnown);
        let last = Fingerprint::File(now).last_write();
        assert_eq!(last, trusted.then_some(100));
    }
    for (now, lasting) in [(99, false), (101, false), (102, true)] {
        let judged = file().judged(Keeper::WellKnown, TICK, now);
        assert_eq!(judged.lasting, lasting, "in second {now}");
    }
}

#[test]
fn p23_an_index_of_an_older_version_proves_nothing() {
    for (kind, now, new) in [
        (
            "File",
            Fingerprint::File(file()),
            &["lasting", "writers", "mount"][..],
        ),
        ("Device", Fingerprint::Device(device()), &["counts_all"]),
    ] {
        let mut old = serde_json::to_value(&now).unwrap();
        let fields = old[kind].as_object_mut().unwrap();
        fields.retain(|name, _| !new.contains(&name.as_str()));
        let old: Fingerprint = serde_json::from_value(old).unwrap();
        assert!(!now.proves_unwritten_since(&old, false), "{kind}");
    }
}

#[test]
fn the_uuid_of_a_file_system_is_written_as_sysfs_does() {
    let id = std::array::from_fn(|at| u8::try_from(at).unwrap() * 17);
    assert_eq!(uuid(id), "00112233-4455-6677-8899-aabbccddeeff");
}
