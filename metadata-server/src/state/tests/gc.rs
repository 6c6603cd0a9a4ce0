//! Garbage collection, rule by rule: the same functions that the collector calls, on rows in memory.

use super::{super::*, harness::*, invariants};
use sitefs_base::{Digest, Errno, Generation, InodeId, Moment, SessionId, SiteId, Time, VolumeId, op::*};
use std::{collections::BTreeMap, time::Duration};

/// What a mark saw.
#[derive(Debug)]
pub struct Seen {
    pub mark: Mark,
    pub named: BTreeMap<Digest, Why>,
    pub blobs: Vec<BlobInfo>,
}

/// Reads what a run of the collector reads, in pages of a few rows.
pub fn look(view: &MemoryView, site: SiteId) -> Seen {
    let (mark, mut named, mut blobs) = (mark_of(view).unwrap().unwrap(), BTreeMap::new(), Vec::new());
    for kept in volumes_by_site(view).unwrap().remove(&site).unwrap_or_default() {
        for family in NAMING {
            let mut from = None;
            loop {
                let each = &mut |digest: &Digest, why: Why| {
                    let found = named.entry(*digest).or_insert(why);
                    *found = why.min(*found);
                };
                let page = super::super::named(view, &kept, family, from.as_deref(), 3, each).unwrap();
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
    }
    let mut from = None;
    loop {
        let page = site_blobs(view, site, from.as_deref(), 3, &mut |blob| blobs.push(blob)).unwrap();
        from = page.next;
        if from.is_none() {
            return Seen { mark, named, blobs };
        }
    }
}

impl Seen {
    pub fn unnamed(&self) -> Vec<GcBlob> {
        self.of(|standing| standing == Standing::Present)
    }

    pub fn condemned(&self) -> Vec<GcBlob> {
        self.of(|standing| matches!(standing, Standing::Condemned { .. }))
    }

    fn of(&self, wanted: impl Fn(Standing) -> bool) -> Vec<GcBlob> {
        let unnamed = self.blobs.iter().filter(|info| !self.named.contains_key(&info.blob.digest));
        unnamed.filter(|info| wanted(info.standing)).map(|info| info.blob).collect()
    }
}

impl Cell {
    fn gc(&mut self, step: GcStep) -> Result<GcDone, Errno> {
        let reply = self.command(CommandBody::Gc(step))?;
        invariants::check(&self.view, self.volume);
        match reply {
            Reply::Gc(done) => Ok(done),
            other => panic!("{other:?}"),
        }
    }

    fn look(&self) -> Seen {
        look(&self.view, SITE)
    }

    fn condemn(&mut self) -> u64 {
        let seen = self.look();
        self.gc(GcStep::Condemn { site: SITE, mark: seen.mark, blobs: seen.unnamed() }).unwrap().blobs
    }

    fn begin_delete(&mut self, before: Time) -> u64 {
        let seen = self.look();
        let blobs = seen.condemned();
        self.gc(GcStep::BeginDelete { site: SITE, mark: seen.mark, before, blobs }).unwrap().blobs
    }

    fn doomed(&self) -> Vec<Doomed> {
        doomed(&self.view, SITE, None, 1000).unwrap()
    }

    fn deleted(&mut self) {
        let objects = self.doomed().into_iter().map(|doomed| doomed.object).collect();
        self.gc(GcStep::Deleted { site: SITE, objects }).unwrap();
    }

    /// Nothing of the past is kept beside pins.
    fn forget_the_past(&mut self) {
        self.wait_a_second();
        self.wait_a_second();
        let before = self.now;
        self.command(CommandBody::MoveHorizon { volume: self.volume, before }).unwrap();
    }

    /// A file with an object as content, verified.
    fn object(&mut self, name: &str, of: u8) -> (InodeId, Generation) {
        let file = self.file(root(name));
        let upload = self.upload(of, 600);
        self.op(Op::Commit(Commit { uploaded: vec![upload.clone()], ..content(file, whole(of)) })).unwrap();
        self.verified(&upload);
        (file, upload.generation)
    }

    fn standing(&self, of: u8) -> Option<Standing> {
        self.look().blobs.iter().find(|info| info.blob.digest == digest(of)).map(|info| info.standing)
    }

    fn name_of(&self, of: u8) -> Option<Why> {
        self.look().named.get(&digest(of)).copied()
    }
}

fn whole(of: u8) -> NewContent {
    let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, 600, of)] }];
    NewContent::Chunks { size: 600, changed }
}

