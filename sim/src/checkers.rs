//! What must hold whatever happens (DESIGN section 4), checked while it happens.
//!
//! [`Watch`] sees what hosts do at the moments that count: entries proposed and durable, states
//! recovered, payloads packed, heads and acknowledgements seen. It keeps its own books with its own
//! plain arithmetic and compares. A run ends at the first violation.

use crate::audit::Audit;
use crate::job::{TinyJob, bytes_of, root_of};
use std::collections::{BTreeMap, BTreeSet};
use suanli_base::{Hash, JobId, LeaseId, NodeId, Round};
use suanli_bus::state::{CityState, Job};
use suanli_bus::{Chain, Contribution, Head, JobSpec};
use suanli_identity::Signed;
use suanli_log::{Entry, LeaseRecord, Private, StateBlobs};
use suanli_params::{CHUNK_ELEMENTS, Codec, decode, encode};

/// How far sums of deltas may be from sums of what was sent plus what is left: half a unit in the
/// last place of the largest addend a round (one rounding, see `params::feedback`), and the same
/// again for a residual that a saturated block leaves.
const FEEDBACK_TOLERANCE: f64 = 1.2e-7;

/// Every so many leases are replayed from the start.
const AUDIT_EVERY: u64 = 3;

/// What a host tells of a packed lease.
pub(crate) struct Packing<'a> {
    pub(crate) record: &'a LeaseRecord,
    pub(crate) contribution: &'a Contribution,
    pub(crate) delta: &'a [f32],
    pub(crate) before: &'a [f32],
    pub(crate) after: &'a [f32],
    pub(crate) payload: &'a [u8],
    /// The sealed moments it built on; empty for fresh ones.
    pub(crate) sealed_before: &'a [u8],
}

/// What a replica made of a lease.
struct PackedRecord {
    node: NodeId,
    contribution: Contribution,
    fresh: bool,
    delta: Vec<f32>,
    before: Vec<f32>,
    after: Vec<f32>,
    payload: Vec<u8>,
    sealed_before: Vec<u8>,
}

/// The sums of a replica since its private state was last fresh.
#[derive(Default)]
struct ReplicaBooks {
    residual: Vec<f32>,
    deltas: Vec<f64>,
    sent: Vec<f64>,
    largest: f64,
    rounds: u32,
}

/// The city's outer state, computed anew.
struct OuterBooks {
    theta: Vec<f32>,
    momentum: Vec<f32>,
    residual: Vec<f32>,
    steps: Vec<f64>,
    sent: Vec<f64>,
    largest: f64,
}

/// The books of one run.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) now: u64,
    violations: Vec<String>,
    state: CityState,
    seq: u64,
    proposed: (u64, Vec<Vec<u8>>),
    first_theta: Vec<f32>,
    outer: Option<OuterBooks>,
    heads: BTreeMap<Round, Hash>,
    thetas: BTreeMap<Round, Vec<f32>>,
    seen: BTreeMap<NodeId, Round>,
    leased: BTreeMap<LeaseId, LeaseRecord>,
    packed: BTreeMap<(LeaseId, Hash), PackedRecord>,
    replicas: BTreeMap<NodeId, ReplicaBooks>,
    accepted: BTreeSet<LeaseId>,
    merged: BTreeSet<LeaseId>,
    promoted: BTreeSet<LeaseId>,
    lost_private: BTreeSet<NodeId>,
    liars: BTreeSet<NodeId>,
    /// The newest version in the old copy of the city's disk.
    copied_at: Round,
    forked: bool,
    /// Who may follow the other branch: they saw nothing that is not in it.
    followed: BTreeSet<NodeId>,
    audit: Option<Audit>,
    /// Samples that count: start to end.
    trained: BTreeMap<u64, u64>,
    pub(crate) last_commit: u64,
    pub(crate) rounds: u64,
}

impl Watch {
    /// Books for a job with these first parameters.
    pub(crate) fn new(job: &TinyJob) -> Self {
        let (first_theta, audit) = (job.theta.clone(), Audit::new(job));
        Self { first_theta, audit, ..Self::default() }
    }

