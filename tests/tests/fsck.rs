//! `sitefs fsck` from outside: a running cell, a stopped one, damage in objects, and repairs.

use serde_json::Value;
use sitefs_tests::{Cell, Demo, SOON, can_mount, content, files_of_size, sitefs, wait_for};
use std::{fs, path::Path};

fn offline(data: &Path, more: &[&str]) -> sitefs_tests::Finished {
    let data = data.display().to_string();
    sitefs(&[&["fsck", "--data", &data, "--json"], more].concat())
}

fn kinds(json: &Value) -> Vec<String> {
    let findings = json["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["kind"].as_str().expect("a kind").to_owned()).collect()
}

#[test]
fn a_cell_in_use_and_a_stopped_one_are_checked_and_a_running_one_is_not_touched_from_outside() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::create_dir_all(mount.path("a/b")).unwrap();
    for size in [100, 30_000, 700_000, (9 << 20) + 1] {
        fs::write(mount.path(&format!("a/b/f{size}")), content(size as u64, size)).unwrap();
    }
    fs::hard_link(mount.path("a/b/f100"), mount.path("a/two")).unwrap();
    cell.admin(&["volume", "snapshot", "create", "acme/live", "first"]).ok();
    fs::write(mount.path("a/b/f30000"), content(3, 31_000)).unwrap();
    let online = cell.admin(&["fsck", "--deep", "--snapshots", "--json"]).ok().json();
    assert_eq!(kinds(&online), Vec::<String>::new(), "{online}");
    assert!(online["checked"]["inodes"].as_u64() >= Some(7), "{online}");
    assert!(online["checked"]["bytes_read"].as_u64() >= Some(9 << 20), "{online}");
    let running = offline(&cell.data(), &[]);
    assert_eq!(running.code, 75, "{running:#?}");
    assert_eq!(mount.umount(), 0);
    cell.kill9();
    let stopped = offline(&cell.data(), &["--deep", "--snapshots"]).ok().json();
    assert_eq!(stopped["checked"]["inodes"], online["checked"]["inodes"]);
    assert!(stopped["checked"]["replayed_entries"].as_u64() > Some(0), "{stopped}");
}

#[test]
fn lost_cut_and_changed_objects_are_found_with_their_paths_and_repaired_by_writing_again() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let sizes = [("lost", (1 << 20) + 1), ("cut", (1 << 20) + 2), ("changed", (1 << 20) + 3)];
    let whole = |name: &str, len| content(name.len() as u64, len);
    fs::create_dir(demo.path("dir")).unwrap();
    for (name, len) in sizes {
        fs::write(demo.path(&format!("dir/{name}")), whole(name, len)).unwrap();
    }
    let blobs = demo.data().join("cell/blobs");
    wait_for("the objects", SOON, || {
        sizes.iter().all(|(_, len)| files_of_size(&blobs, *len as u64).len() == 1)
    });
    assert_eq!(demo.stop(), 0);
    let object = |len: usize| files_of_size(&blobs, len as u64).remove(0);
    fs::remove_file(object((1 << 20) + 1)).unwrap();
    let cut = object((1 << 20) + 2);
    fs::write(&cut, content(1, 5)).unwrap();
    fs::write(object((1 << 20) + 3), content(77, (1 << 20) + 3)).unwrap();

    let shallow = offline(demo.data(), &[]);
    assert_eq!(shallow.code, 4, "{shallow:#?}");
    let json = shallow.json();
    let mut found = kinds(&json);
    found.sort();
    assert_eq!(found, ["object-missing", "object-size"], "{json}");
    for finding in json["findings"].as_array().unwrap() {
        let path = finding["path"].as_str().unwrap();
        assert!(["/dir/lost", "/dir/cut"].contains(&path), "{finding}");
        assert_eq!(finding["volume"], "acme/live");
    }
    let deep = offline(demo.data(), &["--deep"]);
    assert_eq!(deep.code, 4);
    assert!(kinds(&deep.json()).contains(&"object-wrong".to_owned()), "{deep:#?}");

    // Through the log of the running cell, after it has said what it would do.
    demo.start_again();
    let admin = demo.process().said("admin");
    let online = |more: &[&str]| sitefs(&[&["fsck", "--admin", &admin, "--deep", "--json"], more].concat());
    let plan = online(&["--repair"]);
    assert_eq!(plan.code, 65, "{plan:#?}");
    let repaired = online(&["--repair", "--yes"]);
    assert_eq!(repaired.code, 1, "{repaired:#?}");
    let known = online(&[]);
    assert!(kinds(&known.json()).iter().all(|kind| kind == "blob-damaged"), "{known:#?}");
    for (name, len) in sizes {
        fs::write(demo.path("copy"), whole(name, len)).unwrap();
        assert!(fs::read(demo.path(&format!("dir/{name}"))).unwrap() == whole(name, len), "{name}");
    }
    assert_eq!(online(&[]).code, 0, "{:#?}", online(&[]));
}
