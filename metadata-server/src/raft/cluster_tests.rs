//! Groups of three nodes in one process, with their real listeners.

use super::{
    Addresses, Group, GroupConfig, PeersConfig, Standing, recover, survey,
    tests::{SESSION, mkdir},
};
use crate::state::{self, CommandBody, Family, Read, Reply, VolumeLimits};
use sitefs_base::{Errno, GroupId, Kind, NodeId, OsRandom, Result, SystemClock, Tasks, VolumeId};
use std::{collections::BTreeMap, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(30);

struct Cluster {
    dir: tempfile::TempDir,
    addresses: BTreeMap<NodeId, String>,
    running: BTreeMap<u64, (Group, Tasks)>,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Cluster {
    async fn start(nodes: u64) -> Self {
        let addresses = (1..=nodes).map(|node| (NodeId::new(node), free_address())).collect();
        let mut this = Self { dir: tempfile::tempdir().unwrap(), addresses, running: BTreeMap::new() };
        for node in 1..=nodes {
            this.start_node(node).await;
        }
        this.group(1).init().await.unwrap();
        this.leader().await;
        this
    }

    fn data(&self, node: u64) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    async fn start_node(&mut self, node: u64) {
        let peers = self.addresses[&NodeId::new(node)].clone();
        let own =
            Addresses { sessions: format!("s{node}:1"), admin: format!("a{node}:1"), peers: peers.clone() };
        let nodes = self.addresses.clone();
        let config = GroupConfig {
            dir: self.data(node),
            node: NodeId::new(node),
            cell: "test".into(),
            group: GroupId::new(1),
            peers: Some(PeersConfig { own, nodes }),
        };
        let (tasks, began) = (Tasks::new(), Instant::now());
        // The node before may still be letting go.
        let group = loop {
            let opened = TcpListener::bind(&peers).map_err(|error| error.to_string()).and_then(|listener| {
                let data = config.lock().map_err(|error| error.chain())?;
                let clock = Arc::new(SystemClock);
                Group::open_in(data, config.clone(), Some(listener), clock, tasks.clone())
                    .map_err(|error| error.chain())
            });
            match opened {
                Ok(group) => break group,
                Err(error) => assert!(began.elapsed() < SOON, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.running.insert(node, (group, tasks));
    }

    async fn stop(&mut self, node: u64) {
        let (group, tasks) = self.running.remove(&node).unwrap();
        group.shutdown().await.unwrap();
        tasks.shutdown().await;
    }

    fn group(&self, node: u64) -> Group {
        self.running[&node].0.clone()
    }

    async fn leader(&self) -> u64 {
        let began = Instant::now();
        loop {
            let leads = |(_, (group, _)): &(&u64, &(Group, Tasks))| {
                matches!(*group.standing().borrow(), Standing::Leads { .. })
            };
            if let Some((node, _)) = self.running.iter().find(leads) {
                return *node;
            }
            assert!(began.elapsed() < SOON, "no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.running.keys().find(|node| **node != leader).unwrap()
    }

    /// Asks whoever leads, and again if that has changed meanwhile.
    async fn on_leader<F: Future<Output = Result<()>>>(&self, ask: impl Fn(Group) -> F) {
        let began = Instant::now();
        while let Err(error) = ask(self.group(self.leader().await)).await {
            let again = error.kind() == Kind::Unavailable && began.elapsed() < SOON;
            assert!(again, "{}", error.chain());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn reply(&self, body: CommandBody) -> Reply {
        let began = Instant::now();
        loop {
            let leader = self.leader().await;
            match self.group(leader).propose(body.clone()).await {
                Ok(applied) => return applied.reply.unwrap(),
                Err(error) => assert!(began.elapsed() < SOON, "{}", error.chain()),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn volume(&self) -> VolumeId {
        let limits = VolumeLimits { bytes: 1 << 40, inodes: 1 << 30 };
        let name = "acme/live".parse().unwrap();
        let made = self.reply(CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 }).await;
        let Reply::Volume(volume) = made else { panic!("{made:?}") };
        self.reply(CommandBody::OpenSession { volume, session: SESSION, at: None }).await;
        volume
    }

    /// Waits until all running nodes have applied the same entry, and compares their rows.
    async fn same_rows(&self) {
        let began = Instant::now();
        let applied = || self.running.values().map(|(group, _)| group.status().applied).collect::<Vec<_>>();
        while !applied().windows(2).all(|pair| pair[0] == pair[1]) {
            assert!(began.elapsed() < SOON, "{:?}", applied());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sums =
            |group: &Group| Family::ALL.map(|family| state::checksum(&group.reader(), family).unwrap());
        let all: Vec<_> = self.running.values().map(|(group, _)| sums(group)).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_have_the_same_rows_after_leaders_come_and_go() {
    let mut cluster = Cluster::start(3).await;
    let volume = cluster.volume().await;
    let mut made = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            cluster.reply(mkdir(volume, made)).await;
            made += 1;
        }
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        for _ in 0..20 {
            cluster.reply(mkdir(volume, made)).await;
            made += 1;
        }
        cluster.start_node(leader).await;
    }
    cluster.same_rows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_refuses_proposals_and_names_the_leader() {
    let cluster = Cluster::start(3).await;
    cluster.volume().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let error = cluster.group(follower).propose(CommandBody::Noop).await.unwrap_err();
    assert!(error.doing().contains("does not lead"), "{error}");
    let mut standing = cluster.group(follower).standing();
    let named = standing.wait_for(|now| matches!(now, Standing::Follows(Some(_))));
    let Standing::Follows(Some(named)) = timeout(SOON, named).await.unwrap().unwrap().clone() else {
        unreachable!()
    };
    assert_eq!((named.node.get(), named.addresses.sessions), (leader, format!("s{leader}:1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_stops_serving_and_serves_again_with_one() {
    let mut cluster = Cluster::start(3).await;
    let volume = cluster.volume().await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|node| *node != leader).collect();
    for node in &others {
        cluster.stop(*node).await;
    }
    let mut standing = cluster.group(leader).standing();
    let ended = standing.wait_for(|now| *now == Standing::Follows(None));
    timeout(SOON, ended).await.unwrap().unwrap();
    assert!(cluster.group(leader).quorum_age().is_none_or(|age| age >= Duration::from_secs(1)));
    cluster.start_node(others[0]).await;
    cluster.reply(mkdir(volume, 1)).await;
    cluster.start_node(others[1]).await;
    cluster.same_rows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_log_cannot_bring_up_to_date_gets_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    let volume = cluster.volume().await;
    let behind = cluster.follower().await;
    cluster.stop(behind).await;
    for number in 0..200 {
        cluster.reply(mkdir(volume, number)).await;
    }
    for (group, _) in cluster.running.values() {
        super::tests::snapshot_and_purge(group).await;
    }
    cluster.reply(mkdir(volume, 1000)).await;
    cluster.start_node(behind).await;
    cluster.same_rows().await;
    // And once more after it: the snapshot was durable, and the log goes on behind it.
    cluster.stop(behind).await;
    cluster.reply(mkdir(volume, 1001)).await;
    cluster.start_node(behind).await;
    cluster.same_rows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_and_a_wiped_one_is_another_one() {
    let mut cluster = Cluster::start(3).await;
    let volume = cluster.volume().await;
    cluster.addresses.insert(NodeId::new(4), free_address());
    cluster.start_node(4).await;
    let address = cluster.addresses[&NodeId::new(4)].clone();
    let new = &address;
    cluster.on_leader(|group| async move { group.add_node(NodeId::new(4), new).await }).await;
    cluster.reply(mkdir(volume, 1)).await;
    cluster.same_rows().await;

    let leader = cluster.leader().await;
    let wiped = *cluster.running.keys().find(|node| **node != leader).unwrap();
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).unwrap();
    cluster.start_node(wiped).await;
    let address = cluster.addresses[&NodeId::new(wiped)].clone();
    let refused = cluster.group(leader).add_node(NodeId::new(wiped), &address).await.unwrap_err();
    assert!(refused.doing().contains("remove it first"), "{refused}");
    let (wiped, again) = (NodeId::new(wiped), &address);
    cluster.on_leader(|group| async move { group.remove_node(wiped).await }).await;
    cluster.on_leader(|group| async move { group.add_node(wiped, again).await }).await;
    cluster.reply(mkdir(volume, 2)).await;
    cluster.same_rows().await;
    let nodes = cluster.group(leader).nodes().unwrap();
    assert_eq!(nodes.iter().filter(|node| node.voter).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_goes_on_alone_as_a_new_life_and_takes_in_new_nodes() {
    let mut cluster = Cluster::start(3).await;
    let volume = cluster.volume().await;
    for number in 0..20 {
        cluster.reply(mkdir(volume, number)).await;
    }
    cluster.same_rows().await;
    let applied = cluster.group(2).status().applied;
    let data = cluster.data(2);
    assert_eq!(survey(&data).unwrap_err().kind(), Kind::Conflict, "it runs");
    assert_eq!(recover(&data, &OsRandom).unwrap_err().kind(), Kind::Conflict, "it runs");
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    // What ran there may still be letting go.
    let began = Instant::now();
    let survivor = loop {
        match survey(&data) {
            Ok(survivor) => break survivor.unwrap(),
            Err(error) => assert!(began.elapsed() < SOON, "{}", error.chain()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((survivor.node, survivor.incarnation), (NodeId::new(2), 1));
    assert!(survivor.last_log >= applied, "{survivor:?}");
    let others: Vec<u64> = survivor.others.iter().map(|other| other.node.get()).collect();
    assert_eq!(others, [1, 3]);

    let recovered = recover(&data, &OsRandom).unwrap();
    assert_eq!((recovered.node, recovered.applied), (NodeId::new(2), survivor.last_log));
    assert!(recovered.incarnation > 1);
    let only = survey(&data).unwrap_err();
    assert!(only.doing().contains("is the only node"), "{only}");

    cluster.start_node(2).await;
    let leader = cluster.leader().await;
    let group = cluster.group(leader);
    assert_eq!(group.info().incarnation.get(), recovered.incarnation);
    let places = group.reader().scan(Family::Dentry, b"", b"", usize::MAX).unwrap();
    assert_eq!(places.len(), 20);
    let old = group.propose(mkdir(volume, 99)).await.unwrap().reply;
    assert_eq!(old.unwrap_err(), Errno::ESTALE, "the sessions of the life before have ended");
    drop(group);

    // A node of the life before that comes back is none of this cell.
    cluster.start_node(1).await;
    cluster.addresses.insert(NodeId::new(4), free_address());
    cluster.start_node(4).await;
    let address = cluster.addresses[&NodeId::new(4)].clone();
    let new = &address;
    cluster.on_leader(|group| async move { group.add_node(NodeId::new(4), new).await }).await;
    assert!(!matches!(*cluster.group(1).standing().borrow(), Standing::Leads { .. }));
    cluster.stop(1).await;
    cluster.same_rows().await;
}
