//! Who may do what, decided at every operation: the gate of a holder of regions.
//!
//! A grant's signatures are checked once, at HELLO ([`Gate::admit`]), which gives a [`Pass`]. At every
//! operation [`Gate::check`] holds the pass against the time, the epochs in force, the regions, the
//! rights, the bytes and the rate, without any cryptography. A revocation or an expiry therefore ends
//! open connections too, at their next operation; a holder that notifies subscribers asks before each
//! notification, and takes back what was opened ([`Gate::may_keep`]) when something was revoked.
//!
//! Bytes count for every link of a chain, over all connections: what a delegate uses is used up for
//! whoever delegated, so that handing on multiplies nothing. The owner's own key needs no grant.
//! Regions below a public prefix can be read by anybody, all guests together at one rate.
//!
//! Bounds: a link is metered only when it has a bound on bytes, so most need no memory. Meters that
//! have nothing to tell (expired, or nothing used and a full bucket) go first when the table is full;
//! then the newcomer is told BUSY, for forgetting a budget would be to grant it anew. The links below
//! one grant of the owner have a share of the table only, so that a holder who may delegate cannot fill
//! it. A revocation that finds no room is refused, never forgotten: a shorter prefix, which takes the
//! place of those below it, always has room.
//!
//! Not for: admitting members or roles, which a ticket does. Source: `docs/spec/access.md`.

use crate::limits::{REGION_NAME_CHARS_MAX, TICKET_BYTES_MAX};
use crate::{Code, Pace, RegionName, Request, StageKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use suanli_base::{Duration, Hash, NodeId, Time};
use suanli_identity::{
    ACCESS_BYTES_MAX, ACCESS_LINKS_MAX, Access, AccessError, BadPrefix, Bounds, Link,
    PREFIX_CHARS_MAX, Prefix, Right, Rights,
};

const _: () = assert!(PREFIX_CHARS_MAX == REGION_NAME_CHARS_MAX);
const _: () = assert!(ACCESS_BYTES_MAX == TICKET_BYTES_MAX);
/// How often a full table is searched for what can go, and when a newcomer may ask again.
const PRUNE_EVERY: Duration = Duration(1_000);
/// Above every hash of a link.
const LAST: Hash = Hash([0xFF; 32]);

/// The bounds of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// Prefixes with an epoch.
    pub epochs_max: usize,
    /// Metered links.
    pub meters_max: usize,
    /// Metered links below one grant of the owner, its own among them.
    pub meters_per_grant_max: usize,
    /// What all readers of public regions get together; [`u64::MAX`] for no bound.
    pub guest_bytes_per_s: u64,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self {
            epochs_max: 1024,
            meters_max: 4096,
            meters_per_grant_max: 64,
            guest_bytes_per_s: u64::MAX,
        }
    }
}

/// A bearer that was admitted, with what it showed. Cheap to clone; good for one gate.
#[derive(Clone, Debug)]
pub struct Pass {
    bearer: NodeId,
    by: By,
}

#[derive(Clone, Debug)]
enum By {
    Owner,
    Guest,
    Grant(Arc<Access>),
}

impl Pass {
    /// Whose it is.
    #[must_use]
    pub const fn bearer(&self) -> NodeId {
        self.bearer
    }

    /// The grant it rests on; nothing for the owner and for guests.
    #[must_use]
    pub fn grant(&self) -> Option<&Access> {
        match &self.by {
            By::Grant(access) => Some(access),
            By::Owner | By::Guest => None,
        }
    }
}

/// An operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Denied {
    /// What goes over the wire.
    pub code: Code,
    /// Why.
    pub why: DenyReason,
    /// When the same may be asked again; nothing when no time helps. A holder may keep the request
    /// until then instead of answering BUSY.
    pub again: Option<Time>,
}

