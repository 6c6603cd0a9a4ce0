use super::harness::*;
use bytes::Bytes;
use sitefs_base::{Attr, Errno, InodeId, op::*};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Entries of (tag, permission, id) in the kernel's form.
fn acl(entries: &[(u16, u16, u32)]) -> Bytes {
    let mut value = vec![2, 0, 0, 0];
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value.into()
}

const NOBODY: u32 = u32::MAX;

fn named(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Bytes {
    acl(&[(1, owner, NOBODY), (2, user, 33), (4, group, NOBODY), (16, mask, NOBODY), (32, other, NOBODY)])
}

fn set(cell: &mut Cell, ino: InodeId, name: &str, value: Bytes, mode: XattrMode) -> Result<Attr, Errno> {
    let name = Bytes::copy_from_slice(name.as_bytes());
    cell.op(Op::SetXattr { ino, name, value, mode }).map(|_| cell.attr(ino))
}

fn any(cell: &mut Cell, ino: InodeId, name: &str, value: impl Into<Bytes>) -> Result<Attr, Errno> {
    set(cell, ino, name, value.into(), XattrMode::Any)
}

fn remove(cell: &mut Cell, ino: InodeId, name: &str) -> OpResult {
    cell.op(Op::RemoveXattr { ino, name: Bytes::copy_from_slice(name.as_bytes()) })
}

fn get(cell: &Cell, ino: InodeId, name: &str) -> Option<Bytes> {
    match cell.query(Query::Xattrs { ino }).unwrap().body {
        AnswerBody::Xattrs(list) => list.into_iter().find(|(own, _)| own == name.as_bytes()).map(|(_, v)| v),
        other => panic!("{other:?}"),
    }
}

#[test]
fn attributes_are_set_replaced_and_removed() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    assert_eq!(set(&mut cell, file, "user.a", "1".into(), XattrMode::Replace), Err(Errno::ENODATA));
    let attr = set(&mut cell, file, "user.a", "1".into(), XattrMode::Create).unwrap();
    assert!(attr.flags.has_xattrs && attr.ctime == cell.now && attr.mtime < attr.ctime);
    assert_eq!(cell.event.as_ref().unwrap().changes, [Change::Xattr(file)]);
    assert_eq!(set(&mut cell, file, "user.a", "2".into(), XattrMode::Create), Err(Errno::EEXIST));
    set(&mut cell, file, "user.a", "2".into(), XattrMode::Replace).unwrap();
    assert_eq!(get(&cell, file, "user.a"), Some("2".into()));
    remove(&mut cell, file, "user.a").unwrap();
    assert!(!cell.attr(file).flags.has_xattrs);
    assert_eq!(remove(&mut cell, file, "user.a"), Err(Errno::ENODATA));
    assert_eq!(cell.query(Query::Xattrs { ino: InodeId::new(99) }), Err(Errno::ESTALE));
}

#[test]
fn names_and_sizes_have_limits() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let long = format!("user.{}", "x".repeat(251));
    assert_eq!(any(&mut cell, file, &long, "v"), Err(Errno::ERANGE));
    for bad in ["other.a", "user.", "system.nfs4_acl", ""] {
        assert_eq!(any(&mut cell, file, bad, "v"), Err(Errno::EOPNOTSUPP), "{bad}");
    }
    assert_eq!(any(&mut cell, file, "user.a\0b", "v"), Err(Errno::EINVAL));
    any(&mut cell, file, "user.big", vec![0; 65_000]).unwrap();
    assert_eq!(any(&mut cell, file, "user.more", vec![0; 600]), Err(Errno::ENOSPC));
    any(&mut cell, file, "trusted.a", "v").unwrap();
}

#[test]
fn an_access_list_sets_the_mode_and_chmod_changes_its_mask() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let attr = any(&mut cell, file, ACCESS, named(6, 7, 4, 5, 0)).unwrap();
    assert_eq!((attr.mode, attr.flags.has_access_acl), (0o650, true));
    cell.set(file, SetAttr { mode: Some(0o4731), ..Default::default() }).unwrap();
    assert_eq!(get(&cell, file, ACCESS), Some(named(7, 7, 4, 3, 1)));
    assert!(cell.event.as_ref().unwrap().changes.contains(&Change::Xattr(file)));
    assert_eq!(cell.attr(file).mode, 0o4731);
}

