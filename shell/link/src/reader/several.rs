//! One region from several holders at once: the fast ones give more, and whoever gives a chunk that is
//! not what its hash says gives nothing more.
//!
//! Each connection has a task of its own; who is asked for what is decided by [`Gather`], which they
//! share. Chunks are verified by the sessions before they are seen here.
//!
//! Not for: finding holders. All of them are asked for one content: the root that is expected, or else
//! the one that the first to answer has.
//!
//! Invariant: what has arrived is never lost: when the last holder is gone, the partial comes back and
//! any other holder can go on.

use super::Reader;
use super::remote::{NoRoom, Partial};
use crate::endpoint::Endpoint;
use crate::{Link, Remote};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use suanli_base::{Hash, NodeId};
use suanli_rdpa::{
    Event, Gather, GatherCount, GatherStep, Hello, RegionInfo, RegionName, SourceId,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A holder to read from.
#[derive(Debug)]
pub struct Source {
    /// A link to it.
    pub link: Link,
    /// What is said to it first.
    pub hello: Hello,
    /// Entropy, for the session.
    pub seed: u64,
}

/// A holder that is no longer read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Which.
    pub node: NodeId,
    /// Where it was.
    pub remote: Remote,
    /// Why.
    pub why: String,
}

/// How a region was read from several holders.
#[derive(Debug)]
pub struct Gathered {
    /// What it holds.
    pub info: Arc<RegionInfo>,
    /// Its bytes, each chunk verified.
    pub memory: Vec<u8>,
    /// Chunks that were asked for.
    pub count: GatherCount,
    /// Bytes that each holder gave.
    pub from: BTreeMap<NodeId, u64>,
    /// Holders that were dropped on the way.
    pub dropped: Vec<Dropped>,
}

/// A region could not be read from any of the holders.
#[derive(Debug, thiserror::Error)]
#[error("no holder is left to read {region} from: {}", reasons(.dropped))]
pub struct NotGathered {
    /// Which region.
    pub region: RegionName,
    /// Every holder, with what went wrong.
    pub dropped: Vec<Dropped>,
    /// What has arrived until then, if any holder opened it: go on with others.
    pub partial: Option<(Arc<RegionInfo>, Partial)>,
}

fn reasons(dropped: &[Dropped]) -> String {
    let each = |dropped: &Dropped| format!("{}: {}", dropped.node.short(), dropped.why);
    match dropped {
        [] => "none was given".to_owned(),
        dropped => dropped.iter().map(each).collect::<Vec<_>>().join("; "),
    }
}

