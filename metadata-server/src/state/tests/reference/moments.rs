//! Snapshots, readers of the past and the horizon, as the model has them.

use super::{
    compare,
    model::{Model, Reader, Volume},
};
use crate::state::{CommandBody, Family, Read, Reply, View, keep, life_of, seq_at, tests::harness::SITE};
use sitefs_base::{Errno, Moment, OpId, Seq, SessionId, SnapshotName, Time, VolumeId};

impl Volume {
    fn created(&self) -> i64 {
        self.past[&Seq::ZERO].1.secs()
    }

    /// The seq that a time means: what was true when its second began.
    fn seq_at(&self, time: Time, now: Time) -> Result<Seq, Errno> {
        match self.before(time.secs()) {
            _ if time > now => Err(Errno::EINVAL),
            _ if time.secs() <= self.created() => Err(Errno::ENOENT),
            Some(seq) if seq >= self.horizon => Ok(seq),
            _ => Err(Errno::ESTALE),
        }
    }

    fn moment(&self, moment: &Moment, now: Time) -> Result<Seq, Errno> {
        match moment {
            Moment::Snapshot(name) => self.snapshots.get(name).copied().ok_or(Errno::ENOENT),
            Moment::Time(time) => self.seq_at(*time, now),
        }
    }
}

impl Model {
    pub fn snapshot(&mut self, id: VolumeId, name: SnapshotName, at: Option<Time>) {
        let now = self.next_at();
        let create = CommandBody::CreateSnapshot { volume: id, name: name.clone(), at };
        let reply = self.plain(create);
        let volume = self.volumes.get_mut(&id).unwrap();
        let expected = match at {
            _ if volume.deleted => Err(Errno::ENOENT),
            _ if volume.snapshots.contains_key(&name) => Err(Errno::EEXIST),
            None => Ok(volume.seq),
            Some(time) => volume.seq_at(time, now),
        };
        assert_eq!(reply, expected.map(Reply::Snapshot), "a snapshot at {at:?}");
        if let Ok(seq) = expected {
            volume.snapshots.insert(name, seq);
        }
        self.check_moments(id);
    }

    pub fn delete_snapshot(&mut self, id: VolumeId, name: SnapshotName) {
        let reply = self.plain(CommandBody::DeleteSnapshot { volume: id, name: name.clone() });
        let volume = self.volumes.get_mut(&id).unwrap();
        let was = if volume.deleted { None } else { volume.snapshots.remove(&name) };
        assert_eq!(reply, was.map(|_| Reply::Done).ok_or(Errno::ENOENT));
        self.check_moments(id);
    }

    /// A session begins to read the past.
    pub fn look_back(&mut self, id: VolumeId, session: SessionId, moment: Moment) {
        let now = self.next_at();
        let at = Some(moment.clone());
        let reply = self.plain(CommandBody::OpenSession { volume: id, session, at });
        let volume = self.volumes.get_mut(&id).unwrap();
        let seq = match volume.readers.get(&session) {
            _ if volume.deleted => Err(Errno::ENOENT),
            Some(reader) => Ok(reader.at),
            None => volume.moment(&moment, now),
        };
        let expected = seq.map(|at| Reply::Session {
            site: SITE,
            seq: volume.seq,
            op_high_water: OpId::new(0),
            at: Some(at),
        });
        assert_eq!(reply, expected, "a session at {moment:?}");
        if let Ok(seq) = seq {
            volume.readers.insert(session, Reader { at: seq, last_used: now });
        }
        self.check_moments(id);
    }

    pub fn look_away(&mut self, id: VolumeId, session: SessionId) {
        self.plain(CommandBody::CloseSession { volume: id, session }).unwrap();
        self.volumes.get_mut(&id).unwrap().readers.remove(&session);
        self.check_moments(id);
    }

    pub fn move_horizon(&mut self, id: VolumeId, before: Time) {
        let now = self.next_at();
        let reply = self.plain(CommandBody::MoveHorizon { volume: id, before });
        let volume = self.volumes.get_mut(&id).unwrap();
        if volume.deleted {
            return assert_eq!(reply, Err(Errno::ENOENT));
        }
        let aged = volume.before(before.min(now).secs()).unwrap_or(Seq::ZERO).max(volume.horizon);
        let Ok(Reply::Horizon { horizon, more: false }) = reply else {
            panic!("{reply:?}");
        };
        if volume.history_limit.unwrap_or(volume.limits.bytes) > 1 << 40 {
            assert_eq!(horizon, aged, "the budget is large enough");
        }
        let last = volume.before(now.secs()).unwrap_or(Seq::ZERO).max(volume.horizon);
        let at_an_end = horizon == volume.horizon || volume.seconds().values().any(|seq| *seq == horizon);
        assert!(
            (aged..=last).contains(&horizon) && at_an_end,
            "{horizon} is an end of a second, at most {last}"
        );
        volume.horizon = horizon;
        self.check_past();
    }

    /// Drops the history that nobody needs, as compactions do.
    pub fn compact(&mut self) {
        let histories =
            [Family::DentryHistory, Family::InodeHistory, Family::ChunkHistory, Family::SmallHistory];
        for (id, volume) in &self.volumes {
            let pins: Vec<Seq> = volume.pins().into_iter().collect();
            for family in histories {
                for (key, value) in self.view.rows(family) {
                    let life = life_of(family, &key, &value).unwrap();
                    let needed = !volume.removed && keep(life, volume.horizon, &pins);
                    if key.starts_with(&id.to_key()) && !needed {
                        self.view.delete(family, &key);
                    }
                }
            }
        }
        self.check_past();
    }

    fn check_moments(&self, id: VolumeId) {
        let volume = &self.volumes[&id];
        if volume.deleted {
            return;
        }
        let listed = crate::state::snapshots(&self.view, id).unwrap();
        assert!(listed.iter().map(|info| (&info.name, &info.seq)).eq(&volume.snapshots));
        self.check_times(&self.view, id);
    }

    /// Every second leads to its seq.
    pub fn check_times(&self, read: &dyn Read, id: VolumeId) {
        let volume = &self.volumes[&id];
        let now = self.last_at;
        for secs in volume.created() - 1..=(now.secs() + 1).min(volume.created() + 60) {
            let time = Time::new(secs, 0);
            let found = seq_at(read, id, &Moment::Time(time), now).unwrap();
            assert_eq!(found, volume.seq_at(time, now), "when {secs} began");
        }
    }

    /// The past, as far as it must be known, is as it was; the rest is refused.
    pub fn check_past(&self) {
        for (id, volume) in self.volumes.iter().filter(|(_, volume)| !volume.deleted) {
            compare::past(&self.view, *id, volume);
            self.check_times(&self.view, *id);
        }
    }
}
