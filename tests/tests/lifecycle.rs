//! How mounts begin and end: by hand, by mount(8), under a service manager, and the hard way.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::{fs::XattrFlags, io::Errno, process::Signal};
use serde_json::Value;
use sitefs_tests::{
    Cell, Finished, MountPoint, Mounted, SOON, binary, can_mount, content, is_mounted, run, scratch, sitefs,
    skipped, wait_for,
};
use std::{
    fs::{self, File},
    io::Write,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt, symlink},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const STATUS: &str = "user.sitefs.status";

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap()
}

fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("SITEFS_LOG");
    run(command, SOON)
}

/// The binary under the names of mount(8)'s helpers, and a place to mount on.
struct Helpers {
    point: MountPoint,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Helpers {
    fn new() -> Self {
        let (dir, path) = scratch();
        for name in ["mount.sitefs", "umount.sitefs"] {
            symlink(binary(), path.join(name)).unwrap();
        }
        Self { point: MountPoint::create(path.join("root")), path, _dir: dir }
    }

    fn root(&self) -> &Path {
        self.point.path()
    }

    fn cache(&self) -> String {
        text(&self.path.join("cache"))
    }

    /// `mount.sitefs SOURCE ROOT -o cache=…,insecure,OPTIONS FLAGS`.
    fn mount(&self, source: &str, options: &str, flags: &[&str]) -> Finished {
        let options = format!("cache={},insecure,{options}", self.cache());
        let root = text(self.root());
        let all = [&[source, &root, "-o", &options], flags].concat();
        command(self.path.join("mount.sitefs"), &all)
    }

    fn umount(&self) -> Finished {
        command(self.path.join("umount.sitefs"), &[&text(self.root())])
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        // The process in the background ends with its mount.
        drop(sitefs(&["umount", "--force", &text(self.root())]));
    }
}

/// The line of the kernel's table for a mount.
fn table_line(root: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = text(root);
    table.lines().rfind(|line| line.split(' ').nth(4) == Some(&at)).unwrap_or_default().to_owned()
}

fn status_of(root: &Path) -> Value {
    sitefs(&["status", "--json", &text(root)]).ok().json()
}

/// A file that a program has written and not closed. It is another program's because each process that
/// this one starts closes what it inherits, and a close commits.
struct Unclosed(Child);

impl Unclosed {
    fn new(mount: &Mounted, name: &str, bytes: &[u8]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "exec cat > \"$0\"", &text(&mount.path(name))]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
        let written = || fs::metadata(mount.path(name)).is_ok_and(|meta| meta.len() == bytes.len() as u64);
        wait_for("the writer", SOON, written);
        Self(child)
    }

    fn close(self) {}
}

impl Drop for Unclosed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The status without another process.
fn status_here(root: &Path) -> Value {
    let mut value = vec![0; 1 << 16];
    let len = rustix::fs::getxattr(root, STATUS, &mut value[..]).unwrap();
    serde_json::from_slice(&value[..len]).unwrap()
}

#[test]
fn mount_sitefs_returns_when_the_mount_is_up() {
    if !can_mount() {
        return;
    }
    let (cell, helpers) = (Cell::start(), Helpers::new());
    cell.volume("acme/live");
    let source = format!("{}:acme/live", cell.listen());
    let began = Instant::now();
    let done = helpers.mount(&source, "rw,noatime,_netdev,nofail,x-systemd.automount", &["-n", "-v"]).ok();
    assert!(done.stdout.contains("acme/live"), "{done:#?}");
    assert!(began.elapsed() < Duration::from_secs(30), "its output stays open");
    fs::write(helpers.root().join("file"), "x").unwrap();
    if rustix::process::geteuid().is_root() {
        let line = table_line(helpers.root());
        assert!(line.contains(" - fuse.sitefs main:acme/live "), "{line}");
        assert!(line.contains("nosuid,nodev,noatime"), "{line}");
    }
    helpers.mount(&source, "rw", &[]).ok();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = format!(" {} ", text(helpers.root()));
    assert_eq!(table.lines().filter(|line| line.contains(&at)).count(), 1, "it was there already");
    let other = helpers.mount(&format!("{}:acme/other", cell.listen()), "rw", &[]);
    other.refused(32, "already");

    helpers.umount().ok();
    assert!(!is_mounted(helpers.root()));
    // The same cache serves the next one at once.
    helpers.mount(&source, "ro", &[]).ok();
    assert_eq!(fs::read(helpers.root().join("file")).unwrap(), b"x");
    assert_eq!(fs::write(helpers.root().join("new"), "x").map_err(errno), Err(Errno::ROFS));
    helpers.umount().ok();
}

