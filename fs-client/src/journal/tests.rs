//! The journal on a disk: every step cut, every file damaged.

use super::record::tests::{reformat, sample};
use super::*;
use proptest::prelude::*;
use sitefs_base::OpId;
use sitefs_blobstore::hash;
use std::{fs, path::PathBuf};

const ROOMY: Limits = Limits { bytes: 1 << 30, min_free: 0 };

/// The death of the process at a step: keeps a copy of the directory as it was then.
#[derive(Debug)]
struct CopyAt(Step, PathBuf, PathBuf);

impl Cuts for CopyAt {
    fn at(&self, step: Step) -> Result<()> {
        if step == self.0 {
            copy(&self.1, &self.2);
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A journal that dies at `step` while a record replaces another and is then committed: what the next
/// process finds.
fn die_at(step: Step) -> Vec<(u64, Vec<u8>)> {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = put(&open(dir.path()).0, 7, b"old", None).unwrap();
    let cuts = CopyAt(step, dir.path().to_owned(), kept.path().to_owned());
    let journal = Journal::open(dir.path(), ROOMY, Arc::new(cuts)).unwrap().0;
    let new = put(&journal, 7, b"newer", Some(old)).unwrap();
    let sent = SentOp { op: OpId::new(11), current: true };
    if matches!(step, Step::Sending | Step::Settled | Step::Committed) {
        let name = |record: &mut Record| (record.session, record.sent) = (SessionId::new(78), Some(sent));
        journal.sending(new, name).unwrap();
        journal.settled().unwrap();
        journal.committed(new).unwrap();
    }
    let (journal, found) = open(kept.path());
    if matches!(step, Step::Sending | Step::Settled | Step::Committed) {
        assert_eq!((found[0].1.session, found[0].1.sent), (SessionId::new(78), Some(sent)));
    }
    let left = fs::read_dir(kept.path()).unwrap().count();
    assert_eq!(left, 1 + 2 * found.len(), "{step:?}: the lock, and record and content of each");
    found.iter().map(|(number, record)| (*number, content(&journal, *number, record))).collect()
}

fn open(dir: &Path) -> (Journal, Vec<(u64, Record)>) {
    Journal::open(dir, ROOMY, Arc::new(NoCuts)).unwrap()
}

fn put(journal: &Journal, ino: u64, bytes: &[u8], replaces: Option<u64>) -> Result<u64> {
    let write = |writer: &mut ContentWriter| {
        writer.begin(bytes.len() as u64, true)?;
        writer.piece(0, bytes)
    };
    journal.put(bytes.len() as u64, replaces, write, |content| Record { content, ..sample(ino) })
}

fn content(journal: &Journal, number: u64, record: &Record) -> Vec<u8> {
    let file = journal.content(number).unwrap();
    let pieces = &record.content.as_ref().unwrap().pieces;
    pieces.iter().flat_map(|piece| journal.piece(&file, piece).unwrap()).collect()
}

#[test]
fn what_was_put_is_there_after_a_restart_until_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, found) = open(dir.path());
    assert!(found.is_empty() && journal.is_empty());
    let number = put(&journal, 7, b"hello", None).unwrap();
    assert_eq!((journal.is_empty(), journal.pending().records), (false, 1));
    drop(journal);
    let (journal, found) = open(dir.path());
    let [(again, record)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((*again, record.content.as_ref().unwrap().pieces[0].digest), (number, Some(hash(b"hello"))));
    assert_eq!(content(&journal, number, record), b"hello");
    journal.committed(number).unwrap();
    assert_eq!((journal.is_empty(), journal.pending()), (true, Pending::default()));
    drop(journal);
    assert!(open(dir.path()).1.is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the lock is left");
}

#[test]
fn one_process_uses_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let _journal = open(dir.path());
    let error = Journal::open(dir.path(), ROOMY, Arc::new(NoCuts)).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn a_later_record_of_a_file_replaces_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let old = put(&journal, 7, b"old", None).unwrap();
    let new = put(&journal, 7, b"newer", Some(old)).unwrap();
    assert_eq!(journal.pending().records, 1);
    drop(journal);
    let (journal, found) = open(dir.path());
    assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [new]);
    assert_eq!(content(&journal, new, &found[0].1), b"newer");
}

#[test]
fn a_process_that_dies_at_any_step_leaves_a_whole_record_or_none() {
    for step in Step::ALL {
        let unnamed = matches!(step, Step::Content | Step::ContentSynced | Step::Record | Step::RecordSynced);
        let expected: (u64, &[u8]) = if unnamed { (1, b"old") } else { (2, b"newer") };
        assert_eq!(die_at(step), [(expected.0, expected.1.to_vec())], "{step:?}");
    }
}

#[test]
fn a_record_that_could_not_be_written_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let fails = |writer: &mut ContentWriter| {
        writer.begin(5, true)?;
        writer.piece(0, b"hel")?;
        Err(Error::internal("the disk is gone"))
    };
    journal.put(5, None, fails, |content| Record { content, ..sample(7) }).unwrap_err();
    assert_eq!(journal.pending(), Pending::default());
    drop(journal);
    assert!(open(dir.path()).1.is_empty());
}

