//! Sources that announce one root under different shapes: whom to believe.
//!
//! The first to open is believed. A source with another shape is asked for one chunk that the two cut
//! to different lengths: its hash is the same for both, so only the one who tells the truth can give
//! it. When it comes, those who announced the other shape are liars; until then they go on. When
//! nobody is left who is believed, the next one is, and what was verified meanwhile stays.
//!
//! Invariant: the plan has the shape of every source that is reading.

use super::super::TransferError;
use super::super::cut::{carry_over, deciding_chunk};
use super::{Doubt, Gather, GatherStep, Plan, Source, SourceId, State};
use crate::{ChunkSet, Handle, Op, RegionInfo, RequestId, Session, Shape};
use std::sync::Arc;
use suanli_base::Time;

impl Source {
    const fn is_reading(&self) -> bool {
        matches!(self.state, State::Reading(_))
    }

    pub(super) fn is_doubted_by(&self, id: RequestId) -> bool {
        matches!(&self.state, State::Doubted(doubt) if doubt.asked == Some(id))
    }

    /// From now on it is believed: the chunk that was to decide need not come.
    fn believe(&mut self) {
        let State::Doubted(doubt) = &self.state else { return };
        self.needless.extend(doubt.asked);
        self.state = State::Reading(doubt.handle);
    }
}

impl Gather {
    /// A source has opened the right content.
    ///
    /// # Errors
    /// [`TransferError::OtherShape`] when what has arrived shows that its shape is a lie.
    pub(super) fn believe_or_doubt(
        &mut self,
        source: SourceId,
        handle: Handle,
        info: &Arc<RegionInfo>,
    ) -> Result<(), TransferError> {
        let known = match &self.opened {
            Some((first, plan)) => Some((first.shape, plan.have())),
            None => self.having.as_ref().map(|(shape, have)| (*shape, have)),
        };
        let known = known.filter(|(_, have)| have.bound() == info.chunk_count());
        let have = known.map_or_else(
            || Ok(ChunkSet::empty(info.chunk_count())),
            |(shape, have)| carry_over(have, shape, info.shape).map_err(|_| shape),
        );
        let (expected, found) = (have, info.shape);
        let have = expected.map_err(|expected| TransferError::OtherShape { expected, found })?;
        let planned = self.opened.as_ref().map(|(first, _)| first.shape);
        let alike = planned.is_some_and(|shape| deciding_chunk(shape, info.shape).is_none());
        let contested = planned.is_some() && self.sources.values().any(Source::is_reading);
        let opening = self.sources.get_mut(&source).expect("it has just opened");
        if !alike && contested {
            let info = Arc::clone(info);
            opening.state = State::Doubted(Doubt { handle, info, asked: None });
            return Ok(());
        }
        opening.state = State::Reading(handle);
        if !alike {
            self.plan(source, Arc::clone(info), have);
        }
        Ok(())
    }

    /// Lays the plan out by the word of `source`, from what of it is there.
    fn plan(&mut self, source: SourceId, info: Arc<RegionInfo>, have: ChunkSet) {
        let wanted = self.only.clone().unwrap_or(0..info.chunk_count());
        let shape = info.shape;
        self.steps.push_back(GatherStep::Opened(source, Arc::clone(&info)));
        self.opened = Some((info, Plan::new(have, wanted)));
        let alike = |other: &Source| match &other.state {
            State::Doubted(doubt) => deciding_chunk(doubt.info.shape, shape).is_none(),
            _ => false,
        };
        let freed: Vec<SourceId> =
            self.sources.iter().filter(|(_, other)| alike(other)).map(|(id, _)| *id).collect();
        for id in freed {
            self.sources.get_mut(&id).expect("listed just now").believe();
            self.tell(id);
        }
    }

    /// Asks a source in doubt for the chunk that only the right shape lets it give.
    pub(super) fn ask_to_decide(&mut self, now: Time, source: SourceId, session: &mut Session) {
        let Some((planned, _)) = &self.opened else { return };
        let Some(Source { state: State::Doubted(doubt), .. }) = self.sources.get_mut(&source)
        else {
            return;
        };
        let decides = deciding_chunk(planned.shape, doubt.info.shape);
        let (Some(chunk), None, true) = (decides, doubt.asked, session.room() > 0) else { return };
        match session.request(now, Op::Read { handle: doubt.handle, chunks: vec![chunk] }) {
            Ok(id) => doubt.asked = Some(id),
            Err(refused) => self.fail(source, session, refused.into()),
        }
    }

    /// A source in doubt has given this chunk. If the plan's shape denies its length, whoever announced
    /// that lied.
    pub(super) fn proven(&mut self, source: SourceId, chunk: u32) {
        let (Some((planned, _)), Some(Source { state, .. })) =
            (&self.opened, self.sources.get_mut(&source))
        else {
            return;
        };
        let State::Doubted(doubt) = state else { return };
        let (expected, found) = (doubt.info.shape, planned.shape);
        if expected.chunk_len(chunk) == found.chunk_len(chunk) {
            // It was to decide between this source and one that is gone.
            doubt.asked = None;
            return;
        }
        let (handle, info) = (doubt.handle, Arc::clone(&doubt.info));
        let reading = |(id, other): (&SourceId, &Source)| other.is_reading().then_some(*id);
        let liars: Vec<SourceId> = self.sources.iter().filter_map(reading).collect();
        // Believed before they go, so that nobody else is in between.
        self.sources.get_mut(&source).expect("looked at above").state = State::Reading(handle);
        for liar in liars {
            self.convict(liar, expected, found);
            self.drop_source(liar);
        }
        let have = self.opened.as_ref().map(|(_, plan)| carry_over(plan.have(), found, expected));
        // The caller alone can have claimed what contradicts a chunk with the right hash.
        let nothing = ChunkSet::empty(info.chunk_count());
        self.plan(source, info, have.and_then(Result::ok).unwrap_or(nothing));
    }

    fn convict(&mut self, liar: SourceId, expected: Shape, found: Shape) {
        self.liars.insert(liar);
        let error = TransferError::OtherShape { expected, found };
        self.steps.push_back(GatherStep::SourceFailed(liar, error));
    }

    /// When nobody is left who is believed, the first in doubt is, unless what has arrived shows that
    /// it lies.
    pub(super) fn believe_another(&mut self) {
        if self.finished || self.sources.values().any(Source::is_reading) {
            return;
        }
        let Some((planned, plan)) = &self.opened else { return };
        let (from, have) = (planned.shape, plan.have().clone());
        let doubted = self.sources.iter().filter_map(|(id, source)| match &source.state {
            State::Doubted(doubt) => Some((*id, Arc::clone(&doubt.info))),
            _ => None,
        });
        for (id, info) in doubted.collect::<Vec<_>>() {
            if let Ok(have) = carry_over(&have, from, info.shape) {
                return self.plan(id, info, have);
            }
            self.convict(id, from, info.shape);
            self.sources.remove(&id);
        }
    }
}