#[test]
fn mount_sitefs_says_what_is_wrong_and_ends_as_mount_does() {
    if !can_mount() {
        return;
    }
    let helpers = Helpers::new();
    let source = "127.0.0.1:1:acme/live";
    helpers.mount(source, "noatime,frobnicate", &[]).refused(1, "\"frobnicate\" is not known");
    helpers.mount(source, "uid=www-data", &[]).refused(1, "uid=www-data");
    helpers.mount("acme/live", "rw", &[]).refused(1, "HOST:PORT:SITE/ENVIRONMENT");
    helpers.mount(source, "rw", &["--frobnicate"]).refused(1, "is not known");
    let no_cache = command(helpers.path.join("mount.sitefs"), &[source, &text(helpers.root())]);
    no_cache.refused(1, "cache=DIR");
    helpers.mount(source, "rw", &[]).refused(32, "127.0.0.1:1");
    helpers.mount(source, "frobnicate", &["-s"]).refused(32, "127.0.0.1:1");
    helpers.mount(source, "rw", &["-f"]).ok();
    assert!(!is_mounted(helpers.root()), "-f only looks");

    let (root, cache) = (text(helpers.root()), helpers.cache());
    let options = format!("cache={cache},insecure,frobnicate");
    let mount = sitefs(&["mount", "acme/live", &root, "--cell", "127.0.0.1:1", "-o", &options]);
    mount.refused(65, "\"frobnicate\" is not known");
    let mount = sitefs(&["mount", "acme/live", &root, "--cell", "127.0.0.1:1", "-o", "insecure"]);
    mount.refused(65, "--cache");
}

/// A link in the place where mount(8) looks, taken away again.
struct Installed(PathBuf);

