//! The command line: what it prints, and how it refuses what cannot be.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sitefs_tests::{
    Cell, Demo, Finished, MountPoint, Running, SOON, binary, can_mount, is_mounted, run, scratch, sitefs,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = sitefs(&["--help"]).ok().stdout;
    for word in ["demo", "server", "mount", "umount", "volume", "status", "Exit codes"] {
        assert!(help.contains(word), "no {word} in\n{help}");
    }
    for command in ["demo", "server", "mount", "umount", "volume", "status"] {
        assert!(sitefs(&[command, "--help"]).ok().stdout.contains("Usage"));
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    for bad in [
        &["status", "--frobnicate"][..],
        &["fly"],
        &[],
        &["volume", "create", "Not A Name"],
        &["mount", "acme/live"],
        &["server", "/tmp/x", "--listen", "nowhere"],
        &["demo", "--s3-endpoint", "http://127.0.0.1:1"],
    ] {
        let ended = sitefs(bad);
        assert_eq!(ended.code, 2, "{bad:?}: {ended:#?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
    }
}

#[test]
fn unusable_mount_points_are_refused() {
    if !can_mount() {
        return;
    }
    let (_dir, path) = scratch();
    let data = path.join("data");
    let demo = |mount: &Path| sitefs(&["demo", &text(mount), "--data", &text(&data)]);
    fs::write(path.join("file"), "").unwrap();
    fs::create_dir_all(path.join("full/sub")).unwrap();
    demo(&path.join("file")).refused(65, "not a directory");
    demo(&path.join("full")).refused(65, "not empty");
    demo(&data.join("inside")).refused(65, "must not contain each other");
    demo(&path).refused(65, "must not contain each other");
    demo(Path::new("/proc")).refused(76, "already");
    let mount = |at: &Path, cache: &Path| {
        sitefs(&[
            "mount",
            "acme/live",
            &text(at),
            "--cell",
            "127.0.0.1:1",
            "--cache",
            &text(cache),
            "--insecure",
        ])
    };
    mount(&path.join("missing"), &path.join("cache")).refused(66, "does not exist");
    fs::create_dir(path.join("empty")).unwrap();
    mount(&path.join("empty"), &path.join("empty/cache")).refused(65, "must not contain each other");
    mount(&path.join("empty"), &path.join("cache")).refused(69, "127.0.0.1:1");
    assert_eq!(fs::read_dir(path.join("full")).unwrap().count(), 1);
}

#[test]
fn what_customers_store_is_for_the_owner_alone() {
    let (_dir, path) = scratch();
    let data = path.join("data");
    let log = path.join("log");
    assert_eq!(server_on(&data, &log).stop(), 0);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("blobs"))), (0o700, 0o700));
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let server = server_on(&data, &log);
    assert!(server.log().contains("other users may read the data directory"), "{}", server.log());
    assert_eq!(server.stop(), 0);
    assert_eq!(mode(&data), 0o755, "what somebody chose stays");
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    for dir in ["", "cell", "cell/blobs", "cache", "cache/work", "cache/journal", "cache/blobs"] {
        assert_eq!(mode(&demo.data().join(dir)), 0o700, "{dir:?}");
    }
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let (_dir, path) = scratch();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..limit }).unwrap();
    let server = server_on(&path.join("data"), &path.join("log"));
    setrlimit(Resource::Nofile, limit).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|at| line.split_whitespace().nth(at).unwrap());
    assert_eq!(soft, hard, "{line}");
    assert_eq!(server.stop(), 0);
}

fn server_on(data: &Path, log: &Path) -> Running {
    let mut arguments = vec!["server".to_owned(), text(data), "--insecure".to_owned()];
    for listen in ["--listen", "--admin-listen"] {
        arguments.extend([listen.to_owned(), "127.0.0.1:0".to_owned()]);
    }
    Running::start(&arguments, &[], log).unwrap()
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let (_dir, path) = scratch();
    let one_line = |ended: Finished, code: i32, says: &str| ended.refused(code, says);
    let server = |data: &Path| {
        let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--insecure"];
        sitefs(&[&["server", &text(data)], &listen[..]].concat())
    };
    one_line(server(Path::new("/proc/x")), 66, "choose a directory on a disk of this host");
    fs::write(path.join("file"), "").unwrap();
    one_line(server(&path.join("file")), 65, "is not a directory");
    one_line(
        sitefs(&["status", "--admin", "127.0.0.1:1"]),
        69,
        "is `sitefs server` or `sitefs demo` running?",
    );

    // A cell that takes calls and does not answer.
    let cell = Cell::start();
    cell.freeze();
    one_line(cell.admin(&["volume", "list"]), 69, "did not answer within 5 s");
    cell.thaw();
    cell.admin(&["volume", "list"]).ok();

    if !can_mount() {
        return;
    }
    std::os::unix::fs::symlink("/nowhere/at/all", path.join("dangling")).unwrap();
    let demo = |at: &Path, data: &Path| sitefs(&["demo", &text(at), "--data", &text(data)]);
    one_line(demo(&path.join("dangling"), &path.join("data")), 76, "choose another mount point");
    one_line(demo(&path.join("file/below"), &path.join("data")), 65, "cannot be a mount point");
    one_line(demo(&path.join("mount"), Path::new("/proc/x")), 66, "choose a directory on a disk");
}

