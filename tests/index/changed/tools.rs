//! Maps by the programs that make them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::support::command::tool;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::{BLOCK, Nights, Rig, assert_read, bytes_read, output, synced};

/// An empty file for the metadata of a pool or a dm-era device.
fn metadata(scene: &Scene, name: &str, restore: &str, xml: &str) -> std::path::PathBuf {
    let xml = scene.file(format!("{name}.xml"), xml.as_bytes());
    let metadata = scene.sparse(name, 4 << 20);
    tool(restore)
        .arg("-i")
        .arg(xml)
        .arg("-o")
        .arg(&metadata)
        .ok();
    metadata
}

#[test]
fn thin_delta_tells_what_changed_between_two_snapshots() {
    let scene = Scene::new();
    // The pool's blocks are three of ours, and the volume ends within one.
    let nights = Nights::new(&scene, 100, 700);
    let xml = r#"<superblock uuid="" time="2" transaction="3" data_block_size="384" nr_data_blocks="200">
  <device dev_id="1" mapped_blocks="33" transaction="0" creation_time="0" snap_time="1">
    <range_mapping origin_begin="0" data_begin="0" length="33" time="0"/>
  </device>
  <device dev_id="2" mapped_blocks="32" transaction="1" creation_time="1" snap_time="1">
    <range_mapping origin_begin="0" data_begin="0" length="7" time="0"/>
    <single_mapping origin_block="7" data_block="100" time="1"/>
    <range_mapping origin_begin="9" data_begin="9" length="23" time="0"/>
    <range_mapping origin_begin="32" data_begin="101" length="2" time="1"/>
  </device>
</superblock>
"#;
    let pool = metadata(&scene, "pool", "thin_restore", xml);
    // 7 was written, 8 discarded, 32 written, and 33, where the volume ends, written for the first time.
    let len = usize::try_from(3 * BLOCK).unwrap();
    let mut image = fs::read(&nights.rig.source).unwrap();
    for block in [7, 8, 32] {
        let content = if block == 8 {
            vec![0; len]
        } else {
            pattern(block, len)
        };
        let start = usize::try_from(block).unwrap() * len;
        image[start..start + len].copy_from_slice(&content);
    }
    let end = image.len();
    image[33 * len..end].copy_from_slice(&pattern(33, end - 33 * len));
    fs::write(&nights.rig.source, image).unwrap();
    let changed = [21, 22, 23, 24, 25, 26, 96, 97, 98, 99, 100];
    for ((words, expected), last) in [
        ("--snap1 1 --snap2 2", &changed[..]),
        // The other way round and at length; now nothing is new.
        ("--verbose --snap1 2 --snap2 1", &[]),
    ]
    .into_iter()
    .zip(1..)
    {
        let map = output(&scene, "map", "thin_delta", words, &pool);
        let options = format!("--changed {map} --since n{last} --as n{}", last + 1);
        let plan = nights.rig.scan(&format!("{options} --dry-run -v")).ok();
        let would = "21-26\n96-100\n11 of 101 blocks would be read, 656060 bytes";
        assert!(plan.starts_with(would), "{words}: {plan}");
        let synced = nights.sync(&options);
        assert_eq!(synced.blocks, expected, "{words}");
        assert_read(&synced, 11 + 64, 101);
    }
    let same = output(&scene, "map", "thin_delta", "--snap1 1 --snap2 1", &pool);
    nights.sync_told(&format!("--changed {same} --since n3 --as n4"), &[]);
}

