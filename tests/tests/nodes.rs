//! A cell of three nodes: killed, frozen, wiped, given old disks, restarted and changed under load.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Finished, Mounted, Nodes, SOON, can_mount, close, sitefs, wait_for};
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A program that makes files one after the other and knows which of them close() took.
struct Load {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

fn content(number: usize) -> Vec<u8> {
    format!("file {number}\n").repeat(1 + number % 300).into_bytes()
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    close(file)
}

impl Load {
    fn on(mount: &Mounted, name: &str) -> Self {
        let dir = mount.path(name);
        fs::create_dir(&dir).unwrap();
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = std::thread::spawn({
            let (dir, stop, acked) = (dir.clone(), stop.clone(), acked.clone());
            move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    write(&dir.join(number.to_string()), &content(number)).unwrap();
                    acked.lock().unwrap().push(Instant::now());
                    number += 1;
                }
            }
        });
        Self { dir, stop, acked, thread: Some(thread) }
    }

    fn count(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    /// Waits until so many more files are there.
    fn goes_on(&self, more: usize) {
        let before = self.count();
        wait_for("the load to go on", SOON, || self.count() >= before + more);
    }

    /// How long after `since` the next file was acknowledged.
    fn next_after(&self, since: Instant) -> Duration {
        let next = || self.acked.lock().unwrap().iter().copied().find(|at| *at > since);
        wait_for("the next file", SOON, || next().is_some());
        next().unwrap() - since
    }

    /// The longest time between two files since `since`.
    fn longest_pause(&self, since: Instant) -> Duration {
        let acked = self.acked.lock().unwrap();
        let times: Vec<Instant> =
            std::iter::once(since).chain(acked.iter().copied().filter(|at| *at > since)).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ends it; every file that close() took must be there.
    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let count = self.count();
        check(&self.dir, count);
        count
    }
}

fn check(dir: &Path, count: usize) {
    for number in 0..count {
        let found =
            fs::read(dir.join(number.to_string())).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert!(found == content(number), "file {number} has other content");
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), count);
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn same_rows(nodes: &Nodes) {
    nodes.settle();
}

#[test]
fn a_cell_of_three_is_made_shown_and_mounted() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::prepare(3);
    (1..=3).for_each(|node| nodes.start_node(node));
    let waiting = nodes.status_of(1).unwrap();
    assert_eq!(waiting["made"], false);
    nodes.admin(&["volume", "list"]).refused(69, "not part of a cell");
    nodes.admin(&["cell", "init"]).ok();
    nodes.admin(&["cell", "init"]).refused(76, "part of a cell already");
    let mount = nodes.mount("acme/live");
    write(&mount.path("a"), b"content").unwrap();
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"content");
    let leader = nodes.leader();
    let status = nodes.status_of(leader).unwrap();
    let listed = status["nodes"].as_array().unwrap();
    let roles: Vec<&str> = listed.iter().map(|node| node["role"].as_str().unwrap()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1, "{status}");
    assert_eq!(roles.iter().filter(|role| **role == "voter").count(), 2, "{status}");
    nodes.settle();
    let text = nodes.admin(&["cell", "status"]).ok().stdout;
    assert!(text.contains("leader: node") && text.lines().count() == 5, "{text}");
}

#[test]
fn what_close_took_survives_kills_of_leaders_and_followers() {
    if !can_mount() {
        return;
    }
    let kills = number("SITEFS_KILLS", 5);
    let mut nodes = Nodes::start(3);
    let mount = nodes.mount("acme/live");
    let load = Load::on(&mount, "load");
    let mut pauses = Vec::new();
    for round in 0..kills {
        load.goes_on(50);
        let leads = round % 3 != 2;
        let node = if leads { nodes.leader() } else { nodes.follower() };
        let killed = Instant::now();
        nodes.kill9(node);
        let pause = load.next_after(killed);
        eprintln!(
            "kill {round} of {} {node}: next file after {pause:?}",
            if leads { "leader" } else { "follower" }
        );
        if leads {
            pauses.push(pause);
        }
        load.goes_on(20);
        nodes.start_node(node);
        nodes.settle_node(node);
    }
    let count = load.end();
    pauses.sort();
    eprintln!(
        "{count} files; next file after a leader was killed: median {:?}, longest {:?}",
        pauses[pauses.len() / 2],
        pauses.last().unwrap()
    );
    let fresh = nodes.mount("acme/live");
    check(&fresh.path("load"), count);
    same_rows(&nodes);
    assert!(pauses[pauses.len() / 2] < Duration::from_secs(3), "{pauses:?}");
}

