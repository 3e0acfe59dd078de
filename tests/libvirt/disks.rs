//! Disks of all kinds: what a copy of one has is what its guest sees, or it is left out or refused with one line.

use std::fs;
use std::path::Path;

use crate::support::blocks::{concatenated, names};
use crate::support::command::tool;
use crate::support::machine::Identity;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, files};
use super::session::{Session, disk, in_file};

fn content(seed: u64, blocks: u64) -> Vec<u8> {
    pattern(seed, usize::try_from(blocks * BLOCK).unwrap())
}

/// The bytes of the image in the file.
fn bytes_of(session: &Session<'_>, image: &Path) -> Vec<u8> {
    let raw = session.scene.path("content");
    tool("qemu-img")
        .words("convert -O raw")
        .arg(image)
        .arg(&raw)
        .ok();
    fs::read(raw).unwrap()
}

fn expect_backup(session: &Session<'_>, target: &str, content: &[u8]) {
    assert_same(
        target,
        &concatenated(&session.backup().join(target)),
        content,
    );
}

#[test]
fn p35_a_disk_on_the_network() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let a = session.image("a.qcow2", "qcow2", &content(1, 20));
    let b = session.image("b.raw", "raw", &content(2, 30));
    let socket = scene.path("run/nbd");
    let server = session
        .tool("qemu-nbd")
        .words("--persistent --shared=0 -f raw -x disk -k");
    let _server = server.arg(&socket).arg(&b).spawn();
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    wait_until("it serves", || {
        session.tool("nbdinfo").arg(&uri).run().code() == 0
    });
    let source = format!(
        "<source protocol='nbd' name='disk'><host transport='unix' socket='{}'/></source>",
        socket.display()
    );
    let disks = [
        in_file("qcow2", &a, "vda"),
        disk("network", "raw", &source, "vdb"),
    ];
    session.start("web", &disks);
    let first = session.sync("web");
    assert_eq!(first.files.len(), 51);
    assert!(
        first.said.contains("vdb: of such a disk nobody can tell"),
        "{}",
        first.said
    );
    session.write("web", "vdb", 3, 1);
    assert_eq!(session.sync("web").files, files("vdb", &[3]));
    // What is written while it is copied is the next night's.
    let before = fs::read(&b).unwrap();
    let write = Session::writes("web", "vdb", 9, 2).map(|word| format!("'{word}'"));
    let script = format!(
        "virsh -q -c qemu:///session {}; exec rsync -a --inplace --delete \"$1/\" \"$2/\"",
        write.join(" ")
    );
    let run = session
        .bmapfs("run", "web")
        .args(["--", "sh", "-ec", &script, "sh", "{}"]);
    run.arg(session.backup()).ok();
    expect_backup(&session, "vdb", &before);
    assert_ne!(fs::read(&b).unwrap(), before);
    assert_eq!(session.sync("web").files, files("vdb", &[9]));
    session.expect_nothing_left("web", 1);
    session.destroy("web");
    let said = session.rsync("web").fails(32);
    let told = "libvirt:web: vdb: while it is off this disk cannot be read: it is in no file or device of this host: \
                start it, or name its other disks, as libvirt:web/TARGET\n";
    assert!(said.ends_with(told), "{said}");
    expect_backup(&session, "vda", &bytes_of(&session, &a));
    expect_backup(&session, "vdb", &fs::read(&b).unwrap());
    assert_eq!(session.sync("web/vda").files, [""; 0]);
    session.expect_nothing_left("web", 1);
}

#[test]
fn p35_a_disk_that_domains_share() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let a = session.image("a.qcow2", "qcow2", &content(1, 20));
    let b = session.image("b.raw", "raw", &content(2, 30));
    let shared = in_file("raw", &b, "vdb").replace("</disk>", "<shareable/></disk>");
    session.start("web", &[in_file("qcow2", &a, "vda"), shared.clone()]);
    session.start("other", &[shared]);
    let first = session.sync("web");
    assert_eq!(first.files.len(), 21);
    let told = "vdb is left out: other domains may write it: it is read as libvirt:web/vdb";
    assert!(first.said.contains(told), "{}", first.said);
    // QEMU refuses what would not be of one moment.
    let said = session.rsync("web/vdb").fails(32);
    assert!(
        said.starts_with("bmapfs: libvirt:web/vdb: of such a disk"),
        "{said}"
    );
    assert!(
        said.contains("Failed to get shared \"write\" lock"),
        "{said}"
    );
    session.expect_nothing_left("web", 1);
    session.write("other", "vdb", 3, 1);
    session.destroy("other");
    assert_eq!(session.sync("web/vdb").files.len(), 30);
    assert_eq!(names(&session.backup()), ["domain.xml", "vdb"]);
    expect_backup(&session, "vdb", &fs::read(&b).unwrap());
    session.expect_nothing_left("web", 1);
    session.destroy("web");
    let off = session.sync("web");
    assert!(off.said.contains(told), "{}", off.said);
    assert_eq!(session.sync("web/vdb").files.len(), 30);
    expect_backup(&session, "vdb", &fs::read(&b).unwrap());
}

