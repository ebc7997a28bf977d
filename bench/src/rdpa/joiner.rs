//! A joiner that reads a model from several holders at once, each behind an uplink of its own.

use super::home::{endpoint, hold, line, run_in};
use super::place::{content, key, limits, region};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use suanli_identity::Role;
use suanli_link::Link;
use suanli_link::emulator::Emulator;
use suanli_link::quic::QuicAddr;
use suanli_link::reader::{Source, gather};
use suanli_link_model::{Direction, Order, Profile, Span};
use suanli_rdpa::Hello;
use tokio::sync::{mpsc, oneshot, watch};

const UP_MBIT: u64 = 50;
const DOWN_MBIT: u64 = 500;
const DELAY_MS: u64 = 15;
const HOLDERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(20);
/// What a joiner is to gain from four holders.
const GOAL: Goal = Goal::AtLeast(3.5);

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "joiner",
        what: "200 MB from 4 holders at 50 Mbit/s up each over iroh, against one of them",
        run: measure,
    }
}

/// A holder's home: what it sends is slow.
fn profile() -> Profile {
    let direction = |mbit: u64| Direction {
        bits_per_s: mbit * 1_000_000,
        delay: Span::from_ms(DELAY_MS),
        jitter: Span::ZERO,
        loss_ppm: 0,
        queue_bytes: 1 << 20,
        order: Order::Kept,
    };
    // The joiner is the home side of each line: to it the holder's uplink is what comes down.
    Profile { up: direction(DOWN_MBIT), down: direction(UP_MBIT) }.with_queues_of_bdp(1_000)
}

/// Seconds that the joiner takes with so many holders.
fn read_from(holders: usize, bytes: &Bytes, seed: u64) -> Result<Result<f64, String>> {
    let mut lines: Vec<Arc<Emulator>> = Vec::new();
    for at in 0..holders as u64 {
        match line(profile(), seed + at) {
            Ok(line) => lines.push(line),
            Err(why) => return Ok(Err(why)),
        }
    }
    let (stop, stopped) = watch::channel(());
    let (links, mut linked) = mpsc::channel::<Link>(holders);
    let took = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for line in &lines {
            let (ready, address) = oneshot::channel();
            let (held, mut over) = (bytes.clone(), stopped.clone());
            threads.push(scope.spawn(move || {
                run_in(line.side_b(), async || {
                    tokio::select! {
                        ended = hold(line.side_b(), Some(held), limits(), ready) => ended,
                        _ = over.changed() => Ok(()),
                    }
                })
            }));
            let (links, mut over) = (links.clone(), stopped.clone());
            threads.push(scope.spawn(move || {
                run_in(line.side_a(), async || {
                    let address = address.await.context("the holder did not begin")?;
                    let endpoint = endpoint(line.side_a(), 2).await?;
                    let addr = QuicAddr { node: key(1).node(), direct: vec![address], relay: None };
                    let link = endpoint.connect(&addr, PATIENCE).await?;
                    ensure!(links.send(link).await.is_ok(), "nobody waits for the link");
                    // Its tasks run here until the joiner is done.
                    let _ = over.changed().await;
                    endpoint.close().await;
                    Ok(())
                })
            }));
        }
        drop(links);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let took = runtime.context("a runtime").and_then(|runtime| {
            runtime.block_on(async {
                let mut sources = Vec::new();
                while sources.len() < holders {
                    let link = linked.recv().await.context("a holder was not reached")?;
                    let hello = Hello::new(Role::Watch, Vec::new());
                    sources.push(Source { link, hello, seed: sources.len() as u64 });
                }
                let begun = Instant::now();
                let gathered = gather(sources, region(), None, None).await?;
                let took = begun.elapsed().as_secs_f64();
                ensure!(gathered.memory == *bytes, "other bytes arrived");
                ensure!(gathered.dropped.is_empty(), "dropped {:?}", gathered.dropped);
                Ok(took)
            })
        });
        drop(stop);
        let ends: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let took = took?;
        for end in ends {
            end.map_err(|_| anyhow::anyhow!("a side panicked"))??;
        }
        Ok::<f64, anyhow::Error>(took)
    })?;
    Ok(Ok(took))
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let bytes = content(if short { 6_000_000 } else { 200_000_000 });
    let mut times = [0.0; 2];
    for (time, holders) in times.iter_mut().zip([1, HOLDERS]) {
        match read_from(holders, &bytes, 10 * holders as u64)? {
            Ok(took) => *time = took,
            Err(why) => return Ok(vec![Row::not_measured("joiner", GOAL, why)]),
        }
    }
    let [one, four] = times;
    let row = if short { Row::short } else { Row::new };
    let note =
        format!("{} MB: {one:.1} s from one, {four:.1} s from four", bytes.len() / 1_000_000);
    Ok(vec![row("joiner", one / four, "x", GOAL).note(note)])
}