#[test]
fn a_leader_that_stands_still_is_replaced_and_follows_when_it_goes_on() {
    if !can_mount() {
        return;
    }
    let nodes = Nodes::start(3);
    let mount = nodes.mount("acme/live");
    let load = Load::on(&mount, "load");
    load.goes_on(20);
    let leader = nodes.leader();
    let frozen = Instant::now();
    nodes.process(leader).freeze();
    let pause = load.next_after(frozen + Duration::from_millis(100));
    eprintln!("the leader stands still: next file after {pause:?}");
    wait_for("10 s", SOON, || frozen.elapsed() > Duration::from_secs(10));
    nodes.process(leader).thaw();
    load.goes_on(50);
    nodes.settle_node(leader);
    assert_ne!(nodes.leader(), leader);
    let count = load.end();
    let fresh = nodes.mount("acme/live");
    check(&fresh.path("load"), count);
    assert!(pause < Duration::from_secs(8), "{pause:?}");
}

#[test]
fn nodes_are_restarted_one_by_one_under_load() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let mount = nodes.mount("acme/live");
    let load = Load::on(&mount, "load");
    load.goes_on(50);
    let began = Instant::now();
    for node in 1..=3 {
        assert_eq!(nodes.stop(node), 0, "{}", nodes.log(node));
        load.goes_on(20);
        nodes.start_node(node);
        nodes.settle_node(node);
    }
    load.goes_on(20);
    let pause = load.longest_pause(began);
    let count = load.end();
    eprintln!("{count} files; longest pause {pause:?}");
    let fresh = nodes.mount("acme/live");
    check(&fresh.path("load"), count);
    assert!(pause < Duration::from_secs(5), "{pause:?}");
}

#[test]
fn two_mounts_agree_while_leaders_are_killed() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let (writer, reader) = (nodes.mount("acme/live"), nodes.mount("acme/live"));
    for round in 0..4 {
        let name = format!("page-{round}");
        for version in 0..5 {
            let text = format!("version {version} of round {round}");
            write(&writer.path(&name), text.as_bytes()).unwrap();
            wait_for("the other mount to see it", Duration::from_secs(10), || {
                fs::read_to_string(reader.path(&name)).is_ok_and(|found| found == text)
            });
        }
        let leader = nodes.leader();
        nodes.kill9(leader);
        let text = format!("after the kill of round {round}");
        write(&writer.path(&name), text.as_bytes()).unwrap();
        wait_for("the other mount to see it", Duration::from_secs(10), || {
            fs::read_to_string(reader.path(&name)).is_ok_and(|found| found == text)
        });
        nodes.start_node(leader);
        nodes.settle_node(leader);
    }
}

#[test]
fn a_wiped_node_does_not_vote_and_comes_back_by_removal_and_addition() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let mount = nodes.mount("acme/live");
    write(&mount.path("a"), b"content").unwrap();
    let wiped = nodes.follower();
    nodes.kill9(wiped);
    fs::remove_dir_all(nodes.data(wiped)).unwrap();
    nodes.start_node(wiped);
    // It is none of the cell: with it alone beside the leader nothing is decided.
    let (leader, text) = (nodes.leader(), wiped.to_string());
    let other = (1..=3).find(|node| *node != leader && *node != wiped).unwrap();
    nodes.kill9(other);
    wait_for("the leader to lose its quorum", SOON, || {
        nodes.status_of(leader).is_some_and(|status| status["leader"].is_null())
    });
    assert_eq!(nodes.status_of(wiped).unwrap()["made"], false);
    nodes.start_node(other);
    nodes.leader();
    nodes.admin(&["cell", "add-node", &text, &nodes.peer(wiped)]).refused(76, "remove it first");
    nodes.admin(&["cell", "remove-node", &text]).ok();
    nodes.admin(&["cell", "add-node", &text, &nodes.peer(wiped)]).ok();
    nodes.settle();
    nodes.kill9(nodes.leader());
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"content");
    write(&mount.path("b"), b"with the node that is back").unwrap();
}