#[test]
fn a_volume_that_is_made_smaller_than_it_is_warns() {
    let cell = Cell::start();
    cell.admin(&["volume", "create", "acme/small"]).ok();
    let set = cell.admin(&["volume", "set", "acme/small", "--bytes-limit", "0"]).ok();
    assert!(set.stderr.contains("nothing more can be written"), "{set:#?}");
    let set = cell.admin(&["volume", "set", "acme/small", "--bytes-limit", "1GiB"]).ok();
    assert_eq!(set.stderr, "", "{set:#?}");
}

#[test]
fn a_data_directory_of_something_else_is_refused_and_left_alone() {
    if !can_mount() {
        return;
    }
    let (_dir, path) = scratch();
    let data = path.join("photos");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("holiday.jpg"), "x").unwrap();
    sitefs(&["demo", &text(&path.join("mount")), "--data", &text(&data)]).refused(65, "other files");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
}

#[test]
fn a_second_demo_on_the_same_data_is_refused() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let (_dir, path) = scratch();
    sitefs(&["demo", &text(&path.join("mount")), "--data", &text(demo.data())]).refused(69, "another demo");
    fs::write(demo.path("still"), "works").unwrap();
}

#[test]
fn a_server_refuses_the_data_of_another_cell() {
    let (_dir, path) = scratch();
    let data = text(&path.join("data"));
    let start = |name: &str| {
        let arguments =
            ["server", &data, "--name", name, "--insecure", "--listen", "127.0.0.1:0"].map(str::to_owned);
        let mut arguments = arguments.to_vec();
        arguments.extend(["--admin-listen", "127.0.0.1:0"].map(str::to_owned));
        sitefs_tests::Running::start(&arguments, &[], &path.join("log"))
    };
    assert_eq!(start("one").unwrap().stop(), 0);
    let failed = start("two").expect_err("a cell of another name took the data");
    failed.refused(failed.code, "one");
    assert!([65, 75, 77].contains(&failed.code), "{failed:#?}");
    assert_eq!(start("one").unwrap().stop(), 0);
}

#[test]
fn the_directories_of_a_cell_and_of_a_mount_are_kept_apart() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    let (_dir, path) = scratch();
    let server = |data: &Path| {
        sitefs(&[
            "server",
            &text(data),
            "--insecure",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
    };
    server(&mount.path("d9")).refused(65, "a mount of sitefs");
    assert!(!mount.path("d9").exists());
    let foreign = path.join("www");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("index.php"), "x").unwrap();
    server(&foreign).refused(65, "index.php");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);

    let at = |point: &Path, cache: &Path| {
        let (point, cache) = (text(point), text(cache));
        sitefs(&["mount", "acme/live", &point, "--cell", cell.listen(), "--cache", &cache, "--insecure"])
    };
    let (data, empty) = (path.join("data"), path.join("empty"));
    fs::create_dir_all(data.join("xx")).unwrap();
    fs::create_dir(&empty).unwrap();
    fs::write(data.join("format"), "sitefs-data 1\ncell main\ngroup 1\nnode 1\n").unwrap();
    at(&data.join("xx"), &path.join("cache")).refused(65, "the data directory of a cell");
    at(&empty, &data.join("cache")).refused(65, "the data directory of a cell");
    at(&empty, &mount.path("cache")).refused(65, "a mount of sitefs");
    at(&empty, &foreign.join("index.php")).refused(65, "cannot be the cache");
}

