//! Our requests as kinds and frames, checked before anything is sent.

use super::opened::Holding;
use super::{Asking, Kind};
use crate::limits::{
    Limits, READ_CHUNKS_MAX, REGION_NAME_CHARS_MAX, SEND_BYTES_MAX, TICKET_BYTES_MAX,
};
use crate::session::Refused;
use crate::{
    Direction, Frame, Handle, Header, Op, Opcode, RegionInfo, Span, StageInfo, StageKind, body,
    check_spans, piece_count,
};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Asking {
    /// The peer's number for these cells.
    fn cells(&self, handle: Handle, cell: u32) -> Result<u64, Refused> {
        match self.opened.find(handle) {
            Some((theirs, Holding::Cells(count))) if cell < *count => Ok(theirs),
            _ => Err(Refused::BadChunk { chunk: cell }),
        }
    }

    pub(super) fn header(&self, opcode: Opcode) -> Header {
        Header::new(opcode, Direction::Request, self.next)
    }

    fn stage(&self, handle: Handle) -> Result<(u64, StageInfo), Refused> {
        match self.opened.find(handle) {
            Some((theirs, Holding::Stage(stage))) => Ok((theirs, *stage)),
            _ => Err(Refused::BadChunk { chunk: 0 }),
        }
    }

    /// The request as it is kept and as it travels.
    pub(super) fn prepare(&self, op: Op, limits: &Limits) -> Result<(Kind, Frame), Refused> {
        let plain = |kind, opcode, payload| Ok((kind, limits.frame(self.header(opcode), payload)));
        match op {
            Op::Hello(hello) => {
                bounded("bytes of ticket", hello.ticket.len(), TICKET_BYTES_MAX)?;
                let offered = hello.version_min..=hello.version_max;
                plain(Kind::Hello(offered), Opcode::Hello, body::encode(&hello))
            }
            Op::Open { region } => plain(Kind::Open, Opcode::Open, body::encode(&region)),
            Op::OpenStage { region, stage } => {
                plain(Kind::OpenStage(stage), Opcode::OpenStage, body::encode(&(&region, &stage)))
            }
            Op::Read { handle, chunks } => self.prepare_read(handle, &chunks, limits),
            Op::ReadRanges { handle, spans } => self.prepare_ranges(handle, spans, limits),
            Op::ReadIfChanged { region, since } => {
                let header = Header { version: since, ..self.header(Opcode::ReadIfChanged) };
                Ok((Kind::ReadIfChanged, limits.frame(header, body::encode(&region))))
            }
            Op::Write { .. } | Op::Accumulate { .. } => self.prepare_stage(op, limits),
            Op::Commit { handle, expected } => {
                let (handle, _) = self.stage(handle)?;
                let header = self.header(Opcode::Commit);
                let header = Header { handle, version: expected, ..header };
                Ok((Kind::Commit, limits.frame(header, Bytes::new())))
            }
            Op::Send { bytes } => {
                bounded("bytes to send", bytes.len(), SEND_BYTES_MAX as usize)?;
                plain(Kind::Send, Opcode::Send, bytes)
            }
            Op::Subscribe { region } => {
                let payload = body::encode(&region);
                plain(Kind::Subscribe(region), Opcode::Subscribe, payload)
            }
            Op::OpenCells { region } => {
                plain(Kind::OpenCells, Opcode::OpenCells, body::encode(&region))
            }
            Op::Cas { handle, cell, expected, new } => {
                self.prepare_cell(Opcode::Cas, handle, cell, body::encode(&(expected, new)), limits)
            }
            Op::FetchAdd { handle, cell, add } => {
                self.prepare_cell(Opcode::FetchAdd, handle, cell, body::encode(&add), limits)
            }
            Op::Fence { level } => {
                let header = Header { level: Some(level), ..self.header(Opcode::Fence) };
                Ok((Kind::Fence, limits.frame(header, Bytes::new())))
            }
            Op::Stat { region } => plain(Kind::Stat, Opcode::Stat, body::encode(&region)),
            Op::Revoke { prefix, epoch } => {
                bounded("characters of a prefix", prefix.len(), REGION_NAME_CHARS_MAX)?;
                plain(Kind::Revoke, Opcode::Revoke, body::encode(&(prefix, epoch)))
            }
        }
    }

    fn region(&self, handle: Handle) -> Result<(u64, &Arc<RegionInfo>), Refused> {
        match self.opened.find(handle) {
            Some((theirs, Holding::Region(info))) => Ok((theirs, info)),
            _ => Err(Refused::BadChunk { chunk: 0 }),
        }
    }

    fn prepare_read(
        &self,
        handle: Handle,
        chunks: &[u32],
        limits: &Limits,
    ) -> Result<(Kind, Frame), Refused> {
        bounded("chunks to read", chunks.len(), READ_CHUNKS_MAX)?;
        let (theirs, info) = self.region(handle)?;
        let mut missing = BTreeSet::new();
        for chunk in chunks.iter().copied() {
            if chunk >= info.chunk_count() || !missing.insert(chunk) {
                return Err(Refused::BadChunk { chunk });
            }
        }
        if missing.is_empty() {
            return Err(Refused::BadChunk { chunk: 0 });
        }
        let header = Header { handle: theirs, ..self.header(Opcode::Read) };
        let frame = limits.frame(header, body::encode(&missing));
        Ok((Kind::Read { handle, info: Arc::clone(info), missing }, frame))
    }

    fn prepare_ranges(
        &self,
        handle: Handle,
        spans: Vec<Span>,
        limits: &Limits,
    ) -> Result<(Kind, Frame), Refused> {
        let (theirs, info) = self.region(handle)?;
        let total = check_spans(&spans, info.shape.bytes)?;
        let header = Header { handle: theirs, ..self.header(Opcode::ReadRanges) };
        let body = body::RangesBody { spans, pieces: Vec::new() };
        let frame = limits.frame(header, body::encode(&body));
        let missing = (0..piece_count(total)).collect();
        Ok((Kind::Ranges { handle, spans: body.spans, total, missing }, frame))
    }

    fn prepare_cell(
        &self,
        opcode: Opcode,
        handle: Handle,
        cell: u32,
        body: Bytes,
        limits: &Limits,
    ) -> Result<(Kind, Frame), Refused> {
        let handle = self.cells(handle, cell)?;
        let header = Header { handle, offset: cell.into(), ..self.header(opcode) };
        Ok((Kind::Cell, limits.frame(header, body)))
    }

    fn prepare_stage(&self, op: Op, limits: &Limits) -> Result<(Kind, Frame), Refused> {
        let (opcode, kind, handle, chunk, bytes, level) = match op {
            Op::Write { handle, chunk, bytes, level } => {
                (Opcode::Write, StageKind::Write, handle, chunk, bytes, level)
            }
            Op::Accumulate { handle, chunk, bytes, level } => {
                (Opcode::Accumulate, StageKind::Accumulate, handle, chunk, bytes, level)
            }
            other => unreachable!("{other:?} stages nothing"),
        };
        let (handle, stage) = self.stage(handle)?;
        let expected = stage.shape.chunk_len(chunk).map(|len| len as usize);
        if stage.kind != kind || expected != Some(bytes.len()) {
            return Err(Refused::BadChunk { chunk });
        }
        let header = Header { handle, offset: chunk.into(), ..self.header(opcode) };
        let header = Header { level: Some(level), ..header };
        Ok((Kind::Stage, limits.frame(header, bytes)))
    }
}

pub(super) const fn bounded(what: &'static str, found: usize, max: usize) -> Result<(), Refused> {
    if found > max { Err(Refused::TooLarge { what, found, max }) } else { Ok(()) }
}