/// Why an operation was refused. Links are counted from 1, the owner's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DenyReason {
    /// No grant was shown, and nothing here is public.
    #[error("these regions need a grant and none was shown; ask their owner {} for one", owner.short())]
    NoGrant {
        /// Whose regions these are.
        owner: NodeId,
    },
    /// The grant itself was refused.
    #[error(transparent)]
    Grant(Box<AccessError>),
    /// Too early.
    #[error("link {link} of the grant begins at {} ms; come again then", not_before.0)]
    NotYet {
        /// Which link.
        link: usize,
        /// Its beginning.
        not_before: Time,
    },
    /// Too late.
    #[error("link {link} of the grant ended {ago_s} s ago; ask for a new one")]
    Expired {
        /// Which link.
        link: usize,
        /// For how many seconds it has been over.
        ago_s: u64,
    },
    /// The owner ended it.
    #[error(
        "link {link} of the grant is of epoch {epoch}, grants below epoch {in_force} were revoked; ask for a new one"
    )]
    Revoked {
        /// Which link.
        link: usize,
        /// Its epoch.
        epoch: u64,
        /// The lowest epoch that counts here.
        in_force: u64,
    },
    /// Not this right.
    #[error("this needs the right to {right}, the grant gives {held}; ask for one that has it")]
    NoRight {
        /// What is needed.
        right: Right,
        /// What is held.
        held: Rights,
    },
    /// Not this region.
    #[error("the grant is for {prefix}, not for {region}; ask for one for that")]
    OtherRegion {
        /// What the grant is for.
        prefix: Prefix,
        /// What was asked for.
        region: String,
    },
    /// Nothing but what is public, to a guest.
    #[error("without a grant only public regions can be read; ask their owner {} for one", owner.short())]
    GuestsOnlyRead {
        /// Whose regions these are.
        owner: NodeId,
    },
    /// The budget is used up.
    #[error(
        "link {link} of the grant has {left} of {max} bytes left, {asked} were asked for; ask for a new one"
    )]
    UsedUp {
        /// Which link.
        link: usize,
        /// What is left.
        left: u64,
        /// What there was.
        max: u64,
        /// What was asked for.
        asked: u64,
    },
    /// Faster than allowed. Link 0 stands for the rate of all guests.
    #[error("link {link} of the grant allows {bytes_per_s} bytes a second; come again later")]
    TooFast {
        /// Which link.
        link: usize,
        /// Its rate.
        bytes_per_s: u64,
    },
    /// No room for one more meter.
    #[error("{max} metered grants are in use here; come again later")]
    MetersFull {
        /// The bound that was met.
        max: usize,
    },
    /// No room for one more epoch.
    #[error(
        "{max} prefixes have an epoch already; revoke a shorter prefix, it replaces those below"
    )]
    EpochsFull {
        /// The bound.
        max: usize,
    },
    /// What was to be revoked is no prefix.
    #[error(transparent)]
    BadPrefix(#[from] BadPrefix),
}

impl DenyReason {
    const fn code(&self) -> Code {
        match self {
            Self::UsedUp { .. } => Code::OverBudget,
            Self::TooFast { .. } | Self::MetersFull { .. } => Code::Busy,
            Self::EpochsFull { .. } => Code::TooLarge,
            Self::BadPrefix(_) => Code::Protocol,
            _ => Code::Unauthorised,
        }
    }

    fn never(self) -> Denied {
        Denied { code: self.code(), why: self, again: None }
    }

    fn until(self, again: Option<Time>) -> Denied {
        Denied { again, ..self.never() }
    }
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    /// Which right.
    pub right: Right,
    /// On what: the text of a region's name; for REVOKE, of a prefix.
    pub on: &'a str,
    /// Payload bytes that count; nothing for READ, whose chunk's length the holder knows.
    pub bytes: Option<u64>,
}

