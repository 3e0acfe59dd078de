//! P34: what is cloned while the writers are stopped is of one moment.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::scene::Scene;
use crate::support::wait_until;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Four images that a counter is written to in turn, and the files by which the writer is stopped.
struct Counted {
    images: Vec<PathBuf>,
    stop: PathBuf,
    stopped: PathBuf,
}

/// What the images have.
type Counters = Vec<u64>;

impl Counted {
    fn new(directory: &Path) -> Self {
        fs::create_dir(directory).unwrap();
        let image = |name| {
            let path = directory.join(name);
            fs::write(&path, counter(0)).unwrap();
            path
        };
        Self {
            images: NAMES.map(image).into(),
            stop: directory.join("stop"),
            stopped: directory.join("stopped"),
        }
    }

    /// Writes until the end, and stands still, between two writes, as long as there is the file `stop`. What the images
    /// have then is in `stopped`.
    fn write(&self, end: &AtomicBool) {
        let open = |path| File::options().write(true).open(path).unwrap();
        let files: Vec<File> = self.images.iter().map(open).collect();
        let mut now = vec![0; files.len()];
        while !end.load(SeqCst) {
            for (at, file) in files.iter().enumerate() {
                now[at] += 1;
                file.write_all_at(&counter(now[at]), 0).unwrap();
                if self.stop.exists() {
                    let new = self.stopped.with_extension("new");
                    fs::write(&new, shown(&now)).unwrap();
                    fs::rename(&new, &self.stopped).unwrap();
                    wait_until("it may go on", || !self.stop.exists());
                    fs::remove_file(&self.stopped).unwrap();
                }
            }
        }
    }

    /// What a run with these options shows, and what the images had when they were frozen, if they were.
    fn round(&self, scene: &Scene, frozen: bool) -> (Counters, Option<Counters>) {
        let (stop, stopped) = (self.stop.display(), self.stopped.display());
        let mut run = scene.bmapfs().words("run -q -b 64K --snapshot");
        if frozen {
            // The writer may not have gone on yet since it was stopped last.
            let freeze = format!(
                "while [ -e {stopped} ]; do :; done; : > {stop}; while [ ! -e {stopped} ]; do :; done; cp {stopped} {stop}.was"
            );
            run = run.arg("--freeze").arg(freeze);
            run = run.arg("--thaw").arg(format!("rm {stop}"));
        }
        let cat = "for name in a b c d; do head -qn 1 $1/$name/*; done";
        let text = run
            .args(&self.images)
            .args(["--", "sh", "-ec", cat, "sh", "{}"])
            .ok();
        let was = PathBuf::from(format!("{stop}.was"));
        let was = frozen.then(|| counters(&fs::read_to_string(was).unwrap()));
        (counters(&text), was)
    }
}

/// As long as a block file of its own.
fn counter(value: u64) -> Vec<u8> {
    format!("{value:020}\n").into_bytes()
}

fn shown(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| counter(*value)).collect()
}

fn counters(text: &str) -> Counters {
    let values: Counters = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(values.len(), NAMES.len(), "{text}");
    values
}

/// Does this while the images are written.
fn while_written(images: &Counted, act: impl FnOnce()) {
    let end = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| images.write(&end));
        // The writer ends also if something fails here.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        end.store(true, SeqCst);
        fs::remove_file(&images.stop).ok();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Most of a round is waiting for a second to end, so many sets of images are tried at once. `BMAPFS_ROUNDS`: how often
/// each is.
fn rounds_on(kind: &str) {
    const SETS: usize = 6;
    let rounds = std::env::var("BMAPFS_ROUNDS").map_or(7, |rounds| rounds.parse().unwrap());
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, kind);
    scene.program();
    thread::scope(|threads| {
        for number in 0..SETS {
            let (scene, filesystem) = (&scene, &filesystem);
            threads.spawn(move || {
                let images = Counted::new(&filesystem.path(&number.to_string()));
                while_written(&images, || {
                    let mut last = vec![0];
                    for round in 0..rounds {
                        let (seen, was) = images.round(scene, true);
                        assert_eq!(Some(&seen), was.as_ref(), "{kind}, round {round}");
                        assert!(
                            seen > last,
                            "{kind}, round {round}: {seen:?} after {last:?}"
                        );
                        last = seen;
                    }
                });
                let left = fs::read_dir(filesystem.path(&number.to_string())).unwrap();
                let left = left.map(|entry| entry.unwrap().file_name());
                let clones = left.filter(|name| name.to_string_lossy().contains(".bmapfs-"));
                assert_eq!(clones.count(), 0);
            });
        }
    });
    // How far they are apart if nobody stops the writer: it is told, for it may be nothing.
    let images = Counted::new(&filesystem.path("unfrozen"));
    while_written(&images, || {
        let spread = |_| {
            let (seen, _) = images.round(&scene, false);
            seen.iter().max().unwrap() - seen.iter().min().unwrap()
        };
        let spreads: Vec<u64> = (0..3).map(spread).collect();
        println!("{kind}: without a freeze the images are {spreads:?} writes apart");
    });
}