impl Installed {
    fn new(name: &str) -> Option<Self> {
        let path = Path::new("/sbin").join(name);
        symlink(binary(), &path).ok().map(|()| Self(path))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn mount_and_umount_of_the_system_work_with_a_line_of_fstab() {
    if !can_mount() {
        return;
    }
    let names = ["mount.sitefs", "umount.fuse.sitefs"];
    let installed: Option<Vec<_>> = names.into_iter().map(Installed::new).collect();
    let Some(_installed) = installed else {
        skipped("mount(8) finds helpers in /sbin only, and they cannot be put there");
        return;
    };
    let (cell, helpers) = (Cell::start(), Helpers::new());
    cell.volume("acme/live");
    let (root, fstab) = (text(helpers.root()), text(&helpers.path.join("fstab")));
    let options = format!("cache={},insecure,noatime,noauto,user,_netdev", helpers.cache());
    fs::write(&fstab, format!("{}:acme/live {root} sitefs {options} 0 0\n", cell.listen())).unwrap();
    let mount = |arguments: &[&str]| command("mount", &[&["-T", &fstab], arguments].concat());
    mount(&[&root]).ok();
    assert!(table_line(helpers.root()).contains("noexec"), "`user` means that, and mount(8) says so");
    let mut open = File::create(helpers.root().join("file")).unwrap();
    open.write_all(b"x").unwrap();
    let busy = command("umount", &[&root]);
    assert!(busy.code == 32 && busy.stderr.contains("in use"), "{busy:#?}");
    drop(open);
    command("umount", &[&root]).ok();
    assert!(!is_mounted(helpers.root()));

    // As mount(8) is called by hand, and after the process died.
    let options = format!("cache={},insecure,ro", helpers.cache());
    let by_hand = || {
        let source = format!("{}:acme/live", cell.listen());
        command("mount", &["-t", "sitefs", &source, &root, "-o", &options])
    };
    by_hand().ok();
    let pid = i32::try_from(status_of(helpers.root())["pid"].as_u64().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let dead = || fs::read_dir(helpers.root()).map(drop).map_err(errno) == Err(Errno::NOTCONN);
    wait_for("the end of the mount's process", SOON, dead);
    by_hand().ok();
    assert_eq!(fs::read(helpers.root().join("file")).unwrap(), b"x");
    command("umount", &[&root]).ok();
}

#[test]
fn all_files_belong_to_the_owner_that_the_mount_names() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let plain = cell.mount("acme/live");
    fs::write(plain.path("before"), "x").unwrap();
    let own = fs::metadata(plain.path("before")).unwrap().uid();
    let mount = cell.mount_with("acme/live", &["-o", "uid=1234,gid=4321,noexec"]);
    let owner = |path: PathBuf| fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!(owner(mount.path("before")), (1234, 4321));
    assert_eq!(owner(mount.root().to_owned()), (1234, 4321));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/file"), "x").unwrap();
    symlink("file", mount.path("dir/link")).unwrap();
    assert_eq!(owner(plain.path("dir")), (1234, 4321), "what is made belongs to it everywhere");
    assert_eq!(owner(plain.path("dir/file")), (1234, 4321));
    assert_eq!(owner(plain.path("before")).0, own, "what was there keeps its owner");
    let chown = |uid| std::os::unix::fs::chown(mount.path("dir/file"), Some(uid), None).map_err(errno);
    assert_eq!((chown(1234), chown(1235)), (Ok(()), Err(Errno::PERM)));
    fs::write(mount.path("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(mount.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Command::new(mount.path("program")).status().map_err(errno);
    assert_eq!(refused.unwrap_err(), Errno::ACCESS, "noexec");
}

#[test]
fn a_dead_mount_is_recovered_and_can_be_removed() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::write(mount.path("file"), "x").unwrap();
    mount.kill9();
    let status = sitefs(&["status", &text(mount.root())]);
    status.refused(69, "has died");
    mount.start_again();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"x");
    let again = table_line(mount.root());
    assert!(again.contains("sitefs"), "{again}");
    mount.kill9();
    sitefs(&["umount", "--wait", &text(mount.root())]).ok();
    assert!(!is_mounted(mount.root()));
    mount.start_again();
    assert_eq!(mount.stop(), 0);
}

#[test]
fn a_busy_mount_is_refused_by_name_or_detached() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    let mut open = File::create(mount.path("log")).unwrap();
    open.write_all(b"line\n").unwrap();
    for arguments in [&["umount"][..], &["umount", "--wait"]] {
        let refused = sitefs(&[arguments, &[&text(mount.root())]].concat());
        refused.refused(69, "in use");
        assert!(refused.stderr.contains(&format!("({})", std::process::id())), "{}", refused.stderr);
    }
    // It goes on as before.
    fs::write(mount.path("other"), "x").unwrap();
    sitefs(&["umount", "--force", &text(mount.root())]).ok();
    assert!(!is_mounted(mount.root()));
    drop(open);
    assert_eq!(mount.wait(), 0);
    let again = cell.mount("acme/live");
    assert_eq!(fs::read(again.path("log")).unwrap(), b"line\n", "what was written is committed");
}

#[test]
fn sigterm_commits_what_is_dirty() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    let bytes = content(7, 9 << 20);
    let open = Unclosed::new(&mount, "file", &bytes);
    assert_eq!(status_here(mount.root())["dirty"]["bytes"], bytes.len());
    assert_eq!(mount.stop(), 0);
    open.close();
    assert!(!is_mounted(mount.root()));
    let again = cell.mount("acme/live");
    assert!(fs::read(again.path("file")).unwrap() == bytes);
}

/// Opens a file for writing that is there and known.
fn write_known(mount: &Mounted) -> Result<(), Errno> {
    File::options().append(true).open(mount.path("known")).map(drop).map_err(errno)
}

fn wait_for_drain(mount: &Mounted) {
    wait_for("refusal of opens for writing", SOON, || write_known(mount) == Err(Errno::ROFS));
}

#[test]
fn sigterm_waits_for_a_cell_that_comes_back() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::write(mount.path("known"), "x").unwrap();
    let open = Unclosed::new(&mount, "file", b"written while the cell was there");
    cell.kill9();
    mount.process().signal(Signal::TERM);
    wait_for_drain(&mount);
    cell.start_again();
    assert_eq!(mount.wait(), 0);
    open.close();
    let again = cell.mount("acme/live");
    assert_eq!(fs::read(again.path("file")).unwrap(), b"written while the cell was there");
}

#[test]
fn a_second_signal_does_not_wait() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::write(mount.path("known"), "x").unwrap();
    let open = Unclosed::new(&mount, "file", b"x");
    cell.kill9();
    mount.process().signal(Signal::TERM);
    wait_for_drain(&mount);
    let began = Instant::now();
    wait_for("the end of the mount", SOON, || {
        mount.process().signal(Signal::TERM);
        !is_mounted(mount.root())
    });
    assert_eq!(mount.wait(), 75);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    open.close();
}