    pub(crate) fn violation(&mut self, text: String) {
        self.violations.push(format!("at {} ms: {text}", self.now));
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// The state that all durable entries make.
    pub(crate) const fn state(&self) -> &CityState {
        &self.state
    }

    pub(crate) fn accepted_count(&self) -> u64 {
        self.accepted.len() as u64
    }

    // What the city does.

    /// A copy of the city's disk is made.
    pub(crate) fn city_is_copied(&mut self) {
        let version = self.state.jobs.values().next().map(|job| job.version);
        self.copied_at = version.unwrap_or(Round(0));
    }

    /// The copy is brought back: from now on the city signs another chain.
    pub(crate) const fn city_forks(&mut self) {
        self.forked = true;
    }

    pub(crate) const fn is_forked(&self) -> bool {
        self.forked
    }

    /// The city begins to append these bodies, the first as number `seq`.
    pub(crate) fn proposed(&mut self, seq: u64, bodies: &[Vec<u8>]) {
        if self.is_forked() {
            return;
        }
        self.proposed = (seq, bodies.to_vec());
        if seq != self.seq {
            self.violation(format!("entry {seq} is appended after {} durable ones", self.seq));
        }
    }

    /// The city says that these bodies are durable.
    pub(crate) fn durable(&mut self, bodies: &[Vec<u8>]) {
        if self.is_forked() {
            return;
        }
        for body in bodies {
            self.entry(body);
        }
    }

    /// The city recovered: nothing durable may be missing, nothing unknown may be there.
    pub(crate) fn recovered(&mut self, state: &CityState, first: u64, tail: &[Vec<u8>]) {
        if self.is_forked() {
            return;
        }
        let found = first + tail.len() as u64;
        if found < self.seq {
            let lost = self.seq - found;
            return self.violation(format!(
                "{lost} of {} durable entries are lost after a restart",
                self.seq
            ));
        }
        let (proposed_at, proposed) = core::mem::take(&mut self.proposed);
        let extra = usize::try_from(found - self.seq).unwrap_or(usize::MAX);
        let extra = &tail[tail.len().saturating_sub(extra)..];
        for body in extra {
            let index = usize::try_from(self.seq.saturating_sub(proposed_at)).unwrap_or(usize::MAX);
            if proposed.get(index) != Some(body) {
                let seq = self.seq;
                return self.violation(format!("entry {seq} was recovered but never written"));
            }
            self.entry(body);
        }
        if *state != self.state {
            self.violation("the recovered state is not the fold of the durable entries".into());
        }
    }

    fn entry(&mut self, body: &[u8]) {
        self.seq += 1;
        let Ok(entry) = Entry::from_bytes(body) else {
            return self.violation("an entry does not decode".into());
        };
        match &entry {
            Entry::JobAdded { job, head, state, .. } => self.job_added(*job, head, state),
            Entry::Leased(record) => self.lease(record),
            Entry::Accepted { lease, payload, payload_root, steps, norm_squared, .. } => {
                self.accept(*lease, *payload, *payload_root, *steps, *norm_squared);
            }
            Entry::Committed { job, head, state, .. } => self.commit(*job, head, state),
            _ => {}
        }
        if let Err(error) = self.state.apply(&entry) {
            self.violation(error.to_string());
        }
        self.samples_add_up();
    }

    fn job_added(&mut self, job: JobId, head: &Signed, state: &StateBlobs) {
        let theta = self.first_theta.clone();
        if state.theta != Hash::of(&bytes_of(&theta)) {
            self.violation("version 0 is not what the trainer brought".into());
        }
        if let Err(error) = Head::open(head, self.state.city, job) {
            self.violation(format!("version 0: {error}"));
        }
        self.heads.insert(Round(0), head.hash());
        self.thetas.insert(Round(0), theta.clone());
        self.last_commit = self.now;
        let zeros = vec![0.0; theta.len()];
        let wide = vec![0.0; theta.len()];
        self.outer = Some(OuterBooks {
            theta,
            momentum: zeros.clone(),
            residual: zeros,
            steps: wide.clone(),
            sent: wide,
            largest: 0.0,
        });
    }

    /// No sample may belong to two leases that count or may come to count.
    fn lease(&mut self, record: &LeaseRecord) {
        let (start, end) = (record.start, record.start + record.samples());
        let open = self.state.leases.values().filter(|r| r.job == record.job);
        let mut clash = open.filter(|r| r.start < end && start < r.start + r.samples());
        let taken = clash.next().map(|other| other.lease);
        let before = self.trained.range(..end).next_back();
        if taken.is_some() || before.is_some_and(|(_, last)| *last > start) {
            let lease = record.lease;
            self.violation(format!("lease {lease} has samples {start}..{end} a second time"));
        }
        let node = record.replica[0];
        let known = self.state.jobs.get(&record.job).is_some_and(|j| j.private.contains_key(&node));
        if known && record.private == Private::Fresh && !self.lost_private.contains(&node) {
            let (lease, who) = (record.lease, node.short());
            self.violation(format!("lease {lease} makes {who} drop its private state"));
        }
        if self.leased.insert(record.lease, record.clone()).is_some() {
            self.violation(format!("lease {} was granted twice", record.lease));
        }
    }

    fn accept(
        &mut self,
        lease: LeaseId,
        payload: Hash,
        payload_root: Hash,
        steps: u32,
        norm_squared: f64,
    ) {
        if !self.accepted.insert(lease) {
            return self.violation(format!("lease {lease} was accepted twice"));
        }
        let Some(record) = self.leased.get(&lease) else {
            return self.violation(format!("lease {lease} was accepted but never granted"));
        };
        let end = record.start + u64::from(steps) * u64::from(record.batch_sequences);
        self.trained.insert(record.start, end);
        let job = record.job;
        let Some(packed) = self.packed.get(&(lease, payload_root)) else {
            return self.violation(format!("what was accepted for lease {lease} is made up"));
        };
        let codec = self.state.jobs.get(&job).map_or(Codec::F32, |j| j.spec.training.codec);
        let mut sent = vec![0.0; packed.delta.len()];
        if decode(codec, &packed.payload, &mut sent).is_err() {
            return self.violation(format!("lease {lease}: its own payload does not decode"));
        }
        let found: f64 = sent.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let differs = (found - norm_squared).abs() > 1e-9 * found.max(1e-30);
        let exact = payload == Hash::of(&packed.payload) && steps == packed.contribution.steps;
        if differs || !exact {
            return self.violation(format!("lease {lease}: the entry is not what was handed in"));
        }
        self.lost_private.remove(&packed.node);
        if self.liars.contains(&packed.node) {
            return;
        }
        if lease.0.is_multiple_of(AUDIT_EVERY) {
            let theta = self.thetas.get(&record.base);
            let (audit, sealed) = (self.audit.as_mut(), packed.sealed_before.as_slice());
            if let (Some(audit), Some(theta)) = (audit, theta)
                && let Err(what) =
                    audit.replay(record, theta, sealed, &packed.contribution, &packed.delta)
            {
                self.violation(format!("lease {lease}, replayed: {what} is another"));
            }
        }
        self.feedback(lease, payload_root, &sent);
    }

    /// Per replica: sum of deltas = sum of what was sent + what is left.
    fn feedback(&mut self, lease: LeaseId, payload_root: Hash, sent: &[f32]) {
        let Some(packed) = self.packed.get(&(lease, payload_root)) else { return };
        let books = self.replicas.entry(packed.node).or_default();
        if packed.fresh {
            let zeros = vec![0.0; sent.len()];
            *books = ReplicaBooks {
                residual: vec![0.0; sent.len()],
                deltas: zeros.clone(),
                sent: zeros,
                ..ReplicaBooks::default()
            };
        }
        if !same_bits(&books.residual, &packed.before) {
            let node = packed.node.short();
            return self.violation(format!(
                "lease {lease} of {node} begins with another residual than the one before left"
            ));
        }
        books.residual.clone_from(&packed.after);
        books.rounds += 1;
        let mut worst: f64 = 0.0;
        for (i, sent) in sent.iter().enumerate() {
            let delta = f64::from(packed.delta[i]);
            books.deltas[i] += delta;
            books.sent[i] += f64::from(*sent);
            let left = f64::from(packed.after[i]);
            books.largest = books.largest.max(delta.abs()).max(left.abs()).max(sent.abs().into());
            worst = worst.max((books.deltas[i] - books.sent[i] - left).abs());
        }
        let allowed = FEEDBACK_TOLERANCE * books.largest * f64::from(books.rounds);
        if worst > allowed {
            let node = packed.node.short();
            self.violation(format!(
                "lease {lease} of {node}: deltas are {worst:e} off what was sent and left, {allowed:e} allowed"
            ));
        }
    }

    fn commit(&mut self, id: JobId, signed: &Signed, blobs: &StateBlobs) {
        let city = self.state.city;
        let head = match Head::open(signed, city, id) {
            Ok(head) => head,
            Err(error) => return self.violation(error.to_string()),
        };
        let Some(job) = self.state.jobs.get(&id) else {
            return self.violation("a round of an unknown job is committed".into());
        };
        let leases = job.closing.clone().unwrap_or_default();
        let listed: Vec<LeaseId> = head.merged.iter().map(|merged| merged.lease).collect();
        let chained = self.heads.get(&job.version) == Some(&head.before)
            && head.version == job.version.next();
        let sum: u64 = head.merged.iter().map(|merged| merged.tokens.0).sum();
        let counted = head.tokens.0 == job.tokens.0 + sum;
        if listed != leases || !chained || !counted {
            return self.violation(format!("head {} does not follow", head.version));
        }
        let again = leases.iter().find(|lease| self.merged.contains(lease));
        if let Some(lease) = again {
            return self.violation(format!("lease {lease} is merged a second time"));
        }
        let version = head.version;
        match self.merge(id, &leases) {
            Err(text) => self.violation(text),
            Ok((theta_root, update_root)) => {
                let outer = self.outer.as_ref().expect("a merge needs the books of the job");
                let same = [
                    ("parameters", theta_root == head.theta_root),
                    ("update", update_root == head.update_root),
                    ("parameters on disk", blobs.theta == Hash::of(&bytes_of(&outer.theta))),
                    ("momentum", blobs.momentum == Hash::of(&bytes_of(&outer.momentum))),
                    ("residual", blobs.residual == Hash::of(&bytes_of(&outer.residual))),
                ];
                if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
                    self.violation(format!("version {version}: merged anew, the {what} differ"));
                }
            }
        }
        self.merged.extend(&leases);
        self.packed.retain(|(lease, _), _| !leases.contains(lease));
        self.heads.insert(version, signed.hash());
        (self.last_commit, self.rounds) = (self.now, version.0);
    }