#[test]
fn an_access_list_that_is_only_a_mode_is_not_stored() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    any(&mut cell, file, ACCESS, named(6, 7, 4, 5, 0)).unwrap();
    let attr = any(&mut cell, file, ACCESS, acl(&[(1, 7, NOBODY), (4, 1, NOBODY), (32, 2, NOBODY)])).unwrap();
    assert_eq!((attr.mode, attr.flags.has_access_acl, attr.flags.has_xattrs), (0o712, false, false));
    assert_eq!(get(&cell, file, ACCESS), None);
    remove(&mut cell, file, ACCESS).unwrap();
}

#[test]
fn malformed_lists_are_refused() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let file = cell.file(root("f"));
    let (u, g, o) = ((1, 7, NOBODY), (4, 7, NOBODY), (32, 7, NOBODY));
    let bad = [
        Bytes::from_static(b"\x02\0\0"),
        Bytes::from_static(b"\x02\0\0\0\x01"),
        acl(&[u, g]),
        acl(&[g, u, o]),
        acl(&[u, (2, 7, 33), g, o]),
        acl(&[u, g, o, o]),
        acl(&[(1, 8, NOBODY), g, o]),
        acl(&[u, g, (64, 7, 0), o]),
        acl(&[u, g, (16, 7, 0), (16, 7, 0), o]),
    ];
    for bad in bad {
        assert_eq!(any(&mut cell, dir, ACCESS, bad.clone()), Err(Errno::EINVAL), "{bad:?}");
        assert_eq!(any(&mut cell, dir, DEFAULT, bad.clone()), Err(Errno::EINVAL), "{bad:?}");
    }
    assert_eq!(any(&mut cell, file, DEFAULT, acl(&[u, g, o])), Err(Errno::EACCES));
    let link = cell.done(Op::Symlink { at: root("l"), target: "f".into(), create: by(0) });
    assert_eq!(any(&mut cell, link, ACCESS, acl(&[u, g, o])), Err(Errno::EOPNOTSUPP));
}

#[test]
fn a_default_list_is_inherited_and_takes_the_place_of_the_umask() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let list = named(7, 7, 5, 7, 5);
    assert!(any(&mut cell, dir, DEFAULT, list.clone()).unwrap().flags.has_default_acl);
    assert_eq!(cell.attr(dir).mode, 0o755, "a default list leaves the directory's own mode");
    let create = |mode| Create { mode, umask: 0o077, uid: 0, gid: 0 };
    let at = place(dir, "f");
    let file = cell.done(Op::Mknod { at, kind: sitefs_base::FileKind::File, rdev: 0, create: create(0o660) });
    assert_eq!(cell.attr(file).mode, 0o660);
    assert_eq!(get(&cell, file, ACCESS), Some(named(6, 7, 5, 6, 0)));
    let sub = cell.done(Op::Mkdir { at: place(dir, "s"), create: create(0o1777) });
    let attr = cell.attr(sub);
    assert_eq!(attr.mode, 0o1775);
    assert!(attr.flags.has_default_acl && attr.flags.has_access_acl);
    assert_eq!((get(&cell, sub, DEFAULT), get(&cell, sub, ACCESS)), (Some(list.clone()), Some(list)));
    let link = cell.done(Op::Symlink { at: place(sub, "l"), target: "f".into(), create: create(0) });
    assert!(!cell.attr(link).flags.has_xattrs && cell.attr(link).mode == 0o777);
    remove(&mut cell, dir, DEFAULT).unwrap();
    let plain = cell.mkdir(place(dir, "plain"));
    assert!(!cell.attr(plain).flags.has_xattrs);
}

#[test]
fn a_default_list_without_names_gives_a_mode_only() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    any(&mut cell, dir, DEFAULT, acl(&[(1, 7, NOBODY), (4, 5, NOBODY), (32, 0, NOBODY)])).unwrap();
    let file = cell.write(place(dir, "f"), inline("x"));
    assert_eq!((cell.attr(file).mode, cell.attr(file).flags.has_xattrs), (0o640, false));
}
