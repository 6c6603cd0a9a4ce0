use super::{super::*, harness::*};
use sitefs_base::{Errno, Generation, InodeId, SessionId, VolumeId, op::*};

fn whole(of: u8, len: u32) -> NewContent {
    let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, len, of)] }];
    NewContent::Chunks { size: u64::from(len), changed }
}

fn with(ino: InodeId, new: NewContent, uploaded: &Uploaded) -> Op {
    Op::Commit(Commit { uploaded: vec![uploaded.clone()], ..content(ino, new) })
}

#[test]
fn hot_content_is_kept_once_per_site_until_it_is_drained() {
    let mut cell = Cell::new();
    cell.write(root("a"), hot(1, 600));
    cell.write(root("b"), hot(1, 600));
    let place = cell.place_of(1).unwrap();
    assert!(place.hot && place.verified && place.len == 600 && place.site == SITE);
    assert_eq!(cell.place_of(1), Some(place));
    let listed = hot_blobs(&cell.view, None, 10).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(hot_bytes(&cell.view, SITE, place.generation).unwrap(), Some(vec![1; 600]));
    let blob = listed[0];
    assert_eq!((blob.site, blob.digest, blob.generation, blob.len), (SITE, digest(1), place.generation, 600));
    assert_eq!(hot_blobs(&cell.view, Some((SITE, blob.generation)), 10).unwrap(), []);
    let another = cell.upload(2, 70_000).generation;
    cell.drained(1, another);
    assert!(cell.place_of(1).unwrap().hot, "another generation changes nothing");
    cell.drained(1, place.generation);
    let place = cell.place_of(1).unwrap();
    assert!(!place.hot && place.verified);
    assert_eq!(hot_bytes(&cell.view, SITE, place.generation).unwrap(), None);
    cell.write(root("c"), hot(1, 600));
    assert_eq!(hot_blobs(&cell.view, None, 10).unwrap(), [], "the bytes were dropped");
}

#[test]
fn an_upload_is_granted_committed_verified_and_then_shared() {
    let mut cell = Cell::new();
    let (a, b) = (cell.file(root("a")), cell.file(root("b")));
    let upload = cell.upload(1, 70_000);
    let slot = Some(UploadSlot { len: 70_000, contested: false });
    assert_eq!(cell.slot(&upload), slot);
    assert_eq!(cell.slot(&Uploaded { digest: digest(2), ..upload }), None);
    assert_eq!(cell.refused(Op::Commit(content(a, whole(1, 70_000)))), Errno::EAGAIN);
    cell.op(with(a, whole(1, 70_000), &upload)).unwrap();
    let place = cell.place_of(1).unwrap();
    assert!(!place.hot && !place.verified && place.generation == upload.generation);
    assert_eq!(cell.slot(&upload), slot);
    let pending = unverified(&cell.view, 10).unwrap();
    assert_eq!((pending.len(), pending[0].generation, pending[0].len), (1, upload.generation, 70_000));
    assert_eq!(cell.refused(Op::Commit(content(b, whole(1, 70_000)))), Errno::EAGAIN, "not verified yet");
    cell.op(Op::Commit(content(a, whole(1, 60_000)))).unwrap();
    cell.verified(&upload);
    assert_eq!((unverified(&cell.view, 10).unwrap(), cell.grant(1, 70_000)), (vec![], Grant::Have));
    cell.op(Op::Commit(content(b, whole(1, 70_000)))).unwrap();
    assert_eq!(cell.refused(Op::Commit(content(b, whole(1, 70_001)))), Errno::EINVAL);
    assert!(cell.place_of(1).unwrap().verified);
}

#[test]
fn each_grant_draws_its_own_generation_and_a_foreign_one_is_no_proof() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let (first, second) = (cell.upload(1, 1000), cell.upload(1, 1000));
    assert!(second.generation > first.generation);
    let other = cell.upload(2, 1000);
    let lie = Uploaded { digest: digest(1), generation: other.generation };
    assert_eq!(cell.refused(with(file, whole(1, 1000), &lie)), Errno::EAGAIN);
    cell.op(with(file, whole(1, 1000), &second)).unwrap();
    let late = cell.file(root("b"));
    assert!(cell.slot(&first).unwrap().contested);
    assert_eq!(cell.refused(with(late, whole(1, 1000), &first)), Errno::EAGAIN, "both may be wrong");
    let committed = cell.file(root("c"));
    cell.op(with(committed, whole(1, 1000), &second)).unwrap();
}

#[test]
fn hot_bytes_replace_an_object_that_nobody_verified() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let upload = cell.upload(1, 600);
    cell.op(with(file, whole(1, 600), &upload)).unwrap();
    cell.write(root("b"), hot(1, 600));
    let place = cell.place_of(1).unwrap();
    assert!(place.hot && place.verified && place.generation > upload.generation);
    assert_eq!(unverified(&cell.view, 10).unwrap(), []);
    cell.verified(&upload);
    cell.drained(1, upload.generation);
    assert!(cell.place_of(1).unwrap().hot, "late news of the old object change nothing");
}