fn empty(cell: &mut Cell, file: InodeId) {
    cell.op(Op::Commit(content(file, inline("")))).unwrap();
}

fn is_condemned(standing: Option<Standing>) -> bool {
    matches!(standing, Some(Standing::Condemned { .. }))
}

#[test]
fn the_reasons_are_live_then_history_then_snapshot_then_pin() {
    let mut cell = Cell::new();
    let (file, _) = cell.object("a", 1);
    assert_eq!((cell.name_of(1), cell.condemn()), (Some(Why::Live), 0));
    cell.wait_a_second();
    let snapshot = "s".parse().unwrap();
    cell.command(CommandBody::CreateSnapshot { volume: cell.volume, name: snapshot, at: None }).unwrap();
    empty(&mut cell, file);
    assert_eq!((cell.name_of(1), cell.condemn()), (Some(Why::History), 0));
    cell.forget_the_past();
    assert_eq!((cell.name_of(1), cell.condemn()), (Some(Why::Snapshot), 0));
    let at = Some("s".parse::<Moment>().unwrap());
    let open = CommandBody::OpenSession { volume: cell.volume, session: SessionId::new(9), at };
    cell.command(open).unwrap();
    let name = "s".parse().unwrap();
    cell.command(CommandBody::DeleteSnapshot { volume: cell.volume, name }).unwrap();
    assert_eq!((cell.name_of(1), cell.condemn()), (Some(Why::Pin), 0));
    cell.command(CommandBody::CloseSession { volume: cell.volume, session: SessionId::new(9) }).unwrap();
    assert_eq!((cell.name_of(1), cell.condemn()), (None, 1));
    assert!(is_condemned(cell.standing(1)));
}

#[test]
fn an_object_goes_through_all_states_and_its_key_is_deleted_once_all_is_over() {
    let mut cell = Cell::new();
    let (file, generation) = cell.object("a", 1);
    empty(&mut cell, file);
    assert_eq!(cell.condemn(), 1);
    assert_eq!(cell.condemn(), 0, "once");
    let condemned_at = cell.now;
    assert!(cell.place_of(1).is_some(), "readers have their grace");
    assert_eq!(cell.begin_delete(Time::new(condemned_at.secs() - 1, 0)), 0, "its grace is not over");
    assert_eq!(cell.begin_delete(condemned_at), 1);
    assert_eq!(cell.place_of(1), None);
    assert_eq!(cell.standing(1), Some(Standing::Deleting));
    let object = GcBlob { digest: digest(1), generation };
    assert!(matches!(cell.doomed()[..], [Doomed { object: found, had_grace: true, .. }] if found == object));
    assert!(is_named(&cell.view, SITE, &object).unwrap());
    cell.deleted();
    assert_eq!((cell.doomed(), cell.standing(1)), (vec![], None));
    assert!(!is_named(&cell.view, SITE, &object).unwrap());
    assert_eq!(next_site(&cell.view, None).unwrap(), None, "nothing is left");
    cell.deleted();
}

#[test]
fn what_is_named_between_mark_and_condemn_stays() {
    let mut cell = Cell::new();
    let (file, _) = cell.object("a", 1);
    empty(&mut cell, file);
    let seen = cell.look();
    assert_eq!(seen.unnamed().len(), 1);
    cell.op(Op::Commit(content(file, whole(1)))).unwrap();
    let done = cell.gc(GcStep::Condemn { site: SITE, mark: seen.mark, blobs: seen.unnamed() }).unwrap();
    assert_eq!((done.blobs, cell.standing(1)), (0, Some(Standing::Present)));
}

