//! Grants to regions against a city that runs: what each allows, and the attacks that
//! `docs/spec/access.md` names, over real links on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::{Duration, Instant};
use suanli_base::{NodeId, Time};
use suanli_host::city;
use suanli_host::control::{
    CityInit, CityOptions, CityReady, CityStatus, Client, ControlReply, ControlRequest,
    DoorOptions, GrantOrder, Refusal, StopReason, Stopper, UploadStatus,
};
use suanli_identity::{Access, AccessLine, Bounds, Prefix, Role, SecretKey, Ticket};
use suanli_link::connect;
use suanli_link::reader::{Opened, ReadError, Reader};
use suanli_rdpa::{Code, Failure, Hello, Level, Op, RegionName, Span, StageKind, UplinkLimits};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

struct City {
    stopper: Stopper,
    running: JoinHandle<Result<(), Refusal>>,
    ready: CityReady,
    client: Client,
}

impl City {
    async fn start(folder: &Path) -> Self {
        Self::sending(folder, UplinkLimits::default()).await
    }

    /// With its operator's limits of upload.
    async fn sending(folder: &Path, upload: UplinkLimits) -> Self {
        let (stopper, stop) = Stopper::new();
        let (ready, when_ready) = oneshot::channel();
        let options = CityOptions {
            folder: folder.to_path_buf(),
            doors: DoorOptions { quic: false, ..DoorOptions::on("127.0.0.1:0".parse().unwrap()) },
            upload,
            worker: vec![std::env::current_exe().unwrap().into_os_string()],
            stop,
            ready: Some(ready),
        };
        let running = tokio::spawn(city::serve(options));
        let ready = when_ready.await.unwrap();
        let client = Client::connect(folder).await.unwrap();
        Self { stopper, running, ready, client }
    }

    async fn stop(self) {
        drop(self.client);
        self.stopper.stop(StopReason::Control);
        self.running.await.unwrap().unwrap();
    }

    fn node(&self) -> NodeId {
        NodeId::from(self.ready.city)
    }

    async fn grant(&mut self, order: GrantOrder) -> AccessLine {
        match self.client.call(&ControlRequest::Grant(order)).await.unwrap() {
            ControlReply::Grant { grant } => grant.parse().unwrap(),
            other => panic!("expected a grant, found {other:?}"),
        }
    }

    async fn revoke(&mut self, prefix: &str) -> u64 {
        let prefix = Prefix::new(prefix).unwrap();
        match self.client.call(&ControlRequest::Revoke { prefix }).await.unwrap() {
            ControlReply::Revoked { epoch } => epoch,
            other => panic!("expected an epoch, found {other:?}"),
        }
    }

    async fn status(&mut self) -> CityStatus {
        match self.client.call(&ControlRequest::Status).await.unwrap() {
            ControlReply::City(status) => *status,
            other => panic!("expected a city's status, found {other:?}"),
        }
    }

    async fn upload(&mut self) -> UploadStatus {
        self.status().await.upload
    }

    /// A ticket to join, for any node.
    async fn ticket(&mut self) -> Vec<u8> {
        let request = ControlRequest::Ticket { role: Role::Join, expires_in_s: 60, uses: 1 };
        match self.client.call(&request).await.unwrap() {
            ControlReply::Ticket { ticket } => ticket.parse::<Ticket>().unwrap().to_bytes(),
            other => panic!("expected a ticket, found {other:?}"),
        }
    }

    /// A guest that has opened the region "probe".
    async fn guest(&mut self, seed: u8) -> (Reader, Opened) {
        let line = self.grant(to(&key(seed))).await;
        let mut reader = self.hello(&key(seed), line.access.to_bytes()).await.unwrap();
        let opened = reader.open(probe()).await.unwrap();
        (reader, opened)
    }

    async fn hello(&self, key: &SecretKey, grant: Vec<u8>) -> Result<Reader, ReadError> {
        self.hello_as(Role::Watch, key, grant).await
    }

    async fn hello_as(
        &self,
        role: Role,
        key: &SecretKey,
        by: Vec<u8>,
    ) -> Result<Reader, ReadError> {
        let address = &self.ready.addresses[0];
        let link = connect(address, key, self.node(), PATIENCE).await?;
        Reader::connect(link, Hello::new(role, by), 1).await
    }
}

