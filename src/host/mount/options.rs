//! What is said to the kernel or to fusermount3 at the mount, as flags and strings.
//!
//! Invariant: a source name, whatever its bytes, stays one option and injects no other; `default_permissions`
//! is always there, since without it the kernel would check no mode bits. Pure functions: nothing is opened
//! or mounted here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::mount::MsFlags;

use crate::config::{Access, KernelConfig};
use crate::exit::{self, Failure};

/// `MS_NOSYMFOLLOW` (Linux 5.10), which nix does not name.
const NO_SYMFOLLOW: MsFlags = MsFlags::from_bits_retain(0x100);

/// What a word of mount(8) does to the flags of mount(2).
enum Effect {
    Set(MsFlags),
    Clear(MsFlags),
}

/// `None`: not a word that bmapfs knows.
fn effect(word: &str) -> Option<Effect> {
    use Effect::{Clear, Set};
    Some(match word {
        "suid" => Clear(MsFlags::MS_NOSUID),
        "nosuid" => Set(MsFlags::MS_NOSUID),
        "dev" => Clear(MsFlags::MS_NODEV),
        "nodev" => Set(MsFlags::MS_NODEV),
        "exec" => Clear(MsFlags::MS_NOEXEC),
        "noexec" => Set(MsFlags::MS_NOEXEC),
        "async" => Clear(MsFlags::MS_SYNCHRONOUS),
        "sync" => Set(MsFlags::MS_SYNCHRONOUS),
        "nodirsync" => Clear(MsFlags::MS_DIRSYNC),
        "dirsync" => Set(MsFlags::MS_DIRSYNC),
        "symfollow" => Clear(NO_SYMFOLLOW),
        "nosymfollow" => Set(NO_SYMFOLLOW),
        "atime" => Clear(MsFlags::MS_NOATIME),
        "noatime" => Set(MsFlags::MS_NOATIME),
        "diratime" => Clear(MsFlags::MS_NODIRATIME),
        "nodiratime" => Set(MsFlags::MS_NODIRATIME),
        "norelatime" => Clear(MsFlags::MS_RELATIME),
        "relatime" => Set(MsFlags::MS_RELATIME),
        "nostrictatime" => Clear(MsFlags::MS_STRICTATIME),
        "strictatime" => Set(MsFlags::MS_STRICTATIME),
        "nolazytime" => Clear(MsFlags::MS_LAZYTIME),
        "lazytime" => Set(MsFlags::MS_LAZYTIME),
        _ => return None,
    })
}

/// Words that not every fusermount3 knows, though they change nothing on a FUSE mount: the kernel keeps no
/// access times for it.
const ACCESS_TIMES: [&str; 8] = [
    "atime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
];

/// The flags of mount(2). `nosuid` and `nodev` unless the words say otherwise, as for users. A word that is
/// not a flag is [`exit::Status::Usage`].
pub(super) fn flags(read_only: bool, words: &[String]) -> exit::Result<MsFlags> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, read_only);
    for word in words {
        match effect(word).ok_or_else(|| unknown(word))? {
            Effect::Set(flag) => flags |= flag,
            Effect::Clear(flag) => flags -= flag,
        }
    }
    Ok(flags)
}

/// The data of mount(2), for a /dev/fuse that is open as number `device` and a mount that is to belong to
/// `user` and `group`.
pub(super) fn kernel_data(device: i32, user: u32, group: u32, kernel: &KernelConfig) -> OsString {
    let mut data =
        format!("fd={device},rootmode=40000,user_id={user},group_id={group},default_permissions")
            .into_bytes();
    push_common(&mut data, kernel);
    OsString::from_vec(data)
}

/// What follows `-o` for fusermount3.
pub(super) fn fusermount_options(
    source: &OsStr,
    read_only: bool,
    kernel: &KernelConfig,
) -> exit::Result<OsString> {
    let mut options = if read_only {
        b"ro".to_vec()
    } else {
        b"rw".to_vec()
    };
    for word in &kernel.flags {
        effect(word).ok_or_else(|| unknown(word))?;
        if !ACCESS_TIMES.contains(&word.as_str()) {
            options.push(b',');
            options.extend_from_slice(word.as_bytes());
        }
    }
    options.extend_from_slice(b",default_permissions,subtype=bmapfs,fsname=");
    escape(source, &mut options);
    push_common(&mut options, kernel);
    Ok(OsString::from_vec(options))
}

