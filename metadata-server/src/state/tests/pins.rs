//! Snapshots, readers of the past, and the horizon that moves behind them.

use super::{
    super::*,
    harness::*,
    history::{KINDS, Tree, tree_now},
    past::expect_past,
};
use sitefs_base::{
    Errno, HistoryLimit, Moment, OpId, Seq, SessionId, SnapshotName, Time, VolumeChange, VolumeId,
    limits::{PINS_MAX, SESSION_EXPIRY},
    op::*,
};
use std::{cell::Cell as Count, time::Duration};

const READER: SessionId = SessionId::new(8);

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

impl Cell {
    fn snapshot(&mut self, text: &str) -> Result<Seq, Errno> {
        self.snapshot_at(text, None)
    }

    fn snapshot_at(&mut self, text: &str, at: Option<Time>) -> Result<Seq, Errno> {
        let body = CommandBody::CreateSnapshot { volume: self.volume, name: name(text), at };
        self.command(body).map(|reply| match reply {
            Reply::Snapshot(seq) => seq,
            other => panic!("{other:?}"),
        })
    }

    fn forget(&mut self, text: &str) -> Result<Reply, Errno> {
        self.command(CommandBody::DeleteSnapshot { volume: self.volume, name: name(text) })
    }

    fn read_from(&mut self, session: SessionId, moment: &str) -> Result<Option<Seq>, Errno> {
        let at = Some(moment.parse().unwrap());
        self.command(CommandBody::OpenSession { volume: self.volume, session, at }).map(|reply| match reply {
            Reply::Session { at, .. } => at,
            other => panic!("{other:?}"),
        })
    }

    fn close(&mut self, session: SessionId) {
        self.command(CommandBody::CloseSession { volume: self.volume, session }).unwrap();
    }

    /// Moves the horizon to when the second `secs` began.
    fn move_horizon(&mut self, secs: i64) -> (Seq, bool) {
        let body = CommandBody::MoveHorizon { volume: self.volume, before: Time::new(secs, 0) };
        match self.command(body).unwrap() {
            Reply::Horizon { horizon, more } => (horizon, more),
            other => panic!("{other:?}"),
        }
    }

    fn row(&self) -> rows::VolumeRow {
        reads::volume(&self.view, self.volume).unwrap().unwrap()
    }

    fn set_row(&mut self, change: impl FnOnce(&mut rows::VolumeRow)) {
        let mut row = self.row();
        change(&mut row);
        self.view.put(Family::Meta, &keys::volume(self.volume), rows::encode(&row).unwrap());
    }

    /// Drops what compaction may drop.
    fn compact(&mut self) {
        let row = self.row();
        for (_, history) in KINDS {
            for (key, value) in self.view.rows(history) {
                if !keep(life_of(history, &key, &value).unwrap(), row.horizon, &row.pins) {
                    self.view.delete(history, &key);
                }
            }
        }
    }

    fn history_size(&self) -> usize {
        KINDS.iter().map(|(_, history)| self.view.rows(*history).len()).sum()
    }
}

/// A volume with a snapshot in the middle of a second, whose tree is then destroyed.
fn with_snapshot() -> (Cell, Seq, Tree) {
    let mut cell = Cell::new();
    cell.file(root("first"));
    cell.wait_a_second();
    let file = cell.write(root("f"), inline("kept"));
    let seq = cell.snapshot("before").unwrap();
    let tree = tree_now(&cell.view);
    cell.op(Op::Commit(content(file, inline("lost")))).unwrap();
    cell.done(Op::Unlink { at: root("f") });
    cell.done(Op::Unlink { at: root("first") });
    (cell, seq, tree)
}

