//! Requests of one connection that wait for a rate, in order.
//!
//! The session bounds what it hands over and is not answered. But a request that its peer cancels, or
//! leaves so far behind that it counts as settled, is none of the session's any more, while it still
//! lies here: so this has the same bounds once more.

use std::collections::VecDeque;
use suanli_rdpa::limits::READ_CHUNKS_MAX;
use suanli_rdpa::{Limits, Request, ResponderToken};

#[derive(Debug)]
pub(super) struct Kept {
    queue: VecDeque<(ResponderToken, Request)>,
    /// Payload bytes in the queue.
    bytes: u64,
    bytes_max: u64,
    requests_max: usize,
}

/// There is no room for one more.
#[derive(Debug)]
pub(super) struct Full;

impl Kept {
    pub(super) const fn new(limits: &Limits) -> Self {
        // A READ comes chunk by chunk.
        let requests_max = limits.serving_max.saturating_mul(READ_CHUNKS_MAX);
        Self { queue: VecDeque::new(), bytes: 0, bytes_max: limits.bulk_window_bytes, requests_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keeps a request behind the others. One payload longer than the bound may be alone, as in the
    /// session's window.
    pub(super) fn push(&mut self, token: ResponderToken, request: Request) -> Result<(), Full> {
        let bytes = payload_bytes(&request);
        let over = self.bytes > 0 && self.bytes.saturating_add(bytes) > self.bytes_max;
        if (over && bytes > 0) || self.queue.len() >= self.requests_max {
            return Err(Full);
        }
        self.bytes += bytes;
        self.queue.push_back((token, request));
        Ok(())
    }

    /// Puts the first one back, of which [`Kept::pop`] gave up the place.
    pub(super) fn put_back(&mut self, token: ResponderToken, request: Request) {
        self.bytes += payload_bytes(&request);
        self.queue.push_front((token, request));
    }

    pub(super) fn pop(&mut self) -> Option<(ResponderToken, Request)> {
        let (token, request) = self.queue.pop_front()?;
        self.bytes -= payload_bytes(&request);
        Some((token, request))
    }

    /// Drops what its peer no longer wants.
    pub(super) fn cancel(&mut self, cancelled: ResponderToken) {
        self.queue.retain(|(token, request)| {
            let stays = *token != cancelled;
            if !stays {
                self.bytes -= payload_bytes(request);
            }
            stays
        });
    }
}

const fn payload_bytes(request: &Request) -> u64 {
    match request {
        Request::Stage { bytes, .. } => bytes.len() as u64,
        _ => 0,
    }
}
