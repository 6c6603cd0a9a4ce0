//! When the other nodes last confirmed that this node leads (DESIGN D20).

use crate::raft::types::Membership;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The last confirmations, by node: the term, and when the question was sent. Times are CLOCK_BOOTTIME,
/// which goes on while the process stands still.
#[derive(Debug, Default)]
pub(in crate::raft) struct Contacts(Mutex<HashMap<u64, (u64, Duration)>>);

impl Contacts {
    /// A node accepted this node as leader of `term`, answering what was sent at `sent`.
    pub(super) fn confirmed(&self, node: u64, term: u64, sent: Duration) {
        let mut seen = self.lock();
        let entry = seen.entry(node).or_insert((term, sent));
        *entry = (*entry).max((term, sent));
    }

    /// How old the contact of node `own`, leader of `term`, with a quorum is. `None`: there was none.
    pub(in crate::raft) fn quorum_age(
        &self,
        membership: &Membership,
        own: u64,
        term: u64,
        now: Duration,
    ) -> Option<Duration> {
        let seen = self.lock();
        let age = |node: &u64| match seen.get(node) {
            _ if *node == own => Some(Duration::ZERO),
            Some((confirmed, sent)) if *confirmed == term => Some(now.saturating_sub(*sent)),
            _ => None,
        };
        let of = |voters: &BTreeSet<u64>| {
            let mut ages: Vec<Duration> = voters.iter().filter_map(age).collect();
            ages.sort();
            ages.get(voters.len() / 2).copied()
        };
        let quorums = membership.membership().get_joint_config();
        quorums.iter().map(of).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// How long ago a node confirmed the leader of `term`.
    pub(in crate::raft) fn age(&self, node: u64, term: u64, now: Duration) -> Option<Duration> {
        let seen = self.lock().get(&node).copied();
        seen.filter(|(confirmed, _)| *confirmed == term).map(|(_, sent)| now.saturating_sub(sent))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (u64, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::member::Member;
    use openraft::StoredMembership;
    use std::collections::BTreeMap;

    fn membership(quorums: &[&[u64]]) -> Membership {
        let all = quorums.concat().into_iter().map(|node| (node, Member::default()));
        let quorums = quorums.iter().map(|voters| voters.iter().copied().collect()).collect();
        StoredMembership::new(None, openraft::Membership::new(quorums, all.collect::<BTreeMap<_, _>>()))
    }

    #[test]
    fn the_age_is_that_of_the_slowest_member_of_the_fastest_quorum() {
        let (contacts, now) = (Contacts::default(), Duration::from_secs(100));
        let ago = |secs| now - Duration::from_secs(secs);
        let age = |quorums: &[&[u64]]| contacts.quorum_age(&membership(quorums), 1, 7, now);
        assert_eq!(age(&[&[1]]), Some(Duration::ZERO));
        assert_eq!(age(&[&[1, 2, 3]]), None);
        contacts.confirmed(2, 6, ago(1));
        assert_eq!(age(&[&[1, 2, 3]]), None, "another term");
        contacts.confirmed(2, 7, ago(9));
        contacts.confirmed(3, 7, ago(2));
        contacts.confirmed(3, 7, ago(5));
        assert_eq!(age(&[&[1, 2, 3]]), Some(Duration::from_secs(2)));
        assert_eq!(age(&[&[1, 2, 3, 4, 5]]), Some(Duration::from_secs(9)));
        assert_eq!(age(&[&[2, 3]]), Some(Duration::from_secs(9)), "not a member itself");
        assert_eq!(age(&[&[1, 2, 3], &[1, 2]]), Some(Duration::from_secs(9)), "both of two memberships");
        assert_eq!(age(&[&[1, 2, 3], &[4]]), None);
        assert_eq!(contacts.age(3, 7, now), Some(Duration::from_secs(2)));
    }
}
