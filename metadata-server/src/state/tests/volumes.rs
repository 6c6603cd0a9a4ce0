use super::{super::*, harness::*};
use sitefs_base::{Errno, GroupId, Incarnation, Seq, SiteId, Time, VolumeId, op::*};

fn volume(name: &str) -> CommandBody {
    let limits = VolumeLimits { bytes: 10, inodes: 10 };
    CommandBody::CreateVolume { name: name.parse().unwrap(), limits, uid: 1, gid: 2, mode: 0o1777 }
}

#[test]
fn a_group_is_made_once_and_before_its_volumes() {
    let mut view = MemoryView::new();
    let mut send = |body| apply(&mut view, &Command { at: Time::new(5, 0), body }).unwrap().reply;
    let init = |cell: &str| {
        let (group, incarnation) = (GroupId::new(1), Incarnation::new(3));
        CommandBody::Init { cell: cell.into(), group, incarnation }
    };
    assert_eq!(send(volume("acme/live")), Err(Errno::ENODEV));
    assert_eq!(send(CommandBody::Noop), Ok(Reply::Done));
    assert_eq!(send(init("one")), Ok(Reply::Done));
    assert_eq!(send(init("two")), Err(Errno::EEXIST));
    let info = group_info(&view).unwrap().unwrap();
    assert_eq!((info.cell.as_str(), info.incarnation), ("one", Incarnation::new(3)));
    assert_eq!(last_at(&view).unwrap(), Time::new(5, 1), "time moves on with every command");
    assert_eq!(group_info(&MemoryView::new()).unwrap(), None);
}

#[test]
fn volumes_of_one_site_share_it_and_names_are_taken_once() {
    let mut cell = Cell::new();
    assert_eq!(cell.command(volume("acme/dev")), Ok(Reply::Volume(VolumeId::new(2))));
    assert_eq!(cell.command(volume("other/live")), Ok(Reply::Volume(VolumeId::new(3))));
    assert_eq!(cell.command(volume("acme/live")), Err(Errno::EEXIST));
    let listed = volumes(&cell.view).unwrap();
    let sites: Vec<_> = listed.iter().map(|volume| (volume.name.to_string(), volume.site)).collect();
    let (acme, other) = (SiteId::new(1), SiteId::new(2));
    assert_eq!(sites, [("acme/live".into(), acme), ("acme/dev".into(), acme), ("other/live".into(), other)]);
    let found = volume_by_name(&cell.view, &"acme/dev".parse().unwrap()).unwrap().unwrap();
    assert_eq!((found.id, found.seq, found.usage.inodes_used), (VolumeId::new(2), Seq::ZERO, 1));
    assert_eq!(volume_by_name(&cell.view, &"acme/none".parse().unwrap()).unwrap(), None);
    let root = query(&cell.view, found.id, &Query::Inode { ino: ROOT }).unwrap().unwrap();
    let AnswerBody::Inode(Some(root)) = root.body else { panic!("no root") };
    assert_eq!((root.attr.mode, root.attr.uid, root.attr.gid, root.attr.nlink), (0o1777, 1, 2, 2));
}

#[test]
fn the_feed_repeats_events_in_order_and_only_ever_those_that_were() {
    let mut cell = Cell::new();
    let mut events = Vec::new();
    for name in ["a", "b", "c"] {
        cell.file(root(name));
        events.extend(cell.event.clone());
    }
    let since = |after, limit| events_since(&cell.view, cell.volume, Seq::new(after), limit).unwrap();
    assert_eq!(since(0, 10), Some(events.clone()));
    assert_eq!(since(1, 1), Some(events[1..2].to_vec()));
    assert_eq!((since(3, 10), since(4, 10)), (Some(vec![]), None));
    assert_eq!(events_since(&cell.view, VolumeId::new(9), Seq::ZERO, 1).unwrap(), None);
}

#[test]
fn the_feed_forgets_what_is_older_than_its_length() {
    use super::super::rows::{VolumeRow, encode, fetch};
    let mut cell = Cell::new();
    cell.file(root("a"));
    let key = keys::volume(cell.volume);
    let row: VolumeRow = fetch(&cell.view, Family::Meta, &key).unwrap().unwrap();
    let row = VolumeRow { seq: Seq::new(100_000), ..row };
    cell.view.put(Family::Meta, &key, encode(&row).unwrap());
    let envelope = cell.envelope(Op::Unlink { at: root("a") });
    cell.send(envelope).unwrap();
    let since = |after| events_since(&cell.view, cell.volume, Seq::new(after), 10).unwrap();
    assert_eq!((since(0), since(1).map(|events| events.len())), (None, Some(1)));
}

#[test]
fn questions_that_need_more_than_rows_are_refused() {
    let cell = Cell::new();
    assert_eq!(cell.query(Query::Resolve { ino: ROOT, digests: vec![] }), Err(Errno::EINVAL));
    assert_eq!(cell.query(Query::Reserve { at: root("x") }), Err(Errno::EINVAL));
    let gone = query(&cell.view, VolumeId::new(9), &Query::Usage).unwrap();
    assert_eq!(gone, Err(Errno::ESTALE));
    assert_eq!(cell.query(Query::Usage).unwrap().body, AnswerBody::Usage(cell.usage()));
}