#[test]
fn era_invalidate_tells_what_was_written_since_an_era() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 100, 0);
    let mut xml = String::from(
        "<superblock uuid=\"\" block_size=\"128\" nr_blocks=\"100\" current_era=\"4\">\n<era_array>\n",
    );
    let written = [0, 1, 2, 50, 99];
    for block in 0..100 {
        let era = if written.contains(&block) { 3 } else { 1 };
        writeln!(xml, "<era block=\"{block}\" era=\"{era}\"/>").unwrap();
    }
    xml += "</era_array>\n</superblock>\n";
    let eras = metadata(&scene, "eras", "era_restore", &xml);
    for block in written {
        nights.rig.change(block, b"changed");
    }
    let map = output(&scene, "map", "era_invalidate", "--written-since 3", &eras);
    let options = format!("-o era-block-size=64K --changed {map} --since n1 --as n2");
    nights.sync_told(&options, &written);
    let map = output(&scene, "map", "era_invalidate", "--written-since 4", &eras);
    let options = format!("-o era-block-size=64K --changed {map} --since n2 --as n3");
    nights.sync_told(&options, &[]);
}

#[test]
fn rbd_diff_tells_what_changed_since_a_snapshot() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 100, 0);
    nights.rig.change(64, b"changed");
    nights.rig.change(70, b"changed");
    let map = r#"[{"offset":4194304,"length":65536,"exists":"true"},{"offset":4587520,"length":65536,"exists":"false"}]"#;
    let map = scene.file("map", map.as_bytes());
    let options = format!("--changed {} --since n1 --as n2", map.display());
    nights.sync_told(&options, &[64, 70]);
    let map = scene.file("map", b"[]\n");
    let options = format!("--changed {} --since n2 --as n3", map.display());
    nights.sync_told(&options, &[]);
}

/// Runs qemu-io's commands on an image.
fn qemu_io(disk: &Path, commands: &[&str]) {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    tool("qemu-io")
        .args(["-f", "qcow2"])
        .args(commands)
        .arg(disk)
        .ok();
}

#[test]
fn nbdinfo_tells_what_a_dirty_bitmap_of_qemu_has() {
    let scene = Scene::new();
    let disk = scene.path("disk.qcow2");
    tool("qemu-img")
        .words("create -q -f qcow2")
        .arg(&disk)
        .arg("8M")
        .ok();
    qemu_io(&disk, &["write -P 1 0 8M"]);
    let raw = scene.path("disk.raw");
    let converted = || {
        let convert = tool("qemu-img").words("convert -f qcow2 -O raw");
        convert.arg(&disk).arg(&raw).ok();
    };
    // The state that gets a name is the one in which the bitmap begins.
    tool("qemu-img")
        .words("bitmap --add")
        .arg(&disk)
        .arg("n1")
        .ok();
    converted();
    let rig = Rig::new(&scene, &raw);
    let backup = scene.dir("backup");
    rig.rsync("--as n1", &backup).ok();
    qemu_io(
        &disk,
        &[
            "write -P 2 1M 64k",
            "write -P 3 3000k 4k",
            "write -z 7M 128k",
        ],
    );
    converted();
    let socket = scene.path("nbd");
    let server = tool("qemu-nbd")
        .words("-r -t -f qcow2 -B n1 -k")
        .arg(&socket)
        .arg(&disk)
        .spawn();
    wait_until("qemu-nbd serves", || socket.exists());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let map = output(
        &scene,
        "map",
        "nbdinfo",
        "--map=qemu:dirty-bitmap:n1 --json",
        Path::new(&uri),
    );
    let allocated = output(
        &scene,
        "allocated",
        "nbdinfo",
        "--map --json",
        Path::new(&uri),
    );
    drop(server);
    let wrong = rig
        .scan(&format!("--changed {allocated} --since n1 --as n2"))
        .fails(32);
    assert!(
        wrong.contains("is not of a dirty bitmap: use nbdinfo --map=qemu:dirty-bitmap"),
        "{wrong}"
    );
    let told = synced(
        rig.rsync(&format!("--changed {map} --since n1 --as n2"), &backup)
            .run(),
    );
    rig.same(&backup);
    assert_eq!(told.blocks, [16, 46, 112, 113]);
    // What was zeroed is a hole, and holes are not read; of the others all that need not be are checked.
    let checked = bytes_read(&told) / BLOCK;
    assert!(
        (2 + 62..=2 + 64 + 128 / 32).contains(&checked),
        "{}",
        told.said
    );
}
