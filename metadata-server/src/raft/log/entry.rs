//! Entries as bytes; `docs/FORMATS.md`, section Log.

use crate::raft::{payload::Payload, types::Types};
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
use sitefs_base::{Error, GroupId, Result};

const FORMAT: u8 = 1;
const HEADER: usize = 1 + 8 + 8 + 8 + 1;
const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The key of an entry: `[group u32][index u64]`.
pub(super) fn key(group: GroupId, index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&group.to_key());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The first key after all entries of `group`.
pub(super) fn end_key(group: GroupId) -> Vec<u8> {
    let mut key = group.to_key().to_vec();
    key.extend([u8::MAX; 9]);
    key
}

pub(super) fn index_of(key: &[u8]) -> Result<u64> {
    let index = key.get(4..12).and_then(|index| index.try_into().ok());
    index.map(u64::from_be_bytes).ok_or_else(|| Error::corrupt("a log key has a wrong length"))
}

/// The value of an entry; `offset` is the length of all entries before it.
pub(in crate::raft) fn encode(entry: &Entry<Types>, offset: u64) -> Result<Vec<u8>> {
    let mut value = Vec::with_capacity(HEADER + 64);
    value.push(FORMAT);
    value.extend(offset.to_be_bytes());
    value.extend(entry.log_id.leader_id.term.to_be_bytes());
    value.extend(entry.log_id.leader_id.node_id.to_be_bytes());
    match &entry.payload {
        EntryPayload::Blank => value.push(BLANK),
        EntryPayload::Normal(payload) => {
            value.push(COMMANDS);
            value.extend(&payload.0);
        }
        EntryPayload::Membership(membership) => {
            value.push(MEMBERSHIP);
            let body = postcard::to_stdvec(membership)
                .map_err(|error| Error::internal("encoding a membership entry").because(error))?;
            value.extend(body);
        }
    }
    Ok(value)
}

/// The inverse of [`encode`].
pub(in crate::raft) fn decode(index: u64, value: &[u8]) -> Result<Entry<Types>> {
    let (header, body) = split(index, value)?;
    let leader = CommittedLeaderId::new(number(header, 9), number(header, 17));
    let payload = match header[HEADER - 1] {
        BLANK => EntryPayload::Blank,
        COMMANDS => EntryPayload::Normal(Payload(body.to_vec())),
        MEMBERSHIP => EntryPayload::Membership(postcard::from_bytes(body).map_err(|error| {
            Error::corrupt(format!("decoding the membership in log entry {index}")).because(error)
        })?),
        kind => return Err(Error::fenced(format!("log entry {index} has the unknown kind {kind}"))),
    };
    Ok(Entry { log_id: LogId::new(leader, index), payload })
}

/// Where the entry begins when all entries are laid end to end.
pub(super) fn offset(index: u64, value: &[u8]) -> Result<u64> {
    split(index, value).map(|(header, _)| number(header, 1))
}

fn split(index: u64, value: &[u8]) -> Result<(&[u8], &[u8])> {
    let parts = value.split_at_checked(HEADER);
    let (header, body) = parts.ok_or_else(|| Error::corrupt(format!("log entry {index} is cut short")))?;
    if header[0] != FORMAT {
        return Err(Error::fenced(format!("log entry {index} has the unknown format {}", header[0])));
    }
    Ok((header, body))
}

fn number(header: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::member::Member;
    use openraft::Membership;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn entries_round_trip_and_know_their_offset() {
        let nodes = BTreeMap::from([(7, Member::default())]);
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(vec![1, 2, 3])),
            EntryPayload::Membership(Membership::new(vec![BTreeSet::from([7])], nodes)),
        ];
        for (index, payload) in payloads.into_iter().enumerate() {
            let log_id = LogId::new(CommittedLeaderId::new(3, 7), index as u64);
            let entry = Entry { log_id, payload };
            let value = encode(&entry, 99).unwrap();
            assert_eq!(decode(index as u64, &value).unwrap(), entry);
            assert_eq!(offset(index as u64, &value).unwrap(), 99);
        }
    }

    #[test]
    fn keys_order_by_group_then_index() {
        let (one, two) = (GroupId::new(1), GroupId::new(2));
        assert!(key(one, 255) < key(one, 256));
        assert!(key(one, u64::MAX).as_slice() < end_key(one).as_slice());
        assert!(end_key(one).as_slice() < key(two, 0).as_slice());
        assert_eq!(index_of(&key(one, 77)).unwrap(), 77);
    }
}
