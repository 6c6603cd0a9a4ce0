//! Turns waiting commands into log entries: many commands per entry, one entry under way, volumes
//! in turns (DESIGN D8, D10).

use super::{
    payload::{Fit, Payload},
    types::Raft,
};
use crate::{
    state::{Applied, Command, CommandBody},
    store::Poison,
};
use openraft::error::{ClientWriteError, Fatal, RaftError};
use sitefs_base::{Clock, Error, Kind, Result, Time, VolumeId, metrics::Histogram};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Commands in one entry.
const ENTRY_COMMANDS_MAX: usize = 512;
/// Commands of one volume in its turn, while others wait.
const TURN_MAX: usize = 16;
/// Commands that the proposer itself holds back; more wait in the channel.
const HELD_MAX: usize = 1024;
/// Commands in the channel; more callers wait to put theirs in.
pub(super) const QUEUE_MAX: usize = 1024;

/// A command on its way, and who waits for what it gives.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) body: CommandBody,
    pub(super) reply: oneshot::Sender<Result<Applied>>,
}

/// The task that proposes; it owns the group's time.
pub(super) struct Proposer {
    pub(super) raft: Raft,
    pub(super) queue: mpsc::Receiver<Proposal>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) last_at: Time,
    pub(super) poison: Poison,
    pub(super) stop: CancellationToken,
    pub(super) entry_commands: Arc<Histogram>,
}

impl Proposer {
    /// Proposes until it is stopped or nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut waiting = Waiting::default();
        while self.fill(&mut waiting).await {
            let (payload, callers) = self.build(&mut waiting);
            if !callers.is_empty() {
                self.entry_commands.saw(callers.len() as u64);
                self.propose(payload, callers).await;
            }
        }
    }

    async fn fill(&mut self, waiting: &mut Waiting) -> bool {
        if waiting.count == 0 {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                proposal = self.queue.recv() => match proposal {
                    Some(proposal) => waiting.add(proposal),
                    None => return false,
                },
            }
        }
        while waiting.count < HELD_MAX
            && let Ok(proposal) = self.queue.try_recv()
        {
            waiting.add(proposal);
        }
        !self.stop.is_cancelled()
    }

    fn build(&mut self, waiting: &mut Waiting) -> (Payload, Vec<oneshot::Sender<Result<Applied>>>) {
        let mut payload = Payload::default();
        let mut callers = Vec::new();
        while callers.len() < ENTRY_COMMANDS_MAX
            && let Some(proposal) = waiting.next()
        {
            // Who gave up does not want it done any more.
            if proposal.reply.is_closed() {
                continue;
            }
            let command = Command { at: self.stamp(), body: proposal.body };
            match payload.push(&command) {
                Ok(Fit::Added) => callers.push(proposal.reply),
                Ok(Fit::Full) => {
                    waiting.put_back(Proposal { body: command.body, reply: proposal.reply });
                    break;
                }
                Err(error) => answer(proposal.reply, Err(error)),
            }
        }
        waiting.end_turn();
        (payload, callers)
    }

    fn stamp(&mut self) -> Time {
        self.last_at = self.clock.now().max(self.last_at.next());
        self.last_at
    }

    async fn propose(&self, payload: Payload, callers: Vec<oneshot::Sender<Result<Applied>>>) {
        let error = match self.raft.client_write(payload).await {
            Ok(done) if done.data.applied.len() == callers.len() => {
                for (caller, applied) in callers.into_iter().zip(done.data.applied) {
                    answer(caller, Ok(applied));
                }
                return;
            }
            Ok(_) => Error::internal("an entry gave another number of replies than it had commands"),
            Err(error) => self.explain(error),
        };
        for caller in callers {
            answer(caller, Err(Error::new(error.kind(), error.chain())));
        }
    }

    fn explain(&self, error: RaftError<u64, ClientWriteError<u64, openraft::BasicNode>>) -> Error {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                let leader = forward.leader_id.map_or("unknown".to_owned(), |node| format!("node {node}"));
                Error::unavailable(format!("this node does not lead its group; the leader is {leader}"))
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                Error::new(Kind::Internal, "proposing commands").because(error)
            }
            RaftError::Fatal(Fatal::Stopped) => Error::unavailable("this node is shutting down"),
            RaftError::Fatal(error) => {
                self.poison.set(Error::fenced("Raft ended; the outcome is unknown").because(error))
            }
        }
    }
}

fn answer(caller: oneshot::Sender<Result<Applied>>, result: Result<Applied>) {
    // Who gave up waiting hears nothing; the command was executed all the same.
    let _ = caller.send(result);
}

/// Commands by volume, in the order of the volumes' turns.
#[derive(Debug, Default)]
struct Waiting {
    turns: VecDeque<Option<VolumeId>>,
    commands: HashMap<Option<VolumeId>, VecDeque<Proposal>>,
    count: usize,
    taken_in_turn: usize,
}

