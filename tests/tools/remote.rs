//! rsync over a real sshd, pushing and pulling, with block files at this end and at the other.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use crate::support::blocks;
use crate::support::command::{Running, tool};
use crate::support::machine::{Identity, USER};
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

const BLOCK: usize = 256 << 10;
const SIZE: usize = 10 * BLOCK + 777;

/// An sshd on loopback that the tests' own user runs, and that lets in whoever has the key that was made for it.
struct Sshd {
    _server: Running,
    port: u16,
    key: PathBuf,
}

impl Sshd {
    fn start(scene: &Scene) -> Self {
        let dir = scene.dir_of("ssh", Identity::User);
        let (host_key, key) = (dir.join("host"), dir.join("client"));
        for file in [&host_key, &key] {
            tool("ssh-keygen")
                .words("-q -t ed25519 -N")
                .args(["", "-f"])
                .arg(file)
                .ok();
        }
        fs::rename(dir.join("client.pub"), dir.join("authorized")).unwrap();
        Identity::User.own(&host_key);
        // Free now; if another program takes it before sshd does, sshd ends, and the next port is tried.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
                 PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n",
                dir.display()
            );
            fs::write(dir.join("config"), config).unwrap();
            let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
                .into_iter()
                .find(|path| Path::new(path).exists());
            // sshd insists on being called by its full path.
            let server = tool(sshd.unwrap_or("sshd"))
                .identity(Identity::User)
                .words("-D -e -f")
                .arg(dir.join("config"));
            let mut server = server.log_to(&dir.join("log")).spawn();
            let mut ended = false;
            wait_until("sshd answers or has ended", || {
                ended = server.child().try_wait().unwrap().is_some();
                ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if !ended {
                return Self {
                    _server: server,
                    port,
                    key,
                };
            }
        }
        panic!(
            "sshd does not start: {}",
            fs::read_to_string(dir.join("log")).unwrap()
        );
    }

    /// rsync by root at this end and the user at the other; paths with a colon in front are at the other.
    fn rsync(&self, options: &str, from: &str, to: &str) -> String {
        let shell = format!(
            "ssh -p {} -i {} -F none -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.port,
            self.key.display()
        );
        let remote = |path: &str| path.replacen(':', &format!("{USER}@127.0.0.1:"), 1);
        let rsync = tool("rsync")
            .words("-a --inplace --itemize-changes")
            .words(options)
            .args(["-e", &shell]);
        rsync.args([remote(from), remote(to)]).ok()
    }
}

fn here(path: &Path) -> String {
    format!("{}/", path.display())
}

fn there(path: &Path) -> String {
    format!(":{}/", path.display())
}

/// Blocks whose content was sent.
fn sent(itemized: &str) -> usize {
    itemized
        .lines()
        .filter(|line| line.starts_with(">f") || line.starts_with("<f"))
        .count()
}

#[test]
fn push_a_backup_and_pull_it_back() {
    let scene = Scene::new();
    let sshd = Sshd::start(&scene);
    let content = disk_like(1, SIZE);
    let image = scene.file("a.img", &content);
    let backup = scene.dir_of("backup", Identity::User);
    let mount = scene.mount(&image).with("-b 256K").up();
    assert_eq!(
        sent(&sshd.rsync("", &here(mount.point()), &there(&backup))),
        11
    );
    assert_same("the backup", &blocks::concatenated(&backup), &content);
    assert_eq!(
        sent(&sshd.rsync("", &here(mount.point()), &there(&backup))),
        0
    );
    mount.unmount();

    for options in [
        "",
        "-S",
        "--checksum",
        "-W -S",
        "--fsync --preallocate",
        "-z",
    ] {
        let mut old = content.clone();
        old[BLOCK - 1000..3 * BLOCK + 1000].copy_from_slice(&pattern(2, 2 * BLOCK + 2000));
        fs::write(&image, &old).unwrap();
        let mount = scene.mount(&image).with("-rw -b 256K").up();
        // Without -I rsync would go by times, which are the same if all of this happens in one second.
        let force = if options.contains("checksum") {
            ""
        } else {
            "-I"
        };
        sshd.rsync(
            &format!("{options} {force}"),
            &there(&backup),
            &here(mount.point()),
        );
        assert_same(options, &fs::read(&image).unwrap(), &content);
        assert_eq!(
            sent(&sshd.rsync(options, &there(&backup), &here(mount.point()))),
            0,
            "{options}: again at once"
        );
        mount.unmount();
    }
}

#[test]
fn a_mount_at_the_other_end() {
    let scene = Scene::new();
    let sshd = Sshd::start(&scene);
    let content = disk_like(3, SIZE);
    let image = scene.file("a.img", &content);
    Identity::User.own(&image);
    let copy = scene.dir("copy");
    let mount = scene.mount(&image).with("-b 256K").by(Identity::User).up();
    sshd.rsync("", &there(mount.point()), &here(&copy));
    assert_same("pulled", &blocks::concatenated(&copy), &content);
    mount.unmount();

    for options in ["-I", "-I -S", "--checksum"] {
        let mut old = content.clone();
        old[BLOCK + 5..BLOCK + 70_000].copy_from_slice(&pattern(4, 69_995));
        fs::write(&image, &old).unwrap();
        let mount = scene
            .mount(&image)
            .with("-rw -b 256K")
            .by(Identity::User)
            .up();
        sshd.rsync(options, &here(&copy), &there(mount.point()));
        assert_same(options, &fs::read(&image).unwrap(), &content);
        assert_eq!(
            sent(&sshd.rsync("", &here(&copy), &there(mount.point()))),
            0,
            "{options}: again at once"
        );
        mount.unmount();
    }
}
