//! The commands of one log entry as bytes (DESIGN D9): `[format u16][kind u16][len u32][body]`,
//! repeated; numbers big-endian, body the command in postcard.

use crate::state::{Command, CommandBody};
use serde::{Deserialize, Serialize};
use sitefs_base::{Error, Result, limits::ENTRY_PAYLOAD_MAX};

const FORMAT: u16 = 3;
const HEADER: usize = 8;

/// The commands of one log entry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Payload(pub(super) Vec<u8>);

impl Payload {
    /// Adds `command` if it fits; a payload that is still empty refuses only what no entry can hold.
    pub(super) fn push(&mut self, command: &Command) -> Result<Fit> {
        let body = postcard::to_stdvec(command)
            .map_err(|error| Error::internal("encoding a command").because(error))?;
        let size = HEADER + body.len();
        if size > ENTRY_PAYLOAD_MAX {
            return Err(Error::limit(format!(
                "a command of {size} bytes is more than the {ENTRY_PAYLOAD_MAX} that one log entry holds"
            )));
        }
        if self.0.len() + size > ENTRY_PAYLOAD_MAX {
            return Ok(Fit::Full);
        }
        let len =
            u32::try_from(body.len()).map_err(|error| Error::limit("a command's length").because(error))?;
        self.0.extend(FORMAT.to_be_bytes());
        self.0.extend(kind(&command.body).to_be_bytes());
        self.0.extend(len.to_be_bytes());
        self.0.extend(body);
        Ok(Fit::Added)
    }

    /// The commands. What this version does not know is `Fenced`: skipping it would make this
    /// replica differ from the others.
    pub(super) fn commands(&self) -> Result<Vec<Command>> {
        let mut rest = self.0.as_slice();
        let mut commands = Vec::new();
        while !rest.is_empty() {
            let (command, after) = decode(rest)?;
            commands.push(command);
            rest = after;
        }
        Ok(commands)
    }
}

/// Whether a command was added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    Added,
    Full,
}