    /// A merge written down as plainly as it is defined (DESIGN 5.4, 5.5).
    fn merge(&mut self, id: JobId, leases: &[LeaseId]) -> Result<(Hash, Hash), String> {
        let job = self.state.jobs.get(&id).ok_or("no such job")?;
        let spec: JobSpec = job.spec.clone();
        let codec = spec.training.codec;
        let parts = parts(job, leases);
        let outer = self.outer.as_mut().ok_or("no books of the job")?;
        let n = outer.theta.len();
        let (mut sum, mut weights) = (vec![0.0_f32; n], 0.0_f32);
        for (lease, root, weight, clip) in parts {
            let packed = self.packed.get(&(lease, root));
            let packed = packed.ok_or(format!("lease {lease} is merged but unknown"))?;
            let mut sent = vec![0.0; n];
            decode(codec, &packed.payload, &mut sent).map_err(|error| error.to_string())?;
            for (sum, sent) in sum.iter_mut().zip(&sent) {
                *sum += (weight * clip) * sent;
            }
            weights += weight;
        }
        let mu = spec.training.outer_momentum_at(job.tokens);
        let lr = spec.training.outer_lr;
        let mut told = Vec::new();
        for (i, sum) in sum.iter().enumerate() {
            let gradient = sum / weights;
            outer.momentum[i] = mu * outer.momentum[i] + gradient;
            let step = lr * (gradient + mu * outer.momentum[i]);
            outer.steps[i] += f64::from(step);
            outer.largest = outer.largest.max(step.abs().into());
            told.push(outer.residual[i] + step);
        }
        let (mut update_chunks, mut decoded) = (Vec::new(), Vec::new());
        for piece in told.chunks(CHUNK_ELEMENTS) {
            let (mut bytes, mut values) = (Vec::new(), vec![0.0; piece.len()]);
            encode(codec, piece, &mut bytes).map_err(|error| error.to_string())?;
            decode(codec, &bytes, &mut values).map_err(|error| error.to_string())?;
            update_chunks.push(Hash::of(&bytes));
            decoded.extend(values);
        }
        let mut worst: f64 = 0.0;
        for i in 0..n {
            outer.residual[i] = told[i] - decoded[i];
            outer.theta[i] -= decoded[i];
            outer.sent[i] += f64::from(decoded[i]);
            outer.largest = outer.largest.max(told[i].abs().into());
            let off = outer.steps[i] - outer.sent[i] - f64::from(outer.residual[i]);
            worst = worst.max(off.abs());
        }
        let version = job.version.next();
        let allowed = FEEDBACK_TOLERANCE * outer.largest * version.0 as f64;
        if worst > allowed {
            return Err(format!("the city's steps are {worst:e} off its updates and residual"));
        }
        self.thetas.insert(version, outer.theta.clone());
        Ok((root_of(&outer.theta), suanli_params::root(&update_chunks)))
    }