#[test]
fn a_snapshot_keeps_the_tree_whatever_becomes_of_it() {
    let (mut cell, seq, tree) = with_snapshot();
    assert_eq!(cell.seq_of("before"), Ok(seq));
    expect_past(&cell, seq, &tree);
    cell.wait(Duration::from_secs(1000));
    cell.file(root("later"));
    let (horizon, _) = cell.move_horizon(1900);
    assert!(horizon > seq);
    cell.compact();
    expect_past(&cell, seq, &tree);
    cell.forget("before").unwrap();
    assert_eq!(cell.refused_past(seq), Errno::ESTALE);
    cell.compact();
    assert_eq!(cell.history_size(), 1, "the root's times before the last second");
}

#[test]
fn snapshots_have_distinct_names_and_are_listed_by_them() {
    let (mut cell, seq, _) = with_snapshot();
    assert_eq!(cell.snapshot("before"), Err(Errno::EEXIST));
    let now = cell.snapshot("after").unwrap();
    let listed: Vec<_> = snapshots(&cell.view, cell.volume).unwrap();
    let listed: Vec<_> = listed.iter().map(|found| (found.name.as_str(), found.seq)).collect();
    assert_eq!(listed, [("after", now), ("before", seq)]);
    assert_eq!(cell.forget("other"), Err(Errno::ENOENT));
    assert_eq!(cell.seq_of("other"), Err(Errno::ENOENT));
    let volume = VolumeId::new(9);
    let body = CommandBody::CreateSnapshot { volume, name: name("x"), at: None };
    assert_eq!(cell.command(body), Err(Errno::ENOENT));
}

#[test]
fn a_snapshot_can_be_made_of_a_time_of_the_past() {
    let (mut cell, ..) = with_snapshot();
    cell.wait_a_second();
    let second = |secs| Some(Time::new(secs, 7));
    assert_eq!(cell.snapshot_at("a", second(1001)), Ok(Seq::new(1)));
    assert_eq!(cell.snapshot_at("b", second(1002)), Ok(cell.seq()));
    assert_eq!(cell.snapshot_at("c", second(1003)), Err(Errno::EINVAL));
    assert_eq!(cell.snapshot_at("c", second(1000)), Err(Errno::ENOENT));
    let listed = snapshots(&cell.view, cell.volume).unwrap();
    assert_eq!(listed[0].at, Time::new(1001, 0), "times are rounded down");
    cell.wait_a_second();
    cell.file(root("later"));
    cell.move_horizon(1003);
    assert_eq!(cell.snapshot_at("c", second(1001)), Err(Errno::ESTALE), "though another snapshot has it");
    cell.past(Seq::new(1)).unwrap();
}

#[test]
fn a_seq_stays_pinned_until_its_last_holder_goes() {
    let (mut cell, seq, tree) = with_snapshot();
    assert_eq!(cell.read_from(READER, "before"), Ok(Some(seq)));
    assert_eq!(cell.row().pins, [seq]);
    cell.forget("before").unwrap();
    assert_eq!(cell.row().pins, [seq]);
    expect_past(&cell, seq, &tree);
    cell.close(READER);
    assert_eq!(cell.row().pins, []);
    assert_eq!(cell.refused_past(seq), Errno::ESTALE);
}

#[test]
fn a_reader_of_the_past_keeps_its_moment_and_changes_nothing() {
    let (mut cell, seq, _) = with_snapshot();
    cell.read_from(READER, "before").unwrap();
    cell.forget("before").unwrap();
    assert_eq!(cell.read_from(READER, "before"), Ok(Some(seq)), "found again, though the name is gone");
    let volume = cell.volume;
    let reply = cell.command(CommandBody::OpenSession { volume, session: READER, at: None }).unwrap();
    assert!(matches!(reply, Reply::Session { at: Some(at), .. } if at == seq));
    cell.session = READER;
    let envelope = OpEnvelope {
        session: READER,
        op: OpId::new(1),
        ack_below: OpId::new(1),
        body: Op::Mkdir { at: root("d"), create: by(0o755) },
    };
    assert_eq!(cell.send(envelope), Err(Errno::EROFS));
    assert_eq!(cell.read_from(SESSION, "1970-01-01T00:16:41Z"), Err(Errno::EINVAL), "a session of now");
    assert_eq!(cell.read_from(SessionId::new(9), "gone"), Err(Errno::ENOENT));
}