#[test]
fn a_full_journal_takes_nothing_more_and_conflicts_count() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 64 << 10, min_free: 0 };
    let (journal, _) = Journal::open(dir.path(), limits, Arc::new(NoCuts)).unwrap();
    let number = put(&journal, 7, &[1; 40_000], None).unwrap();
    assert_eq!(put(&journal, 8, &[2; 40_000], None).unwrap_err().kind(), Kind::Limit);
    journal.conflict(number).unwrap();
    assert_eq!(put(&journal, 8, &[2; 40_000], None).unwrap_err().kind(), Kind::Limit);
    let entry = list(dir.path()).unwrap().remove(0);
    discard(dir.path(), &entry).unwrap();
    put(&journal, 8, &[2; 40_000], None).unwrap();
    let again = put(&journal, 8, &[3; 40_000], Some(2));
    assert!(again.is_ok(), "what is replaced makes room: {again:?}");
}

#[test]
fn the_reserve_of_the_disk_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 1 << 30, min_free: u64::MAX };
    let (journal, _) = Journal::open(dir.path(), limits, Arc::new(NoCuts)).unwrap();
    assert_eq!(put(&journal, 7, b"hello", None).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn a_conflict_waits_for_people_and_not_for_the_cell() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let number = put(&journal, 7, b"hello", None).unwrap();
    journal.conflict(number).unwrap();
    assert_eq!((journal.is_empty(), journal.pending().conflicts), (true, 1));
    drop(journal);
    let (_journal, found) = open(dir.path());
    assert!(found.is_empty());
    let entries = list(dir.path()).unwrap();
    let [Entry { number, state: State::Conflict(record), .. }] = &entries[..] else { panic!("{entries:?}") };
    let out = dir.path().join("out");
    assert_eq!(export(dir.path(), *number, record, &out).unwrap(), 5);
    assert_eq!(fs::read(&out).unwrap(), b"hello");
    export(dir.path(), *number, record, &out).unwrap_err();
    discard(dir.path(), &entries[0]).unwrap();
    assert!(list(dir.path()).unwrap().is_empty());
}

#[test]
fn a_record_that_waits_is_only_discarded_while_no_mount_uses_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    put(&journal, 7, b"hello", None).unwrap();
    let entry = list(dir.path()).unwrap().remove(0);
    assert_eq!(discard(dir.path(), &entry).unwrap_err().kind(), Kind::Conflict);
    drop(journal);
    discard(dir.path(), &entry).unwrap();
    assert!(open(dir.path()).1.is_empty());
}

#[test]
fn a_record_of_a_later_version_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    put(&journal, 7, b"hello", None).unwrap();
    drop(journal);
    let path = dir.path().join(format!("{:020}.record", 1));
    fs::write(&path, reformat(fs::read(&path).unwrap(), 3, <[u8]>::to_vec)).unwrap();
    let error = Journal::open(dir.path(), ROOMY, Arc::new(NoCuts)).unwrap_err();
    assert!(error.doing().contains("later version"), "{error}");
    assert_eq!(list(dir.path()).unwrap()[0].state, State::Newer(3));
}

#[test]
fn content_that_changed_is_noticed_and_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let number = put(&journal, 7, b"hello", None).unwrap();
    fs::write(dir.path().join(format!("{number:020}.data")), b"hellO").unwrap();
    let State::Waiting(record) = list(dir.path()).unwrap().remove(0).state else { panic!("it waits") };
    let piece = &record.content.as_ref().unwrap().pieces[0];
    let error = journal.piece(&journal.content(number).unwrap(), piece).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    export(dir.path(), number, &record, &dir.path().join("out")).unwrap_err();
    assert!(!dir.path().join("out").exists());
    journal.damaged(number).unwrap();
    assert_eq!((journal.is_empty(), journal.pending().conflicts), (true, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A damaged or cut record or content never comes back as a record, and is kept.
    #[test]
    fn what_is_damaged_on_the_disk_is_kept_aside(at in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open(dir.path());
        put(&journal, 7, b"hello", None).unwrap();
        put(&journal, 8, b"other", None).unwrap();
        drop(journal);
        let path = dir.path().join(format!("{:020}.record", 1));
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        fs::write(&path, &bytes).unwrap();
        let (journal, found) = open(dir.path());
        prop_assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), vec![2]);
        prop_assert_eq!(journal.pending().conflicts, 1);
        let damaged = fs::read(dir.path().join(format!("{:020}.damaged", 1))).unwrap();
        prop_assert_eq!(damaged, bytes);
        prop_assert_eq!(fs::read(dir.path().join(format!("{:020}.data", 1))).unwrap(), b"hello");
    }
}
