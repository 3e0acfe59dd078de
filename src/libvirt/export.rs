//! What an NBD server exports, as a file: its holes, what its bitmap says, and its bytes by nbdfuse.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::programs::{NBDFUSE, NBDINFO, QEMU_NBD, Server};
use crate::changes::ChangeMap;
use crate::geometry::Span;

/// In a map of what is allocated: reads give zeros.
const ZERO: u64 = 2;

/// An export of an NBD server on a socket.
#[derive(Debug)]
pub(super) struct Export {
    uri: String,
}

impl Export {
    pub(super) fn new(socket: &Path, name: &str) -> Self {
        let uri = format!(
            "nbd+unix:///{}?socket={}",
            encoded(name.as_bytes()),
            encoded(socket.as_os_str().as_bytes())
        );
        Self { uri }
    }

    fn map(&self, context: &str) -> Result<Vec<u8>, String> {
        let map = format!("--map={context}");
        NBDINFO.run(&[map.as_str(), "--json", &self.uri])
    }

    /// What the bitmap `name` says was written.
    pub(super) fn written(&self, name: &str) -> Result<ChangeMap, String> {
        let text = self.map(&format!("qemu:dirty-bitmap:{name}"))?;
        ChangeMap::parse(&text, None).map_err(|e| e.to_string())
    }

    /// Where reads are certain to give zeros, in order.
    pub(super) fn zeros(&self) -> Result<Vec<Span>, String> {
        zeros(&self.map("base:allocation")?)
    }

    /// Shows it as a file `name` in the directory `place`, which is made.
    pub(super) fn show(&self, place: &Path, name: &str) -> Result<(Server, PathBuf), String> {
        let directory = place.join(name);
        std::fs::create_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let file = directory.join(name);
        let words: [OsString; 3] = ["-r".into(), file.clone().into(), self.uri.clone().into()];
        let log = place.join(format!("{name}.nbdfuse"));
        let server = NBDFUSE.serve(&words, &log, || file.exists())?;
        Ok((server, file))
    }
}

/// Serves the disk in the image `file` of a domain that is off, with its bitmap `bitmap`.
pub(super) fn serve_image(
    file: &Path,
    format: &str,
    bitmap: Option<&str>,
    place: &Path,
    name: &str,
) -> Result<(Server, Export), String> {
    let socket = place.join(format!("{name}.nbd"));
    let mut words: Vec<OsString> = Vec::new();
    for word in [
        "--read-only",
        "--persistent",
        "--shared=0",
        "--format",
        format,
        "--socket",
    ] {
        words.push(word.into());
    }
    words.push(socket.clone().into());
    // The socket is there before it is known whether the image can be served.
    let ready = place.join(format!("{name}.pid"));
    words.push("--pid-file".into());
    words.push(ready.clone().into());
    if let Some(bitmap) = bitmap {
        words.push(format!("--bitmap={bitmap}").into());
    }
    words.push("--".into());
    words.push(file.into());
    let log = place.join(format!("{name}.qemu-nbd"));
    // What a server that failed has left.
    let _ = std::fs::remove_file(&socket);
    let server = QEMU_NBD.serve(&words, &log, || ready.exists())?;
    Ok((server, Export::new(&socket, "")))
}

fn zeros(text: &[u8]) -> Result<Vec<Span>, String> {
    #[derive(Deserialize)]
    struct Entry {
        offset: u64,
        length: u64,
        #[serde(rename = "type")]
        kind: u64,
    }
    let entries: Vec<Entry> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let mut zeros: Vec<Span> = Vec::new();
    let mut end = 0;
    for Entry {
        offset,
        length,
        kind,
    } in entries
    {
        let next = offset.checked_add(length);
        let (true, Some(next)) = (offset == end, next) else {
            return Err(format!("the map of holes has a gap at {end}"));
        };
        match zeros.last_mut() {
            _ if kind & ZERO == 0 => {}
            Some(last) if last.end == offset => last.end = next,
            _ => zeros.push(Span::new(offset, next)),
        }
        end = next;
    }
    Ok(zeros)
}

/// For a URI.
fn encoded(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let each = bytes.iter().map(|byte| match byte {
        byte if plain(*byte) => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_can_name_any_socket() {
        let export = Export::new(Path::new("/run/a b&c=%\u{e4}"), "vda");
        assert_eq!(
            export.uri,
            "nbd+unix:///vda?socket=/run/a%20b%26c%3D%25%C3%A4"
        );
    }

    #[test]
    fn zeros_are_what_the_map_calls_so() {
        // As `nbdinfo --map --json` prints it.
        let map = br#"[
{ "offset": 0, "length": 65536, "type": 0, "description": "data"},
{ "offset": 65536, "length": 65536, "type": 3, "description": "hole,zero"},
{ "offset": 131072, "length": 65536, "type": 2, "description": "zero"},
{ "offset": 196608, "length": 65536, "type": 1, "description": "hole"},
{ "offset": 262144, "length": 65536, "type": 3, "description": "hole,zero"}
]"#;
        let expected = [Span::new(65536, 196_608), Span::new(262_144, 327_680)];
        assert_eq!(zeros(map).unwrap(), expected);
        assert_eq!(zeros(b"[]").unwrap(), []);
        let gap = br#"[{"offset": 512, "length": 512, "type": 3}]"#;
        for wrong in [&gap[..], b"[", b"", &map[..200]] {
            zeros(wrong).unwrap_err();
        }
    }
}