/// What a request needs; nothing for those that need no right on a region: HELLO, SEND (the layer
/// above decides by what it says), FENCE, and STAT of the session alone.
#[must_use]
pub fn right_of(request: &Request) -> Option<Need<'_>> {
    let on = |right, on, bytes| Some(Need { right, on, bytes: Some(bytes) });
    match request {
        Request::Hello(_) | Request::Send { .. } | Request::Fence { .. } => None,
        Request::Open { region } | Request::ReadIfChanged { region, .. } => {
            on(Right::Read, region.as_str(), 0)
        }
        Request::Stat { region } => region.as_ref().and_then(|r| on(Right::Read, r.as_str(), 0)),
        Request::Read { region, .. } => {
            Some(Need { right: Right::Read, on: region.as_str(), bytes: None })
        }
        Request::ReadRanges { region, len, .. } => {
            on(Right::Read, region.as_str(), u64::from(*len))
        }
        Request::OpenStage { region, stage } => on(staging(stage.kind), region.as_str(), 0),
        Request::Stage { region, stage, bytes, .. } => {
            on(staging(stage.kind), region.as_str(), bytes.len() as u64)
        }
        Request::Commit { region, .. } => on(Right::Commit, region.as_str(), 0),
        Request::Subscribe { region } => on(Right::Subscribe, region.as_str(), 0),
        Request::OpenCells { region }
        | Request::Cas { region, .. }
        | Request::FetchAdd { region, .. } => on(Right::Cells, region.as_str(), 0),
        Request::Revoke { prefix, .. } => on(Right::Revoke, prefix, 0),
    }
}

const fn staging(kind: StageKind) -> Right {
    match kind {
        StageKind::Write => Right::Write,
        StageKind::Accumulate => Right::Accumulate,
    }
}

/// What one link has used.
#[derive(Clone, Debug)]
struct Meter {
    used: u64,
    bounded: bool,
    not_after: Time,
    /// Made at the first use after a restart.
    pace: Option<Pace>,
}

impl Meter {
    const fn new(bounds: &Bounds) -> Self {
        let Bounds { bytes_max, not_after, .. } = *bounds;
        Self { used: 0, bounded: bytes_max != u64::MAX, not_after, pace: None }
    }

    fn pace(&mut self, now: Time, bounds: &Bounds) -> &mut Pace {
        let rate = bounds.bytes_per_s;
        self.pace.get_or_insert_with(|| Pace::new(rate, rate, now))
    }

    fn may_take(
        &mut self,
        now: Time,
        link: usize,
        bounds: &Bounds,
        asked: u64,
    ) -> Result<(), Denied> {
        let Bounds { bytes_max: max, bytes_per_s, .. } = *bounds;
        let left = max.saturating_sub(self.used);
        if self.bounded && asked > left {
            return Err(DenyReason::UsedUp { link, left, max, asked }.never());
        }
        let too_fast = DenyReason::TooFast { link, bytes_per_s };
        if bytes_per_s == 0 {
            // Asking again would never help, so it is not BUSY.
            return Err(Denied { code: Code::OverBudget, ..too_fast.never() });
        }
        let waits = self.pace(now, bounds).may_take(now, asked);
        waits.map_err(|again| too_fast.until(again))
    }

    fn take(&mut self, now: Time, bounds: &Bounds, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        self.pace(now, bounds).take(now, bytes);
    }

    /// Whether making it anew would make no difference.
    fn tells_nothing(&mut self, now: Time) -> bool {
        let idle = self.pace.as_mut().is_none_or(|pace| pace.is_full(now));
        now >= self.not_after || (idle && !(self.bounded && self.used > 0))
    }
}

const fn needs_meter(bounds: &Bounds) -> bool {
    bounds.bytes_max != u64::MAX || bounds.bytes_per_s != u64::MAX
}

/// Every text that, as a prefix, means what `on` means: all, the folders above it, itself.
fn prefixes_of(on: &str) -> impl Iterator<Item = &str> {
    let folders = on.match_indices('/').map(move |(at, _)| &on[..=at]);
    core::iter::once("").chain(folders).chain(core::iter::once(on))
}

/// The owner's link that a chain begins with, and the link metered.
type MeterKey = (Hash, Hash);