#[test]
fn the_pin_of_a_silent_reader_expires_with_it() {
    let (mut cell, seq, _) = with_snapshot();
    cell.read_from(READER, "before").unwrap();
    cell.forget("before").unwrap();
    cell.wait(SESSION_EXPIRY + Duration::from_secs(1));
    cell.command(CommandBody::ExpireSessions { before: Time::new(1002, 0) }).unwrap();
    assert_eq!(cell.row().pins, []);
    assert_eq!(cell.refused_past(seq), Errno::ESTALE);
}

#[test]
fn pins_and_snapshots_are_limited_in_number() {
    let mut cell = Cell::new();
    for number in 0..PINS_MAX {
        cell.file(root(&format!("f{number}")));
        cell.snapshot(&format!("s{number}")).unwrap();
    }
    cell.file(root("more"));
    assert_eq!(cell.snapshot("more"), Err(Errno::EDQUOT));
    cell.wait_a_second();
    assert_eq!(cell.read_from(READER, "1970-01-01T00:16:41Z"), Err(Errno::EDQUOT));
    assert_eq!(cell.read_from(READER, "s7"), Ok(Some(Seq::new(8))), "pinned already");
    cell.forget("s7").unwrap();
    cell.forget("s8").unwrap();
    cell.snapshot("more").unwrap();
}

#[test]
fn the_horizon_moves_by_age_and_never_back() {
    let mut cell = Cell::new();
    for number in 0..5 {
        cell.file(root(&format!("f{number}"))); // seq number + 1 in second 1000 + number
        cell.wait_a_second();
    }
    assert_eq!(cell.move_horizon(1003), (Seq::new(3), false));
    assert_eq!(cell.move_horizon(1001), (Seq::new(3), false));
    for (secs, seq) in [(1001, Err(Errno::ESTALE)), (1002, Err(Errno::ESTALE)), (1003, Ok(Seq::new(3)))] {
        assert_eq!(cell.seq_when(secs), seq, "{secs}");
    }
    assert_eq!(cell.refused_past(Seq::new(2)), Errno::ESTALE);
    cell.past(Seq::new(3)).unwrap();
    assert_eq!(cell.view.rows(Family::Small).iter().filter(|(key, _)| key[8] == b'T').count(), 2);
}

#[test]
fn the_horizon_stays_behind_the_second_that_is_under_way() {
    let mut cell = Cell::new();
    cell.file(root("a"));
    cell.wait_a_second();
    cell.file(root("b"));
    cell.file(root("c"));
    assert_eq!(cell.move_horizon(9_999), (Seq::new(1), false));
    cell.wait_a_second();
    assert_eq!(cell.move_horizon(9_999), (Seq::new(3), false), "the second is over");
    cell.done(Op::Unlink { at: root("a") });
    cell.wait_a_second();
    cell.file(root("d"));
    cell.past(Seq::new(3)).unwrap();
    assert_eq!(cell.seq_when(1_002), Ok(Seq::new(3)));
}

#[test]
fn a_move_is_due_only_where_it_would_change_something() {
    let mut cell = Cell::new();
    let due =
        |cell: &Cell, secs| horizon_is_due(&cell.view, cell.volume, Time::new(secs, 0), cell.now).unwrap();
    cell.file(root("a"));
    cell.wait_a_second();
    cell.file(root("b"));
    assert!(!due(&cell, 1000) && due(&cell, 1001));
    cell.move_horizon(1001);
    assert!(!due(&cell, 1001) && !due(&cell, 1002));
    cell.wait_a_second();
    assert!(due(&cell, 1002));
    assert!(!horizon_is_due(&cell.view, VolumeId::new(9), cell.now, cell.now).unwrap());
}