/// Reads all of `region` from `sources`; with `expected`, the content of that root only. `partial` is
/// what an earlier attempt gave back for the same root.
///
/// # Errors
/// [`NotGathered`] when the last holder is gone.
pub async fn gather(
    sources: Vec<Source>,
    region: RegionName,
    expected: Option<Hash>,
    partial: Option<(Arc<RegionInfo>, Partial)>,
) -> Result<Gathered, NotGathered> {
    let root = partial.as_ref().map(|(info, _)| info.root).or(expected);
    let mut plan = Gather::new(region.clone(), root);
    if let Some((info, partial)) = &partial {
        plan = plan.having(info.shape, partial.have.clone());
    }
    let wakes = sources.iter().map(|_| Arc::new(Notify::new())).collect();
    let shared = Shared(Arc::new(Mutex::new(State {
        gather: plan,
        partial,
        wakes,
        nodes: sources.iter().map(|source| source.link.peer()).collect(),
        remotes: sources.iter().map(|source| source.link.remote().clone()).collect(),
        from: BTreeMap::new(),
        dropped: Vec::new(),
        done: false,
        over: false,
    })));
    let mut tasks = JoinSet::new();
    for (id, source) in (0..).zip(sources) {
        tasks.spawn(shared.clone().read_from(SourceId(id), source));
    }
    while tasks.join_next().await.is_some() {}
    let mut state = shared.state();
    let dropped = core::mem::take(&mut state.dropped);
    match (state.partial.take(), state.done) {
        (Some((info, partial)), true) => {
            let (count, from) = (state.gather.count(), core::mem::take(&mut state.from));
            Ok(Gathered { info, memory: partial.memory, count, from, dropped })
        }
        (partial, _) => Err(NotGathered { region, dropped, partial }),
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<State>>);

struct State {
    gather: Gather,
    partial: Option<(Arc<RegionInfo>, Partial)>,
    wakes: Vec<Arc<Notify>>,
    nodes: Vec<NodeId>,
    remotes: Vec<Remote>,
    from: BTreeMap<NodeId, u64>,
    dropped: Vec<Dropped>,
    /// Every chunk is there.
    done: bool,
    /// Nobody goes on.
    over: bool,
}

impl State {
    fn drop_source(&mut self, SourceId(id): SourceId, why: String) {
        let at = id as usize;
        let (node, remote) = (self.nodes[at], self.remotes[at].clone());
        self.dropped.push(Dropped { node, remote, why });
        self.wakes[at].notify_one();
    }

    /// Does what the plan says; whether this source is still read from.
    fn follow(&mut self, own: SourceId, endpoint: &mut Endpoint) -> bool {
        while let Some(step) = self.gather.poll() {
            match step {
                GatherStep::Opened(source, info) => {
                    if let Err(why) = self.lay_out(&info) {
                        self.gather.lost(source);
                        self.drop_source(source, why.to_string());
                    }
                }
                GatherStep::Chunk(source, chunk, bytes) => self.put(source, chunk, &bytes),
                GatherStep::Tend(source) if source == own => {
                    let (now, session) = endpoint.at();
                    self.gather.tend(now, own, session);
                }
                GatherStep::Tend(SourceId(other)) => self.wakes[other as usize].notify_one(),
                GatherStep::SourceFailed(source, error) => {
                    self.drop_source(source, error.to_string());
                }
                GatherStep::Done => {
                    self.done = true;
                    self.end();
                }
                // Others may still be connecting; when none is, all tasks end.
                _ => {}
            }
        }
        self.gather.uses(own) && !self.over
    }

    /// Makes room for what is announced. What has arrived stays, whatever the holder before announced.
    fn lay_out(&mut self, info: &Arc<RegionInfo>) -> Result<(), NoRoom> {
        if self.partial.as_ref().is_some_and(|(known, _)| known.shape == info.shape) {
            return Ok(());
        }
        let mut laid = Partial::new(info)?;
        if let (Some((_, before)), Some(have)) = (&self.partial, self.gather.have()) {
            laid.take_over(before, have, info);
        }
        self.partial = Some((Arc::clone(info), laid));
        Ok(())
    }

    fn end(&mut self) {
        self.over = true;
        self.wakes.iter().for_each(|wake| wake.notify_one());
    }

    fn put(&mut self, SourceId(source): SourceId, chunk: u32, bytes: &[u8]) {
        let Some((info, partial)) = &mut self.partial else { return };
        let at = u64::from(chunk) * u64::from(info.shape.chunk_bytes);
        let at = usize::try_from(at).expect("within memory that was allocated");
        partial.memory[at..at + bytes.len()].copy_from_slice(bytes);
        partial.have.insert(chunk);
        *self.from.entry(self.nodes[source as usize]).or_default() += bytes.len() as u64;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_from(self, id: SourceId, source: Source) {
        let wake = Arc::clone(&self.state().wakes[id.0 as usize]);
        let connecting = Reader::connect(source.link, source.hello, source.seed);
        let reader = tokio::select! {
            reader = connecting => reader,
            // Told before it is connected: the others are done.
            () = wake.notified() => return,
        };
        let mut endpoint = match reader {
            Ok(reader) => reader.endpoint,
            Err(error) => return self.state().drop_source(id, error.to_string()),
        };
        let mut goes_on = {
            let mut state = self.state();
            let (now, session) = endpoint.at();
            state.gather.add(now, id, session);
            state.follow(id, &mut endpoint)
        };
        // Chunks come as bytes: two of them may never be written to one place.
        let mut nowhere = ();
        while goes_on {
            goes_on = tokio::select! {
                event = endpoint.next(&mut nowhere) => match event {
                    Ok(event) => self.offer(id, &mut endpoint, &event),
                    Err(ended) => {
                        let mut state = self.state();
                        state.gather.lost(id);
                        state.drop_source(id, ended.to_string());
                        state.follow(id, &mut endpoint);
                        return;
                    }
                },
                () = wake.notified() => {
                    let mut state = self.state();
                    let (now, session) = endpoint.at();
                    state.gather.tend(now, id, session);
                    state.follow(id, &mut endpoint)
                }
            };
        }
        endpoint.close().await;
    }

    fn offer(&self, id: SourceId, endpoint: &mut Endpoint, event: &Event) -> bool {
        let mut state = self.state();
        let (now, session) = endpoint.at();
        state.gather.handle(now, id, session, event);
        state.follow(id, endpoint)
    }
}
