//! Eyes on the demo's nodes: the last status of each, kept fresh over its control socket through
//! deaths and restarts.

use std::path::PathBuf;
use std::time::Duration;
use suanli_host::control::{CityStatus, Client, ControlReply, FamilyStatus, StatusEvent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const INTERVAL_MS: u64 = 300;
/// Events that wait to be shown; more are dropped, statuses tell the same.
const EVENTS_MAX: usize = 256;

/// The last status of a node; nothing while it does not answer.
#[derive(Debug)]
pub(super) struct Observed<T> {
    latest: watch::Receiver<Option<T>>,
    task: JoinHandle<()>,
}

impl<T: Clone> Observed<T> {
    pub(super) fn latest(&self) -> Option<T> {
        self.latest.borrow().clone()
    }
}

impl<T> Drop for Observed<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches a city, and hands on what happens there.
pub(super) fn city(folder: PathBuf) -> (Observed<CityStatus>, mpsc::Receiver<StatusEvent>) {
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let observed = observe(folder, move |reply| match reply {
        ControlReply::City(status) => Some(*status),
        ControlReply::Event(event) => {
            let _ = events.try_send(event);
            None
        }
        _ => None,
    });
    (observed, receiver)
}

/// Watches a family.
pub(super) fn family(folder: PathBuf) -> Observed<FamilyStatus> {
    observe(folder, |reply| match reply {
        ControlReply::Family(status) => Some(*status),
        _ => None,
    })
}

fn observe<T: Send + Sync + 'static>(
    folder: PathBuf,
    mut status: impl FnMut(ControlReply) -> Option<T> + Send + 'static,
) -> Observed<T> {
    let (sender, latest) = watch::channel(None);
    let task = tokio::spawn(async move {
        loop {
            if let Ok(client) = Client::connect(&folder).await
                && let Ok(mut watching) = client.watch(INTERVAL_MS).await
            {
                while let Ok(Some(reply)) = watching.next().await {
                    if let Some(status) = status(reply) {
                        sender.send_replace(Some(status));
                    }
                }
            }
            sender.send_replace(None);
            tokio::time::sleep(Duration::from_millis(INTERVAL_MS)).await;
        }
    });
    Observed { latest, task }
}
