//! What city and family sign and say, and the fold of a city's entries.

use crate::Target;
use suanli_base::{
    CityId, FragmentId, Hash, JobId, LeaseId, NodeId, Round, TicketId, Time, Tokens,
};
use suanli_bus::{
    Ask, CONTRIBUTION_FORMAT, Chain, CityState, Contribution, DataSpec, Frozen, HEAD_FORMAT, Head,
    JOB_FORMAT, JobSpec, Merged, Replicas, Schedule, Shape, ShardSpec, StateRoot, ToCity, ToMember,
    Training, WaitReason,
};
use suanli_identity::{Domain, Kind, Role, SecretKey, Signed};
use suanli_log::{Entry, LeaseEnd, LeaseRecord, Private, StateBlobs};
use suanli_params::Codec;

pub(crate) const TARGETS: &[Target] = &[
    Target::new("job-spec", "a specification keeps its bounds and its id", specs, spec),
    Target::new("to-city", "a message reads back as it was, or is refused", to_city, from_member),
    Target::new("to-member", "a message reads back as it was, or is refused", to_member, from_city),
    Target::new("contribution", "whatever a node signed is read or refused", signed, contribution),
    Target::new("head", "whatever a city signed is read or refused, never followed", heads, head),
    Target::new("city-state", "entries that do not follow are refused, never a crash", logs, fold),
];

fn key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn city() -> CityId {
    key().node().into()
}

fn sample_spec() -> JobSpec {
    let shard = |samples: u64| ShardSpec { bytes: samples * 129 * 2, samples, root: Hash::ZERO };
    JobSpec {
        format: JOB_FORMAT,
        name: "fables".into(),
        model: "{}".into(),
        parameters: 869_504,
        numeric_class: "fma16".into(),
        replica_memory_bytes: 20 << 20,
        theta_root: Hash([5; 32]),
        frozen: Some(Frozen {
            name: "base".into(),
            parameters: 1 << 27,
            root: Hash([6; 32]),
            packed_bytes: 1 << 28,
            packed_root: Hash([7; 32]),
            adapters: r#"{"rank":8,"alpha":16.0,"targets":["q_proj"]}"#.into(),
        }),
        tokenizer: Hash([6; 32]),
        data: DataSpec {
            sample_tokens: 129,
            token_bytes: 2,
            samples: 9000,
            group: 16,
            order_seed: 1,
            shards: vec![shard(8000), shard(1000)],
            held_out: shard(100),
        },
        training: Training {
            inner_steps: 30,
            batch_sequences: 4,
            schedule: Schedule {
                shape: Shape::WarmupStableDecay,
                lr: 4e-3,
                min_share: 0.1,
                decay_share: 0.2,
                warmup: Tokens(1000),
                total: Tokens(100_000),
            },
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            outer_lr: 0.9,
            outer_momentum: vec![0.5, 0.9, 0.7],
            codec: Codec::Int4,
            rounds: 40,
            tokens: Tokens(0),
        },
        replicas: Replicas {
            min: 1,
            expected: 4,
            max: 64,
            quorum_per_mille: 750,
            grace_ms: 3000,
            staleness_max: 1,
        },
    }
}

fn specs() -> Vec<Vec<u8>> {
    let spec = sample_spec();
    spec.check().expect("a sound specification");
    vec![spec.to_bytes()]
}

fn spec(input: &[u8]) {
    if let Ok(spec) = JobSpec::from_bytes(input) {
        assert!(spec.check().is_ok());
        assert_eq!(JobSpec::from_bytes(&spec.to_bytes()), Ok(spec.clone()));
        let rates = spec.training.schedule.rates(Tokens(0), spec.tokens_a_step(), 8);
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0), "{rates:?}");
    }
}

fn lease(job: JobId, id: LeaseId) -> LeaseRecord {
    LeaseRecord {
        lease: id,
        job,
        fragment: FragmentId(0),
        replica: vec![NodeId([9; 32])],
        base: Round(0),
        base_root: Hash([5; 32]),
        start: id.0 * 120,
        steps: 30,
        batch_sequences: 4,
        schedule_start: Tokens(0),
        schedule_tokens_a_step: 2048,
        private: Private::Fresh,
        duration_ms: 10_000,
        time: Time(20),
    }
}

fn sample_contribution() -> Contribution {
    let state = StateRoot { root: Hash([1; 32]), segments: [Hash([2; 32]); 16] };
    Contribution {
        format: CONTRIBUTION_FORMAT,
        job: JobId([7; 32]),
        lease: LeaseId(1),
        base_root: Hash([5; 32]),
        start: 120,
        samples: 120,
        engine_build: "suanli 0.1.0".into(),
        numeric_class: "fma16".into(),
        steps: 30,
        tokens: Tokens(15_360),
        state_before: state,
        state_after: state,
        delta_root: Hash([1; 32]),
        residual_before: Hash::ZERO,
        residual_after: Hash([3; 32]),
        payload_root: Hash([4; 32]),
        private_after: Hash([6; 32]),
        salt: [8; 16],
    }
}

fn to_city() -> Vec<Vec<u8>> {
    let contribution = sample_contribution().sign(&key(), city());
    let ask = Ask { have: None, private: Hash::ZERO, rate: 900, memory_bytes: 1 << 30 };
    let all = [
        ToCity::Ask(ask),
        ToCity::Beat { lease: LeaseId(1), steps: 12, rate: 900 },
        ToCity::HandIn { lease: LeaseId(1), contribution },
        ToCity::Heads { job: JobId([7; 32]), from: Some(Round(2)) },
        ToCity::Farewell,
    ];
    all.iter().map(ToCity::to_bytes).collect()
}