#[test]
fn p35_disks_that_only_the_domain_can_read() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let whole = content(1, 64);
    let part = session.image("part.raw", "raw", &whole);
    let images = scene.path("images");
    let [luks, luks2] = ["luks", "luks.qcow2"].map(|name| images.join(name));
    // It measures how fast the machine is, which can fail.
    let create = |image: &Path, words: &str| {
        wait_until("it is made", || {
            let create = session.tool("qemu-img");
            let create = create.words("create -q --object secret,id=s,data=abc");
            create.words(words).arg(image).arg("1M").run().code() == 0
        });
    };
    create(&luks, "-f luks -o key-secret=s,iter-time=10");
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    create(&luks2, &format!("-f qcow2 -o {options}"));
    let key = "5d4aa0ee-0fd3-4b21-8a5c-1a2b3c4d5e6f";
    let secret = format!("<secret ephemeral='no' private='yes'><uuid>{key}</uuid></secret>");
    let secret = scene.file("secret.xml", secret.as_bytes());
    session.virsh("secret-define").arg(secret).ok();
    session.virsh("secret-set-value").args([key, "YWJj"]).ok();
    let encryption =
        format!("<encryption format='luks'><secret type='passphrase' uuid='{key}'/></encryption>");
    let source =
        |file: &Path, more: &str| format!("<source file='{}'>{more}</source>", file.display());
    let slice = "<slices><slice type='storage' offset='1048576' size='2097152'/></slices>";
    let disks = [
        disk("file", "raw", &source(&luks, &encryption), "vda"),
        disk("file", "qcow2", &(source(&luks2, "") + &encryption), "vdb"),
        disk("file", "raw", &source(&part, slice), "vdc"),
    ];
    session.start("web", &disks);
    session.sync("web");
    expect_backup(&session, "vdc", &whole[1 << 20..3 << 20]);
    session.write("web", "vda", 1, 7);
    session.write("web", "vdb", 2, 8);
    session.write("web", "vdc", 3, 9);
    let all = session.sync("web").files;
    let written = [files("vda", &[1]), files("vdb", &[2]), files("vdc", &[3])].concat();
    assert_eq!(all, written);
    for (file, byte) in written.iter().zip([7, 8, 9]) {
        let block = vec![byte; usize::try_from(BLOCK).unwrap()];
        assert_same(
            file,
            &fs::read(session.backup().join(file)).unwrap(),
            &block,
        );
    }
    session.destroy("web");
    for (target, why) in [
        ("vda", "it is encrypted"),
        ("vdb", "it is encrypted"),
        ("vdc", "it is a part of a file"),
    ] {
        let said = session.rsync(&format!("web/{target}")).fails(32);
        let told = format!("{target}: while it is off this disk cannot be read: {why}: start it");
        assert!(said.contains(&told), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let said = session.rsync("web").fails(32);
    assert!(said.contains("vda: while it is off"), "{said}");
    session.expect_nothing_left("web", 1);
}

#[test]
fn p35_disks_in_more_than_a_file() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let pool = scene.dir_of("images", Identity::User);
    session.image("a.qcow2", "qcow2", &content(1, 20));
    session
        .virsh("pool-create-as pool dir --target")
        .arg(&pool)
        .ok();
    let [data, outside, lost] = ["data", "outside.qcow2", "lost.qcow2"].map(|name| pool.join(name));
    let create = || session.tool("qemu-img").words("create -f qcow2");
    let options = format!("data_file={}", data.display());
    create()
        .args(["-o", &options])
        .arg(&outside)
        .words("1M")
        .ok();
    create().arg(&lost).words("1M").ok();
    let disks = [
        disk(
            "volume",
            "qcow2",
            "<source pool='pool' volume='a.qcow2'/>",
            "vda",
        ),
        in_file("qcow2", &outside, "vdb"),
        in_file("qcow2", &lost, "vdc").replace("</disk>", "<transient/></disk>"),
    ];
    session.start("web", &disks);
    session.write("web", "vdb", 2, 1);
    let first = session.sync("web");
    assert_eq!(first.files.len(), 37);
    let told = "vdc is left out: transient, and loses what is written to it";
    assert!(first.said.contains(told), "{}", first.said);
    let changed = [files("vda", &[1]), files("vdb", &[3])].concat();
    session.write("web", "vda", 1, 2);
    session.write("web", "vdb", 3, 3);
    assert_eq!(session.sync("web").files, changed);
    session.expect_nothing_left("web", 1);
    session.write("web", "vda", 1, 4);
    session.write("web", "vdb", 3, 5);
    session.destroy("web");
    assert_eq!(session.sync("web").files, changed);
    expect_backup(&session, "vda", &bytes_of(&session, &pool.join("a.qcow2")));
    expect_backup(&session, "vdb", &bytes_of(&session, &outside));
    session.virsh("pool-destroy pool").ok();
    let said = session.rsync("web/vda").fails(32);
    assert!(
        said.contains("vda: while it is off this disk cannot be read: virsh: "),
        "{said}"
    );
    assert!(said.contains("pool"), "{said}");
}

/// The guest sees whole sectors: the last one ends with zeros that the file does not have.
#[test]
fn p35_a_raw_image_that_ends_within_a_sector() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let mut seen = content(1, 3);
    seen.extend(pattern(2, 700));
    let image = session.image("a.raw", "raw", &seen);
    fs::write(&image, &seen).unwrap();
    seen.resize(seen.len().next_multiple_of(512), 0);
    session.start("web", &[in_file("raw", &image, "vda")]);
    assert_eq!(session.sync("web").files.len(), 5);
    expect_backup(&session, "vda", &seen);
    for _ in 0..2 {
        session.destroy("web");
        assert_eq!(session.sync("web").files, [""; 0]);
        session.virsh("start web").ok();
        assert_eq!(session.sync("web").files, [""; 0]);
    }
    expect_backup(&session, "vda", &seen);
}