#[test]
fn a_reference_brings_a_condemned_blob_back_and_its_grace_begins_anew() {
    let mut cell = Cell::new();
    let (file, generation) = cell.object("a", 1);
    empty(&mut cell, file);
    cell.condemn();
    let (first, seen) = (cell.now, cell.look());
    assert!(matches!(cell.grant(1, 600), Grant::Upload { .. }), "a new copy is safer than HAVE");
    cell.op(Op::Commit(content(file, whole(1)))).unwrap();
    assert_eq!(cell.standing(1), Some(Standing::Present));
    assert_eq!(cell.place_of(1).unwrap().generation, generation);
    let late = GcStep::BeginDelete { site: SITE, mark: seen.mark, before: first, blobs: seen.condemned() };
    assert_eq!(cell.gc(late).unwrap().blobs, 0);
    empty(&mut cell, file);
    cell.wait_a_second();
    cell.condemn();
    assert_eq!(cell.begin_delete(first), 0, "condemned again later");
}

#[test]
fn only_the_generation_that_was_seen_is_meant() {
    let mut cell = Cell::new();
    let (file, generation) = cell.object("a", 1);
    empty(&mut cell, file);
    let mut seen = cell.look();
    seen.blobs[0].blob.generation = Generation { counter: 99, ..generation };
    let done = cell.gc(GcStep::Condemn { site: SITE, mark: seen.mark, blobs: seen.unnamed() }).unwrap();
    assert_eq!(done.blobs, 0);
    cell.condemn();
    let mut seen = cell.look();
    seen.blobs[0].blob.generation = Generation { counter: 99, ..generation };
    let (mark, before) = (seen.mark, cell.now);
    let step = GcStep::BeginDelete { site: SITE, mark, before, blobs: seen.condemned() };
    assert_eq!(cell.gc(step).unwrap().blobs, 0);
}

#[test]
fn a_mark_of_another_incarnation_and_too_many_blobs_are_refused() {
    let mut cell = Cell::new();
    let (_, generation) = cell.object("a", 1);
    let mark = Mark { incarnation: sitefs_base::Incarnation::new(2), ..cell.look().mark };
    let step = GcStep::Condemn { site: SITE, mark, blobs: vec![] };
    assert_eq!(cell.gc(step), Err(Errno::ESTALE));
    let blobs = vec![GcBlob { digest: digest(1), generation }; GC_SLICE + 1];
    let step = GcStep::Condemn { site: SITE, mark: cell.look().mark, blobs: blobs.clone() };
    assert_eq!(cell.gc(step), Err(Errno::EINVAL));
    assert_eq!(cell.gc(GcStep::Deleted { site: SITE, objects: blobs }), Err(Errno::EINVAL));
}

#[test]
fn the_same_content_is_uploaded_again_while_the_old_object_is_deleted() {
    let mut cell = Cell::new();
    let (file, old) = cell.object("a", 1);
    empty(&mut cell, file);
    cell.condemn();
    cell.begin_delete(cell.now);
    assert_eq!(cell.refused(Op::Commit(content(file, whole(1)))), Errno::EAGAIN);
    let again = cell.upload(1, 600);
    cell.op(Op::Commit(Commit { uploaded: vec![again.clone()], ..content(file, whole(1)) })).unwrap();
    assert_eq!(cell.place_of(1).unwrap().generation, again.generation);
    assert_eq!(cell.doomed()[0].object.generation, old);
    cell.deleted();
    assert_eq!(cell.place_of(1).unwrap().generation, again.generation, "the new one stays");
}

#[test]
fn hot_blobs_go_at_once_after_their_grace_and_a_late_drain_is_cleaned_up() {
    let mut cell = Cell::new();
    let file = cell.write(root("a"), hot(1, 600));
    let generation = cell.place_of(1).unwrap().generation;
    empty(&mut cell, file);
    assert_eq!(cell.condemn(), 1);
    assert_eq!(hot_bytes(&cell.view, SITE, generation).unwrap().map(|bytes| bytes.len()), Some(600));
    assert_eq!(cell.begin_delete(cell.now), 1);
    assert_eq!(hot_bytes(&cell.view, SITE, generation).unwrap(), None);
    assert_eq!((hot_blobs(&cell.view, None, 9).unwrap(), cell.standing(1)), (vec![], None));
    assert_eq!(cell.doomed(), [], "the store never had it");
    cell.drained(1, generation);
    assert_eq!(cell.doomed()[0].object.generation, generation, "it was being written all the same");
}

