//! What the peer asks, read from its frames and held against our bounds.

use super::{Decoded, Kind, Reading, Refusal, Serving};
use crate::limits::{
    HELLOS_REFUSED_MAX, Limits, PIECE_BYTES, PROTOCOL_VERSION, REGION_NAME_CHARS_MAX,
    TICKET_BYTES_MAX,
};
use crate::session::Violation;
use crate::session::grants::Purpose;
use crate::{
    Code, Frame, Header, Hello, Opcode, RegionName, Request, Shape, StageInfo, StageKind, body,
    check_spans, piece_count,
};
use std::collections::BTreeSet;

impl Serving {
    fn decode_hello(&self, payload: &[u8], welcome: bool) -> Result<Decode, Violation> {
        let hello: Hello = body::decode("HELLO", payload)?;
        if self.hellos_refused >= HELLOS_REFUSED_MAX {
            return Err(Violation::Unexpected {
                what: "one more HELLO after several were refused",
            });
        }
        if hello.ticket.len() > TICKET_BYTES_MAX {
            return refuse(Code::TooLarge, "the ticket is too long");
        }
        if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
            return refuse(Code::Version, "one side needs an update");
        }
        if welcome {
            return refuse(Code::Protocol, "HELLO was accepted already");
        }
        if self.open > 0 {
            return refuse(Code::Busy, "a HELLO is being decided");
        }
        ask(Kind::Hello, Request::Hello(hello))
    }

    fn decode_read(&self, header: &Header, payload: &[u8]) -> Result<Decode, Violation> {
        let chunks = body::decode_chunks(payload)?;
        let Some((region, Purpose::Read { version, shape, .. })) = self.grants.find(header.handle)
        else {
            return refuse(Code::BadHandle, "open the region again");
        };
        if chunks.iter().any(|chunk| shape.chunk_len(*chunk).is_none()) {
            return refuse(Code::OutOfRange, "no such chunk in the opened version");
        }
        let (region, version, shape) = (region.clone(), *version, *shape);
        let (waiting, asked, spans) = (chunks.into(), BTreeSet::new(), None);
        Ok(Ok((Kind::Read(Reading { region, version, shape, spans, waiting, asked }), None)))
    }

    fn decode_ranges(&self, header: &Header, payload: &[u8]) -> Result<Decode, Violation> {
        let body = body::decode_ranges(payload)?;
        let Some((region, Purpose::Read { version, shape, .. })) = self.grants.find(header.handle)
        else {
            return refuse(Code::BadHandle, "open the region again");
        };
        let Ok(bytes) = check_spans(&body.spans, shape.bytes) else {
            return refuse(Code::OutOfRange, "the spans do not fit the opened version");
        };
        let pieces = piece_count(bytes);
        if body.pieces.last().is_some_and(|last| *last >= pieces) {
            return refuse(Code::OutOfRange, "no such piece");
        }
        let all = body.pieces.is_empty();
        let waiting = if all { (0..pieces).collect() } else { body.pieces.into() };
        let (region, version, asked) = (region.clone(), *version, BTreeSet::new());
        let shape = Shape { bytes, chunk_bytes: PIECE_BYTES };
        let spans = Some(body.spans.into());
        Ok(Ok((Kind::Read(Reading { region, version, shape, spans, waiting, asked }), None)))
    }

    fn decode_cell(&self, header: &Header, payload: &[u8]) -> Result<Decode, Violation> {
        let Some((region, Purpose::Cells(count))) = self.grants.find(header.handle) else {
            return refuse(Code::BadHandle, "open the cells again");
        };
        let Some(cell) = u32::try_from(header.offset).ok().filter(|cell| cell < count) else {
            return refuse(Code::OutOfRange, "no such cell");
        };
        let region = region.clone();
        if header.opcode == Opcode::Cas {
            let (expected, new) = body::decode("CAS", payload)?;
            return ask(Kind::Cell, Request::Cas { region, cell, expected, new });
        }
        let add = body::decode("FETCH_ADD", payload)?;
        ask(Kind::Cell, Request::FetchAdd { region, cell, add })
    }

    fn find_stage(&self, header: &Header) -> Option<(RegionName, StageInfo)> {
        match self.grants.find(header.handle) {
            Some((region, Purpose::Stage(stage))) => Some((region.clone(), *stage)),
            _ => None,
        }
    }

    fn decode_stage(&self, frame: &Frame, limits: &Limits) -> Result<Decode, Violation> {
        let header = frame.header();
        let kind = match header.opcode {
            Opcode::Write => StageKind::Write,
            _ => StageKind::Accumulate,
        };
        let Some((region, stage)) = self.find_stage(header).filter(|(_, s)| s.kind == kind) else {
            return refuse(Code::BadHandle, "open the staging area again");
        };
        let bytes = frame.payload().clone();
        let len = bytes.len() as u64;
        let chunk = u32::try_from(header.offset).ok();
        let expected = chunk.and_then(|chunk| stage.shape.chunk_len(chunk)).map(u64::from);
        let Some(chunk) = chunk.filter(|_| expected == Some(len)) else {
            return refuse(Code::OutOfRange, "the chunk does not fit what was announced");
        };
        if self.staged_bytes > 0 && self.staged_bytes + len > limits.bulk_window_bytes {
            return refuse(Code::Busy, "the bulk window is full");
        }
        let hash = frame.digest();
        let level = header.level;
        ask(Kind::Stage(len), Request::Stage { region, stage, chunk, hash, bytes, level })
    }

    pub(super) fn decode(
        &self,
        frame: &Frame,
        limits: &Limits,
        welcome: bool,
    ) -> Result<Decode, Violation> {
        let (header, payload) = (frame.header(), frame.payload());
        match header.opcode {
            Opcode::Hello => self.decode_hello(payload, welcome),
            Opcode::Open => {
                let region: RegionName = body::decode("OPEN", payload)?;
                ask(Kind::Open(region.clone()), Request::Open { region })
            }
            Opcode::ReadIfChanged => {
                let region: RegionName = body::decode("READ_IF_CHANGED", payload)?;
                let since = header.version;
                ask(Kind::Open(region.clone()), Request::ReadIfChanged { region, since })
            }
            Opcode::OpenStage => {
                let (region, stage): (RegionName, StageInfo) = body::decode("OPEN_STAGE", payload)?;
                if stage.shape.check().is_err() {
                    return refuse(Code::TooLarge, "no chunks, or too many or too long ones");
                }
                let kind = Kind::OpenStage(region.clone(), stage);
                ask(kind, Request::OpenStage { region, stage })
            }
            Opcode::Read => self.decode_read(header, payload),
            Opcode::ReadRanges => self.decode_ranges(header, payload),
            Opcode::OpenCells => {
                let region: RegionName = body::decode("OPEN_CELLS", payload)?;
                ask(Kind::OpenCells(region.clone()), Request::OpenCells { region })
            }
            Opcode::Cas | Opcode::FetchAdd => self.decode_cell(header, payload),
            Opcode::Fence => ask(Kind::Fence, Request::Fence { level: header.level }),
            Opcode::Stat => {
                let region: Option<RegionName> = body::decode("STAT", payload)?;
                ask(Kind::Stat, Request::Stat { region })
            }
            Opcode::Revoke => {
                let (prefix, epoch): (String, u64) = body::decode("REVOKE", payload)?;
                if prefix.len() > REGION_NAME_CHARS_MAX {
                    return refuse(Code::TooLarge, "the prefix is longer than any name");
                }
                ask(Kind::Revoke, Request::Revoke { prefix, epoch })
            }
            Opcode::Write | Opcode::Accumulate => self.decode_stage(frame, limits),
            Opcode::Commit => match self.find_stage(header) {
                Some((region, stage)) if stage.kind == StageKind::Write => {
                    let expected = header.version;
                    ask(Kind::Commit, Request::Commit { region, stage, expected })
                }
                _ => refuse(Code::BadHandle, "open the staging area again"),
            },
            Opcode::Send => ask(Kind::Send, Request::Send { bytes: payload.clone() }),
            Opcode::Subscribe => {
                let region: RegionName = body::decode("SUBSCRIBE", payload)?;
                let known = self.subscribers.contains_key(&region);
                if !known && self.subscribers.len() >= limits.subscriptions_max {
                    return refuse(Code::TooLarge, "too many subscriptions");
                }
                ask(Kind::Subscribe(region.clone()), Request::Subscribe { region })
            }
            Opcode::Notify | Opcode::Cancel | Opcode::Ping => {
                Err(Violation::Unexpected { what: "this operation" })
            }
        }
    }
}

type Decode = Result<Decoded, Refusal>;

const fn refuse(code: Code, text: &'static str) -> Result<Decode, Violation> {
    Ok(Err(Refusal(code, text)))
}

const fn ask(kind: Kind, request: Request) -> Result<Decode, Violation> {
    Ok(Ok((kind, Some(request))))
}

/// Whether the answer is remembered: what must not be done twice, and costs little to keep. What is
/// not remembered is done again, to the same effect.
pub(super) const fn is_remembered(opcode: Opcode) -> bool {
    !matches!(
        opcode,
        Opcode::Open
            | Opcode::OpenStage
            | Opcode::ReadIfChanged
            | Opcode::Read
            | Opcode::ReadRanges
            | Opcode::OpenCells
            | Opcode::Stat
    )
}
