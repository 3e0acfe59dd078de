//! What doc/BACKUP.md makes of a report.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use crate::support::command::tool;
use crate::support::scene::Scene;

use super::report::{BLOCKS, Case, report};

/// The lines of the page that begin with this one, to the end of the block.
fn recipe(first: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/BACKUP.md");
    let page = fs::read_to_string(page).unwrap();
    let at = page.find(first).unwrap_or_else(|| panic!("no {first:?}"));
    let block = &page[at..];
    block[..block.find("\n```").unwrap()].to_owned()
}

#[test]
fn the_page_makes_a_ping_and_metrics_of_a_report() {
    let scene = Scene::new();
    let case = Case::new(&scene);
    let outcome = case.run("").args(["sh", "-c", "exit 3"]).run();
    case.after(&outcome);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = scene.path("web.prom");
    let script = recipe("report=")
        .replace("/var/log/web-backup.json", case.file.to_str().unwrap())
        .replace(
            "https://hc-ping.com/UUID",
            &format!("http://{address}/UUID"),
        )
        .replace(
            "/var/lib/prometheus/node-exporter/bmapfs-web.prom",
            metrics.to_str().unwrap(),
        );
    let asked = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut piece = [0; 4096];
        while !asked.ends_with(b"}\n") {
            let len = stream.read(&mut piece).unwrap();
            assert_ne!(len, 0, "{}", String::from_utf8_lossy(&asked));
            asked.extend_from_slice(&piece[..len]);
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
        stream.write_all(answer).unwrap();
        String::from_utf8(asked).unwrap()
    });
    tool("sh").args(["-ec", &script]).ok();
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /UUID/3 HTTP"), "{asked}");
    let last = case.file.with_extension("json.last");
    assert!(asked.ends_with(&fs::read_to_string(&last).unwrap()));
    // A night without a run is one without a ping: nobody listens any more, and that is not what it says.
    let nothing = tool("sh").args(["-c", &script]).run();
    assert_ne!(nothing.code(), 0, "{nothing:#?}");
    let said = &nothing.stderr;
    assert!(said.contains("jq") && !said.contains("curl"), "{said}");
    let metrics = fs::read_to_string(&metrics).unwrap();
    let source = format!("{{source=\"{}\"}}", case.rig.source.display());
    let has = |line: String| assert!(metrics.lines().any(|found| found == line), "{metrics}");
    has(format!("bmapfs_status{source} 3"));
    has(format!("bmapfs_new{source} {BLOCKS}"));
    has(format!("bmapfs_skipped{source} {BLOCKS}"));
    let ended = report(&last)["ended_seconds"].as_i64().unwrap();
    has(format!("bmapfs_ended_seconds{source} {ended}"));
    assert!(!metrics.contains("null") && !metrics.contains("error"));
}
