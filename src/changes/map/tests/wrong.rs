//! Texts that are no maps: each is refused for its own reason, with the place in it.

use super::*;

fn all_refused(table: &[(String, &[&str])]) {
    for (text, parts) in table {
        let sentence = refusal(text, SIZE);
        for part in *parts {
            assert!(sentence.contains(part), "{text}: {sentence}");
        }
    }
}

/// A delta with this inside, which begins in line 3.
fn thin(inside: &str) -> String {
    format!("<superblock data_block_size=\"128\">\n<diff>\n{inside}\n</diff>\n</superblock>\n")
}

#[test]
fn what_is_no_map() {
    all_refused(&[
        (String::new(), &["it is empty"]),
        (" \n".to_owned(), &["it is empty"]),
        ("No such volume\n".to_owned(), &["must be what thin_delta"]),
        ("{\"offset\":0}".to_owned(), &["must be what thin_delta"]),
        ("-1 512\n".to_owned(), &["must be what thin_delta"]),
        ("<html></html>".to_owned(), &["XML of 'html'"]),
    ]);
    let bytes = ChangeMap::parse(b"0 512\n\xff", None).unwrap_err();
    assert!(bytes.to_string().starts_with("it is no text"), "{bytes}");
}

#[test]
fn wrong_words_of_thin_delta() {
    all_refused(&[
        (
            "<superblock>".to_owned(),
            &["line 1: 'superblock' has no data_block_size"],
        ),
        (
            "<superblock data_block_size=\"100\"/>".to_owned(),
            &["100 is not a thin pool's"],
        ),
        (
            "<superblock data_block_size=\"0\"/>".to_owned(),
            &["0 is not a thin pool's"],
        ),
        (
            "<superblock data_block_size=\"2097280\"/>".to_owned(),
            &["not a thin pool's"],
        ),
        (
            "<superblock data_block_size=\"128\"/>".to_owned(),
            &["no 'diff'"],
        ),
        (
            "<superblock data_block_size=\"128\"><device/></superblock>".to_owned(),
            &["'device' is not known"],
        ),
        (
            "<superblock data_block_size=\"128\"><diff/><diff/></superblock>".to_owned(),
            &["'diff' is not known"],
        ),
        (
            thin("<changed begin=\"0\" length=\"1\"/>"),
            &["line 3: 'changed' is not known"],
        ),
        (
            thin("<range begin=\"0\" length=\"1\"/>"),
            &["line 3: 'range' is not known"],
        ),
        (thin("<different/>"), &["line 3: there is no range in it"]),
        (
            thin("<different></different>"),
            &["line 3: there is no range in it"],
        ),
        (
            thin("<different><same begin=\"0\" length=\"1\"/></different>"),
            &["'same' is not known"],
        ),
    ]);
}

#[test]
fn wrong_ranges_of_thin_delta() {
    all_refused(&[
        (
            thin("<different begin=\"0\"/>"),
            &["line 3: 'different' has no length"],
        ),
        (
            thin("<different length=\"1\"/>"),
            &["'different' has no begin"],
        ),
        (
            thin("<different begin=\"0\" length=\"0\"/>"),
            &["line 3: the range at 0 is empty"],
        ),
        (
            thin("<same begin=\"0\" length=\"0\"/>"),
            &["the range at 0 is empty"],
        ),
        (
            thin("<different begin=\"-1\" length=\"1\"/>"),
            &["'-1' is not a decimal number"],
        ),
        (
            thin("<different begin=\"0x1\" length=\"1\"/>"),
            &["'0x1' is not a decimal"],
        ),
        (
            thin("<different begin=\"1.5\" length=\"1\"/>"),
            &["'1.5' is not a decimal"],
        ),
        (
            thin("<different begin=\"\" length=\"1\"/>"),
            &["'' is not a decimal"],
        ),
        (
            thin("<different begin=\"0\" begin=\"1\" length=\"1\"/>"),
            &["line 3", "duplicate"],
        ),
        (thin("<different begin=0 length=1/>"), &["line 3"]),
        (
            thin("<different begin=\"99999999999999999999\" length=\"1\"/>"),
            &["99999999999999999999 is more than 64 bits hold"],
        ),
        (
            thin("<different begin=\"18446744073709551615\" length=\"1\"/>"),
            &["ends past all images"],
        ),
        (
            thin("<different begin=\"1\" length=\"281474976710656\"/>"),
            &["ends past all images"],
        ),
        (
            thin("<same begin=\"0\" length=\"3\"/>\n<different begin=\"2\" length=\"1\"/>"),
            &["line 4: the range at 2 begins before the end of the one before it"],
        ),
        (
            thin("<different begin=\"5\" length=\"1\"/><different begin=\"2\" length=\"1\"/>"),
            &["sorted and apart"],
        ),
        (thin("words"), &["there is text where"]),
        (thin("&amp;"), &["there is text where"]),
        (thin("<![CDATA[x]]>"), &["there is text where"]),
        (thin("</diff>"), &["line 4: it is cut off or no XML"]),
        (
            format!("{THIN}<superblock/>"),
            &["line 10: there is something after the end"],
        ),
        (format!("{THIN}x"), &["line 10: there is text"]),
        (
            format!("<!DOCTYPE a [<!ENTITY x \"y\">]>{THIN}"),
            &["there is text"],
        ),
    ]);
}

