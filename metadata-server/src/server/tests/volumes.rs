//! Administration of a volume that mounts are using.

use super::{harness::*, *};
use sitefs_base::{
    Errno, Time, VolumeAccess, VolumeChange,
    op::{Op, Query},
    session::{Closing, ToMount},
};
use sitefs_proto::manage::{DeleteVolume, Restore, SetVolume, VolumeDetails};
use tonic::transport::Channel;

async fn connect(cell: &TestCell) -> AdminClient<Channel> {
    AdminClient::connect(format!("http://{}", cell.server.admin_addr())).await.unwrap()
}

fn live() -> VolumeName {
    "acme/live".parse().unwrap()
}

async fn set(admin: &mut AdminClient<Channel>, access: VolumeAccess) {
    let change = VolumeChange { access: Some(access), ..VolumeChange::default() };
    let set = SetVolume { name: live(), change, claimed_identity: OPERATOR.to_owned() };
    admin.set_volume(pb::SetVolumeRequest::from(set)).await.unwrap();
}

async fn show(admin: &mut AdminClient<Channel>) -> VolumeDetails {
    let request = pb::ShowVolumeRequest { name: live().to_string(), claimed_identity: OPERATOR.to_owned() };
    admin.show_volume(request).await.unwrap().into_inner().try_into().unwrap()
}

/// Waits until the loop has removed everything.
async fn reaped(cell: &TestCell) {
    let all_gone = async {
        while !state::volumes_to_reap(&cell.server.cell().group.reader(), None, 1).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), all_gone).await.expect("everything is removed in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_volume_refuses_its_mounts_and_shows_the_reason() {
    let cell = TestCell::start().await;
    let mut admin = connect(&cell).await;
    let mut mount = cell.mount(1).await;
    mount.create(b"a", b"content").await.unwrap();
    set(&mut admin, VolumeAccess::ReadOnly("moving".to_owned())).await;
    assert_eq!(mount.op(Op::Unlink { at: place(b"a") }).await.unwrap_err(), Errno::EROFS);
    assert_eq!(show(&mut admin).await.settings.read_only.as_deref(), Some("moving"));
    set(&mut admin, VolumeAccess::ReadWrite).await;
    mount.op(Op::Unlink { at: place(b"a") }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_volume_ends_its_streams_and_removes_its_rows() {
    let cell = TestCell::start().await;
    let mut admin = connect(&cell).await;
    let mut mount = cell.mount(1).await;
    mount.create(b"a", b"content").await.unwrap();
    let id = show(&mut admin).await.volume.id;
    let delete = |id| {
        let delete = DeleteVolume { name: live(), id, claimed_identity: OPERATOR.to_owned() };
        pb::DeleteVolumeRequest::from(delete)
    };
    let other = admin.delete_volume(delete(VolumeId::new(77))).await.unwrap_err();
    assert_eq!(error_from_status(&other).kind(), Kind::Conflict);
    admin.delete_volume(delete(id)).await.unwrap();
    loop {
        match mount.next().await {
            Some(ToMount::Closing(Closing::Refused { kind: Kind::NotFound, reason })) => {
                assert!(reason.contains("deleted"), "{reason}");
                break;
            }
            Some(_) => {}
            None => panic!("the stream ended without a reason"),
        }
    }
    let refused = cell.attach(attach(2)).await.unwrap_err();
    assert!(matches!(refused, Closing::Refused { kind: Kind::NotFound, .. }), "{refused:?}");
    reaped(&cell).await;
    cell.server.ensure_volume(&live(), 0, 0, 0o755).await.unwrap();
    assert_eq!(cell.mount(3).await.lookup(b"a").await.unwrap(), None);
    assert_ne!(show(&mut admin).await.volume.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_a_name_back_and_mounts_hear_of_it() {
    let cell = TestCell::start().await;
    let mut admin = connect(&cell).await;
    let mut mount = cell.mount(1).await;
    let made = mount.create(b"a", b"content").await.unwrap();
    // The moment is over when the next second has begun.
    let begun = cell.server.cell().clock.now().secs();
    while cell.server.cell().clock.now().secs() == begun {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let at = sitefs_base::Moment::Time(Time::new(begun + 1, 0));
    mount.op(Op::Unlink { at: place(b"a") }).await.unwrap();
    let request = |path: &[u8], dry_run| {
        let claimed_identity = OPERATOR.to_owned();
        let restore =
            Restore { name: live(), path: path.to_vec(), at: at.clone(), dry_run, claimed_identity };
        pb::RestoreRequest::from(restore)
    };
    for dry_run in [true, false] {
        let mut told = admin.restore(request(b"/a", dry_run)).await.unwrap().into_inner();
        let last = loop {
            let progress = told.message().await.unwrap().expect("a last word");
            if progress.done {
                break progress;
            }
        };
        assert_eq!((last.entries, last.bytes), (1, 7));
        assert_eq!(mount.lookup(b"a").await.unwrap().is_some(), !dry_run);
    }
    let found = mount.lookup(b"a").await.unwrap().unwrap();
    assert_ne!(Some(found.attr.ino), made.ino);
    assert!(mount.events().iter().any(|event| !event.changes.is_empty()), "{:?}", mount.heard);
    let mut told = admin.restore(request(b"/b", false)).await.unwrap().into_inner();
    assert_eq!(error_from_status(&told.message().await.unwrap_err()).kind(), Kind::NotFound);
    reaped(&cell).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_off_is_abandoned_at_the_next_start() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    mount.create(b"a", b"content").await.unwrap();
    let volume = mount.attached.volume;
    let group = cell.server.cell().group.clone();
    let seq = state::volume_info(&group.reader(), volume).unwrap().unwrap().seq;
    let source = mount.lookup(b"a").await.unwrap().unwrap().attr.ino;
    let restore = state::Restore { seq, source, to: place(b"copy") };
    group.propose(state::CommandBody::StartRestore { volume, restore }).await.unwrap().reply.unwrap();
    assert_eq!(state::restores(&group.reader(), 10).unwrap().len(), 1);
    // It holds the directory.
    drop(group);
    let cell = TestCell::start_in(cell.stop().await).await;
    let ended = async {
        while !state::restores(&cell.server.cell().group.reader(), 10).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), ended).await.expect("the restore is abandoned");
    reaped(&cell).await;
    let info = state::volume_info(&cell.server.cell().group.reader(), volume).unwrap().unwrap();
    assert_eq!((info.usage.inodes_used, info.pins), (2, Vec::new()));
    let mut mount = cell.mount(2).await;
    assert!(mount.ask(Query::Usage).await.is_ok());
    assert_eq!(mount.lookup(b"copy").await.unwrap(), None);
}
