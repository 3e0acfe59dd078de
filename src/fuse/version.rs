//! The version of FUSE that the kernel speaks, which it tells whoever has just mounted.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// The kernel refuses to write its requests to less.
const LEAST_BUFFER: usize = 8192;
/// `FUSE_INIT`, the first request.
const INIT: u32 = 26;
/// Where a request has its kind, and the first one, behind the header of 40 bytes, the version.
const OPCODE: usize = 4;
const MAJOR: usize = 40;
const MINOR: usize = 44;

/// Reads the first request from a /dev/fuse that was mounted, and does not answer it.
pub(crate) fn kernel_version(device: &OwnedFd) -> io::Result<(u32, u32)> {
    let mut request = [0; LEAST_BUFFER];
    let length = File::from(device.try_clone()?).read(&mut request)?;
    decode(&request[..length]).ok_or_else(|| io::Error::other("it is not what was expected"))
}

fn decode(request: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| {
        let bytes = request.get(at..at + 4)?.try_into().ok()?;
        // The kernel of this machine has written it.
        #[allow(clippy::host_endian_bytes)]
        Some(u32::from_ne_bytes(bytes))
    };
    (number(OPCODE)? == INIT).then_some((number(MAJOR)?, number(MINOR)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::host_endian_bytes)]
    fn only_the_first_request_has_a_version() {
        let mut request = [0_u32; 26];
        (request[1], request[10], request[11]) = (INIT, 7, 38);
        let bytes = |request: &[u32]| -> Vec<u8> {
            request.iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        assert_eq!(decode(&bytes(&request)), Some((7, 38)));
        assert_eq!(decode(&bytes(&request[..11])), None);
        request[1] = INIT + 1;
        assert_eq!(decode(&bytes(&request)), None);
    }
}