#[test]
fn a_volume_can_read_what_it_committed_even_if_no_row_names_it_any_more() {
    let mut cell = Cell::new();
    let file = cell.write(root("a"), hot(1, 600));
    cell.op(Op::Commit(content(file, inline("now")))).unwrap();
    assert!(cell.place_of(1).is_some(), "a handle may have the replaced version open");
    assert_eq!(cell.place_of(2), None, "nobody committed it");
    assert_eq!(locate(&cell.view, VolumeId::new(9), &[digest(1)]).unwrap(), [None], "another volume");
}

fn enter_another_volume(cell: &mut Cell) {
    let name = "acme/dev".parse().unwrap();
    let limits = VolumeLimits { bytes: 1 << 30, inodes: 100 };
    let made = cell.command(CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 });
    assert_eq!(made, Ok(Reply::Volume(VolumeId::new(2))));
    cell.volume = VolumeId::new(2);
    cell.open(SessionId::new(8));
}

#[test]
fn a_guessed_or_foreign_generation_opens_no_blob_of_another_volume() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let (theirs, granted) = (cell.upload(1, 600), cell.upload(1, 600));
    cell.op(with(file, whole(1, 600), &theirs)).unwrap();
    cell.verified(&theirs);
    cell.verified(&granted);
    enter_another_volume(&mut cell);
    let file = cell.file(root("b"));
    for guess in [&theirs, &granted] {
        assert_eq!(cell.slot(guess), None);
        assert_eq!(cell.refused(with(file, whole(1, 600), guess)), Errno::EAGAIN);
    }
    let own = cell.upload(1, 600);
    assert_eq!(cell.slot(&own), Some(UploadSlot { len: 600, contested: true }));
    assert_eq!(cell.refused(with(file, whole(1, 600), &own)), Errno::EAGAIN, "it may be garbage");
    cell.verified(&own);
    assert_eq!(cell.slot(&own), Some(UploadSlot { len: 600, contested: false }));
    cell.op(with(file, whole(1, 600), &own)).unwrap();
    assert_eq!(cell.place_of(1).unwrap().generation, theirs.generation, "kept once for the site");
}

#[test]
fn a_verified_upload_replaces_an_object_that_nobody_verified() {
    let mut cell = Cell::new();
    let (bad, good) = (cell.file(root("bad")), cell.file(root("good")));
    let garbage = cell.upload(1, 500);
    cell.op(with(bad, whole(1, 500), &garbage)).unwrap();
    let upload = cell.upload(1, 600);
    assert!(cell.slot(&upload).unwrap().contested);
    cell.verified(&upload);
    assert!(!cell.place_of(1).unwrap().verified, "its row has another generation");
    cell.op(with(good, whole(1, 600), &upload)).unwrap();
    let place = cell.place_of(1).unwrap();
    assert!(place.verified && place.len == 600 && place.generation == upload.generation);
    assert_eq!(unverified(&cell.view, 10).unwrap(), []);
    let doomed = cell.view.get(Family::Blob, &keys::doomed(SITE, garbage.generation)).unwrap();
    assert!(doomed.is_some(), "the garbage has to be deleted");
}

#[test]
fn another_volume_of_the_site_must_prove_that_it_has_the_bytes() {
    let mut cell = Cell::new();
    cell.write(root("a"), hot(1, 600));
    enter_another_volume(&mut cell);
    let blobs = vec![BlobWanted { digest: digest(1), len: 600 }];
    let envelope = cell.envelope(Op::Grant { blobs });
    let outcome = cell.send(envelope).unwrap();
    assert!(matches!(&outcome.extra, Extra::Grants(grants) if matches!(grants[0], Grant::Upload { .. })));
    let at = root("f");
    let mknod = Op::Mknod { at, kind: sitefs_base::FileKind::File, rdev: 0, create: by(0o644) };
    let envelope = cell.envelope(mknod);
    let file = cell.send(envelope).unwrap().ino.unwrap();
    let envelope = cell.envelope(Op::Commit(content(file, whole(1, 600))));
    assert_eq!(cell.send(envelope), Err(Errno::EAGAIN));
    let envelope = cell.envelope(Op::Commit(content(file, hot(1, 600))));
    cell.send(envelope).unwrap();
    assert_eq!(hot_blobs(&cell.view, None, 10).unwrap().len(), 1, "kept once for the site");
    let envelope = cell.envelope(Op::Commit(content(file, whole(1, 600))));
    cell.send(envelope).unwrap();
}