#[test]
fn umount_wait_keeps_a_mount_whose_files_cannot_be_committed() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::write(mount.path("known"), "x").unwrap();
    let open = Unclosed::new(&mount, "file", b"dirty");
    cell.kill9();
    let root = text(mount.root());
    let umount = |seconds: &'static str| {
        let arguments = ["umount", &root, "--wait", "--timeout", seconds].map(str::to_owned);
        std::thread::spawn(move || sitefs(&arguments))
    };
    let trying = umount("3");
    // Whatever is known stays readable, and nothing new is written.
    wait_for_drain(&mount);
    assert_eq!(fs::read(mount.path("known")).unwrap(), b"x");
    assert_eq!(status_here(mount.root())["draining"], true);
    trying.join().unwrap().refused(75, "1 changed files could not be committed in 3 s");
    assert!(is_mounted(mount.root()));
    wait_for("opens for writing", SOON, || write_known(&mount) == Ok(()));

    cell.start_again();
    let trying = umount("60");
    // The descriptor would keep the mount busy: it is closed once everything is committed.
    wait_for("the commit", SOON, || status_here(mount.root())["dirty"]["files"] == 0);
    open.close();
    let first = trying.join().unwrap();
    if first.code == 69 {
        // It was still open when the drain ended.
        umount("60").join().unwrap().ok();
    } else {
        first.ok();
    }
    assert!(!is_mounted(mount.root()));
    assert_eq!(mount.wait(), 0);
    mount.start_again();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"dirty");
}

#[test]
fn the_status_of_a_mount_needs_no_cell() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount("acme/live");
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/file"), content(3, 100_000)).unwrap();
    let attached = || status_of(mount.root())["lease"]["held"] == true;
    wait_for("a lease", SOON, attached);
    let status = status_of(mount.root());
    assert_eq!((&status["volume"], &status["cell"]), (&"acme/live".into(), &"main".into()));
    assert_eq!(status["pid"], mount.process().pid());
    assert_eq!(status["cache"]["limit_bytes"], 1u64 << 30);
    assert_eq!((&status["dirty"]["files"], &status["journal"]["records"]), (&0.into(), &0.into()));
    assert!(status["credit"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["session"]["events_behind"], 0);
    let shown = sitefs(&["status", &text(&mount.path("dir"))]).ok().stdout;
    for word in ["acme/live", "lease", "held", "events behind", "credit", "open files"] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }

    cell.kill9();
    wait_for("the end of the lease", SOON, || status_of(mount.root())["lease"]["held"] == false);
    let status = status_of(mount.root());
    assert_eq!(status["session"]["connected"], false);
    let by_socket = sitefs(&["status", "--json", "--cache", &text(&mount.cache())]).ok().json();
    assert_eq!(by_socket["session"]["id"], status["session"]["id"]);
    assert!(sitefs(&["status", &text(mount.root())]).ok().stdout.contains("not attached"));

    sitefs(&["status", "/proc"]).refused(66, "no volume is mounted");
    sitefs(&["status", "--cache", "/tmp"]).refused(66, "no mount uses");
}

#[test]
fn the_status_is_an_attribute_that_copies_do_not_take_along() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    let root = mount.root();
    let mut value = vec![0; 1 << 16];
    assert_eq!(status_here(root)["volume"], "acme/live");
    let short = rustix::fs::getxattr(root, STATUS, &mut value[..8]);
    assert_eq!(short, Err(Errno::RANGE));
    rustix::fs::setxattr(root, "user.colour", b"green", XattrFlags::empty()).unwrap();
    let len = rustix::fs::listxattr(root, &mut value[..]).unwrap();
    let listed = String::from_utf8_lossy(&value[..len]).into_owned();
    assert!(listed.contains("user.colour") && !listed.contains("sitefs"), "{listed:?}");
    let set = rustix::fs::setxattr(root, STATUS, b"x", XattrFlags::empty());
    assert_eq!((set, rustix::fs::removexattr(root, STATUS)), (Err(Errno::PERM), Err(Errno::PERM)));
    fs::create_dir(mount.path("dir")).unwrap();
    let elsewhere = rustix::fs::getxattr(mount.path("dir"), STATUS, &mut value[..]);
    assert_eq!(elsewhere, Err(Errno::NODATA));
}