    /// committed + open + returned + skipped = cursor
    fn samples_add_up(&mut self) {
        let Some((id, job)) = self.state.jobs.first_key_value() else { return };
        let trained: u64 = self.trained.iter().map(|(start, end)| end - start).sum();
        let leases = self.state.leases.values().filter(|record| record.job == *id);
        let open: u64 = leases.map(LeaseRecord::samples).sum();
        let returned: u64 = job.returned.iter().map(|span| span.count).sum();
        let (skipped, cursor) = (job.skipped, job.cursor);
        if trained + open + returned + skipped != cursor {
            self.violation(format!(
                "{trained} samples trained, {open} leased, {returned} returned, {skipped} skipped, but {cursor} given out"
            ));
        }
    }

    // What families do.

    /// A family starts with these heads saved: none may be older than what it showed before.
    pub(crate) fn family_boots(&mut self, node: NodeId, chains: &[Chain]) {
        let seen = self.seen.get(&node).copied();
        let saved = chains.first().map(|chain| chain.version);
        if seen > saved {
            self.violation(format!("{} forgot the chain it had verified", node.short()));
        }
    }

    /// A family verified a head and wrote it down.
    pub(crate) fn head_seen(&mut self, node: NodeId, chain: &Chain) {
        let version = chain.version;
        let seen = self.seen.get(&node).copied();
        let new = seen.is_none_or(|seen| seen <= self.copied_at);
        if self.is_forked() && (new || self.followed.contains(&node)) {
            self.followed.insert(node);
            self.seen.insert(node, version);
            return;
        }
        match self.heads.get(&version) {
            Some(hash) if *hash == chain.hash => {}
            Some(_) => self.violation(format!("{} took a forked head {version}", node.short())),
            None => self.violation(format!("head {version} was seen before it was durable")),
        }
        let before = self.seen.insert(node, version);
        if before.is_some_and(|before| before > version) {
            self.violation(format!("{} went back to head {version}", node.short()));
        }
    }