fn push_common(options: &mut Vec<u8>, kernel: &KernelConfig) {
    // The kernel knows "everybody" or "the owner" only; where root is the only other one, the daemon checks.
    if kernel.access != Access::Owner {
        options.extend_from_slice(b",allow_other");
    }
    for option in &kernel.data {
        options.push(b',');
        options.extend_from_slice(option.as_bytes());
    }
}

/// Appends a value so that fusermount3, which splits at commas, takes it as one.
fn escape(value: &OsStr, options: &mut Vec<u8>) {
    for byte in value.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

fn unknown(word: &str) -> Failure {
    Failure::usage(format!("option '{word}': not a mount flag"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Status;

    fn words(list: &str) -> Vec<String> {
        list.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_become_flags_in_order() {
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        for (read_only, list, expected) in [
            (false, "", safe),
            (true, "", safe | MsFlags::MS_RDONLY),
            (false, "dev suid", MsFlags::empty()),
            (false, "dev nodev suid", MsFlags::MS_NODEV),
            (
                true,
                "noexec noatime",
                safe | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME,
            ),
            (false, "sync dirsync async", safe | MsFlags::MS_DIRSYNC),
            (false, "nosymfollow", safe | NO_SYMFOLLOW),
            (false, "nosymfollow symfollow exec", safe),
            (false, "relatime", safe | MsFlags::MS_RELATIME),
        ] {
            assert_eq!(flags(read_only, &words(list)).unwrap(), expected, "{list}");
        }
    }

    #[test]
    fn a_word_that_is_no_flag_is_named() {
        let failure = flags(true, &words("noexec bogus")).unwrap_err();
        assert_eq!(failure.status(), Status::Usage);
        assert!(failure.to_string().contains("'bogus'"), "{failure}");
        let kernel = KernelConfig {
            flags: words("bogus"),
            ..KernelConfig::default()
        };
        assert!(fusermount_options(OsStr::new("s"), true, &kernel).is_err());
    }

    #[test]
    fn kernel_data_names_descriptor_and_owner() {
        let mut kernel = KernelConfig::default();
        let data = kernel_data(7, 0, 0, &kernel);
        assert_eq!(
            data,
            "fd=7,rootmode=40000,user_id=0,group_id=0,default_permissions"
        );
        kernel.access = Access::OwnerAndRoot;
        kernel.data = vec!["max_read=4096".into(), "context=\"a,b\"".into()];
        let data = kernel_data(9, 1, 2, &kernel);
        assert_eq!(
            data,
            "fd=9,rootmode=40000,user_id=1,group_id=2,default_permissions,allow_other,max_read=4096,context=\"a,b\""
        );
    }

    #[test]
    fn names_cannot_inject_options() {
        for (source, escaped) in [
            (b"/a/b".as_slice(), b"/a/b".as_slice()),
            (b"/a,suid", b"/a\\,suid"),
            (b"/a\\,b", b"/a\\\\\\,b"),
            (b"/sp ace\nline\xff", b"/sp ace\nline\xff"),
            (b"", b""),
        ] {
            let options =
                fusermount_options(OsStr::from_bytes(source), true, &KernelConfig::default())
                    .unwrap();
            let expected = [
                b"ro,default_permissions,subtype=bmapfs,fsname=".as_slice(),
                escaped,
            ]
            .concat();
            assert_eq!(options.as_bytes(), expected);
        }
    }

    #[test]
    fn fusermount_gets_words_that_all_its_versions_know() {
        let kernel = KernelConfig {
            access: Access::Everybody,
            flags: words("noexec relatime noatime lazytime"),
            ..KernelConfig::default()
        };
        let options = fusermount_options(OsStr::new("s"), false, &kernel).unwrap();
        assert_eq!(
            options,
            "rw,noexec,noatime,default_permissions,subtype=bmapfs,fsname=s,allow_other"
        );
    }
}
