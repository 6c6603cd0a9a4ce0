//! Planted damage, each kind of which the check finds by name; and repairs that put it right.

mod planted;

use super::super::{
    check::{Finding, FindingKind as Found, Options, Watch, check},
    rows::{self, *},
    *,
};
use super::harness::*;
use planted::{PLANTED, Story};
use sitefs_base::{Result, Seq, op::*};
use std::collections::BTreeSet;

#[derive(Default)]
struct List(Vec<Finding>);

impl Watch for List {
    fn rows(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
    fn found(&mut self, finding: Finding) -> Result<()> {
        self.0.push(finding);
        Ok(())
    }
}

fn findings_with(view: &MemoryView, options: Options) -> Vec<Finding> {
    let mut list = List::default();
    check(view, options, &mut list).unwrap();
    list.0
}

fn findings(view: &MemoryView) -> Vec<Finding> {
    findings_with(view, Options { seed: (7, 9), snapshots: true, hashes: false })
}

/// Nothing is wrong. Blobs that were damaged on purpose do not count.
pub fn find_nothing(view: &MemoryView, snapshots: bool) {
    let mut found = findings_with(view, Options { seed: (7, 9), snapshots, hashes: false });
    found.retain(|finding| finding.kind != Found::BlobDamaged);
    assert_eq!(found, [], "the check finds nothing");
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let story = Story::new();
    find_nothing(&story.cell.view, true);
    find_nothing(&MemoryView::new(), true);
}

#[test]
fn every_kind_of_planted_damage_is_found_by_name() {
    for (what, plant, expected) in PLANTED {
        let mut story = Story::new();
        plant(&mut story);
        let found: BTreeSet<_> = findings(&story.cell.view).iter().map(|finding| finding.kind).collect();
        assert!(found.contains(expected), "{what}: {expected:?} is not among {found:?}");
    }
    let kinds: BTreeSet<_> = PLANTED.iter().map(|(_, _, kind)| kind).collect();
    assert!(kinds.len() >= 45, "{} kinds are planted", kinds.len());
}

#[test]
fn bytes_with_another_digest_are_found_where_they_are_hashed() {
    let mut cell = Cell::new();
    let bytes = vec![5; 700];
    let digest = sitefs_blobstore::hash(&bytes);
    cell.write(root("f"), NewContent::Hot { digest, bytes: bytes.into() });
    let options = Options { seed: (7, 9), snapshots: true, hashes: true };
    assert_eq!(findings_with(&cell.view, options), []);
    let (key, _) = cell.view.scan(Family::Hot, &[], &[], 1).unwrap().pop().unwrap();
    cell.view.put(Family::Hot, &key, rows::encode(&HotRow { digest, bytes: &[6; 700] }).unwrap());
    let found = findings_with(&cell.view, options);
    assert_eq!(found.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Found::HotWrong]);
}

#[test]
fn a_finding_has_the_path_of_what_it_is_about() {
    let mut story = Story::new();
    story.inode(story.linked, |row| row.size = 3);
    story.blob(2, |row| row.state = BlobState::Damaged);
    let mut paths: Vec<_> =
        findings(&story.cell.view).into_iter().filter_map(|finding| finding.path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths, ["/d/object", "/d/sub/one"]);
}

#[test]
fn the_tree_of_a_snapshot_is_checked_too() {
    let mut story = Story::new();
    let key = story.first_of(Family::InodeHistory, &keys::inode(story.volume(), story.replaced));
    story.delete(Family::InodeHistory, &key);
    let now = Options { seed: (7, 9), snapshots: false, hashes: false };
    assert_eq!(findings_with(&story.cell.view, now), []);
    let found = findings(&story.cell.view);
    assert!(
        found
            .iter()
            .any(|finding| finding.kind == Found::NameDangling && finding.what.contains("as of seq:")),
        "{found:?}"
    );
}

#[test]
fn repairs_put_right_what_they_are_for_and_nothing_else_is_found_then() {
    let mut repaired = BTreeSet::new();
    for (what, plant, _) in PLANTED {
        let mut story = Story::new();
        plant(&mut story);
        let before = findings(&story.cell.view);
        let repairs: Vec<_> = before.iter().filter_map(|finding| finding.repair.clone()).collect();
        if repairs.is_empty() || !before.iter().all(|finding| finding.repair.is_some()) {
            continue;
        }
        for repair in repairs {
            repaired.insert(format!("{repair:?}").split(' ').next().unwrap().to_owned());
            assert_eq!(story.cell.command(CommandBody::Repair { repair }), Ok(Reply::Done), "{what}");
        }
        let mut after = findings(&story.cell.view);
        // What is noted as damaged waits for whoever has the bytes.
        after.retain(|finding| finding.kind != Found::BlobDamaged);
        assert_eq!(after, [], "{what}");
    }
    assert!(repaired.len() >= 10, "{repaired:?}");
}

#[test]
fn a_repair_of_what_has_changed_does_nothing() {
    let mut story = Story::new();
    let volume = story.volume();
    let repairs = [
        Repair::Usage { volume, seq: Seq::new(1), bytes: 0, inodes: 0 },
        Repair::Links { volume, ino: story.linked, born: Seq::new(1), links: 9 },
        Repair::Subdirectories { volume, ino: story.dir, born: Seq::new(1), subdirs: 9 },
        Repair::Pins { volume },
        Repair::Name { name: "acme/live".to_owned() },
        Repair::VolumeName { volume },
        Repair::Session { volume, session: SESSION },
        Repair::List {
            site: SITE,
            digest: digest(2),
            generation: sitefs_base::Generation::from_key([0; 12]),
        },
        Repair::Unlist {
            key: keys::volume(volume),
            site: SITE,
            digest: digest(2),
            generation: story.uploaded.generation,
        },
        Repair::Blob { site: SITE, digest: digest(2), generation: story.uploaded.generation, commands: 1 },
    ];
    for repair in repairs {
        let before = story.cell.view.clone();
        assert_eq!(story.cell.command(CommandBody::Repair { repair: repair.clone() }), Ok(Reply::Done));
        for family in Family::ALL {
            let rows = |view: &MemoryView| {
                view.rows(family).into_iter().filter(|(key, _)| key != keys::COUNTERS).collect::<Vec<_>>()
            };
            assert_eq!(rows(&story.cell.view), rows(&before), "{repair:?}");
        }
    }
}

#[test]
fn a_blob_that_nothing_names_and_that_has_no_object_is_forgotten() {
    let mut story = Story::new();
    let object = story.object;
    story.cell.op(Op::Unlink { at: place(story.dir, "object") }).unwrap();
    assert!(story.cell.inode(object).is_none());
    let repair = Repair::Blob {
        site: SITE,
        digest: digest(2),
        generation: story.uploaded.generation,
        commands: 10_000,
    };
    story.cell.command(CommandBody::Repair { repair }).unwrap();
    let blob: Option<BlobRow> =
        rows::fetch(&story.cell.view, Family::Blob, &keys::blob(SITE, &digest(2))).unwrap();
    assert_eq!(blob, None);
}
