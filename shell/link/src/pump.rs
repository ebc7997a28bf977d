//! Pumps between a link and what drives it: bare frames for a machine that keeps its sessions
//! itself, or one session with commands and events.

use crate::{Link, LinkError};
use std::collections::VecDeque;
use suanli_base::Time;
use suanli_rdpa::{Event, Frame, Session, Violation};
use tokio::sync::mpsc;

/// How a pump ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// Our side dropped its channels; the peer was told.
    #[error("closed by this side")]
    ByUs,
    /// The peer closed cleanly.
    #[error("closed by the other side")]
    ByPeer,
    /// The peer sent what it must not.
    #[error("the other side broke the protocol: {0}")]
    Violation(Violation),
    /// Nothing was heard for the session's `silent_after`.
    #[error("nothing was heard for too long")]
    Silent,
    /// The connection broke.
    #[error(transparent)]
    Broken(LinkError),
}

/// Carries frames both ways until one side ends. Reading waits while `arrived` is full, so the peer
/// feels our pace; give `departing` a small capacity, because what is in it cannot be overtaken.
pub async fn carry(
    link: Link,
    arrived: mpsc::Sender<Frame>,
    mut departing: mpsc::Receiver<Frame>,
) -> Ended {
    let (mut reader, mut writer) = link.split();
    let mut held: Option<Frame> = None;
    let ended = loop {
        tokio::select! {
            frame = reader.next(), if held.is_none() => match frame {
                Ok(Some(frame)) => held = Some(frame),
                Ok(None) => break Ended::ByPeer,
                Err(error) => break Ended::Broken(error),
            },
            room = arrived.reserve(), if held.is_some() => match room {
                Ok(room) => room.send(held.take().expect("looked at just before")),
                Err(_) => break Ended::ByUs,
            },
            frame = departing.recv(), if !writer.is_full() => match frame {
                Some(frame) => writer.push(&frame),
                None => break Ended::ByUs,
            },
            wrote = writer.write_some(), if !writer.is_idle() => if let Err(error) = wrote {
                break Ended::Broken(error);
            },
        }
    };
    if matches!(ended, Ended::ByUs | Ended::ByPeer) {
        // The peer may be gone already; there is nobody left to tell.
        let _ = writer.close().await;
    }
    ended
}

/// What a caller wants done with the session, in the pump's task.
pub type Command = Box<dyn FnOnce(Time, &mut Session) + Send>;

/// Drives `session` over `link`. Every event first goes through `on_event`, which may use it up (feed
/// it to a transfer, answer a request); what it hands back goes to `events`. While `events` is full
/// nothing more is read. Ends when `commands` is closed.
pub async fn drive(
    link: Link,
    mut session: Session,
    clock: impl Fn() -> Time,
    mut on_event: impl FnMut(Time, &mut Session, Event) -> Option<Event>,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) -> Ended {
    let (mut reader, mut writer) = link.split();
    let mut waiting: VecDeque<Event> = VecDeque::new();
    let ended = 'pump: loop {
        loop {
            let before = writer.is_full();
            while !writer.is_full()
                && let Some(frame) = session.poll_transmit(clock())
            {
                writer.push(&frame);
            }
            let mut quiet = true;
            while waiting.is_empty()
                && let Some(event) = session.poll_event()
            {
                quiet = false;
                if matches!(event, Event::Silent { .. }) {
                    break 'pump Ended::Silent;
                }
                waiting.extend(on_event(clock(), &mut session, event));
            }
            if quiet || before {
                break;
            }
        }
        let due = session.poll_timeout().map_or(u64::MAX, |due| due.since(clock()).0);
        let sleep = core::time::Duration::from_millis(due.min(60_000));
        tokio::select! {
            frame = reader.next(), if waiting.is_empty() => match frame {
                Ok(Some(frame)) => if let Err(violation) = session.handle_frame(clock(), frame) {
                    break Ended::Violation(violation);
                },
                Ok(None) => break Ended::ByPeer,
                Err(error) => break Ended::Broken(error),
            },
            room = events.reserve(), if !waiting.is_empty() => match room {
                Ok(room) => room.send(waiting.pop_front().expect("looked at just before")),
                Err(_) => break Ended::ByUs,
            },
            wrote = writer.write_some(), if !writer.is_idle() => if let Err(error) = wrote {
                break Ended::Broken(error);
            },
            command = commands.recv() => match command {
                Some(command) => command(clock(), &mut session),
                None => break Ended::ByUs,
            },
            () = tokio::time::sleep(sleep) => {
                if reader.is_arriving() {
                    session.arriving(clock());
                }
                session.handle_timeout(clock());
            }
        }
    };
    if matches!(ended, Ended::ByUs | Ended::ByPeer) {
        while let Some(frame) = session.poll_transmit(clock()) {
            writer.push(&frame);
            if writer.is_full() {
                break;
            }
        }
        let _ = writer.close().await;
    }
    ended
}
