//! Guests: nodes that are no members and read by a grant to regions of the city
//! (`docs/spec/access.md`). The gate decides at every operation; what it must not forget over a
//! restart goes to the host, at once after a revocation and at most once a second for used bytes.
//!
//! Not for: members, who come with a ticket and have a role.
//!
//! Invariant: a revocation is acknowledged when it is kept.

use super::{CityNode, CommandId, ConnId, Output, Work};
use std::collections::VecDeque;
use suanli_base::{Duration, Time};
use suanli_identity::{Prefix, Right};
use suanli_rdpa::{
    Code, Denied, DenyReason, Gate, GateBooks, GateLimits, Pass, RegionName, Reply, Request,
    ResponderToken,
};

/// How often used bytes are kept: what moved within this before a crash is forgotten.
const KEEP_EVERY: Duration = Duration(1_000);

/// What of the gate is kept already, and who waits for the rest.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// Something has changed since the last books went to the host.
    changed: bool,
    /// The host is at it.
    under_way: bool,
    next: Time,
    /// Revocations in books that went to the host.
    sent: Vec<Revoked>,
    /// Revocations that came after.
    waiting: Vec<Revoked>,
}

/// A revocation, and who hears of it.
#[derive(Clone, Copy, Debug)]
struct Revoked {
    by: By,
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
enum By {
    Peer(ConnId, ResponderToken),
    Operator(CommandId),
}

/// A node that was admitted by a grant.
#[derive(Debug)]
pub(super) struct Guest {
    pass: Pass,
    /// What waits for the rate of the grant, in order; until when.
    kept: VecDeque<(ResponderToken, Request)>,
    again: Time,
}

impl Guest {
    /// When something that was kept may be served.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.kept.is_empty()).then_some(self.again)
    }

    /// Whether it may be told of a new version now.
    pub(super) fn may_be_told(&self, gate: &mut Gate, now: Time, region: &RegionName) -> bool {
        gate.check(now, &self.pass, Right::Subscribe, region, 0).is_ok()
    }
}

/// Whether a rate applies to it.
const fn moves_bytes(request: &Request) -> bool {
    matches!(request, Request::Read { .. } | Request::ReadRanges { .. })
}

impl CityNode {
    /// The gate goes on with what an earlier run kept. To be called before anything else comes in.
    pub fn keep_books(&mut self, books: GateBooks) {
        self.gate = Gate::new(self.key.node(), GateLimits::default(), Vec::new(), books);
    }

    /// What the gate must not forget, as it is now: for the end of a run.
    #[must_use]
    pub fn books(&self) -> GateBooks {
        self.gate.books()
    }

