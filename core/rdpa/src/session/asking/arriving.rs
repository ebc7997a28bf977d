//! What our READs bring: where it lands, and what is still missing of each.

use super::{Kind, State};
use crate::session::{Event, Failure, Landing, Place, Session, Violation};
use crate::{Announced, Answer, Direction, Frame, Header, Opcode, RequestId, piece_of};
use suanli_base::{Hash, Time};

impl Session {
    /// Whether the payload behind this header is a chunk or piece that is waited for: then the caller
    /// may let it land where it is wanted, and report with [`Session::landed`]. Otherwise the whole
    /// frame goes to [`Session::handle_frame`].
    #[must_use]
    pub fn landing(&self, announced: &Announced) -> Option<Landing> {
        let header = &announced.header;
        if header.direction != Direction::Reply || header.status.is_some() {
            return None;
        }
        let pending = self.asking.pending.get(&header.request)?;
        let id = RequestId(header.request);
        let index = u32::try_from(header.offset).ok()?;
        let (place, len, expected) = match &pending.kind {
            Kind::Read { handle, info, missing } if header.opcode == Opcode::Read => {
                missing.get(&index)?;
                let expected = *info.chunks.get(index as usize)?;
                let place = Place::Chunk { handle: *handle, chunk: index };
                (place, info.shape.chunk_len(index)?, Some(expected))
            }
            Kind::Ranges { handle, total, missing, .. } if header.opcode == Opcode::ReadRanges => {
                missing.get(&index)?;
                let (start, len) = piece_of(*total, index)?;
                (Place::Piece { handle: *handle, start }, len, None)
            }
            _ => return None,
        };
        let fits = announced.payload_bytes == len as usize;
        fits.then_some(Landing { id, place, len, expected, announced: *announced })
    }

    /// A payload has landed. `digest` is its BLAKE3 hash; without one the chunk counts as the right
    /// one, which is for holders and links that the caller trusts.
    ///
    /// # Errors
    /// [`Violation`] when the payload is not the one its header announced.
    pub fn landed(
        &mut self,
        now: Time,
        landing: &Landing,
        digest: Option<Hash>,
    ) -> Result<(), Violation> {
        self.hear(now, landing.len as usize);
        if let Some(digest) = &digest {
            landing.announced.check(digest)?;
        }
        let event = Event::Landed { id: landing.id, place: landing.place };
        self.take_data(now, &landing.announced.header, digest, event);
        Ok(())
    }

    pub(super) fn handle_data(&mut self, now: Time, frame: &Frame) -> Result<(), Violation> {
        let header = frame.header();
        let out_of_place = Violation::Unexpected { what: "a chunk that was not asked for" };
        let index = u32::try_from(header.offset).map_err(|_| out_of_place.clone())?;
        let id = RequestId(header.request);
        let pending = self.asking.pending.get(&header.request).expect("found by the caller");
        let bytes = frame.payload().clone();
        let (event, digest) = match &pending.kind {
            Kind::Read { handle, info, missing } => {
                if index >= info.chunk_count() {
                    return Err(out_of_place);
                }
                if !missing.contains(&index) {
                    return Ok(());
                }
                // The root does not cover the shape: right hashes may stand under a wrong one.
                let expected = info.shape.chunk_len(index).ok_or(out_of_place)?;
                if bytes.len() != expected as usize {
                    let found = bytes.len();
                    self.fail_read(id, Failure::WrongLength { chunk: index, expected, found });
                    return Ok(());
                }
                let event = Event::Chunk { id, handle: *handle, chunk: index, bytes };
                (event, Some(frame.digest()))
            }
            Kind::Ranges { handle, total, missing, .. } => {
                let (start, len) = piece_of(*total, index).ok_or(out_of_place)?;
                if bytes.len() != len as usize {
                    return Err(Violation::Body { what: "READ_RANGES" });
                }
                if !missing.contains(&index) {
                    return Ok(());
                }
                (Event::Piece { id, handle: *handle, start, bytes }, None)
            }
            _ => unreachable!("only READs come here"),
        };
        self.take_data(now, header, digest, event);
        Ok(())
    }

    fn fail_read(&mut self, id: RequestId, failure: Failure) {
        let pending = self.settle(id.0).expect("found by the caller");
        self.fail(id.0, pending.kind, failure);
    }

    /// One chunk or piece more of a READ; with a digest it is held against the opened region.
    fn take_data(&mut self, now: Time, header: &Header, digest: Option<Hash>, event: Event) {
        let id = RequestId(header.request);
        let index = u32::try_from(header.offset).expect("looked at by the caller");
        let Some(pending) = self.asking.pending.get_mut(&id.0) else { return };
        let (missing, expected) = match &mut pending.kind {
            Kind::Read { info, missing, .. } => {
                let expected = info.chunks.get(index as usize).copied();
                (missing, expected)
            }
            Kind::Ranges { missing, .. } => (missing, None),
            _ => return,
        };
        if let (Some(expected), Some(found)) = (expected, digest)
            && expected != found
        {
            self.fail_read(id, Failure::WrongHash { chunk: index, expected, found });
            return;
        }
        if !missing.remove(&index) {
            return;
        }
        self.asking.chunk_came = now;
        self.events.push_back(event);
        if missing.is_empty() {
            self.settle(id.0);
            self.events.push_back(Event::Answered { id, answer: Answer::ReadDone });
            return;
        }
        // Progress: a retry asks for the rest only, and not before it is due anew.
        pending.since = now;
        pending.wait = self.limits.retry_bulk_first;
        pending.rest = self.limits.rest_first;
        if let State::Sent { again, .. } = &mut pending.state {
            *again = now.after(pending.wait);
        }
    }
}