#[test]
fn a_hot_blob_may_be_drained_during_its_grace() {
    let mut cell = Cell::new();
    let file = cell.write(root("a"), hot(1, 600));
    let generation = cell.place_of(1).unwrap().generation;
    empty(&mut cell, file);
    cell.condemn();
    cell.drained(1, generation);
    assert!(is_condemned(cell.standing(1)));
    cell.begin_delete(cell.now);
    assert_eq!(cell.doomed()[0].object.generation, generation);
}

#[test]
fn tails_of_appends_that_were_merged_are_collected() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    for byte in [b'a', b'b', b'c', b'd', b'e', b'f'] {
        let bytes = vec![byte; 600].into();
        cell.op(Op::Append { ino: log, bytes, changed: None, kill_setid: false }).unwrap();
    }
    let old: Vec<_> = match cell.query(Query::Chunks { ino: log, first: 0, count: 9 }).unwrap().body {
        AnswerBody::Chunks(chunks) => chunks.into_iter().flat_map(|chunk| chunk.extents).collect(),
        other => panic!("{other:?}"),
    };
    let bytes: Vec<u8> = old.iter().flat_map(|extent| cell.bytes_of(extent)).collect();
    let new = Joined::Hot { digest: sitefs_blobstore::hash(&bytes), bytes: bytes.clone().into() };
    let step = MergeStep::Replace { ino: log, old: old.clone(), new };
    cell.command(CommandBody::Merged { volume: cell.volume, step }).unwrap();
    cell.forget_the_past();
    assert_eq!(cell.condemn(), old.len() as u64, "the joined blob is named, its parts are not");
    assert_eq!(cell.begin_delete(cell.now), old.len() as u64);
    assert_eq!(tails(&cell.view, Time::new(i64::MAX, 0), 99).unwrap().len(), 1);
    assert_eq!(cell.content(log), bytes);
}

#[test]
fn damaged_blobs_that_nothing_names_are_deleted_too_and_never_shared_meanwhile() {
    let mut cell = Cell::new();
    let (file, generation) = cell.object("a", 1);
    cell.command(CommandBody::Damaged { site: SITE, digest: digest(1), generation }).unwrap();
    assert_eq!(cell.condemn(), 0, "a row names it");
    empty(&mut cell, file);
    assert_eq!((cell.condemn(), cell.condemn()), (1, 0));
    assert_eq!(cell.refused(Op::Commit(content(file, whole(1)))), Errno::EAGAIN, "still damaged");
    let again = cell.upload(1, 600);
    cell.verified(&again);
    cell.op(Op::Commit(Commit { uploaded: vec![again], ..content(file, whole(1)) })).unwrap();
    assert_eq!(
        cell.standing(1),
        Some(Standing::Present),
        "replaced, and with it what was said of the old one"
    );
    let found = cell.doomed();
    assert_eq!((found[0].object.generation, found[0].had_grace), (generation, false));
    cell.deleted();
    assert!(cell.place_of(1).is_some());
}

#[test]
fn a_damaged_blob_that_came_back_is_condemned_anew() {
    let mut cell = Cell::new();
    let (file, generation) = cell.object("a", 1);
    cell.command(CommandBody::Damaged { site: SITE, digest: digest(1), generation }).unwrap();
    empty(&mut cell, file);
    cell.condemn();
    cell.verified(&Uploaded { digest: digest(1), generation });
    assert_eq!(cell.standing(1), Some(Standing::Present));
    assert_eq!(cell.begin_delete(cell.now), 0);
    assert_eq!(cell.condemn(), 1);
    cell.command(CommandBody::Damaged { site: SITE, digest: digest(1), generation }).unwrap();
    assert!(is_condemned(cell.standing(1)), "damaged during its grace");
    assert_eq!(cell.begin_delete(cell.now), 1);
}

#[test]
fn uploads_that_are_never_committed_are_given_up_and_cannot_be_committed_later() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let early = cell.upload(1, 600);
    cell.wait_a_second();
    let late = cell.upload(2, 600);
    let before = Time::new(cell.now.secs(), 0);
    assert!(uploads_expire(&cell.view, SITE, before).unwrap());
    let done = cell.gc(GcStep::ExpireUploads { site: SITE, before }).unwrap();
    assert_eq!((done.blobs, done.more), (1, false));
    assert!(!uploads_expire(&cell.view, SITE, before).unwrap());
    let with = |upload: &Uploaded, of| {
        Op::Commit(Commit { uploaded: vec![upload.clone()], ..content(file, whole(of)) })
    };
    assert_eq!(cell.refused(with(&early, 1)), Errno::EAGAIN);
    assert_eq!(cell.doomed()[0].object, GcBlob { digest: digest(1), generation: early.generation });
    cell.op(with(&late, 2)).unwrap();
}