    /// The epoch that a new grant needs to be good on all regions.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.gate.newest_epoch()
    }

    /// Admits a node by a grant to regions.
    pub(super) fn hello_of_guest(&mut self, id: ConnId, token: ResponderToken, grant: &[u8]) {
        let Some(peer) = self.conns.get(&id).map(|conn| conn.peer) else { return };
        match self.gate.admit(self.now, peer, grant) {
            Ok(pass) => {
                self.answer_hello(id, token);
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.guest = Some(Guest { pass, kept: VecDeque::new(), again: self.now });
                }
                self.admitted(id);
            }
            Err(denied) => self.deny(id, token, &denied),
        }
    }

    fn deny(&mut self, id: ConnId, token: ResponderToken, denied: &Denied) {
        self.respond(id, token, Reply::Error { code: denied.code, text: denied.why.to_string() });
    }

    /// Serves what a grant allows, now or when its rate does.
    pub(super) fn serve_guest(&mut self, id: ConnId, token: ResponderToken, request: Request) {
        let Some(guest) = self.conns.get_mut(&id).and_then(|conn| conn.guest.as_mut()) else {
            return;
        };
        if moves_bytes(&request) && !guest.kept.is_empty() {
            // In the order they came. The session bounds how many there are.
            guest.kept.push_back((token, request));
            return;
        }
        let pass = guest.pass.clone();
        if let Some((again, request)) = self.serve_within(id, token, &pass, request) {
            self.keep_request(id, again, token, request);
        }
    }

    fn keep_request(&mut self, id: ConnId, again: Time, token: ResponderToken, request: Request) {
        if let Some(guest) = self.conns.get_mut(&id).and_then(|conn| conn.guest.as_mut()) {
            guest.kept.push_front((token, request));
            guest.again = again;
        }
    }

    /// What waits for a rate and is not wanted any more costs nothing of the grant.
    pub(super) fn cancelled(&mut self, id: ConnId, token: ResponderToken) {
        if let Some(guest) = self.conns.get_mut(&id).and_then(|conn| conn.guest.as_mut()) {
            guest.kept.retain(|(kept, _)| *kept != token);
        }
    }

    /// Goes on with what waited for a rate.
    pub(super) fn serve_kept(&mut self, id: ConnId) {
        loop {
            let Some(guest) = self.conns.get_mut(&id).and_then(|conn| conn.guest.as_mut()) else {
                return;
            };
            if guest.due().is_none_or(|due| due > self.now) {
                return;
            }
            let pass = guest.pass.clone();
            let Some((token, request)) = guest.kept.pop_front() else { return };
            if let Some((again, request)) = self.serve_within(id, token, &pass, request) {
                return self.keep_request(id, again, token, request);
            }
        }
    }

    /// Serves a request, or gives it back with the moment at which its rate allows it.
    fn serve_within(
        &mut self,
        id: ConnId,
        token: ResponderToken,
        pass: &Pass,
        request: Request,
    ) -> Option<(Time, Request)> {
        if let Request::Revoke { prefix, epoch } = &request {
            let revoked = self.gate.serve_revoke(self.now, pass, prefix, *epoch);
            self.revoked(id, token, revoked);
            return None;
        }
        let bytes = match &request {
            Request::Read { region, version, chunk } => self.chunk_len(region, *version, *chunk),
            _ => 0,
        };
        if let Err(denied) = self.gate.check_request(self.now, pass, &request, bytes) {
            match denied.again {
                Some(again) if moves_bytes(&request) => return Some((again, request)),
                _ => self.deny(id, token, &denied),
            }
            return None;
        }
        self.keeping.changed = true;
        match request {
            Request::OpenStage { .. }
            | Request::Stage { .. }
            | Request::Commit { .. }
            | Request::OpenCells { .. } => {
                let text = "a city takes what is written from its members only, and has no cells";
                let code = Code::Unsupported;
                self.respond(id, token, Reply::Error { code, text: text.into() });
            }
            request => self.serve_reader(id, token, request),
        }
        None
    }

    fn chunk_len(&self, region: &RegionName, version: u64, chunk: u32) -> u64 {
        let shape = self.served(region, version).map(|served| served.info.shape);
        shape.and_then(|shape| shape.chunk_len(chunk)).map_or(0, u64::from)
    }

    /// A REVOKE by a member that may do everything.
    pub(super) fn revoke_for(
        &mut self,
        id: ConnId,
        token: ResponderToken,
        prefix: &str,
        epoch: u64,
    ) {
        let revoked = match Prefix::new(prefix) {
            Ok(prefix) => self.gate.revoke(prefix, epoch),
            Err(error) => {
                let why = DenyReason::from(error);
                Err(Denied { code: Code::Protocol, why, again: None })
            }
        };
        self.revoked(id, token, revoked);
    }

    fn revoked(&mut self, id: ConnId, token: ResponderToken, revoked: Result<u64, Denied>) {
        match revoked {
            Ok(epoch) => self.revoked_now(Revoked { by: By::Peer(id, token), epoch }),
            Err(denied) => self.deny(id, token, &denied),
        }
    }

    /// Ends every grant to what `prefix` means that was given so far.
    pub(super) fn revoke_by_hand(&mut self, id: CommandId, prefix: Prefix) {
        let epoch = self.gate.newest_epoch().saturating_add(1);
        match self.gate.revoke(prefix, epoch) {
            Ok(epoch) => self.revoked_now(Revoked { by: By::Operator(id), epoch }),
            Err(denied) => {
                let result = Err(denied.why.to_string());
                self.outputs.push_back(Output::Revoked { id, result });
            }
        }
    }

    /// The gate knows of a revocation: guests lose the handles that they hold by what it ended.
    fn revoked_now(&mut self, revoked: Revoked) {
        let (gate, now) = (&self.gate, self.now);
        for conn in self.conns.values_mut() {
            if let Some(guest) = &conn.guest {
                conn.session.revoke(|region| !gate.may_keep(now, &guest.pass, region));
            }
        }
        self.keeping.changed = true;
        self.keeping.waiting.push(revoked);
        self.keep();
    }

    /// Hands changed books to the host, unless it is at it.
    fn keep(&mut self) {
        if self.keeping.under_way || !self.keeping.changed {
            return;
        }
        self.keeping.under_way = true;
        self.keeping.changed = false;
        self.keeping.sent = core::mem::take(&mut self.keeping.waiting);
        self.keeping.next = self.now.after(KEEP_EVERY);
        let books = self.gate.books();
        self.work(Work::KeepBooks(books));
    }

    /// Time went by.
    pub(super) fn keep_now_and_then(&mut self) {
        if self.now >= self.keeping.next {
            self.keep();
        }
    }

    /// The books are on disk.
    pub(super) fn books_kept(&mut self) {
        self.keeping.under_way = false;
        for Revoked { by, epoch } in core::mem::take(&mut self.keeping.sent) {
            match by {
                By::Peer(id, token) => self.respond(id, token, Reply::Revoked { epoch }),
                By::Operator(id) => {
                    self.outputs.push_back(Output::Revoked { id, result: Ok(epoch) });
                }
            }
        }
        if !self.keeping.waiting.is_empty() {
            self.keep();
        }
    }
}