#[test]
fn condemned_blobs_come_back_and_deleted_ones_are_uploaded_again() {
    use super::super::rows::{BlobRow, BlobState, encode, fetch};
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let upload = cell.upload(1, 600);
    cell.op(with(file, whole(1, 600), &upload)).unwrap();
    cell.verified(&upload);
    cell.op(Op::Commit(content(file, inline("")))).unwrap();
    let key = keys::blob(SITE, &digest(1));
    let set = |cell: &mut Cell, state| {
        let row: BlobRow = fetch(&cell.view, Family::Blob, &key).unwrap().unwrap();
        cell.view.put(Family::Blob, &key, encode(&BlobRow { state, ..row }).unwrap());
    };
    set(&mut cell, BlobState::Condemned);
    cell.op(Op::Commit(content(file, whole(1, 600)))).unwrap();
    cell.op(Op::Commit(content(file, inline("")))).unwrap();
    set(&mut cell, BlobState::Deleting);
    assert_eq!(cell.refused(Op::Commit(content(file, whole(1, 600)))), Errno::EAGAIN);
    let again = cell.upload(1, 600);
    cell.op(with(file, whole(1, 600), &again)).unwrap();
    assert_eq!(cell.place_of(1).unwrap().generation, again.generation);
    let doomed = cell.view.get(Family::Blob, &keys::doomed(SITE, upload.generation)).unwrap();
    assert!(doomed.is_some(), "the old object goes on being deleted");
}

fn damaged(cell: &mut Cell, generation: Generation) {
    cell.command(CommandBody::Damaged { site: SITE, digest: digest(1), generation }).unwrap();
}

#[test]
fn a_damaged_object_gives_way_to_proven_bytes_and_rows_keep_naming_it() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let upload = cell.upload(1, 600);
    cell.op(with(file, whole(1, 600), &upload)).unwrap();
    cell.verified(&upload);
    damaged(&mut cell, Generation { counter: 99, ..upload.generation });
    assert_eq!(cell.grant(1, 600), Grant::Have, "another generation changes nothing");
    damaged(&mut cell, upload.generation);
    let place = cell.place_of(1).unwrap();
    assert!(place.damaged && !place.verified, "it may be read, should it come back");
    assert_eq!(cell.refused(Op::Commit(content(file, whole(1, 600)))), Errno::EAGAIN);
    assert_eq!(
        cell.refused(with(file, whole(1, 600), &upload)),
        Errno::EAGAIN,
        "those are the damaged bytes"
    );
    let again = cell.upload(1, 600);
    assert!(cell.slot(&again).unwrap().contested, "garbage must not follow garbage");
    cell.verified(&again);
    let other = cell.file(root("b"));
    cell.op(with(other, whole(1, 600), &again)).unwrap();
    let place = cell.place_of(1).unwrap();
    assert!(!place.damaged && place.verified && place.generation == again.generation);
    let doomed = cell.view.get(Family::Blob, &keys::doomed(SITE, upload.generation)).unwrap();
    assert!(doomed.is_some(), "the damaged object has to be deleted");
    damaged(&mut cell, upload.generation);
    assert_eq!(cell.grant(1, 600), Grant::Have, "late news of the old object change nothing");
}

#[test]
fn damaged_hot_bytes_give_way_to_those_of_the_next_commit() {
    let mut cell = Cell::new();
    cell.write(root("a"), hot(1, 600));
    let old = cell.place_of(1).unwrap();
    damaged(&mut cell, old.generation);
    assert_eq!(hot_blobs(&cell.view, None, 10).unwrap(), [], "it is not drained");
    cell.verified(&Uploaded { digest: digest(1), generation: old.generation });
    assert!(cell.place_of(1).unwrap().damaged, "what the cell holds does not come back");
    cell.write(root("b"), hot(1, 600));
    let new = cell.place_of(1).unwrap();
    assert!(new.hot && new.verified && !new.damaged && new.generation > old.generation);
    assert_eq!(hot_bytes(&cell.view, SITE, old.generation).unwrap(), None);
    assert_eq!(hot_bytes(&cell.view, SITE, new.generation).unwrap(), Some(vec![1; 600]));
}

#[test]
fn a_damaged_object_that_came_back_is_as_good_as_before() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let upload = cell.upload(1, 600);
    cell.op(with(file, whole(1, 600), &upload)).unwrap();
    damaged(&mut cell, upload.generation);
    assert_eq!(unverified(&cell.view, 10).unwrap(), [], "it was looked at");
    cell.verified(&upload);
    let place = cell.place_of(1).unwrap();
    assert!(!place.damaged && place.verified && place.generation == upload.generation);
    assert_eq!(cell.grant(1, 600), Grant::Have);
}

#[test]
fn grants_of_impossible_sizes_are_refused() {
    let mut cell = Cell::new();
    for len in [0, 4 * 1024 * 1024 + 1] {
        let blobs = vec![BlobWanted { digest: digest(1), len }];
        assert_eq!(cell.refused(Op::Grant { blobs }), Errno::EINVAL);
    }
}