#[test]
fn an_older_copy_of_a_directory_is_recognised_and_stops() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let mount = nodes.mount("acme/live");
    let node = nodes.follower();
    assert_eq!(nodes.stop(node), 0);
    let copy = nodes.path().join("copy");
    copy_tree(&nodes.data(node), &copy);
    nodes.start_node(node);
    (0..50).for_each(|number| write(&mount.path(&number.to_string()), &content(number)).unwrap());
    nodes.settle_node(node);
    nodes.known_everywhere();
    nodes.kill9(node);
    fs::remove_dir_all(nodes.data(node)).unwrap();
    copy_tree(&copy, &nodes.data(node));
    if nodes.try_start(node).is_ok() {
        assert_eq!(nodes.ended(node), 71, "{}", nodes.log(node));
    }
    assert!(nodes.log(node).contains("is an older copy"), "{}", nodes.log(node));
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn directories_of_other_nodes_and_cells_are_refused() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let node = nodes.follower();
    let other = (1..=3).find(|other| *other != node && *other != nodes.leader()).unwrap();
    nodes.kill9(node);
    let text = fs::read_to_string(nodes.config(node)).unwrap();
    let data = |node: usize| format!("{:?}", nodes.data(node));
    let moved = text.replace(&data(node), &data(other));
    fs::write(nodes.config(node), moved).unwrap();
    nodes.kill9(other);
    nodes.try_start(node).unwrap_err().refused(65, "belongs to");
    fs::write(nodes.config(node), text.replace("cell = \"main\"", "cell = \"other\"")).unwrap();
    nodes.try_start(node).unwrap_err().refused(65, "belongs to");
    fs::write(nodes.config(node), text.replace("insecure", "insecur")).unwrap();
    nodes.try_start(node).unwrap_err().refused(65, "line 4: unknown field");
}

#[test]
fn a_node_is_added_and_another_one_removed_under_load() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let mount = nodes.mount("acme/live");
    let load = Load::on(&mount, "load");
    load.goes_on(100);
    let new = nodes.one_more();
    nodes.start_node(new);
    nodes.admin(&["cell", "add-node", &new.to_string(), &nodes.peer(new)]).ok();
    let leader = nodes.leader();
    nodes.admin(&["cell", "remove-node", &leader.to_string()]).refused(65, "leads the cell");
    let removed = nodes.follower();
    nodes.admin(&["cell", "remove-node", &removed.to_string()]).ok();
    nodes.kill9(removed);
    load.goes_on(50);
    nodes.kill9(leader);
    load.goes_on(50);
    let count = load.end();
    let fresh = nodes.mount("acme/live");
    check(&fresh.path("load"), count);
}

#[test]
fn a_cell_that_lost_two_of_three_nodes_goes_on_from_the_third() {
    if !can_mount() {
        return;
    }
    let mut nodes = Nodes::start(3);
    let mut mount = nodes.mount("acme/live");
    fs::create_dir(mount.path("files")).unwrap();
    (0..20).for_each(|number| {
        write(&mount.path("files").join(number.to_string()), &content(number)).unwrap();
    });
    assert_eq!(mount.umount(), 0);
    nodes.settle();
    let survivor = nodes.follower();
    let data = nodes.data(survivor).display().to_string();
    let command = ["cell", "recover", "--data", data.as_str()];
    let recover = |extra: &[&str]| -> Finished { sitefs(&[&command[..], extra].concat()) };
    recover(&[]).refused(75, "another process uses");
    let lost: Vec<usize> = (1..=3).filter(|node| *node != survivor).collect();
    for node in &lost {
        nodes.kill9(*node);
        fs::remove_dir_all(nodes.data(*node)).unwrap();
    }
    recover(&["--unsafe"]).refused(75, "another process uses");
    assert_eq!(nodes.stop(survivor), 0, "{}", nodes.log(survivor));

    let planned = recover(&["--json"]);
    planned.refused(77, "--unsafe");
    let planned = planned.json();
    let plan = &planned["plan"];
    assert_eq!(plan["node"].as_u64(), u64::try_from(survivor).ok(), "{plan}");
    assert_eq!(plan["incarnation"], 1, "{plan}");
    assert_eq!(plan["others"].as_array().unwrap().len(), 2, "{plan}");
    let text = recover(&[]).stdout;
    assert!(text.contains("acknowledged and this node does not have is lost"), "{text}");

    let recovered = recover(&["--unsafe", "--json"]).ok().json();
    assert_eq!(recovered["recovered"]["applied"], plan["last_log"], "{recovered}");
    assert!(recovered["recovered"]["incarnation"].as_u64() > Some(1), "{recovered}");
    recover(&["--unsafe"]).refused(65, "is the only node");

    nodes.start_node(survivor);
    assert_eq!(nodes.leader(), survivor);
    let mount = nodes.mount("acme/live");
    check(&mount.path("files"), 20);
    write(&mount.path("after"), b"with one node").unwrap();
    // The numbers are free again, for nodes with empty directories.
    for node in lost {
        nodes.start_node(node);
        nodes.admin(&["cell", "add-node", &node.to_string(), &nodes.peer(node)]).ok();
    }
    nodes.settle();
    nodes.kill9(survivor);
    assert_eq!(fs::read(mount.path("after")).unwrap(), b"with one node");
    write(&mount.path("again"), b"with new ones").unwrap();
}