#[test]
fn seconds_below_the_horizon_are_forgotten_a_thousand_at_a_time() {
    let mut cell = Cell::new();
    for number in 0..1_500 {
        let at = root("d");
        match number % 2 {
            0 => cell.command_of(Op::Mkdir { at, create: by(0o755) }).unwrap(),
            _ => cell.command_of(Op::Rmdir { at }).unwrap(),
        };
        cell.wait_a_second();
    }
    let seconds =
        |cell: &Cell| cell.view.rows(Family::Small).iter().filter(|(key, _)| key[8] == b'T').count();
    assert_eq!(seconds(&cell), 1_499);
    assert_eq!(cell.move_horizon(9_999), (Seq::new(1_500), true));
    assert_eq!(seconds(&cell), 499);
    let due = |cell: &Cell| horizon_is_due(&cell.view, cell.volume, Time::EPOCH, cell.now).unwrap();
    assert!(due(&cell), "for the rest of them");
    assert_eq!(cell.move_horizon(9_999), (Seq::new(1_500), false));
    assert_eq!(seconds(&cell), 0);
    assert!(!due(&cell));
}

#[test]
fn history_over_its_budget_is_given_up_from_the_oldest_on() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), hot(0, 10_000));
    for of in 1..10 {
        cell.wait_a_second();
        cell.op(Op::Commit(content(file, hot(of, 10_000)))).unwrap(); // seq of + 2 in second 1000 + of
    }
    assert!((90_000..93_000).contains(&cell.row().history_bytes), "{}", cell.row().history_bytes);
    assert_eq!(cell.move_horizon(0).0, Seq::ZERO, "within the volume's own size");
    cell.set_row(|row| row.history_limit = Some(35_000));
    assert!(horizon_is_due(&cell.view, cell.volume, Time::EPOCH, cell.now).unwrap());
    let (horizon, _) = cell.move_horizon(0);
    assert_eq!(horizon, cell.seq_when(1_007).unwrap(), "three versions of 10,000 bytes fit");
    cell.past(horizon).unwrap();
    cell.set_row(|row| row.history_limit = Some(0));
    let second_floor = cell.seq_when(1_009).unwrap();
    assert_eq!(cell.move_horizon(0).0, second_floor, "not into the second that is under way");
    assert!(!horizon_is_due(&cell.view, cell.volume, Time::EPOCH, cell.now).unwrap());
    cell.wait_a_second();
    assert_eq!(cell.move_horizon(0).0, cell.seq());
}

#[test]
fn a_volume_that_is_made_smaller_keeps_its_history() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let len = 4 << 20;
    for of in 1..=7 {
        cell.wait_a_second();
        let uploaded = vec![cell.upload(of, len)];
        let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, len, of)] }];
        let new = NewContent::Chunks { size: u64::from(len), changed };
        cell.op(Op::Commit(Commit { uploaded, ..content(file, new) })).unwrap();
    }
    cell.wait_a_second();
    let history = cell.row().history_bytes;
    assert!(history > 20 << 20, "more than small volumes may have: {history}");
    let set = |cell: &mut Cell, bytes, history_limit| {
        let change = VolumeChange { bytes_limit: Some(bytes), history_limit, ..VolumeChange::default() };
        cell.command(CommandBody::SetVolume { volume: cell.volume, change }).unwrap();
    };
    let was = cell.row().limits.bytes;
    set(&mut cell, 0, None);
    let more = cell.new_file(root("g"), Some(inline("more")), false);
    assert_eq!(cell.refused(Op::Commit(more)), Errno::EDQUOT);
    assert_eq!(cell.move_horizon(0).0, Seq::ZERO, "nothing is given up");
    assert_eq!(cell.row().history_limit, Some(was), "and that can be seen");
    set(&mut cell, 0, Some(HistoryLimit::Bytes(0)));
    assert!(cell.move_horizon(0).0 > Seq::ZERO, "unless that is what is wanted");
}