fn decode(bytes: &[u8]) -> Result<(Command, &[u8])> {
    let cut = || Error::corrupt("a log entry is cut short");
    let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(cut)?;
    let format = u16::from_be_bytes([header[0], header[1]]);
    let number = u16::from_be_bytes([header[2], header[3]]);
    let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    if format != FORMAT || !KINDS.contains(&number) {
        return Err(Error::fenced(format!(
            "the log holds a command of format {format} and kind {number}, which this version of \
             sitefs does not know: start the version that wrote it"
        )));
    }
    let len = usize::try_from(len).map_err(|_| cut())?;
    let (body, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
    let command: Command = postcard::from_bytes(body)
        .map_err(|error| Error::corrupt(format!("decoding a command of kind {number}")).because(error))?;
    if kind(&command.body) != number {
        return Err(Error::corrupt(format!("a command of kind {number} holds another kind")));
    }
    Ok((command, rest))
}

const KINDS: std::ops::RangeInclusive<u16> = 0..=25;

/// The number of a kind of command in the log; never reused.
const fn kind(body: &CommandBody) -> u16 {
    match body {
        CommandBody::Noop => 0,
        CommandBody::Init { .. } => 1,
        CommandBody::CreateVolume { .. } => 2,
        CommandBody::OpenSession { .. } => 3,
        CommandBody::CloseSession { .. } => 4,
        CommandBody::ExpireSessions { .. } => 5,
        CommandBody::Op { .. } => 6,
        CommandBody::Drained { .. } => 7,
        CommandBody::Verified { .. } => 8,
        CommandBody::SetVolume { .. } => 9,
        CommandBody::DeleteVolume { .. } => 10,
        CommandBody::CreateSnapshot { .. } => 11,
        CommandBody::DeleteSnapshot { .. } => 12,
        CommandBody::MoveHorizon { .. } => 13,
        CommandBody::Reap { .. } => 14,
        CommandBody::StartRestore { .. } => 15,
        CommandBody::StepRestore { .. } => 16,
        CommandBody::EndRestore { .. } => 17,
        CommandBody::Merged { .. } => 18,
        CommandBody::Damaged { .. } => 19,
        CommandBody::Shorten { .. } => 20,
        CommandBody::ResumeSession { .. } => 21,
        CommandBody::SetCell { .. } => 22,
        CommandBody::BackupsKept { .. } => 23,
        CommandBody::Upgrade { .. } => 24,
        CommandBody::SetRates { .. } => 25,
    }
}

/// The version that a cell must have been raised to before a command is proposed: nodes of the versions before
/// stop at it. That which raises it comes when every node knows it.
pub(super) const fn needed_version(body: &CommandBody) -> u16 {
    match body {
        CommandBody::Upgrade { .. } => 1,
        _ if kind(body) <= 21 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{GroupId, Incarnation, Kind, Time};
    use std::sync::LazyLock;

    fn init(cell: String) -> Command {
        let body = CommandBody::Init { cell, group: GroupId::new(1), incarnation: Incarnation::new(1) };
        Command { at: Time::new(5, 6), body }
    }

    #[test]
    fn commands_come_back_in_order_and_a_full_entry_says_so() {
        let commands =
            [Command { at: Time::EPOCH, body: CommandBody::Noop }, init("a".repeat(ENTRY_PAYLOAD_MAX / 2))];
        let mut payload = Payload::default();
        for command in &commands {
            assert_eq!(payload.push(command).unwrap(), Fit::Added);
        }
        assert_eq!(payload.push(&commands[1]).unwrap(), Fit::Full);
        assert_eq!(payload.commands().unwrap(), commands);
        let huge = init("a".repeat(ENTRY_PAYLOAD_MAX));
        assert_eq!(Payload::default().push(&huge).unwrap_err().kind(), Kind::Limit);
    }

    #[test]
    fn what_is_unknown_stops_the_node_and_what_is_cut_is_corrupt() {
        let mut payload = Payload::default();
        payload.push(&init("cell".into())).unwrap();
        for (byte, value) in [(1, 2), (3, 99)] {
            let mut other = payload.clone();
            other.0[byte] = value;
            assert_eq!(other.commands().unwrap_err().kind(), Kind::Fenced);
        }
        for len in [1, HEADER, payload.0.len() - 1] {
            let cut = Payload(payload.0[..len].to_vec());
            assert_eq!(cut.commands().unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_formats_page() {
        let mut payload = Payload::default();
        payload.push(&Command { at: Time::new(1, 2), body: CommandBody::Noop }).unwrap();
        assert_eq!(payload.0, [0, 3, 0, 0, 0, 0, 0, 3, 2, 2, 0]);
    }

    static ENTRIES: LazyLock<Vec<Vec<Payload>>> = LazyLock::new(|| (0..4).map(entries).collect());

    /// The commands of a random history, as entries.
    fn entries(seed: u64) -> Vec<Payload> {
        let mut all = vec![Payload::default()];
        for command in crate::state::tests::reference::random_cell(seed, 60).1 {
            let last = all.last_mut().unwrap();
            if last.0.len() > 4_000 || last.push(&command).unwrap() == Fit::Full {
                let mut next = Payload::default();
                next.push(&command).unwrap();
                all.push(next);
            }
        }
        all
    }

    fn is_refused_or_harmless(bytes: Vec<u8>) -> bool {
        let known = [Kind::Fenced, Kind::Corrupt];
        Payload(bytes).commands().map_or_else(|error| known.contains(&error.kind()), |_| true)
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            cases: 2_000, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn damaged_entries_are_refused_or_other_commands_but_never_a_panic(
            seed in 0..4usize, entry in proptest::prelude::any::<proptest::sample::Index>(),
            at in proptest::prelude::any::<proptest::sample::Index>(),
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..12),
            huge in proptest::prelude::any::<bool>(),
        ) {
            let all = &ENTRIES[seed];
            let mut bytes = all[entry.index(all.len())].0.clone();
            // A length or a number as large as it can be, or noise.
            let piece = if huge { vec![255, 255, 255, 255, 255, 255, 255, 255, 255, 1] } else { noise.clone() };
            let from = at.index(bytes.len().max(1)).min(bytes.len());
            let to = (from + piece.len()).min(bytes.len());
            bytes.splice(from..to, piece);
            proptest::prop_assert!(is_refused_or_harmless(bytes));
            proptest::prop_assert!(is_refused_or_harmless(noise));
        }
    }
}
