use super::super::client::Client;
use super::super::status::CityStatus;
use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A loop that answers everything, until the receiver closes.
async fn answer_all(mut calls: mpsc::Receiver<ControlCall>) {
    while let Some(call) = calls.recv().await {
        let answer = match &call.request {
            ControlRequest::Status => Ok(ControlReply::City(Box::new(CityStatus {
                name: "test".into(),
                ..CityStatus::default()
            }))),
            ControlRequest::Stop => Ok(ControlReply::Done),
            _ => Err(Refusal::not_here(NodeKind::City)),
        };
        call.answer(answer);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (server, _calls) = ControlServer::start(folder.path(), NodeKind::City).unwrap();
    let path = folder.path().join(socket::SOCKET_NAME);
    assert_eq!((mode(folder.path()), mode(&path)), (0o700, 0o600));
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn requests_are_answered_in_order_and_refusals_arrive_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, calls) = ControlServer::start(folder.path(), NodeKind::City).unwrap();
    tokio::spawn(answer_all(calls));
    let mut client = Client::connect(folder.path()).await.unwrap();
    assert_eq!(client.kind(), NodeKind::City);
    assert_eq!(client.city_status().await.unwrap().name, "test");
    let refused = client.call(&ControlRequest::Pause).await;
    assert!(matches!(refused, Err(ControlError::Refused(_))), "{refused:?}");
    assert_eq!(client.call(&ControlRequest::Stop).await.unwrap(), ControlReply::Done);
}

#[tokio::test]
async fn a_watcher_gets_statuses_and_events() {
    let folder = tempfile::tempdir().unwrap();
    let (server, calls) = ControlServer::start(folder.path(), NodeKind::City).unwrap();
    tokio::spawn(answer_all(calls));
    let client = Client::connect(folder.path()).await.unwrap();
    let mut watching = client.watch(60_000).await.unwrap();
    assert!(matches!(watching.next().await.unwrap(), Some(ControlReply::City(_))));
    let event = StatusEvent::JobOver { job: "a".into() };
    server.publish(event.clone());
    assert_eq!(watching.next().await.unwrap(), Some(ControlReply::Event(event)));
}

#[tokio::test]
async fn a_second_node_on_a_folder_is_refused_and_a_dead_ones_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _calls) = ControlServer::start(folder.path(), NodeKind::City).unwrap();
    let second = ControlServer::start(folder.path(), NodeKind::City);
    assert!(matches!(second, Err(ControlError::AlreadyRunning { .. })));
    drop(server);
    // What kill -9 leaves behind: the file of a socket nobody listens to.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join(socket::SOCKET_NAME)).unwrap());
    assert!(ControlServer::start(folder.path(), NodeKind::City).is_ok());
}

#[tokio::test]
async fn noise_and_endless_lines_end_only_their_own_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, calls) = ControlServer::start(folder.path(), NodeKind::City).unwrap();
    tokio::spawn(answer_all(calls));
    let path = folder.path().join(socket::SOCKET_NAME);
    let noise = UnixStream::connect(&path).await.unwrap();
    let (reader, mut writer) = noise.into_split();
    let mut reader = BufReader::new(reader);
    let first = read_line(&mut reader, 1024).await.unwrap().unwrap();
    assert!(serde_json::from_slice::<Greeting>(&first).is_ok());
    writer.write_all(b"\xff\xfe{]\n").await.unwrap();
    let reply = read_line(&mut reader, 1024).await.unwrap().unwrap();
    assert!(matches!(serde_json::from_slice(&reply), Ok(ControlReply::Refused(_))));
    // Twice the bound without an end: the server answers once and hangs up.
    let _ = writer.write_all(&vec![b'a'; 2 * REQUEST_BYTES_MAX]).await;
    let reply = read_line(&mut reader, 1024).await.unwrap().unwrap();
    assert!(matches!(serde_json::from_slice(&reply), Ok(ControlReply::Refused(_))));
    let mut client = Client::connect(folder.path()).await.unwrap();
    assert!(client.city_status().await.is_ok());
}

#[tokio::test]
async fn a_folder_too_deep_for_a_socket_address_works_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120)).join("e".repeat(120));
    let (_server, calls) = ControlServer::start(&deep, NodeKind::Family).unwrap();
    tokio::spawn(answer_all(calls));
    assert_eq!(Client::connect(&deep).await.unwrap().kind(), NodeKind::Family);
}

#[tokio::test]
async fn a_folder_nobody_runs_on_is_called_that() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::connect(folder.path()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
}