    /// A family begins to train a lease from these parameters.
    pub(crate) fn training(&mut self, node: NodeId, record: &LeaseRecord, theta: &[f32]) {
        if self.is_forked() {
            return;
        }
        let (lease, who) = (record.lease, node.short());
        if self.leased.get(&lease) != Some(record) {
            return self.violation(format!("{who} trains lease {lease}, which was never written"));
        }
        let bits = self.thetas.get(&record.base).is_some_and(|known| same_bits(known, theta));
        if !bits {
            let base = record.base;
            self.violation(format!("{who} trains lease {lease} from a wrong version {base}"));
        }
    }

    /// A fault took a replica's private state: fresh leases are right until its next contribution.
    pub(crate) fn private_lost(&mut self, node: NodeId) {
        self.lost_private.insert(node);
    }

    /// A family got a lease it cannot begin.
    pub(crate) fn lease_unusable(&mut self, node: NodeId, lease: LeaseId, why: &str) {
        let who = node.short();
        self.violation(format!("{who} cannot begin lease {lease}: {why}"));
    }

    /// A family packed what it trained.
    pub(crate) fn packed(&mut self, packing: Packing<'_>) {
        let Packing { record, contribution, delta, before, after, payload, sealed_before } =
            packing;
        let packed = PackedRecord {
            node: record.replica[0],
            contribution: contribution.clone(),
            fresh: record.private == Private::Fresh,
            delta: delta.to_vec(),
            before: before.to_vec(),
            after: after.to_vec(),
            payload: payload.to_vec(),
            sealed_before: sealed_before.to_vec(),
        };
        self.packed.insert((record.lease, contribution.payload_root), packed);
    }