#[test]
fn a_lost_log_is_refused_as_damage() {
    let (_dir, path) = scratch();
    let data = path.join("data");
    let start = || {
        let ports = ["--insecure", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let arguments: Vec<_> =
            ["server", &text(&data)].into_iter().chain(ports).map(str::to_owned).collect();
        sitefs_tests::Running::start(&arguments, &[], &path.join("log"))
    };
    assert_eq!(start().unwrap().stop(), 0);
    fs::remove_dir_all(data.join("log")).unwrap();
    start().expect_err("a cell without its log started").refused(74, "the log was lost");
}

#[test]
fn without_certificates_only_this_machine_is_trusted_and_only_when_told() {
    let (_dir, path) = scratch();
    let data = text(&path.join("data"));
    sitefs(&["server", &data]).refused(65, "--insecure");
    sitefs(&["server", &data, "--insecure", "--listen", "0.0.0.0:0"]).refused(65, "loopback");
    let mount = |cell: &str, more: &[&str]| {
        let cache = text(&path.join("cache"));
        sitefs(&[&["mount", "acme/live", &text(&path), "--cell", cell, "--cache", &cache], more].concat())
    };
    mount("127.0.0.1:7440", &[]).refused(65, "--insecure");
    mount("198.51.100.7:7440", &["--insecure"]).refused(65, "loopback");
    mount("nonsense", &["--insecure"]).refused(65, "HOST:PORT");
    assert!(!path.join("data").join("log").exists());
}

#[test]
fn a_cell_that_is_not_there_is_unavailable() {
    sitefs(&["status", "--admin", "127.0.0.1:1"]).refused(69, "127.0.0.1:1");
    sitefs(&["volume", "list", "--admin", "127.0.0.1:1"]).refused(69, "no cell answers");
}

#[test]
fn volumes_are_made_once_listed_and_counted() {
    let cell = Cell::start();
    assert_eq!(cell.admin(&["volume", "list", "--json"]).ok().json().as_array().unwrap().len(), 0);
    let made = cell.admin(&["volume", "create", "acme/live", "--bytes-limit", "1GiB", "--json"]).ok().json();
    assert_eq!(made["name"], "acme/live");
    cell.admin(&["volume", "create", "acme/live"]).refused(76, "acme/live");
    cell.admin(&["volume", "create", "acme/dev"]).ok();
    let listed = cell.admin(&["volume", "list", "--json"]).ok().json();
    let live = listed.as_array().unwrap().iter().find(|volume| volume["name"] == "acme/live").unwrap();
    assert_eq!(live["usage"]["bytes_limit"], 1u64 << 30);
    assert!(cell.admin(&["volume", "list"]).ok().stdout.contains("acme/dev"));
    let status = cell.admin(&["status", "--json"]).ok().json();
    assert_eq!((&status["cell"], &status["volumes"]), (&"main".into(), &2.into()));
    assert!(cell.admin(&["status"]).ok().stdout.contains("main"));
}

#[test]
fn a_volume_that_is_not_there_is_not_found() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (_dir, path) = scratch();
    let point = MountPoint::create(path.join("mount"));
    let (root, cache) = (text(point.path()), text(&path.join("cache")));
    let ended =
        sitefs(&["mount", "acme/none", &root, "--cell", cell.listen(), "--cache", &cache, "--insecure"]);
    ended.refused(66, "acme/none");
}

#[test]
fn umount_takes_off_our_mounts_only() {
    if !can_mount() {
        return;
    }
    let (_dir, path) = scratch();
    sitefs(&["umount", &text(&path)]).refused(66, "nothing is mounted");
    sitefs(&["umount", "/proc"]).refused(65, "not of sitefs");
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    let inside = fs::File::create(mount.path("open")).unwrap();
    sitefs(&["umount", &text(mount.root())]).refused(69, "in use");
    drop(inside);
    assert_eq!(mount.umount(), 0);
}

#[test]
fn a_read_only_mount_refuses_writing() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount("acme/live");
    fs::write(writer.path("f"), "x").unwrap();
    let reader = cell.mount_with("acme/live", &["--read-only"]);
    assert_eq!(fs::read(reader.path("f")).unwrap(), b"x");
    let error = fs::write(reader.path("g"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn the_demo_tells_where_everything_is() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    assert_eq!(demo.process().said("mountpoint"), text(demo.root()));
    let admin = demo.process().said("admin");
    let status = sitefs(&["status", "--json", "--admin", &admin]).ok().json();
    assert_eq!((&status["cell"], &status["sessions"]), (&"demo".into(), &1.into()));
}

#[test]
fn mount_sitefs_takes_paths_from_where_it_is_called() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    cell.volume("acme/live");
    let (_dir, path) = scratch();
    for name in ["mount.sitefs", "umount.sitefs"] {
        symlink(binary(), path.join(name)).unwrap();
    }
    let point = MountPoint::create(path.join("root"));
    let helper = |arguments: &[&str]| {
        let mut command = Command::new(path.join(arguments[0]));
        command.args(&arguments[1..]).current_dir(&path);
        run(command, SOON).ok()
    };
    let source = format!("{}:acme/live", cell.listen());
    helper(&["mount.sitefs", &source, "root", "-o", "cache=cache,journal=kept/journal,insecure"]);
    fs::write(point.path().join("file"), "x").unwrap();
    for made in ["cache/blobs", "kept/journal/lock"] {
        assert!(path.join(made).exists(), "no {made}");
    }
    helper(&["umount.sitefs", "root"]);
    assert!(!is_mounted(point.path()));
}