impl Waiting {
    fn add(&mut self, proposal: Proposal) {
        let volume = volume_of(&proposal.body);
        let commands = self.commands.entry(volume).or_default();
        if commands.is_empty() {
            self.turns.push_back(volume);
        }
        commands.push_back(proposal);
        self.count += 1;
    }

    fn next(&mut self) -> Option<Proposal> {
        if self.taken_in_turn >= TURN_MAX {
            self.end_turn();
        }
        let volume = *self.turns.front()?;
        let commands = self.commands.get_mut(&volume)?;
        let proposal = commands.pop_front()?;
        self.count -= 1;
        self.taken_in_turn += 1;
        if commands.is_empty() {
            self.commands.remove(&volume);
            self.turns.pop_front();
            self.taken_in_turn = 0;
        }
        Some(proposal)
    }

    /// Takes back what [`Self::next`] gave last; it will be the first of the next entry.
    fn put_back(&mut self, proposal: Proposal) {
        let volume = volume_of(&proposal.body);
        let commands = self.commands.entry(volume).or_default();
        if commands.is_empty() {
            self.turns.push_front(volume);
        }
        commands.push_front(proposal);
        self.count += 1;
        // Whatever it took of its turn, it goes first once more.
        self.taken_in_turn = 0;
    }

    fn end_turn(&mut self) {
        if self.taken_in_turn > 0 {
            self.turns.rotate_left(1.min(self.turns.len()));
        }
        self.taken_in_turn = 0;
    }
}

fn volume_of(body: &CommandBody) -> Option<VolumeId> {
    match body {
        CommandBody::OpenSession { volume, .. }
        | CommandBody::CloseSession { volume, .. }
        | CommandBody::ResumeSession { volume, .. }
        | CommandBody::Op { volume, .. }
        | CommandBody::SetVolume { volume, .. }
        | CommandBody::DeleteVolume { volume }
        | CommandBody::Reap { volume }
        | CommandBody::StartRestore { volume, .. }
        | CommandBody::StepRestore { volume, .. }
        | CommandBody::EndRestore { volume, .. }
        | CommandBody::CreateSnapshot { volume, .. }
        | CommandBody::DeleteSnapshot { volume, .. }
        | CommandBody::MoveHorizon { volume, .. }
        | CommandBody::Merged { volume, .. }
        | CommandBody::Shorten { volume, .. }
        | CommandBody::SetRates { volume, .. } => Some(*volume),
        CommandBody::Noop
        | CommandBody::Init { .. }
        | CommandBody::CreateVolume { .. }
        | CommandBody::ExpireSessions { .. }
        | CommandBody::Drained { .. }
        | CommandBody::Verified { .. }
        | CommandBody::Damaged { .. }
        | CommandBody::SetCell { .. }
        | CommandBody::Upgrade { .. }
        | CommandBody::BackupsKept { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::SessionId;

    fn proposal(volume: u64, session: u128) -> Proposal {
        let (volume, session) = (VolumeId::new(volume), SessionId::new(session));
        let body = CommandBody::OpenSession { volume, session, at: None };
        Proposal { body, reply: oneshot::channel().0 }
    }

    fn take(waiting: &mut Waiting, count: usize) -> Vec<u64> {
        let volumes = std::iter::from_fn(|| waiting.next()).take(count);
        volumes.filter_map(|proposal| volume_of(&proposal.body)).map(VolumeId::get).collect()
    }

    #[test]
    fn a_volume_with_many_commands_does_not_keep_others_waiting() {
        let mut waiting = Waiting::default();
        (0..100).for_each(|n| waiting.add(proposal(1, n)));
        (0..2).for_each(|n| waiting.add(proposal(2, n)));
        waiting.add(proposal(3, 0));
        let taken = take(&mut waiting, TURN_MAX + 3);
        assert_eq!(taken[TURN_MAX..], [2, 2, 3]);
        assert!(taken[..TURN_MAX].iter().all(|volume| *volume == 1));
        assert_eq!(take(&mut waiting, 200).len(), 100 - TURN_MAX);
        assert_eq!(waiting.count, 0);
    }

    #[test]
    fn what_did_not_fit_comes_first_and_in_order() {
        let mut waiting = Waiting::default();
        (0..3).for_each(|n| waiting.add(proposal(1, n)));
        waiting.add(proposal(2, 0));
        let first = waiting.next().unwrap();
        waiting.put_back(first);
        waiting.end_turn();
        let order: Vec<_> = std::iter::from_fn(|| waiting.next()).map(|proposal| proposal.body).collect();
        let expected: Vec<_> = [(1, 0), (1, 1), (1, 2), (2, 0)].map(|(v, s)| proposal(v, s).body).into();
        assert_eq!(order, expected);
    }
}