fn founded(name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(name);
    city::init(&folder, &CityInit { name: name.into() }).unwrap();
    (root, folder)
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn to(key: &SecretKey) -> GrantOrder {
    GrantOrder {
        to: key.node(),
        prefix: Prefix::new("probe").unwrap(),
        rights: "read,subscribe".parse().unwrap(),
        bytes_max: u64::MAX,
        bytes_per_s: u64::MAX,
        lasts_s: 3600,
        depth: 0,
    }
}

fn probe() -> RegionName {
    RegionName::new("probe").unwrap()
}

/// Reads one of the four mebibytes of the region "probe".
async fn mebibyte(reader: &mut Reader, opened: &Opened, at: u64) -> Result<Vec<u8>, ReadError> {
    let mut memory = vec![0; MIB];
    let span = Span::run(at * MIB as u64, MIB as u64);
    reader.read_ranges(opened, &[span], &mut memory).await?;
    Ok(memory)
}

#[track_caller]
fn refused<T>(result: Result<T, ReadError>) -> (Code, String) {
    match result.err() {
        Some(ReadError::Failed(Failure::Refused { code, text })) => (code, text),
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_does_what_its_grant_says_and_nothing_else() {
    let (_root, folder) = founded("guests");
    let mut city = City::start(&folder).await;
    let guest = key(1);
    let line = city.grant(to(&guest)).await;
    assert_eq!(line.access.root(), city.node());
    assert_eq!(line.addresses, city.ready.addresses);

    let mut reader = city.hello(&guest, line.access.to_bytes()).await.unwrap();
    let opened = reader.open(probe()).await.unwrap();
    let mut all = vec![0; 4 * MIB];
    reader.read(&opened, &mut all).await.unwrap();
    for at in 0..4 {
        let part = mebibyte(&mut reader, &opened, at).await.unwrap();
        assert!(part == all[at as usize * MIB..][..MIB]);
    }
    assert_eq!(reader.stat(Some(probe())).await.unwrap().region.unwrap().version, 1);

    let elsewhere = RegionName::new("job/0/theta").unwrap();
    let (code, text) = refused(reader.open(elsewhere).await);
    assert_eq!((code, text.contains("probe")), (Code::Unauthorised, true), "{text}");
    let bytes = bytes::Bytes::from(vec![1; 100]);
    let staged = reader.stage(probe(), StageKind::Write, bytes, 64, Level::Placed).await;
    assert_eq!(refused(staged).0, Code::Unauthorised);
    let revoke = Op::Revoke { prefix: String::new(), epoch: 1 };
    assert_eq!(refused(reader.ask(revoke).await).0, Code::Unauthorised);
    // It is no member: what it says is not listened to.
    let send = Op::Send { bytes: bytes::Bytes::from_static(b"\x00") };
    assert!(reader.ask(send).await.is_err());
    reader.close().await;
    city.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_is_good_in_the_hands_it_was_made_for_only() {
    let (_root, folder) = founded("hands");
    let mut city = City::start(&folder).await;
    let (holder, thief) = (key(1), key(2));
    let line = city.grant(GrantOrder { depth: 1, ..to(&holder) }).await;
    let bytes = line.access.to_bytes();
    let (code, text) = refused(city.hello(&thief, bytes.clone()).await);
    assert_eq!((code, text.contains("is for")), (Code::Unauthorised, true), "{text}");

    // Made up by the thief, in the city's name.
    let bounds = Bounds { not_after: Time(now_ms() + 1000), ..line.access.bounds().clone() };
    let forged = Access::issue(&thief, thief.node(), bounds, 1).unwrap();
    assert_eq!(refused(city.hello(&thief, forged.to_bytes()).await).0, Code::Unauthorised);

    // The thief's own link behind the owner's, whose holder did not sign it.
    let mine = Access::issue(&holder, holder.node(), line.access.bounds().clone(), 1).unwrap();
    let narrow = Bounds { depth: 0, ..line.access.bounds().clone() };
    let other = mine.delegate(&holder, thief.node(), narrow.clone(), 2).unwrap().to_bytes();
    let second = &other[mine.to_bytes().len()..];
    let spliced = [&bytes[..5], &[2], &bytes[6..], second].concat();
    let (code, text) = refused(city.hello(&thief, spliced).await);
    assert_eq!((code, text.contains("link 2")), (Code::Unauthorised, true), "{text}");

    // Handed on as it should be, it is good.
    let handed = line.access.delegate(&holder, thief.node(), narrow, 3).unwrap();
    let mut reader = city.hello(&thief, handed.to_bytes()).await.unwrap();
    reader.open(probe()).await.unwrap();
    reader.close().await;
    // And not in the hands of who handed it on.
    assert_eq!(refused(city.hello(&holder, handed.to_bytes()).await).0, Code::Unauthorised);
    city.stop().await;
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_runs_out_ends_an_open_connection_at_its_next_operation() {
    let (_root, folder) = founded("expiry");
    let mut city = City::start(&folder).await;
    let guest = key(1);
    let line = city.grant(GrantOrder { lasts_s: 2, ..to(&guest) }).await;
    let mut reader = city.hello(&guest, line.access.to_bytes()).await.unwrap();
    let opened = reader.open(probe()).await.unwrap();
    mebibyte(&mut reader, &opened, 0).await.unwrap();
    let over = line.access.bounds().not_after;
    while now_ms() <= over.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, text) = refused(mebibyte(&mut reader, &opened, 1).await);
    assert_eq!((code, text.contains("ended")), (Code::Unauthorised, true), "{text}");
    let again = city.hello(&guest, line.access.to_bytes()).await;
    assert_eq!(refused(again).0, Code::Unauthorised);
    reader.close().await;
    city.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_ends_a_read_half_way_and_outlives_a_restart() {
    let (_root, folder) = founded("revoking");
    let mut city = City::start(&folder).await;
    let guest = key(1);
    let line = city.grant(to(&guest)).await;
    let mut reader = city.hello(&guest, line.access.to_bytes()).await.unwrap();
    let opened = reader.open(probe()).await.unwrap();
    mebibyte(&mut reader, &opened, 0).await.unwrap();
    assert_eq!(city.revoke("job/").await, 1);
    mebibyte(&mut reader, &opened, 1).await.unwrap();
    assert_eq!(city.revoke("probe").await, 2);
    assert_eq!(refused(mebibyte(&mut reader, &opened, 2).await).0, Code::BadHandle);
    let (code, text) = refused(reader.open(probe()).await);
    assert_eq!((code, text.contains("revoked")), (Code::Unauthorised, true), "{text}");
    assert_eq!(refused(city.hello(&guest, line.access.to_bytes()).await).0, Code::Unauthorised);
    // What is given from now on is good.
    let new = city.grant(to(&guest)).await;
    drop(reader);
    city.stop().await;

    let city = City::start(&folder).await;
    assert_eq!(refused(city.hello(&guest, line.access.to_bytes()).await).0, Code::Unauthorised);
    let mut reader = city.hello(&guest, new.access.to_bytes()).await.unwrap();
    reader.open(probe()).await.unwrap();
    reader.close().await;
    city.stop().await;

    // A damaged book is no reason to forget what was revoked.
    let books = folder.join("grants");
    let mut bytes = std::fs::read(&books).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&books, bytes).unwrap();
    let (_stopper, stop) = Stopper::new();
    let doors = DoorOptions { quic: false, ..DoorOptions::on("127.0.0.1:0".parse().unwrap()) };
    let worker = vec![std::env::current_exe().unwrap().into_os_string()];
    let upload = UplinkLimits::default();
    let options = CityOptions { folder, doors, upload, worker, stop, ready: None };
    let refusal = city::serve(options).await.unwrap_err();
    assert!(refusal.to_string().contains("grants"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_one_for_all_connections_and_delegates_and_outlives_a_restart() {
    let (_root, folder) = founded("budget");
    let mut city = City::start(&folder).await;
    let (guest, delegate) = (key(1), key(2));
    let bytes_max = 3 * MIB as u64;
    let line = city.grant(GrantOrder { bytes_max, depth: 1, ..to(&guest) }).await;
    let mut reader = city.hello(&guest, line.access.to_bytes()).await.unwrap();
    let opened = reader.open(probe()).await.unwrap();
    mebibyte(&mut reader, &opened, 0).await.unwrap();

    let bounds = Bounds { depth: 0, ..line.access.bounds().clone() };
    let handed = line.access.delegate(&guest, delegate.node(), bounds, 1).unwrap();
    let mut other = city.hello(&delegate, handed.to_bytes()).await.unwrap();
    let theirs = other.open(probe()).await.unwrap();
    mebibyte(&mut other, &theirs, 1).await.unwrap();
    other.close().await;
    reader.close().await;
    city.stop().await;

    let city = City::start(&folder).await;
    let mut reader = city.hello(&guest, line.access.to_bytes()).await.unwrap();
    let opened = reader.open(probe()).await.unwrap();
    mebibyte(&mut reader, &opened, 2).await.unwrap();
    let (code, text) = refused(mebibyte(&mut reader, &opened, 3).await);
    assert_eq!((code, text.contains("bytes left")), (Code::OverBudget, true), "{text}");
    let mut other = city.hello(&delegate, handed.to_bytes()).await.unwrap();
    let theirs = other.open(probe()).await.unwrap();
    assert_eq!(refused(mebibyte(&mut other, &theirs, 3).await).0, Code::OverBudget);
    other.close().await;
    reader.close().await;
    city.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_reads_to_measure_its_link_is_not_in_the_books_of_its_work() {
    // `suanli doctor --network` added a hundred mebibytes to what a job had cost.
    let (_root, folder) = founded("books");
    let mut city = City::start(&folder).await;
    let ticket = city.ticket().await;
    let works = city.hello_as(Role::Join, &key(1), ticket).await.unwrap();
    let mut measures = city.hello(&key(1), Vec::new()).await.unwrap();
    let opened = measures.open(probe()).await.unwrap();
    mebibyte(&mut measures, &opened, 0).await.unwrap();
    let (whole, small) = (MIB as u64, 20_000);
    let down = async |city: &mut City| city.status().await.members[0].bytes_down;
    assert!((1..small).contains(&down(&mut city).await));
    measures.close().await;
    assert!((1..small).contains(&down(&mut city).await));

    let mut works = works;
    let opened = works.open(probe()).await.unwrap();
    mebibyte(&mut works, &opened, 0).await.unwrap();
    assert!(down(&mut city).await >= whole);
    works.close().await;
    city.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_over_two_connections_together() {
    let (_root, folder) = founded("rate");
    let mut city = City::start(&folder).await;
    let guest = key(1);
    let bytes_per_s = 2 * MIB as u64;
    let line = city.grant(GrantOrder { bytes_per_s, ..to(&guest) }).await;
    let begun = Instant::now();
    let read_all = async || {
        let mut reader = city.hello(&guest, line.access.to_bytes()).await.unwrap();
        let opened = reader.open(probe()).await.unwrap();
        for at in 0..4 {
            mebibyte(&mut reader, &opened, at).await.unwrap();
        }
        reader.close().await;
    };
    tokio::join!(read_all(), read_all());
    // 8 MiB at 2 MiB a second, of which one second's were there at the beginning.
    let took = begun.elapsed();
    assert!((2_900..20_000).contains(&took.as_millis()), "{took:?}");
    city.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_rate_is_one_for_all_and_shared_in_turn() {
    let (_root, folder) = founded("rate");
    let rate = 2_000_000;
    let upload = UplinkLimits { bytes_per_s: rate, ..UplinkLimits::default() };
    let mut city = City::sending(&folder, upload).await;
    let (mut first, opened) = city.guest(1).await;
    let (mut second, same) = city.guest(2).await;
    let begun = Instant::now();
    let read = async |reader: &mut Reader, opened: &Opened| {
        mebibyte(reader, opened, 0).await.unwrap();
        begun.elapsed().as_secs_f64()
    };
    let (one, two) = tokio::join!(read(&mut first, &opened), read(&mut second, &same));
    let told = city.upload().await;
    assert_eq!((told.bytes_per_s, told.bytes_per_day), (Some(rate), None));
    let (sent, longest) = (told.today_bytes as f64, one.max(two));
    assert!(sent >= 2.0 * MIB as f64, "{told:?}");
    // One frame may go ahead of the rate.
    let frame = 100e3;
    assert!(sent - frame <= longest * rate as f64, "{sent} bytes in {longest:.2} s");
    assert!(one.min(two) > 0.8 * longest, "one waited for the other: {one:.2} s and {two:.2} s");
    first.close().await;
    second.close().await;
    city.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_a_day_of_a_city_hold_over_a_restart_and_control_goes_on() {
    let (_root, folder) = founded("day");
    let limit = 3 * MIB as u64 / 2;
    let upload = UplinkLimits { bytes_per_day: limit, ..UplinkLimits::default() };
    let mut city = City::sending(&folder, upload.clone()).await;
    let (mut reader, opened) = city.guest(1).await;
    mebibyte(&mut reader, &opened, 0).await.unwrap();
    let moment = Duration::from_millis(300);
    let more = tokio::time::timeout(moment, mebibyte(&mut reader, &opened, 1)).await;
    assert!(more.is_err(), "the day is used up half way");
    reader.ask(Op::Stat { region: None }).await.unwrap();
    let told = city.upload().await;
    assert!(told.today_bytes <= limit && told.held.is_some(), "{told:?}");
    drop(reader);
    city.stop().await;

    let mut city = City::sending(&folder, upload).await;
    assert_eq!(city.upload().await.today_bytes, told.today_bytes);
    city.stop().await;
    let city = City::sending(&folder, UplinkLimits::default()).await;
    city.stop().await;
}