/// Decides for a holder of one owner's regions.
#[derive(Clone, Debug)]
pub struct Gate {
    owner: NodeId,
    limits: GateLimits,
    public: BTreeSet<Prefix>,
    guests: Pace,
    epochs: BTreeMap<Prefix, u64>,
    meters: BTreeMap<MeterKey, Meter>,
    pruned: Option<Time>,
}

impl Gate {
    /// A gate to the regions of `owner`, of which those below `public` can be read by anybody, that
    /// goes on with what `books` say.
    #[must_use]
    pub fn new(owner: NodeId, limits: GateLimits, public: Vec<Prefix>, books: GateBooks) -> Self {
        let meter = |used: UsedBytes| {
            let UsedBytes { first, link, bytes, not_after } = used;
            ((first, link), Meter { used: bytes, bounded: true, not_after, pace: None })
        };
        Self {
            owner,
            limits,
            public: public.into_iter().collect(),
            guests: Pace::per_second(limits.guest_bytes_per_s, Time(0)),
            epochs: books.epochs.into_iter().collect(),
            meters: books.used.into_iter().map(meter).collect(),
            pruned: None,
        }
    }

    /// What to keep for the next start.
    #[must_use]
    pub fn books(&self) -> GateBooks {
        let spent = self.meters.iter().filter(|(_, meter)| meter.bounded && meter.used > 0);
        let used = spent.map(|((first, link), meter)| UsedBytes {
            first: *first,
            link: *link,
            bytes: meter.used,
            not_after: meter.not_after,
        });
        let epochs = self.epochs.iter().map(|(prefix, epoch)| (prefix.clone(), *epoch));
        GateBooks { epochs: epochs.collect(), used: used.collect() }
    }

    /// Admits a bearer at HELLO, whose key the link has proven. The only place where signatures are
    /// checked.
    ///
    /// # Errors
    /// [`Denied`]: the grant is not good, not now, or revoked for all of its regions; or none was
    /// shown and nothing here is public.
    pub fn admit(&self, now: Time, bearer: NodeId, ticket: &[u8]) -> Result<Pass, Denied> {
        if bearer == self.owner {
            return Ok(Pass { bearer, by: By::Owner });
        }
        if ticket.is_empty() {
            let no_grant = DenyReason::NoGrant { owner: self.owner };
            let guest = Pass { bearer, by: By::Guest };
            return if self.public.is_empty() { Err(no_grant.never()) } else { Ok(guest) };
        }
        let verified = Access::verify(ticket, self.owner, bearer);
        let access =
            verified.map_err(|error| DenyReason::Grant(Box::new(error)).never())?.into_access();
        self.check_in_force(now, &access, access.bounds().prefix.as_str())?;
        Ok(Pass { bearer, by: By::Grant(Arc::new(access)) })
    }

    /// Whether the bearer of `pass` may use `right` on a region now, moving so many payload bytes. When
    /// it may, the bytes are booked.
    ///
    /// # Errors
    /// [`Denied`] with the code for the wire; then nothing is booked.
    pub fn check(
        &mut self,
        now: Time,
        pass: &Pass,
        right: Right,
        region: &RegionName,
        bytes: u64,
    ) -> Result<(), Denied> {
        self.judge(now, pass, right, region.as_str(), bytes)
    }

    /// [`Gate::check`] for whatever a request needs. `read_bytes` is the length of the chunk that a
    /// READ asks for; other requests say themselves what they move.
    ///
    /// # Errors
    /// As [`Gate::check`].
    pub fn check_request(
        &mut self,
        now: Time,
        pass: &Pass,
        request: &Request,
        read_bytes: u64,
    ) -> Result<(), Denied> {
        let Some(need) = right_of(request) else { return Ok(()) };
        self.judge(now, pass, need.right, need.on, need.bytes.unwrap_or(read_bytes))
    }

    /// Whether the bearer of `pass` may keep what it has opened of a region: nothing has ended its
    /// grant there. For a holder that takes back handles when grants were revoked.
    #[must_use]
    pub fn may_keep(&self, now: Time, pass: &Pass, region: &RegionName) -> bool {
        let grant = pass.grant();
        grant.is_none_or(|access| self.check_in_force(now, access, region.as_str()).is_ok())
    }