/// A process under strace, killed at the end.
struct Traced(std::process::Child);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mounts_process_never_goes_through_its_own_mount() {
    if !can_mount() {
        return;
    }
    let can_trace = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !can_trace.is_ok_and(|ended| ended.success()) {
        skipped("strace is not there, or may not trace");
        return;
    }
    let (cell, (_dir, path)) = (Cell::start(), scratch());
    cell.volume("acme/live");
    let point = MountPoint::create(path.join("root"));
    let (root, trace) = (text(point.path()), path.join("trace"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=%file,statfs,fstatfs", "-o", &text(&trace)]).arg(binary());
    strace.args([
        "mount",
        "acme/live",
        &root,
        "--cell",
        cell.listen(),
        "--cache",
        &text(&path.join("cache")),
    ]);
    let mut traced = Traced(strace.arg("--insecure").spawn().unwrap());
    wait_for("the mount", SOON, || is_mounted(point.path()));
    fs::create_dir(point.path().join("dir")).unwrap();
    fs::write(point.path().join("dir/file"), content(1, 200_000)).unwrap();
    assert_eq!(fs::read_dir(point.path()).unwrap().count(), 1);
    status_of(point.path());
    sitefs(&["umount", "--wait", &root]).ok();
    assert!(traced.0.wait().unwrap().success());
    let calls = fs::read_to_string(&trace).unwrap();
    let quoted = format!("\"{root}");
    let mounted = calls.lines().skip_while(|line| !line.contains(" mount(") && !line.contains("fusermount3"));
    let touching: Vec<&str> = mounted.skip(1).filter(|line| line.contains(&quoted)).collect();
    let harmless = |line: &&&str| line.contains("umount2(") || line.contains("fusermount3");
    assert_eq!(touching.iter().filter(harmless).count(), touching.len(), "{touching:#?}");
    assert!(calls.contains(&quoted), "the trace shows nothing");
}

#[test]
fn the_control_socket_is_the_owners_alone() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    let mode = fs::metadata(mount.cache().join("control")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Waits for a message that has `words`.
fn told(socket: &UnixDatagram, words: &str) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut message = [0; 1024];
    let len = socket.recv(&mut message).unwrap_or_else(|error| panic!("no {words}: {error}"));
    let message = String::from_utf8_lossy(&message[..len]).into_owned();
    assert!(message.lines().any(|line| line == words), "no {words} in {message:?}");
    assert!(message.contains("STATUS="), "{message:?}");
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let (_dir, path) = scratch();
    let named = UnixDatagram::bind(path.join("notify")).unwrap();
    let mut cell = Cell::with(&[], &[("NOTIFY_SOCKET", &text(&path.join("notify")))]);
    told(&named, "READY=1");
    if can_mount() {
        let name = format!("sitefs-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        cell.volume("acme/live");
        let point = MountPoint::create(path.join("root"));
        let arguments = ["mount", "acme/live", &text(point.path()), "--cell", cell.listen(), "--cache"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.extend([text(&path.join("cache")), "--insecure".to_owned()]);
        let env = [("NOTIFY_SOCKET".to_owned(), Some(format!("@{name}")))];
        let mount = sitefs_tests::Running::start(&arguments, &env, &path.join("log")).unwrap();
        told(&abstract_one, "READY=1");
        assert_eq!(mount.stop(), 0);
        told(&abstract_one, "STOPPING=1");
    }
    assert_eq!(cell.stop(), 0);
    told(&named, "STOPPING=1");
}

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn value_of<'a>(unit: &'a str, key: &str) -> &'a str {
    let found = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in\n{unit}"))
}

#[test]
fn the_example_units_say_what_the_programs_understand() {
    for name in ["sitefs-server.service", "sitefs-mount@.service"] {
        let unit = unit(name);
        assert_eq!(value_of(&unit, "Type"), "notify");
        let start = value_of(&unit, "ExecStart").replace("$SITEFS_ARGS", "");
        let start = start.replace("${VOLUME}", "acme/live").replace("${CELL}", "127.0.0.1:7440");
        let mut words: Vec<&str> = start.split_whitespace().skip(1).collect();
        words.push("--help");
        sitefs(&words).ok();
    }
    let (mount, auto) = (unit("srv-acme.mount"), unit("srv-acme.automount"));
    assert_eq!(value_of(&mount, "Where"), value_of(&auto, "Where"));
    assert_eq!(value_of(&mount, "Type"), "sitefs");
    let helpers = Helpers::new();
    let arguments =
        [value_of(&mount, "What"), value_of(&mount, "Where"), "-f", "-o", value_of(&mount, "Options")];
    command(helpers.path.join("mount.sitefs"), &arguments).ok();
    let line = mount.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!((fields[0], fields[1], fields[2]), (arguments[0], arguments[1], "sitefs"));
    command(helpers.path.join("mount.sitefs"), &[fields[0], fields[1], "-f", "-o", fields[3]]).ok();
}
