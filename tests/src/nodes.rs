//! A cell of several `sitefs server` processes.

use crate::{Finished, Running, SOON, scratch, sitefs, wait_for};
use serde_json::Value;
use std::{
    cell::Cell as Counter,
    fmt::Write,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

/// The listeners of one node.
#[derive(Clone, Debug)]
struct Ports {
    sessions: u16,
    admin: u16,
    peers: u16,
}

/// Nodes of one cell, each a process that can be killed, frozen and started again.
#[derive(Debug)]
pub struct Nodes {
    running: Vec<Option<Running>>,
    ports: Vec<Ports>,
    mounts: Counter<u32>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Nodes {
    /// Starts `count` nodes and makes a cell of them.
    pub fn start(count: usize) -> Self {
        let mut nodes = Self::prepare(count);
        (1..=count).for_each(|node| nodes.start_node(node));
        nodes.admin(&["cell", "init"]).ok();
        nodes.leader();
        nodes
    }

    /// Configures `count` nodes and starts none.
    pub fn prepare(count: usize) -> Self {
        let (dir, path) = scratch();
        fs::create_dir(path.join("blobs")).expect("making the blobs");
        let mut nodes =
            Self { running: Vec::new(), ports: Vec::new(), mounts: Counter::new(0), path, _dir: dir };
        nodes.ports = free_ports(count);
        nodes.running.resize_with(count, || None);
        (1..=count).for_each(|node| nodes.configure(node, &(1..=count).collect::<Vec<_>>()));
        nodes
    }

    /// Configures one more node, with an empty directory; its number.
    pub fn one_more(&mut self) -> usize {
        self.ports.extend(free_ports(1));
        self.running.push(None);
        let node = self.ports.len();
        self.configure(node, &(1..=node).collect::<Vec<_>>());
        node
    }

    fn configure(&self, node: usize, all: &[usize]) {
        let Ports { sessions, admin, peers } = self.ports[node - 1];
        let mut text = format!(
            "cell = \"main\"\nnode = {node}\ndata = {:?}\ninsecure = true\n\n[listen]\n\
             sessions = \"127.0.0.1:{sessions}\"\nadmin = \"127.0.0.1:{admin}\"\n\
             peers = \"127.0.0.1:{peers}\"\n\n[blobs]\ndirectory = {:?}\n\n[nodes]\n",
            self.data(node),
            self.path.join("blobs"),
        );
        for other in all {
            writeln!(text, "{other} = \"127.0.0.1:{}\"", self.ports[other - 1].peers).expect("a string");
        }
        fs::write(self.config(node), text).expect("writing a configuration");
    }

    /// The configuration of a node.
    pub fn config(&self, node: usize) -> PathBuf {
        self.path.join(format!("{node}.toml"))
    }

    /// The data directory of a node.
    pub fn data(&self, node: usize) -> PathBuf {
        self.path.join(format!("data-{node}"))
    }

    /// A directory for anything.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, node: usize) {
        let started = self.try_start(node);
        started.unwrap_or_else(|failed| panic!("node {node} does not start: {failed:#?}"));
    }

    /// The same; what it said if it ends instead.
    pub fn try_start(&mut self, node: usize) -> Result<(), Finished> {
        assert!(self.running[node - 1].is_none(), "node {node} runs already");
        let arguments = ["server".to_owned(), "--config".to_owned(), self.config(node).display().to_string()];
        let log = self.path.join(format!("{node}.log"));
        self.running[node - 1] = Some(Running::start(&arguments, &[], &log)?);
        Ok(())
    }

    /// Kills a node as hard as possible.
    pub fn kill9(&mut self, node: usize) {
        self.running[node - 1].take().expect("the node runs").kill9();
    }

    /// Ends a node with SIGTERM; the exit code.
    pub fn stop(&mut self, node: usize) -> i32 {
        self.running[node - 1].take().expect("the node runs").stop()
    }

    /// Waits until a node has ended by itself; the exit code.
    pub fn ended(&mut self, node: usize) -> i32 {
        self.running[node - 1].take().expect("the node runs").wait()
    }

    /// The process of a node.
    pub fn process(&self, node: usize) -> &Running {
        self.running[node - 1].as_ref().expect("the node runs")
    }

    /// What a node and those before it wrote to stderr.
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.path.join(format!("{node}.log"))).unwrap_or_default()
    }

    /// Where mounts connect: all nodes.
    pub fn listen(&self) -> String {
        self.all(|ports| ports.sessions)
    }

    fn all(&self, port: impl Fn(&Ports) -> u16) -> String {
        let addresses = self.ports.iter().map(|ports| format!("127.0.0.1:{}", port(ports)));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Where a node listens to others.
    pub fn peer(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node - 1].peers)
    }

    /// Runs `sitefs ARGUMENTS --admin` with the addresses of all nodes.
    pub fn admin(&self, arguments: &[&str]) -> Finished {
        sitefs(&[arguments, &["--admin", &self.all(|ports| ports.admin)]].concat())
    }

    /// The cell as one node sees it.
    pub fn status_of(&self, node: usize) -> Option<Value> {
        let admin = format!("127.0.0.1:{}", self.ports[node - 1].admin);
        let shown = sitefs(&["cell", "status", "--json", "--admin", &admin]);
        (shown.code == 0).then(|| shown.json())
    }

    /// The node that leads now, as it says itself; waits for one.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        wait_for("a leader", SOON, || {
            leader = self.leads();
            leader.is_some()
        });
        leader.expect("waited for it")
    }

    fn leads(&self) -> Option<usize> {
        let nodes = (1..=self.ports.len()).filter(|node| self.running[node - 1].is_some());
        let leads = |node: &usize| {
            let leader = self.status_of(*node).and_then(|status| status["leader"].as_u64());
            leader == u64::try_from(*node).ok()
        };
        nodes.into_iter().find(leads)
    }

    /// A node that does not lead.
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        (1..=self.ports.len()).find(|node| *node != leader && self.running[node - 1].is_some()).expect("one")
    }

    /// The arguments that mount a volume of this cell at a place below its path.
    pub fn mount(&self, volume: &str) -> crate::Mounted {
        self.mount_with(volume, &[])
    }

    /// The same with more arguments.
    pub fn mount_with(&self, volume: &str, extra: &[&str]) -> crate::Mounted {
        let made = self.admin(&["volume", "create", volume]);
        assert!([0, 76].contains(&made.code), "{made:#?}");
        let number = self.mounts.get();
        self.mounts.set(number + 1);
        crate::Mounted::start(&self.path.join(format!("mount-{number}")), &self.listen(), volume, extra)
    }

    /// Waits until all running nodes have applied the same entry; its index.
    pub fn settle(&self) -> u64 {
        let mut index = 0;
        wait_for("all nodes at one entry", SOON, || {
            let running = (1..=self.ports.len()).filter(|node| self.running[node - 1].is_some());
            let applied: Vec<u64> = running.filter_map(|node| self.applied(node)).collect();
            index = applied.first().copied().unwrap_or(0);
            !applied.is_empty() && applied.iter().all(|other| *other == index)
        });
        index
    }

    /// Waits until a node has applied what the leader had when this was called.
    pub fn settle_node(&self, node: usize) {
        let index = self.applied(self.leader()).unwrap_or(0);
        wait_for("a node to catch up", SOON, || self.applied(node).is_some_and(|applied| applied >= index));
    }

    /// Waits until all nodes have heard from each other what they have now.
    pub fn known_everywhere(&self) {
        let index = self.settle();
        wait_for("all nodes to have heard of each other", SOON, || {
            (1..=self.ports.len()).filter(|node| self.running[node - 1].is_some()).all(|node| {
                let heard = self.status_of(node).and_then(|status| status["nodes"].as_array().cloned());
                heard.is_some_and(|nodes| nodes.iter().all(|node| node["applied"].as_u64() >= Some(index)))
            })
        });
    }

    fn applied(&self, node: usize) -> Option<u64> {
        let status = self.status_of(node)?;
        let own = status["nodes"].as_array()?.iter().find(|found| found["node"] == node)?.clone();
        own["applied"].as_u64()
    }
}

/// Ports that nobody listens to now.
fn free_ports(nodes: usize) -> Vec<Ports> {
    let listeners: Vec<TcpListener> =
        (0..nodes * 3).map(|_| TcpListener::bind("127.0.0.1:0").expect("finding a port")).collect();
    let ports: Vec<u16> =
        listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
    ports.chunks(3).map(|ports| Ports { sessions: ports[0], admin: ports[1], peers: ports[2] }).collect()
}
