//! Which mounts have applied which events, and how long a writer waits for them (DESIGN D20, D21).

use sitefs_base::{Clock, Seq, SessionId, VolumeId};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How long a mutation waits for the watchers of its volume.
const ACK_WAIT: Duration = Duration::from_millis(25);
/// How long a watcher that missed has to keep up before writers wait for it again; also how far
/// its acknowledgements may be behind before its lease is no longer renewed.
const PROBATION: Duration = Duration::from_secs(1);
/// Unacknowledged events remembered per watcher; with more it counts as late.
const UNACKED_MAX: usize = 4096;

/// The watchers of all volumes.
pub(crate) struct Watchers {
    clock: Arc<dyn Clock>,
    volumes: Mutex<HashMap<VolumeId, Volume>>,
}

#[derive(Default)]
struct Volume {
    moved: Arc<Notify>,
    watchers: HashMap<SessionId, Watcher>,
}

struct Watcher {
    acked: Seq,
    /// Events sent and not acknowledged, with the time of sending.
    unacked: VecDeque<(Seq, Duration)>,
    /// When it last missed, unless writers wait for it.
    missed: Option<Duration>,
}

impl Watchers {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, volumes: Mutex::default() }
    }

    /// A mount attached; it knows the events up to `seq`.
    pub fn join(&self, volume: VolumeId, session: SessionId, seq: Seq) {
        let watcher = Watcher { acked: seq, unacked: VecDeque::new(), missed: None };
        self.lock().entry(volume).or_default().watchers.insert(session, watcher);
    }

    /// A mount's stream ended: nobody waits for it, its lease runs out.
    pub fn leave(&self, volume: VolumeId, session: SessionId) {
        let mut volumes = self.lock();
        let Some(entry) = volumes.get_mut(&volume) else { return };
        entry.watchers.remove(&session);
        entry.moved.notify_waiters();
        if entry.watchers.is_empty() {
            volumes.remove(&volume);
        }
    }

    /// An event goes to a mount.
    pub fn sent(&self, volume: VolumeId, session: SessionId, seq: Seq) {
        let now = self.clock.boottime();
        if let Some(watcher) = self.lock().get_mut(&volume).and_then(|v| v.watchers.get_mut(&session)) {
            watcher.sent(seq, now);
        }
    }

    /// A mount has applied the events up to `seq`.
    pub fn acked(&self, volume: VolumeId, session: SessionId, seq: Seq) {
        let now = self.clock.boottime();
        let mut volumes = self.lock();
        let Some(entry) = volumes.get_mut(&volume) else { return };
        if let Some(watcher) = entry.watchers.get_mut(&session) {
            watcher.acked(seq, now);
            entry.moved.notify_waiters();
        }
    }

    /// Whether a mount's lease may be renewed.
    pub fn may_renew(&self, volume: VolumeId, session: SessionId) -> bool {
        let now = self.clock.boottime();
        let volumes = self.lock();
        let watcher = volumes.get(&volume).and_then(|entry| entry.watchers.get(&session));
        watcher.is_some_and(|watcher| watcher.may_renew(now))
    }

    /// Waits until every watcher but the writer, of those that keep up, has applied `seq`, at most
    /// 25 ms; those that have not by then are not waited for any more.
    pub async fn wait(&self, volume: VolumeId, writer: SessionId, seq: Seq) {
        let all = async {
            while let Some(moved) = self.lagging(volume, writer, seq) {
                let moved = moved.notified_owned();
                tokio::pin!(moved);
                moved.as_mut().enable();
                // Looked at again because it may have moved before the notification was set up.
                if self.lagging(volume, writer, seq).is_none() {
                    return;
                }
                moved.await;
            }
        };
        if tokio::time::timeout(ACK_WAIT, all).await.is_err() {
            self.expel(volume, writer, seq);
        }
    }

    /// How many there are, and how many of them nobody waits for because they do not keep up.
    pub fn count(&self) -> (usize, usize) {
        let volumes = self.lock();
        let watchers = volumes.values().flat_map(|volume| volume.watchers.values());
        watchers.fold((0, 0), |(all, late), watcher| (all + 1, late + usize::from(watcher.missed.is_some())))
    }

    fn lagging(&self, volume: VolumeId, writer: SessionId, seq: Seq) -> Option<Arc<Notify>> {
        let volumes = self.lock();
        let entry = volumes.get(&volume)?;
        let lags = |(id, watcher): (&SessionId, &Watcher)| {
            *id != writer && watcher.missed.is_none() && watcher.acked < seq
        };
        entry.watchers.iter().any(lags).then(|| entry.moved.clone())
    }

    fn expel(&self, volume: VolumeId, writer: SessionId, seq: Seq) {
        let now = self.clock.boottime();
        let mut volumes = self.lock();
        let Some(entry) = volumes.get_mut(&volume) else { return };
        for (id, watcher) in &mut entry.watchers {
            if *id != writer && watcher.missed.is_none() && watcher.acked < seq {
                tracing::debug!(session = %id, %volume, "watcher late, writers no longer wait for it");
                watcher.missed = Some(now);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    fn sent(&mut self, seq: Seq, now: Duration) {
        if self.unacked.len() >= UNACKED_MAX {
            self.missed = Some(now);
            return;
        }
        self.unacked.push_back((seq, now));
    }

    fn acked(&mut self, seq: Seq, now: Duration) {
        self.acked = self.acked.max(seq);
        let mut late = false;
        while let Some((_, sent)) = self.unacked.pop_front_if(|(sent, _)| *sent <= seq) {
            late |= now.saturating_sub(sent) > ACK_WAIT;
        }
        match self.missed {
            Some(_) if late => self.missed = Some(now),
            Some(since) if now.saturating_sub(since) >= PROBATION && self.unacked.is_empty() => {
                self.missed = None;
            }
            _ => {}
        }
    }

    /// Also a watcher that writers wait for has to acknowledge: perhaps nobody writes, and what it heard when
    /// it came back is in force nowhere.
    fn may_renew(&self, now: Duration) -> bool {
        let current = |(_, sent): &(Seq, Duration)| now.saturating_sub(*sent) < PROBATION;
        self.unacked.front().is_none_or(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{ManualClock, Time};

    const VOLUME: VolumeId = VolumeId::new(1);
    const WRITER: SessionId = SessionId::new(1);
    const READER: SessionId = SessionId::new(2);

    fn watched() -> (Arc<ManualClock>, Arc<Watchers>) {
        let clock = Arc::new(ManualClock::new(Time::EPOCH));
        let watchers = Arc::new(Watchers::new(clock.clone()));
        watchers.join(VOLUME, WRITER, Seq::ZERO);
        watchers.join(VOLUME, READER, Seq::ZERO);
        (clock, watchers)
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_acknowledgement() {
        let (_, watchers) = watched();
        watchers.sent(VOLUME, READER, Seq::new(1));
        let ack = async {
            tokio::task::yield_now().await;
            watchers.acked(VOLUME, READER, Seq::new(1));
        };
        let before = tokio::time::Instant::now();
        tokio::join!(watchers.wait(VOLUME, WRITER, Seq::new(1)), ack);
        assert!(before.elapsed() < ACK_WAIT);
        assert!(watchers.may_renew(VOLUME, READER));
    }

    #[test]
    fn a_watcher_that_acknowledges_nothing_gets_no_lease_although_nobody_waits_for_it() {
        let (clock, watchers) = watched();
        watchers.sent(VOLUME, READER, Seq::new(1));
        assert!(watchers.may_renew(VOLUME, READER));
        clock.advance(PROBATION);
        assert!(!watchers.may_renew(VOLUME, READER));
        watchers.acked(VOLUME, READER, Seq::new(1));
        assert!(watchers.may_renew(VOLUME, READER));
    }

    #[tokio::test]
    async fn a_late_watcher_delays_one_mutation_only_and_comes_back() {
        let (clock, watchers) = watched();
        watchers.sent(VOLUME, READER, Seq::new(1));
        let before = tokio::time::Instant::now();
        watchers.wait(VOLUME, WRITER, Seq::new(1)).await;
        watchers.wait(VOLUME, WRITER, Seq::new(2)).await;
        assert!(before.elapsed() >= ACK_WAIT);
        let before = tokio::time::Instant::now();
        watchers.wait(VOLUME, WRITER, Seq::new(3)).await;
        assert!(before.elapsed() < ACK_WAIT, "it is not waited for any more");

        clock.advance(PROBATION);
        assert!(!watchers.may_renew(VOLUME, READER), "an event is unacknowledged for a second");
        watchers.acked(VOLUME, READER, Seq::new(2));
        assert!(watchers.may_renew(VOLUME, READER));
        assert!(watchers.lagging(VOLUME, WRITER, Seq::new(3)).is_none(), "on probation");
        clock.advance(PROBATION);
        watchers.acked(VOLUME, READER, Seq::new(2));
        assert!(watchers.lagging(VOLUME, WRITER, Seq::new(3)).is_some());
    }
}