    /// Serves a REVOKE: checks it and carries it out. Returns the epoch now in force.
    ///
    /// # Errors
    /// [`Denied`] for whoever may not, for what is no prefix, and when there is no room.
    pub fn serve_revoke(
        &mut self,
        now: Time,
        pass: &Pass,
        prefix: &str,
        epoch: u64,
    ) -> Result<u64, Denied> {
        self.judge(now, pass, Right::Revoke, prefix, 0)?;
        let prefix = Prefix::new(prefix).map_err(|error| DenyReason::from(error).never())?;
        self.revoke(prefix, epoch)
    }

    /// Ends every grant below `epoch` on the regions that `prefix` means. An epoch only rises; returns
    /// the one now in force, which may be a higher one set before.
    ///
    /// # Errors
    /// [`DenyReason::EpochsFull`]: then nothing has changed.
    pub fn revoke(&mut self, prefix: Prefix, epoch: u64) -> Result<u64, Denied> {
        let in_force = self.epoch_of(prefix.as_str());
        if in_force >= epoch {
            return Ok(in_force);
        }
        let replaced =
            |(below, lower): (&Prefix, &u64)| prefix.covers(below.as_str()) && *lower <= epoch;
        let kept = self.epochs.iter().filter(|entry| !replaced(*entry)).count();
        let max = self.limits.epochs_max.max(1);
        if kept >= max {
            return Err(DenyReason::EpochsFull { max }.never());
        }
        self.epochs.retain(|below, lower| !replaced((below, lower)));
        self.epochs.insert(prefix, epoch);
        Ok(epoch)
    }

    /// The highest epoch in force anywhere. A grant of this epoch is good on all regions; one above it,
    /// on any prefix, ends every grant given so far there.
    #[must_use]
    pub fn newest_epoch(&self) -> u64 {
        self.epochs.values().copied().max().unwrap_or(0)
    }

    fn judge(
        &mut self,
        now: Time,
        pass: &Pass,
        right: Right,
        on: &str,
        bytes: u64,
    ) -> Result<(), Denied> {
        let denied = match &pass.by {
            By::Owner => return Ok(()),
            By::Guest => DenyReason::GuestsOnlyRead { owner: self.owner }.never(),
            By::Grant(access) => match self.judge_grant(now, access, right, on, bytes) {
                Ok(()) => return Ok(()),
                Err(denied) => denied,
            },
        };
        // Whoever has no grant for it, or no longer, may still read what anybody may.
        let public = right == Right::Read && prefixes_of(on).any(|p| self.public.contains(p));
        if public { self.take_as_guest(now, bytes) } else { Err(denied) }
    }

    fn take_as_guest(&mut self, now: Time, bytes: u64) -> Result<(), Denied> {
        let bytes_per_s = self.guests.bytes_per_s();
        let too_fast = DenyReason::TooFast { link: 0, bytes_per_s };
        self.guests.may_take(now, bytes).map_err(|again| too_fast.until(again))?;
        self.guests.take(now, bytes);
        Ok(())
    }

    fn judge_grant(
        &mut self,
        now: Time,
        access: &Access,
        right: Right,
        on: &str,
        bytes: u64,
    ) -> Result<(), Denied> {
        self.check_in_force(now, access, on)?;
        // The last link lies within all others.
        let Bounds { prefix, rights, .. } = access.bounds();
        if !prefix.covers(on) {
            let (prefix, region) = (prefix.clone(), on.to_owned());
            return Err(DenyReason::OtherRegion { prefix, region }.never());
        }
        if !rights.has(right) {
            return Err(DenyReason::NoRight { right, held: *rights }.never());
        }
        if bytes == 0 { Ok(()) } else { self.take(now, access, bytes) }
    }