fn from_member(input: &[u8]) {
    if let Some(message) = ToCity::from_bytes(input) {
        assert_eq!(ToCity::from_bytes(&message.to_bytes()), Some(message));
    }
}

fn to_member() -> Vec<Vec<u8>> {
    let job = JobId([7; 32]);
    let heads = vec![first_head(job).sign(&key())];
    let all = [
        ToMember::Prepare { job, version: Round(3) },
        ToMember::Offer(lease(job, LeaseId(1))),
        ToMember::Wait { why: WaitReason::Merging, retry_ms: 500 },
        ToMember::Heads { job, newest: Round(0), heads },
    ];
    all.iter().map(ToMember::to_bytes).collect()
}

fn from_city(input: &[u8]) {
    if let Some(message) = ToMember::from_bytes(input) {
        assert_eq!(ToMember::from_bytes(&message.to_bytes()), Some(message));
    }
}

/// The input under a good signature, so that the decoder behind it is reached.
fn sealed(kind: Kind, version: u16, input: &[u8]) -> Signed {
    let domain = Domain::lasting(kind, version, city());
    Signed { signer: key().node(), signature: key().sign(&domain, input), bytes: input.to_vec() }
}

fn signed() -> Vec<Vec<u8>> {
    vec![sample_contribution().sign(&key(), city()).bytes]
}

fn contribution(input: &[u8]) {
    let signed = sealed(Kind::Contribution, CONTRIBUTION_FORMAT, input);
    if let Ok(found) = Contribution::open(&signed, city()) {
        assert_eq!(Contribution::open(&found.sign(&key(), city()), city()), Ok(found));
    }
}

fn first_head(job: JobId) -> Head {
    Head {
        format: HEAD_FORMAT,
        city: city(),
        job,
        fragment: FragmentId(0),
        version: Round(0),
        before: Hash::ZERO,
        theta_root: Hash([5; 32]),
        update_root: Hash::ZERO,
        merged: Vec::new(),
        tokens: Tokens(0),
        time: Time(9),
    }
}

fn heads() -> Vec<Vec<u8>> {
    let first = first_head(JobId([7; 32]));
    let merged = Merged {
        lease: LeaseId(1),
        node: NodeId([9; 32]),
        contribution: Hash([1; 32]),
        payload_root: Hash([4; 32]),
        tokens: Tokens(15_360),
        weight: 1.0,
        clip: 1.0,
    };
    let second = Head {
        version: Round(1),
        before: first.sign(&key()).hash(),
        merged: vec![merged],
        tokens: Tokens(15_360),
        ..first.clone()
    };
    [first, second].iter().map(|head| head.sign(&key()).bytes).collect()
}

fn head(input: &[u8]) {
    let job = JobId([7; 32]);
    let (start, first) = Chain::begin(&first_head(job).sign(&key()), city(), job).expect("a head");
    let mut chain = start;
    match chain.advance(&sealed(Kind::Round, HEAD_FORMAT, input)) {
        Ok(next) => {
            assert_eq!(next.version, first.version.next(), "a version was left out");
            assert_eq!(next.before, first.sign(&key()).hash(), "it follows another head");
        }
        Err(_) => assert_eq!(chain, start, "a refused head left a trace"),
    }
}

fn entries() -> Vec<Entry> {
    let spec = sample_spec().to_bytes();
    let job = JobSpec::id_of(&spec);
    let node = NodeId([9; 32]);
    let state =
        StateBlobs { theta: Hash([1; 32]), momentum: Hash([2; 32]), residual: Hash([3; 32]) };
    let accepted = |id: u64, steps: u32| Entry::Accepted {
        lease: LeaseId(id),
        contribution: Hash([id as u8; 32]),
        payload: Hash([40; 32]),
        payload_root: Hash([4; 32]),
        steps,
        tokens: Tokens(u64::from(steps) * 512),
        norm_squared: 2.5,
        private: Hash([6; 32]),
        time: Time(30),
    };
    let first = LeaseId(0);
    let mut all = vec![
        Entry::Founded { city: city(), name: "a city".into(), time: Time(1) },
        Entry::Joined {
            node,
            name: "a family".into(),
            role: Role::Join,
            ticket: TicketId([1; 32]),
            time: Time(2),
        },
        Entry::JobAdded {
            job,
            spec,
            trainer: node,
            head: first_head(job).sign(&key()),
            state,
            time: Time(3),
        },
    ];
    for id in 0..3 {
        all.push(Entry::Leased(lease(job, LeaseId(first.0 + id))));
    }
    let ended = Entry::LeaseEnded { lease: LeaseId(2), reason: LeaseEnd::Declined, time: Time(31) };
    let leases = vec![LeaseId(0), LeaseId(1)];
    let closing = Entry::Closing { job, round: Round(0), leases, time: Time(32) };
    all.extend([accepted(0, 30), accepted(1, 7), ended, closing]);
    all
}

/// Entries, each behind its length in two bytes.
fn logs() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut bytes = Vec::new();
    for entry in entries() {
        let entry = entry.to_bytes();
        bytes.extend((entry.len() as u16).to_le_bytes());
        bytes.extend(entry);
        seeds.push(bytes.clone());
    }
    seeds
}

fn fold(input: &[u8]) {
    let mut state = CityState::default();
    let mut rest = input;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (entry, after) = after.split_at(length);
        rest = after;
        let Ok(entry) = Entry::from_bytes(entry) else { return };
        if state.apply(&entry).is_err() {
            return;
        }
        let _ = (state.unfinished(), state.blobs());
    }
}