#[test]
fn wrong_words_of_era_invalidate() {
    let blocks = |inside: &str| format!("<blocks>\n{inside}\n</blocks>\n");
    all_refused(&[
        (blocks("<block/>"), &["line 2: 'block' has no block"]),
        (
            blocks("<range begin=\"1\" end=\"1\"/>"),
            &["the range at 1 is empty"],
        ),
        (
            blocks("<range begin=\"2\" end=\"1\"/>"),
            &["the range at 2 ends before it"],
        ),
        (
            blocks("<block block=\"1\"/><block block=\"1\"/>"),
            &["sorted and apart"],
        ),
        (blocks("<era era=\"1\"/>"), &["'era' is not known here"]),
        (
            blocks("<range begin=\"1\" end=\"2\"><block block=\"9\"/></range>"),
            &["'block' is not known"],
        ),
    ]);
}

#[test]
fn wrong_words_of_rbd_and_nbdinfo() {
    let nbd = |kind: u8, description: &str| {
        format!(
            "[{{\"offset\":0,\"length\":917504,\"type\":{kind},\"description\":\"{description}\"}}]"
        )
    };
    all_refused(&[
        ("[".to_owned(), &["the map is cut off"]),
        ("[1]".to_owned(), &["it is no map"]),
        ("[] x".to_owned(), &["it is no map"]),
        ("[{\"offset\":0,\"exists\":\"true\"}]".to_owned(), &["missing field `length`"]),
        ("[{\"offset\":-1,\"length\":1,\"exists\":\"true\"}]".to_owned(), &["it is no map"]),
        ("[{\"offset\":\"0\",\"length\":1,\"exists\":\"true\"}]".to_owned(), &["it is no map"]),
        (
            "[{\"offset\":18446744073709551616,\"length\":1,\"exists\":\"true\"}]".to_owned(),
            &["it is no map"],
        ),
        (
            "[{\"offset\":18446744073709551615,\"length\":1,\"exists\":\"true\"}]".to_owned(),
            &["entry 1: the range of 1 at 18446744073709551615 ends past all images"],
        ),
        ("[{\"offset\":0,\"length\":0,\"exists\":\"true\"}]".to_owned(), &["entry 1: the range at 0 is empty"]),
        ("[{\"offset\":0,\"length\":1,\"exists\":\"maybe\"}]".to_owned(), &["entry 1: it is not rbd's"]),
        (
            "[{\"offset\":0,\"length\":1,\"exists\":\"true\"},{\"offset\":1,\"length\":1,\"type\":1}]".to_owned(),
            &["entry 2: it is not rbd's"],
        ),
        (
            "[{\"offset\":4,\"length\":1,\"exists\":\"true\"},{\"offset\":1,\"length\":1,\"exists\":\"true\"}]".to_owned(),
            &["entry 2: ", "sorted and apart"],
        ),
        ("[{\"offset\":0,\"length\":917504}]".to_owned(), &["must be what thin_delta"]),
        (nbd(0, "data"), &["entry 1: type 0, 'data', is not of a dirty bitmap"]),
        (nbd(3, "hole,zero"), &["is not of a dirty bitmap"]),
        (nbd(1, "clean"), &["is not of a dirty bitmap"]),
        (nbd(0, "dirty"), &["is not of a dirty bitmap"]),
        (
            "[{\"offset\":0,\"length\":917504,\"type\":1}]".to_owned(),
            &["type 1, '', is not of a dirty bitmap"],
        ),
        (
            NBD.replace("\"offset\": 262144", "\"offset\": 262656"),
            &["entry 3: it begins at 262656, and the one before it ends at 262144"],
        ),
        (NBD.replace("\"offset\": 0", "\"offset\": 512"), &["entry 1: it begins at 512"]),
    ]);
}

#[test]
fn wrong_lines() {
    all_refused(&[
        ("0\n".to_owned(), &["line 1: it must be OFFSET LENGTH"]),
        (
            "0 512 1\n".to_owned(),
            &["line 1: it must be OFFSET LENGTH"],
        ),
        ("0 512".to_owned(), &["line 1: it has no end of line"]),
        (
            "# x\n0 64K\n".to_owned(),
            &["line 2: '64K' is not a decimal number"],
        ),
        ("0 +512\n".to_owned(), &["'+512' is not a decimal"]),
        ("0 0\n".to_owned(), &["line 1: the range at 0 is empty"]),
        (
            "2048 8\n4096 8\n".to_owned(),
            &["line 2: 2056 is not a multiple of 512", "not sectors"],
        ),
        (
            "100 512\n".to_owned(),
            &["line 1: 100 is not a multiple of 512"],
        ),
        (
            "512 512\n0 512\n".to_owned(),
            &["line 2: the range at 0 begins before"],
        ),
        (
            "0 1024\n512 1024\n".to_owned(),
            &["line 2: the range at 512 begins before"],
        ),
        (
            "0 18446744073709551616\n".to_owned(),
            &["more than 64 bits hold"],
        ),
        (
            "512 18446744073709551615\n".to_owned(),
            &["ends past all images"],
        ),
        (
            "1048576 512\n".to_owned(),
            &["it tells of byte 1049087, and the image has 917504"],
        ),
    ]);
}