    /// Time and epochs, of every link.
    fn check_in_force(&self, now: Time, access: &Access, on: &str) -> Result<(), Denied> {
        let in_force = self.epoch_of(on);
        for (at, (_, Link { bounds, .. })) in access.links().enumerate() {
            let link = at + 1;
            let Bounds { not_before, not_after, epoch, .. } = *bounds;
            if now >= not_after {
                let ago_s = now.since(not_after).0 / 1000;
                return Err(DenyReason::Expired { link, ago_s }.never());
            }
            if epoch < in_force {
                return Err(DenyReason::Revoked { link, epoch, in_force }.never());
            }
            if now < not_before {
                return Err(DenyReason::NotYet { link, not_before }.until(Some(not_before)));
            }
        }
        Ok(())
    }

    /// Books bytes with every link, or with none.
    fn take(&mut self, now: Time, access: &Access, bytes: u64) -> Result<(), Denied> {
        let first = access.links().next().map(|(id, _)| id).expect("a chain has a link");
        let metered: Vec<(usize, Hash, &Bounds)> = (1..)
            .zip(access.links())
            .map(|(link, (id, Link { bounds, .. }))| (link, id, bounds))
            .filter(|(_, _, bounds)| needs_meter(bounds))
            .collect();
        self.make_room(now, first, metered.iter().map(|(_, id, _)| *id))?;
        let mut slowest: Option<Denied> = None;
        for (link, id, bounds) in &metered {
            let meter = self.meters.entry((first, *id)).or_insert_with(|| Meter::new(bounds));
            let Err(denied) = meter.may_take(now, *link, bounds, bytes) else { continue };
            if denied.again.is_none() {
                return Err(denied);
            }
            if slowest.as_ref().is_none_or(|slowest| slowest.again < denied.again) {
                slowest = Some(denied);
            }
        }
        if let Some(denied) = slowest {
            return Err(denied);
        }
        for (_, id, bounds) in &metered {
            let meter = self.meters.get_mut(&(first, *id)).expect("it was asked before");
            meter.take(now, bounds, bytes);
        }
        Ok(())
    }

    /// Room for the meters of one chain that are not there.
    fn make_room(
        &mut self,
        now: Time,
        first: Hash,
        ids: impl Iterator<Item = Hash> + Clone,
    ) -> Result<(), Denied> {
        let missing =
            |gate: &Self| ids.clone().filter(|id| !gate.meters.contains_key(&(first, *id))).count();
        if missing(self) == 0 {
            return Ok(());
        }
        // What is forgotten may be meters of this very chain, so both are counted anew.
        let share = self.limits.meters_per_grant_max.max(ACCESS_LINKS_MAX);
        let over_share = |gate: &Self| {
            let there = gate.meters.range((first, Hash::ZERO)..=(first, LAST)).count();
            there + missing(gate) > share
        };
        if over_share(self) {
            self.prune(now, Some(first));
        }
        let max = self.limits.meters_max.max(ACCESS_LINKS_MAX);
        let over = |gate: &Self| gate.meters.len() + missing(gate) > max;
        let due = self.pruned.is_none_or(|pruned| now.since(pruned) >= PRUNE_EVERY);
        if over(self) && due {
            self.prune(now, None);
            self.pruned = Some(now);
        }
        let full = |max| Err(DenyReason::MetersFull { max }.until(Some(now.after(PRUNE_EVERY))));
        if over_share(self) {
            return full(share);
        }
        if over(self) { full(max) } else { Ok(()) }
    }

    /// Forgets meters that tell nothing, of one grant or of all.
    fn prune(&mut self, now: Time, only: Option<Hash>) {
        let meant = |first: Hash| only.is_none_or(|only| only == first);
        self.meters.retain(|(first, _), meter| !meant(*first) || !meter.tells_nothing(now));
    }

    /// The lowest epoch that counts for what `on` means.
    fn epoch_of(&self, on: &str) -> u64 {
        if self.epochs.is_empty() {
            return 0;
        }
        prefixes_of(on).filter_map(|prefix| self.epochs.get(prefix)).copied().max().unwrap_or(0)
    }
}

mod books;
#[cfg(test)]
mod tests;

pub use books::{GateBooks, UsedBytes};