    /// A member hands in other bytes than it trained, well formed.
    pub(crate) fn replaced(&mut self, lease: LeaseId, before: Hash, now: Hash, payload: &[u8]) {
        if let Some(mut packed) = self.packed.remove(&(lease, before)) {
            packed.payload = payload.to_vec();
            self.liars.insert(packed.node);
            self.packed.insert((lease, now), packed);
        }
    }

    /// A family heard that its contribution is stored.
    pub(crate) fn promoted(&mut self, node: NodeId, lease: LeaseId) {
        if self.is_forked() {
            return;
        }
        self.promoted.insert(lease);
        if !self.accepted.contains(&lease) {
            let who = node.short();
            self.violation(format!("{who} heard that lease {lease} is stored, which it is not"));
        }
    }

    // At the end.

    /// What the city's host says at the end: nothing seen or acknowledged may be missing.
    pub(crate) fn city_at_end(&mut self, state: &CityState, heads: &[(Round, Signed)]) {
        if *state != self.state {
            self.violation("the running state is not the fold of the durable entries".into());
        }
        let Some(job) = self.state.jobs.values().next() else { return };
        let lost = self
            .promoted
            .iter()
            .find(|lease| !self.merged.contains(lease) && !job.accepted.contains_key(lease));
        if let Some(lease) = lost {
            return self.violation(format!("lease {lease} was acknowledged and is gone"));
        }
        let kept: BTreeMap<Round, Hash> = heads.iter().map(|(v, h)| (*v, h.hash())).collect();
        if kept != self.heads {
            let (kept, known) = (kept.len(), self.heads.len());
            self.violation(format!("the file of heads holds {kept} heads that should be {known}"));
        }
    }

    /// What a family holds at the end.
    pub(crate) fn family_at_end(&mut self, node: NodeId, version: Round, theta: &[f32]) {
        if !self.thetas.get(&version).is_some_and(|known| same_bits(known, theta)) {
            let who = node.short();
            self.violation(format!("{who} holds other parameters at version {version}"));
        }
    }
}

/// Lease, payload, weight and clip of what is merged, in ascending lease id.
fn parts(job: &Job, leases: &[LeaseId]) -> Vec<(LeaseId, Hash, f32, f32)> {
    let mut chosen: Vec<_> =
        leases.iter().filter_map(|lease| Some((*lease, job.accepted.get(lease)?))).collect();
    chosen.sort_by_key(|(lease, _)| *lease);
    let mut norms: Vec<f64> = chosen.iter().map(|(_, a)| a.norm_squared.sqrt()).collect();
    norms.sort_by(f64::total_cmp);
    let middle = norms.len() / 2;
    let median = match norms.len() {
        0 => 0.0,
        n if n % 2 == 1 => norms[middle],
        _ => (norms[middle - 1] + norms[middle]) / 2.0,
    };
    let part = |(lease, a): (LeaseId, &suanli_bus::state::Accepted)| {
        let late = job.version.0 - a.base.0;
        let norm = a.norm_squared.sqrt();
        let clip = if norm > median { (median / norm) as f32 } else { 1.0 };
        (lease, a.payload_root, a.tokens.0 as f32 / (1 + late) as f32, clip)
    };
    chosen.into_iter().map(part).collect()
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