#[test]
fn uploads_are_given_up_in_slices() {
    let mut cell = Cell::new();
    for _ in 0..3 {
        let blobs = vec![BlobWanted { digest: digest(1), len: 600 }; 500];
        cell.command_of(Op::Grant { blobs }).unwrap();
    }
    cell.wait_a_second();
    let before = cell.now;
    let step = GcStep::ExpireUploads { site: SITE, before };
    let (first, second) = (cell.gc(step.clone()).unwrap(), cell.gc(step).unwrap());
    assert_eq!((first.blobs, first.more, second.blobs, second.more), (1000, true, 500, false));
}

#[test]
fn restores_under_way_and_rows_of_deleted_volumes_count_until_they_are_gone() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let file = cell.write(place(dir, "f"), hot(1, 600));
    cell.wait_a_second();
    let seq = cell.seq();
    cell.op(Op::Unlink { at: place(dir, "f") }).unwrap();
    let restore = Restore { seq, source: dir, to: root("back") };
    let started = cell.command(CommandBody::StartRestore { volume: cell.volume, restore }).unwrap();
    let Reply::Restore(RestoreState { job: Some(job), .. }) = started else { panic!("{started:?}") };
    cell.forget_the_past();
    assert_eq!((cell.inode(file), cell.name_of(1)), (None, Some(Why::Pin)));
    assert_eq!(cell.condemn(), 0);
    while let Reply::Restore(RestoreState { more: true, .. }) =
        cell.command(CommandBody::StepRestore { volume: cell.volume, job }).unwrap()
    {}
    assert_eq!(cell.name_of(1), Some(Why::Live));
    cell.command(CommandBody::DeleteVolume { volume: cell.volume }).unwrap();
    assert_eq!(cell.name_of(1), Some(Why::Live), "its rows are there still");
    while let Reply::Reaped { more: true } = cell.command(CommandBody::Reap { volume: cell.volume }).unwrap()
    {
    }
    let seen = cell.look();
    assert_eq!((seen.named.len(), seen.unnamed().len()), (0, 1));
    let step = GcStep::Condemn { site: SITE, mark: seen.mark, blobs: seen.unnamed() };
    let Reply::Gc(done) = cell.command(CommandBody::Gc(step)).unwrap() else { panic!() };
    assert_eq!(done.blobs, 1);
}

#[test]
fn blobs_are_kept_for_every_volume_of_the_site() {
    let mut cell = Cell::new();
    let (file, _) = cell.object("a", 1);
    let name = "acme/dev".parse().unwrap();
    let limits = VolumeLimits { bytes: 1 << 30, inodes: 100 };
    cell.command(CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 }).unwrap();
    let first = std::mem::replace(&mut cell.volume, VolumeId::new(2));
    cell.open(SessionId::new(8));
    cell.write(root("b"), hot(1, 600));
    cell.volume = first;
    cell.open(SESSION);
    empty(&mut cell, file);
    cell.forget_the_past();
    assert_eq!((cell.name_of(1), cell.condemn()), (Some(Why::Live), 0));
}

#[test]
fn pause_and_the_last_run_are_remembered() {
    let mut cell = Cell::new();
    assert_eq!(gc_info(&cell.view).unwrap(), GcInfo::default());
    cell.gc(GcStep::Pause(true)).unwrap();
    cell.gc(GcStep::Own(5)).unwrap();
    cell.gc(GcStep::Own(6)).unwrap();
    cell.wait(Duration::from_secs(5));
    cell.gc(GcStep::Finished).unwrap();
    let finished = Some(cell.now);
    assert_eq!(gc_info(&cell.view).unwrap(), GcInfo { paused: true, finished, owner: Some(5) });
    cell.gc(GcStep::Pause(false)).unwrap();
    assert!(!gc_info(&cell.view).unwrap().paused);
}
