//! Two processes of one host, as far as links are concerned: frames over a Unix socket, regions in
//! shared memory.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use suanli_base::Random;
use suanli_identity::{Role, SecretKey};
use suanli_link::holder::{HoldError, Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::Reader;
use suanli_link::shared::{SharedListener, connect_shared};
use suanli_link::{LinkError, LinkKind};
use suanli_rdpa::{Hello, Limits, RegionName, Span};

const PATIENCE: Duration = Duration::from_secs(10);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn content(seed: u64) -> Bytes {
    let mut bytes = vec![0; 1_000_003];
    Random::new(seed).fill(&mut bytes);
    bytes.into()
}

#[tokio::test]
async fn a_region_is_mapped_and_outlives_its_version() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("shared");
    let holder = Holder::share(HolderLimits::default(), &folder).unwrap();
    let name = RegionName::new("theta").unwrap();
    holder.publish(&name, content(1), 64 << 10).unwrap();
    let listener = SharedListener::bind(&folder, &key(1), PATIENCE).await.unwrap();
    let serving = holder.clone();
    tokio::spawn(async move {
        let link = listener.accept().await.unwrap();
        serve(link, serving, OpenDoor, Limits::reliable(), 1).await
    });
    let link = connect_shared(&folder, &key(2), key(1).node(), PATIENCE).await.unwrap();
    assert_eq!((link.kind(), link.peer()), (LinkKind::Shared, key(1).node()));
    let mut reader = Reader::connect(link, Hello::new(Role::Watch, vec![]), 1).await.unwrap();
    let first = reader.open(name.clone()).await.unwrap();
    let mapped = reader.map(&first).unwrap().unwrap();
    assert!(mapped[..] == content(1)[..]);
    // Frames carry the same.
    let mut carried = vec![0; 1_000_003];
    reader.read(&first, &mut carried).await.unwrap();
    assert!(carried == content(1));
    holder.publish(&name, content(2), 64 << 10).unwrap();
    let second = reader.open(name).await.unwrap();
    assert!(reader.map(&second).unwrap().unwrap()[..] == content(2)[..]);
    assert!(mapped[..] == content(1)[..], "what is mapped stays");
    let mut piece = vec![0; 9];
    reader.read_ranges(&second, &[Span::run(500_000, 9)], &mut piece).await.unwrap();
    assert!(piece == content(2)[500_000..500_009]);
    reader.close().await;
}

#[tokio::test]
async fn the_folder_is_its_owners_alone_and_holds_one_holder() {
    let root = tempfile::tempdir().unwrap();
    let open = root.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Holder::share(HolderLimits::default(), &open).unwrap_err();
    assert!(matches!(refused, HoldError::Share { .. }), "{refused}");
    let folder = root.path().join("shared");
    let _first = SharedListener::bind(&folder, &key(1), PATIENCE).await.unwrap();
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let second = SharedListener::bind(&folder, &key(1), PATIENCE).await.unwrap_err();
    assert!(matches!(second, LinkError::Local { .. }), "{second}");
}

#[tokio::test]
async fn another_key_than_expected_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("shared");
    let listener = SharedListener::bind(&folder, &key(1), PATIENCE).await.unwrap();
    let (ours, expected) = (key(2), key(3).node());
    let client = connect_shared(&folder, &ours, expected, PATIENCE);
    let (client, server) = tokio::join!(client, listener.accept());
    assert!(matches!(client.unwrap_err(), LinkError::WrongKey { .. }));
    assert!(server.is_err());
}
