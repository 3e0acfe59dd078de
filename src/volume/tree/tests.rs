use super::*;
use crate::clock::SystemClock;
use crate::geometry::BlockIndex;
use crate::volume::FileKind;

fn member(name: &str, identity: &str) -> Member {
    let owner = OwnerConfig::default();
    Member {
        name: name.into(),
        identity: identity.into(),
        // Any volume does.
        volume: Arc::new(Top::new(Vec::new(), owner, Arc::new(SystemClock))),
    }
}

fn tree(members: Vec<Member>) -> Tree {
    Tree::named(members, OwnerConfig::default(), Arc::new(SystemClock))
}

/// The number of the directory `name`.
fn number_of(tree: &Tree, name: &str) -> u64 {
    let (top, root) = tree.find(1).unwrap();
    let found = top.lookup(root, OsStr::new(name)).unwrap();
    tree.number(1, found.attr.inode)
}

#[test]
fn p33_a_number_depends_on_its_own_source_alone() {
    let alone = tree(vec![member("a", "/a")]);
    let three = tree(vec![
        member("c", "/c"),
        member("a", "/a"),
        member("b", "/b"),
    ]);
    let other = tree(vec![member("a", "/elsewhere/a")]);
    let renamed = tree(vec![member("b", "/a")]);
    let number = number_of(&alone, "a");
    assert_eq!(number_of(&three, "a"), number);
    assert_ne!(number_of(&other, "a"), number);
    assert_ne!(number_of(&renamed, "b"), number);
    assert!(
        i64::try_from(number).is_ok(),
        "{number} is negative for some"
    );
}

#[test]
fn p33_numbers_lead_back_to_the_volume_and_the_inode() {
    let tree = tree(vec![member("a", "/a"), member("b", "/b")]);
    for name in ["a", "b"] {
        let directory = number_of(&tree, name);
        let (volume, root) = tree.find(directory).unwrap();
        assert_eq!(root, Inode::Root);
        for inode in [
            Inode::Root,
            Inode::Block(BlockIndex::new(99_999_999).unwrap()),
            Inode::Other(0),
            Inode::Other(1 << 32),
        ] {
            let number = tree.number(directory, inode);
            let (found, back) = tree.find(number).unwrap();
            assert!(Arc::ptr_eq(found, volume));
            assert_eq!(back, inode);
        }
    }
    for nobody in [0, 5 << LOW_BITS, u64::MAX] {
        assert_eq!(tree.find(nobody).err(), Some(Errno::ENOENT), "{nobody}");
    }
}

#[test]
fn p33_of_one_volume_all_numbers_are_its_own() {
    let tree = Tree::one(member("a", "/a").volume);
    for inode in [Inode::Root, Inode::Other(7), Inode::Other(1 << 60)] {
        assert_eq!(tree.number(1, inode), inode.number());
        assert_eq!(tree.find(inode.number()).unwrap().1, inode);
    }
}

#[test]
fn p33_of_two_with_the_same_key_one_moves() {
    let key_of = |number: u64| {
        let name = format!("v{number}");
        key(OsStr::new(&name), OsStr::new("/v"))
    };
    let mut seen = BTreeMap::new();
    let (one, other) = (0..1_000_000)
        .find_map(|number| Some((seen.insert(key_of(number), number)?, number)))
        .unwrap();
    let names = [format!("v{one}"), format!("v{other}")];
    let tree = tree(names.iter().map(|name| member(name, "/v")).collect());
    assert_ne!(number_of(&tree, &names[0]), number_of(&tree, &names[1]));
}

#[test]
fn p33_the_top_lists_its_names_in_order_and_goes_on_where_it_was() {
    let tree = tree(vec![member("b", "/b"), member("a", "/a")]);
    let top = tree.root();
    let handle = top.open_directory(Inode::Root).unwrap();
    let mut seen: Vec<(OsString, FileKind, u64)> = Vec::new();
    // One entry at a time, as with a reply that has no room for more.
    loop {
        let position = seen.last().map_or(0, |(_, _, next)| *next);
        let before = seen.len();
        top.list(handle, position, &mut |listed| {
            let room = seen.len() == before;
            if room {
                seen.push((listed.name.to_owned(), listed.entry.attr.kind, listed.next));
            }
            room
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
    }
    let names: Vec<_> = seen
        .iter()
        .map(|(name, ..)| name.to_str().unwrap())
        .collect();
    assert_eq!(names, [".", "..", "a", "b"]);
    assert!(seen.iter().all(|(_, kind, _)| *kind == FileKind::Directory));
    assert_eq!(top.attr(Inode::Root).unwrap().links, 4);
    let removed = |name| top.remove(Inode::Root, OsStr::new(name));
    assert_eq!(removed("a"), Err(Errno::EISDIR));
    assert_eq!(removed("c"), Err(Errno::ENOENT));
}
