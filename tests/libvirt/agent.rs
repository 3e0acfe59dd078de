//! `--freeze` alone: the guest agent freezes the file systems for the moment, and thaws them whatever happens.

use crate::support::scene::Scene;

use super::guest::Guest;

#[test]
fn p35_the_guest_agent_freezes_for_the_moment() {
    let scene = Scene::new();
    let guest = Guest::new(&scene);
    let rig = &guest.rig;
    guest.expect_it_writes();
    rig.sync();
    for disk in guest.backed_up() {
        assert!(disk.needs_recovery, "it is in use: {disk:?}");
    }
    for _ in 0..2 {
        let run = rig
            .bmapfs("run")
            .words("--freeze -- rsync -a --inplace --delete {}/");
        let outcome = run.arg(&rig.backup).run();
        let said = outcome.stderr.clone();
        outcome.ok();
        assert!(said.contains("; frozen for "), "{said}");
        assert!(!guest.is_frozen());
        guest.expect_it_writes();
        rig.expect_nothing_left(1);
        let [a, b] = guest.backed_up();
        assert!(!a.needs_recovery && !b.needs_recovery, "{a:?} {b:?}");
        // The guest may have been between its two writes.
        assert!(
            b.count > 0 && [0, 1].contains(&(a.count - b.count)),
            "{a:?} {b:?}"
        );
    }
}