#[test]
fn a_volume_of_no_bytes_has_a_past() {
    let mut cell = Cell::with(VolumeLimits { bytes: 0, inodes: 100 });
    cell.mkdir(root("d"));
    cell.wait_a_second();
    cell.done(Op::Rmdir { at: root("d") });
    cell.wait_a_second();
    assert!(cell.row().history_bytes > 0);
    assert_eq!(cell.move_horizon(0).0, Seq::ZERO);
}

#[test]
fn the_history_of_a_file_counts_the_content_that_it_no_longer_names() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), hot(1, 50_000));
    let counted = |cell: &mut Cell, op: Op| {
        cell.wait_a_second();
        let before = cell.row().history_bytes;
        cell.op(op).unwrap();
        cell.row().history_bytes - before
    };
    let mode = |mode| Op::SetAttr { ino: file, set: SetAttr { mode: Some(mode), ..SetAttr::default() } };
    assert!((50..1_000).contains(&counted(&mut cell, mode(0o600))), "attributes cost a row");
    assert!((50_000..51_000).contains(&counted(&mut cell, Op::Commit(content(file, hot(2, 10))))));
    assert!((50..1_000).contains(&counted(&mut cell, Op::Unlink { at: root("f") })));
    let before = cell.row().history_bytes;
    let file = cell.write(root("g"), hot(1, 50_000));
    cell.op(Op::Commit(content(file, hot(3, 10)))).unwrap();
    assert!(cell.row().history_bytes - before < 1_000, "what no second saw costs nothing");
}

/// Counts what a command reads.
struct Counting<'a> {
    view: &'a mut MemoryView,
    reads: Count<usize>,
    writes: usize,
}

impl Read for Counting<'_> {
    fn get(&self, family: Family, key: &[u8]) -> sitefs_base::Result<Option<Vec<u8>>> {
        self.reads.set(self.reads.get() + 1);
        self.view.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> sitefs_base::Result<Vec<Row>> {
        let rows = self.view.scan(family, prefix, from, limit)?;
        self.reads.set(self.reads.get() + 1 + rows.len());
        Ok(rows)
    }
}

impl View for Counting<'_> {
    fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        self.writes += 1;
        self.view.put(family, key, value);
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.writes += 1;
        self.view.delete(family, key);
    }
}

#[test]
fn a_snapshot_costs_the_same_whatever_the_tree_holds() {
    let mut costs = Vec::new();
    for files in [1, 2_000] {
        let mut cell = Cell::new();
        for number in 0..files {
            let at = root(&format!("f{number}"));
            cell.command_of(Op::Mknod { at, kind: sitefs_base::FileKind::File, rdev: 0, create: by(0o644) })
                .unwrap();
        }
        let mut view = Counting { view: &mut cell.view, reads: Count::new(0), writes: 0 };
        let body = CommandBody::CreateSnapshot { volume: cell.volume, name: name("s"), at: None };
        apply(&mut view, &Command { at: cell.now.next(), body }).unwrap().reply.unwrap();
        costs.push((view.reads.get(), view.writes));
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0].0 < 10 && costs[0].1 < 6, "{costs:?}");
}

#[test]
fn a_moment_of_the_past_needs_few_reads_to_be_found() {
    let mut cell = Cell::new();
    for number in 0..50 {
        cell.file(root(&format!("f{number}")));
        cell.wait(Duration::from_secs(100_000));
    }
    let view = Counting { view: &mut cell.view.clone(), reads: Count::new(0), writes: 0 };
    let moment = Moment::Time(Time::new(2_500_000, 0));
    let seq = seq_at(&view, cell.volume, &moment, cell.now).unwrap().unwrap();
    assert_eq!(seq, Seq::new(25));
    assert!(as_of(&view, cell.volume, seq).unwrap().is_ok());
    assert!(view.reads.get() < 150, "{} reads", view.reads.get());
}
