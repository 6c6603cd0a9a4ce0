//! The cell through its real listeners: a client that speaks the protocol over loopback.

mod appends;
mod blobs;
mod credit;
mod flood;
mod harness;
mod locks;
mod past;
#[cfg(feature = "s3")]
mod s3;
mod session;
mod store;
mod volumes;

use super::*;
use harness::{OPERATOR, TestCell, config};
use sitefs_base::{Kind, SystemClock};
use sitefs_proto::{admin, error_from_status, pb, pb::admin_client::AdminClient};

async fn start(config: ServerConfig) -> Result<Server> {
    Server::start(config, Arc::new(SystemClock)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_clearly_why_it_does_not_start() {
    let cell = TestCell::start().await;
    let dir = tempfile::tempdir().unwrap();

    let taken = ServerConfig { listen: cell.server.local_addr(), ..config(dir.path()) };
    let error = start(taken).await.err().unwrap();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert!(error.doing().contains("is in use"), "{error}");

    let secure = ServerConfig { insecure: false, ..config(dir.path()) };
    assert_eq!(start(secure).await.err().unwrap().kind(), Kind::Invalid);

    let open = ServerConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config(dir.path()) };
    assert!(start(open).await.err().unwrap().doing().contains("loopback"));

    let bucket = BackendConfig::S3 { endpoint: None, bucket: "b".to_owned(), region: None };
    let data = cell.stop().await;
    let moved = ServerConfig { backend: bucket, ..config(data.path()) };
    let error = start(moved).await.err().unwrap();
    assert!(error.doing().contains("are in directory, not in s3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_something_else_is_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("index.php"), "x").unwrap();
    let error = start(config(dir.path())).await.err().unwrap();
    assert!(error.doing().contains("index.php"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_makes_and_lists_volumes() {
    let cell = TestCell::start().await;
    let mut admin = AdminClient::connect(format!("http://{}", cell.server.admin_addr())).await.unwrap();
    let create = |claim: &str| -> pb::CreateVolumeRequest {
        let name: VolumeName = "shop/live".parse().unwrap();
        let (bytes_limit, inodes_limit) = (Some(1 << 20), None);
        let claimed_identity = claim.to_owned();
        admin::CreateVolume { name, uid: 0, gid: 0, mode: 0o755, bytes_limit, inodes_limit, claimed_identity }
            .into()
    };
    let error = admin.create_volume(create("sitefs://main/acme?role=site-admin")).await.unwrap_err();
    assert_eq!(error_from_status(&error).kind(), Kind::Denied);
    admin.create_volume(create(OPERATOR)).await.unwrap();
    let error = admin.create_volume(create(OPERATOR)).await.unwrap_err();
    assert_eq!(error_from_status(&error).kind(), Kind::AlreadyExists);

    let list = pb::ListVolumesRequest { claimed_identity: OPERATOR.to_owned() };
    let listed = admin.list_volumes(list).await.unwrap().into_inner().volumes;
    let names: Vec<_> = listed.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["acme/live", "shop/live"]);
    assert_eq!(listed[1].usage.unwrap().bytes_limit, 1 << 20);

    let status = pb::StatusRequest { claimed_identity: OPERATOR.to_owned() };
    let status = admin.status(status).await.unwrap().into_inner();
    assert_eq!((status.cell.as_str(), status.volumes), ("main", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_has_what_was_committed() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let made = mount.create(b"a", b"content").await.unwrap();
    let data = cell.stop().await;
    let cell = TestCell::start_in(data).await;
    let found = cell.mount(2).await.lookup(b"a").await.unwrap();
    assert_eq!(Some(found.unwrap().attr.ino), made.ino);
}