#[test]
fn p34_four_images_show_one_moment_on_xfs() {
    rounds_on("xfs");
}

#[test]
fn p34_four_images_show_one_moment_on_btrfs() {
    rounds_on("btrfs");
}

/// A file system that is in an image; it is thawed and unmounted at the end.
struct Guest {
    _device: LoopDevice,
    mount: PathBuf,
}

impl Guest {
    fn new(scene: &Scene, image: &Path) -> Self {
        tool("mkfs.ext4").words("-q -F").arg(image).ok();
        let device = LoopDevice::new(image);
        let name = image.file_name().unwrap().to_str().unwrap();
        let mount = scene.dir(&format!("guest-{name}"));
        tool("mount").arg(device.path()).arg(&mount).ok();
        Self {
            _device: device,
            mount,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A file system that is frozen cannot be unmounted; this fails if it is not.
        tool("fsfreeze").arg("-u").arg(&self.mount).run();
        tool("umount").arg(&self.mount).run_when_free();
    }
}

#[test]
fn p34_a_file_system_that_is_frozen_needs_no_recovery() {
    // Of ext4; XFS leaves a record in its log whenever it is frozen.
    let scene = Scene::new();
    let filesystem = Filesystem::sized(&scene, "xfs", 1 << 30);
    let ext4 = filesystem.sparse("ext4.img", 64 << 20);
    let other = filesystem.sparse("other.img", 64 << 20);
    let guests = [&ext4, &other].map(|image| Guest::new(&scene, image));
    let end = AtomicBool::new(false);
    let copy = |frozen: bool| {
        let each = |option: &str| {
            let each = guests
                .iter()
                .map(|guest| format!("fsfreeze {option} {}", guest.mount.display()));
            each.collect::<Vec<_>>().join(" && ")
        };
        let mut run = scene.bmapfs().words("run -q --snapshot");
        if frozen {
            run = run
                .arg("--freeze")
                .arg(each("-f"))
                .arg("--thaw")
                .arg(each("-u"));
        }
        let script = "cat $1/ext4.img/* > $2/ext4; cat $1/other.img/* > $2/other";
        run.args([&ext4, &other])
            .args(["--", "sh", "-ec", script, "sh", "{}"])
            .arg(scene.dir("copy"))
            .ok();
        ["ext4", "other"].map(|name| {
            let copy = scene.path("copy").join(name);
            let told = tool("dumpe2fs").arg("-h").arg(&copy).ok();
            (told.contains("needs_recovery"), copy)
        })
    };
    thread::scope(|threads| {
        for guest in &guests {
            let end = &end;
            threads.spawn(move || {
                for number in (0..).take_while(|_| !end.load(SeqCst)) {
                    let path = guest.mount.join((number % 50).to_string());
                    fs::write(&path, vec![1; 5000]).unwrap();
                    File::open(&path).unwrap().sync_all().unwrap();
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert!(
                copy(false)[0].0,
                "what is not frozen has a journal to replay"
            );
            for _ in 0..3 {
                for (recovery, copy) in copy(true) {
                    assert!(!recovery, "a frozen ext4 has nothing in its journal");
                    tool("e2fsck").words("-fn").arg(copy).ok();
                }
            }
        }));
        end.store(true, SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Else the clones that two runs make within one second, with a write between them, could show one time.
#[test]
fn p34_what_was_written_until_it_was_frozen_has_its_own_time() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "btrfs");
    let image = filesystem.path("a.img");
    fs::write(&image, vec![1; 200_000]).unwrap();
    for round in 0..3 {
        let freeze = format!("printf {round} >> {}", image.display());
        let shown = scene
            .bmapfs()
            .words("run -q -b 64K --snapshot --thaw true --freeze")
            .arg(freeze)
            .arg(&image)
            .words("-- sh -c")
            .arg("stat -c %Y \"$BMAPFS_MOUNT/00000000\"")
            .ok();
        let written = tool("stat").words("-c %Y").arg(&image).ok();
        assert_eq!(shown, written);
    }
}
