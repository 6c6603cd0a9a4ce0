//! Moves the horizons of volumes, so that history does not grow for ever (DESIGN D2, D6).

use crate::{
    raft::Group,
    state::{self, CommandBody, Reply},
};
use sitefs_base::{Clock, Error, Result, Time, VolumeId, limits::HISTORY_AGE};
use std::{sync::Arc, time::Duration};

/// How often volumes are looked at.
const EVERY: Duration = Duration::from_secs(60);
/// Volumes looked at in one round, and commands proposed: what is left waits for the next round.
const LOOKS_MAX: usize = 1000;
const MOVES_MAX: usize = 200;
/// By age horizons move to full hours, so that a volume in use costs one command an hour.
const STEP_SECS: i64 = 3600;

/// The mover of one group.
pub(crate) struct Horizons {
    group: Group,
    clock: Arc<dyn Clock>,
    /// The last volume looked at.
    after: Option<VolumeId>,
}

impl Horizons {
    /// Begins with the first volume.
    pub fn new(group: Group, clock: Arc<dyn Clock>) -> Self {
        Self { group, clock, after: None }
    }

    /// Moves horizons for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.round().await {
                tracing::debug!(error = error.chain(), "horizons are left to move later");
            }
        }
    }

    /// Looks at the next volumes and moves the horizons that are due.
    pub async fn round(&mut self) -> Result<()> {
        // Only a leader can move them.
        if self.group.quorum_age().is_none() {
            return Ok(());
        }
        let now = self.clock.now();
        let age = i64::try_from(HISTORY_AGE.as_secs()).unwrap_or(i64::MAX);
        let oldest = now.secs().saturating_sub(age);
        let before = Time::new(oldest - oldest.rem_euclid(STEP_SECS), 0);
        let (due, last) = self.due(before, now).await?;
        self.after = last;
        let mut moves = 0;
        for volume in due {
            let mut more = true;
            while more && moves < MOVES_MAX {
                moves += 1;
                more = self.advance(volume, before).await?;
            }
        }
        Ok(())
    }

    /// The volumes whose horizon would move, and the last one looked at; none behind the last volume.
    async fn due(&self, before: Time, now: Time) -> Result<(Vec<VolumeId>, Option<VolumeId>)> {
        let (reader, after) = (self.group.reader(), self.after);
        let look = move || {
            let volumes = state::volumes_after(&reader, after, LOOKS_MAX)?;
            let last = volumes.last().copied().filter(|_| volumes.len() == LOOKS_MAX);
            let mut due = Vec::new();
            for volume in volumes {
                if state::horizon_is_due(&reader, volume, before, now)? {
                    due.push(volume);
                }
            }
            Ok((due, last))
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|join| Error::internal("looking at horizons").because(join))?
    }

    async fn advance(&self, volume: VolumeId, before: Time) -> Result<bool> {
        match self.group.propose(CommandBody::MoveHorizon { volume, before }).await?.reply {
            Ok(Reply::Horizon { horizon, more }) => {
                tracing::debug!(%volume, %horizon, "horizon moved");
                Ok(more)
            }
            // The volume is gone.
            Ok(_) | Err(_) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raft::GroupConfig, state::VolumeLimits};
    use sitefs_base::{
        Errno, GroupId, InodeId, ManualClock, Moment, Name, NodeId, OpId, Seq, SessionId, Tasks,
        op::{Create, Credit, Op, OpEnvelope, Place},
    };

    const SESSION: SessionId = SessionId::new(1);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    async fn reply(group: &Group, body: CommandBody) -> Reply {
        group.propose(body).await.unwrap().reply.unwrap()
    }

    async fn volume(group: &Group) -> VolumeId {
        let (name, limits) = ("acme/live".parse().unwrap(), VolumeLimits { bytes: 1 << 40, inodes: 1 << 20 });
        let made =
            reply(group, CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 }).await;
        let Reply::Volume(volume) = made else { panic!("{made:?}") };
        reply(group, CommandBody::OpenSession { volume, session: SESSION, at: None }).await;
        volume
    }

    async fn mkdir(group: &Group, volume: VolumeId, number: u64) {
        let name = Name::new(number.to_string().as_bytes()).unwrap();
        let create = Create { mode: 0o755, umask: 0, uid: 0, gid: 0 };
        let body = Op::Mkdir { at: Place { parent: InodeId::ROOT, name }, create };
        let op = OpId::new(number);
        reply(
            group,
            CommandBody::Op {
                volume,
                envelope: OpEnvelope { session: SESSION, op, ack_below: op, body },
                credit: Credit::NONE,
            },
        )
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_older_than_seven_days_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Time::new(1_000_000_000, 0)));
        let config = GroupConfig {
            dir: dir.path().to_owned(),
            node: NodeId::new(1),
            cell: "main".to_owned(),
            group: GroupId::new(1),
        };
        let tasks = Tasks::new();
        let group = Group::open(config, clock.clone(), tasks.clone()).unwrap();
        let volume = volume(&group).await;
        let mut days = Vec::new();
        for number in 1..=9 {
            mkdir(&group, volume, number).await;
            clock.advance(DAY);
            days.push(Moment::Time(clock.now()));
        }
        let at = |moment: &Moment| state::seq_at(&group.reader(), volume, moment, clock.now()).unwrap();
        let mut horizons = Horizons::new(group.clone(), clock.clone());
        assert_eq!(at(&days[0]), Ok(Seq::new(1)));
        horizons.round().await.unwrap();
        assert_eq!(at(&days[0]), Err(Errno::ESTALE));
        for (day, moment) in days.iter().enumerate().skip(1) {
            assert_eq!(at(moment), Ok(Seq::new(day as u64 + 1)), "the last seven days stay");
        }
        let (due, last) = horizons.due(Time::EPOCH, clock.now()).await.unwrap();
        assert_eq!((due, last), (vec![], None));
        group.shutdown().await.unwrap();
        tasks.shutdown().await;
    }
}
