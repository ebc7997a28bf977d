//! A round on paper: entries in, state and decisions out, and the mathematics of the merge.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use suanli_base::{CityId, FragmentId, Hash, JobId, LeaseId, NodeId, Random, Round, Time, Tokens};
use suanli_bus::authority::{Authority, Settled};
use suanli_bus::merge::{self, Outer, OuterState, Part, check_payload, pack};
use suanli_bus::state::{CityState, Effect};
use suanli_bus::{
    Ask, CONTRIBUTION_FORMAT, Chain, Contribution, DataSpec, HEAD_FORMAT, Head, JOB_FORMAT,
    JobSpec, Refusal, Replicas, Schedule, Shape, ShardSpec, StateRoot, ToMember, Training,
    WaitReason,
};
use suanli_identity::{Role, SecretKey, Signed};
use suanli_log::{Entry, LeaseRecord, Private, StateBlobs};
use suanli_params::{Codec, apply_update, decode};

const BLOBS: StateBlobs =
    StateBlobs { theta: Hash([1; 32]), momentum: Hash([2; 32]), residual: Hash([3; 32]) };

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn city() -> CityId {
    key(0).node().into()
}

fn member(seed: u8) -> NodeId {
    key(seed).node()
}

/// 64 tokens a step, H = 10, two replicas expected.
fn spec() -> JobSpec {
    let shard = ShardSpec { bytes: 1000 * 34, samples: 1000, root: Hash([5; 32]) };
    JobSpec {
        format: JOB_FORMAT,
        name: "paper".into(),
        model: "{}".into(),
        parameters: 100,
        numeric_class: "test".into(),
        replica_memory_bytes: 1 << 20,
        theta_root: Hash([9; 32]),
        frozen: None,
        tokenizer: Hash([8; 32]),
        data: DataSpec {
            sample_tokens: 17,
            token_bytes: 2,
            samples: 1000,
            group: 64,
            order_seed: 1,
            shards: vec![shard],
            held_out: shard,
        },
        training: Training {
            inner_steps: 10,
            batch_sequences: 4,
            schedule: Schedule {
                shape: Shape::Constant,
                lr: 1e-3,
                min_share: 0.1,
                decay_share: 0.2,
                warmup: Tokens(0),
                total: Tokens(100_000),
            },
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            outer_lr: 0.9,
            outer_momentum: vec![0.2, 0.8, 0.4],
            codec: Codec::Int4,
            rounds: 3,
            tokens: Tokens(0),
        },
        replicas: Replicas {
            min: 1,
            expected: 2,
            max: 8,
            quorum_per_mille: 600,
            grace_ms: 500,
            staleness_max: 1,
        },
    }
}

fn head(version: u64, before: Hash, tokens: u64, job: JobId) -> Head {
    Head {
        format: HEAD_FORMAT,
        city: city(),
        job,
        fragment: FragmentId(0),
        version: Round(version),
        before,
        theta_root: if version == 0 { Hash([9; 32]) } else { Hash([version as u8; 32]) },
        update_root: Hash::ZERO,
        merged: vec![],
        tokens: Tokens(tokens),
        time: Time(0),
    }
}

/// A city with members 1..=n and one running job.
fn founded(n: u8) -> (CityState, JobId) {
    let mut state = CityState::new();
    let time = Time(0);
    state.apply(&Entry::Founded { city: city(), name: "c".into(), time }).unwrap();
    for seed in 1..=n {
        let (node, ticket) = (member(seed), suanli_base::TicketId([7; 32]));
        let name = seed.to_string();
        state.apply(&Entry::Joined { node, name, role: Role::Join, ticket, time }).unwrap();
    }
    let bytes = spec().to_bytes();
    let job = JobSpec::id_of(&bytes);
    let head = head(0, Hash::ZERO, 0, job).sign(&key(0));
    let trainer = key(0).node();
    state.apply(&Entry::JobAdded { job, spec: bytes, trainer, head, state: BLOBS, time }).unwrap();
    (state, job)
}

fn ask(state: &CityState, job: JobId, rate: u32) -> Ask {
    let have = Some((job, state.jobs[&job].version));
    Ask { have, private: Hash::ZERO, rate, memory_bytes: 1 << 30 }
}

/// Applies all a decision proposes and gives the offers in it.
fn write(state: &mut CityState, entries: &[Entry]) -> Vec<LeaseRecord> {
    let mut offers = Vec::new();
    for entry in entries {
        for effect in state.apply(entry).unwrap() {
            if let Effect::Offer(record) = effect {
                offers.push(record);
            }
        }
    }
    offers
}

fn contribution(record: &LeaseRecord, steps: u32) -> Contribution {
    let root = StateRoot { root: Hash::ZERO, segments: [Hash::ZERO; 16] };
    Contribution {
        format: CONTRIBUTION_FORMAT,
        job: record.job,
        lease: record.lease,
        base_root: record.base_root,
        start: record.start,
        samples: u64::from(steps) * u64::from(record.batch_sequences),
        engine_build: "test".into(),
        numeric_class: "test".into(),
        steps,
        tokens: Tokens(u64::from(steps) * 64),
        state_before: root,
        state_after: root,
        delta_root: Hash::ZERO,
        residual_before: Hash::ZERO,
        residual_after: Hash::ZERO,
        payload_root: Hash([4; 32]),
        private_after: Hash([record.lease.0 as u8; 32]),
        salt: [0; 16],
    }
}

fn settled(record: &LeaseRecord, steps: u32, norm_squared: f64) -> Settled {
    Settled {
        node: record.replica[0],
        contribution: contribution(record, steps),
        contribution_blob: Hash([20; 32]),
        payload_blob: Hash([21; 32]),
        norm_squared,
    }
}

fn accept(state: &mut CityState, record: &LeaseRecord, steps: u32, norm_squared: f64) {
    let decision = Authority::settled(state, Time(1), &settled(record, steps, norm_squared));
    write(state, &decision.entries);
}

fn wait_reason(answers: &[(NodeId, ToMember)]) -> Option<WaitReason> {
    answers.iter().find_map(|(_, message)| match message {
        ToMember::Wait { why, .. } => Some(*why),
        _ => None,
    })
}

#[test]
fn steps_follow_measured_speed_and_their_mean_is_h() {
    let (mut state, job) = founded(2);
    let mut authority = Authority::default();
    for (seed, rate) in [(1, 1000), (2, 3000)] {
        authority.connected(Time(0), member(seed));
        authority.beat(Time(0), member(seed), 0, rate);
        // An ask that cannot be served yet makes the member count as one who works.
        let early = Ask { have: None, ..ask(&state, job, rate) };
        authority.ask(&state, Time(0), member(seed), &early);
    }
    let mut steps = Vec::new();
    for (seed, rate) in [(1, 1000), (2, 3000)] {
        let request = ask(&state, job, rate);
        let decision = authority.ask(&state, Time(10), member(seed), &request);
        steps.extend(write(&mut state, &decision.entries).iter().map(|record| record.steps));
    }
    assert_eq!(steps, [5, 15]);
}

#[test]
fn a_member_without_the_version_is_told_to_get_it_and_one_without_memory_to_wait() {
    let (state, job) = founded(1);
    let mut authority = Authority::default();
    authority.connected(Time(0), member(1));
    let nothing = Ask { have: None, ..ask(&state, job, 100) };
    let decision = authority.ask(&state, Time(0), member(1), &nothing);
    let prepare = ToMember::Prepare { job, version: Round(0) };
    assert_eq!(decision.answers, [(member(1), prepare)]);
    let small = Ask { memory_bytes: 1, ..ask(&state, job, 100) };
    let decision = authority.ask(&state, Time(0), member(1), &small);
    assert_eq!(wait_reason(&decision.answers), Some(WaitReason::TooLittleMemory));
}

#[test]
fn a_member_that_asks_again_is_offered_its_open_lease_until_it_has_a_new_connection() {
    let (mut state, job) = founded(1);
    let mut authority = Authority::default();
    authority.connected(Time(0), member(1));
    let request = ask(&state, job, 1000);
    let decision = authority.ask(&state, Time(0), member(1), &request);
    let [record] = &write(&mut state, &decision.entries)[..] else { panic!("one lease") };

    let again = authority.ask(&state, Time(10_000), member(1), &request);
    assert!(again.entries.is_empty(), "{:?}", again.entries);
    assert_eq!(again.answers, [(member(1), ToMember::Offer(record.clone()))]);

    // With another state it would train something else than what the lease records.
    let other = Ask { private: Hash::of(b"other"), ..request };
    let sealed = LeaseRecord { private: Private::Sealed(Hash::of(b"this")), ..record.clone() };
    let mut from_sealed = state.clone();
    from_sealed.leases.insert(record.lease, sealed);
    let decision = authority.ask(&from_sealed, Time(10_000), member(1), &other);
    assert!(matches!(decision.entries[..], [Entry::LeaseEnded { .. }, Entry::Leased(_)]));

    authority.connected(Time(11_000), member(1));
    let decision = authority.ask(&state, Time(11_000), member(1), &request);
    assert!(matches!(decision.entries[..], [Entry::LeaseEnded { .. }, Entry::Leased(_)]));
}

#[test]
fn a_round_closes_at_once_when_all_have_handed_in_and_after_grace_at_quorum() {
    let (mut state, job) = founded(2);
    let mut authority = Authority::default();
    let mut records = Vec::new();
    for seed in [1, 2] {
        authority.connected(Time(0), member(seed));
        let request = ask(&state, job, 1000);
        let decision = authority.ask(&state, Time(0), member(seed), &request);
        records.extend(write(&mut state, &decision.entries));
    }
    accept(&mut state, &records[0], 10, 1.0);
    assert!(authority.tick(&state, Time(10)).entries.is_empty(), "half is not six tenths");
    let mut quorum = state.clone();
    accept(&mut state, &records[1], 10, 1.0);
    assert_eq!(authority.tick(&state, Time(20)).entries.len(), 1, "all have handed in");

    // The second member is far behind: three fifths are in when the first does more.
    quorum.jobs.get_mut(&job).unwrap().accepted.values_mut().next().unwrap().tokens = Tokens(1000);
    let mut slow = authority;
    assert!(slow.tick(&quorum, Time(30)).entries.is_empty(), "grace has begun");
    assert!(slow.tick(&quorum, Time(529)).entries.is_empty(), "grace is not over");
    assert_eq!(slow.tick(&quorum, Time(530)).entries.len(), 1);
}

#[test]
fn a_contribution_counts_once_and_a_repeated_hand_in_is_told_so() {
    let (mut state, job) = founded(1);
    let mut authority = Authority::default();
    authority.connected(Time(0), member(1));
    let request = ask(&state, job, 1000);
    let decision = authority.ask(&state, Time(0), member(1), &request);
    let record = &write(&mut state, &decision.entries)[0];
    let signed: Signed = contribution(record, 4).sign(&key(1), city());
    let check = |state: &CityState| {
        Authority::check_hand_in(state, member(1), record.lease, &signed).map(|c| c.is_some())
    };
    assert_eq!(check(&state), Ok(true));
    let other = Contribution { numeric_class: "other".into(), ..contribution(record, 4) };
    let other = other.sign(&key(1), city());
    let refused = Authority::check_hand_in(&state, member(1), record.lease, &other);
    assert_eq!(refused, Err(Refusal::Mismatch), "what no audit could compute again");
    let again = Authority::settled(&state, Time(1), &settled(record, 4, 1.0));
    accept(&mut state, record, 4, 1.0);
    assert_eq!(check(&state), Ok(false), "accepted before: the answer was lost");
    assert!(state.clone().apply(&again.entries[0]).is_err(), "an entry twice is no sense");
    let stranger = contribution(record, 4).sign(&key(2), city());
    let refused = Authority::check_hand_in(&state, member(2), record.lease, &stranger);
    assert_eq!(refused, Err(Refusal::NoLease));
    assert_eq!(state.jobs[&job].contributed[&member(1)].tokens, Tokens(256));
}

#[test]
fn a_member_refuses_a_chain_that_forks_or_goes_back() {
    let (_, job) = founded(0);
    let zero = head(0, Hash::ZERO, 0, job).sign(&key(0));
    let one = head(1, zero.hash(), 5, job).sign(&key(0));
    let (mut chain, _) = Chain::begin(&zero, city(), job).unwrap();
    chain.advance(&one).unwrap();
    assert!(chain.advance(&one).is_err(), "the same again");
    assert!(chain.advance(&zero).is_err(), "back");
    let fork = head(2, zero.hash(), 5, job).sign(&key(0));
    assert!(chain.advance(&fork).is_err(), "past the verified one");
    let other = head(2, one.hash(), 9, job).sign(&key(3));
    assert!(chain.advance(&other).is_err(), "another city");
    assert!(chain.advance(&head(2, one.hash(), 9, job).sign(&key(0))).is_ok());
}

#[test]
fn the_larger_half_is_clipped_to_the_median_norm_and_late_work_weighs_less() {
    let (mut state, job) = founded(3);
    let mut authority = Authority::default();
    let mut records = Vec::new();
    for seed in [1, 2, 3] {
        authority.connected(Time(0), member(seed));
        let request = ask(&state, job, 1000);
        let decision = authority.ask(&state, Time(0), member(seed), &request);
        records.extend(write(&mut state, &decision.entries));
    }
    for (record, norm) in records.iter().zip([1.0, 2.0, 8.0]) {
        accept(&mut state, record, 10, norm * norm);
    }
    let leases: Vec<LeaseId> = records.iter().map(|record| record.lease).collect();
    let order = state.jobs[&job].merge_order(job, &leases);
    let clips: Vec<f32> = order.items.iter().map(|item| item.clip).collect();
    assert_eq!(clips, [1.0, 1.0, 0.25]);
    let late = state.jobs.get_mut(&job).unwrap();
    late.version = Round(1);
    assert_eq!(late.merge_order(job, &leases).items[0].weight, 320.0);
}

fn drawn(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| (random.unit_f32() - 0.5) * scale).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Samples leased, returned and fresh never overlap, and none is lost.
    #[test]
    fn every_sample_is_somewhere_exactly_once(moves in prop::collection::vec((0_u8..4, 0_u8..3, 1_u32..12), 1..60)) {
        let (mut state, job) = founded(4);
        let mut authority = Authority::default();
        (1..=4).for_each(|seed| authority.connected(Time(0), member(seed)));
        let mut done: Vec<(u64, u64)> = Vec::new();
        for (who, what, steps) in moves {
            let node = member(who + 1);
            match (what, state.lease_of(node).cloned()) {
                (0, _) => {
                    let request = ask(&state, job, 1000 + u32::from(who) * 700);
                    let decision = authority.ask(&state, Time(0), node, &request);
                    write(&mut state, &decision.entries);
                }
                (1, Some(record)) => {
                    let steps = steps.min(record.steps);
                    accept(&mut state, &record, steps, 1.0);
                    done.push((record.start, u64::from(steps) * 4));
                }
                (2, Some(record)) => {
                    let decision = Authority::decline(&state, Time(0), node, record.lease);
                    write(&mut state, &decision.entries);
                }
                _ => {}
            }
            let known = &state.jobs[&job];
            let leased = state.leases.values().map(|record| (record.start, record.samples()));
            let returned = known.returned.iter().map(|span| (span.start, span.count));
            let mut all: Vec<(u64, u64)> = leased.chain(returned).chain(done.clone()).collect();
            all.sort_unstable();
            let mut at = 0;
            for (start, count) in all {
                prop_assert_eq!(start, at);
                at += count;
            }
            prop_assert_eq!(at, known.cursor);
        }
    }

    /// The merge against plain f64 arithmetic, and the city's parameters against a member's.
    #[test]
    fn a_merge_is_the_weighted_mean_and_members_end_where_the_city_does(
        seed: u64, parts in 1_usize..5, lr in 0.1_f32..1.5, mu in 0.0_f32..0.9,
    ) {
        let len = 1000;
        let base = drawn(seed, len, 2.0);
        let packed: Vec<_> = (0..parts as u64)
            .map(|i| {
                let local: Vec<f32> =
                    base.iter().zip(drawn(seed ^ (i + 1), len, 0.1)).map(|(b, d)| b - d).collect();
                pack(Codec::Int4, &base, &local, &mut vec![0.0; len]).unwrap()
            })
            .collect();
        let parts: Vec<Part<'_>> = packed
            .iter()
            .zip([3.0, 1.0, 7.0, 2.0])
            .map(|(packed, weight)| Part { payload: &packed.payload, weight, clip: 1.0 / weight })
            .collect();
        let outer = Outer { lr, momentum: mu, codec: Codec::F32 };
        let (mut theta, mut momentum, mut residual) = (base.clone(), drawn(!seed, len, 0.1), vec![0.0; len]);
        let before = momentum.clone();
        let outer_state = OuterState { theta: &mut theta, momentum: &mut momentum, residual: &mut residual };
        // Contributions travel in the job's codec; this test looks at the mean, so the payloads are
        // decoded by hand and given as plain numbers.
        let plain: Vec<Vec<u8>> = parts.iter().map(|part| {
            let mut values = vec![0.0; len];
            decode(Codec::Int4, part.payload, &mut values).unwrap();
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        }).collect();
        let plain_parts: Vec<Part<'_>> =
            parts.iter().zip(&plain).map(|(part, payload)| Part { payload, ..*part }).collect();
        let update = merge::merge(&plain_parts, &outer, outer_state).unwrap();
        let total: f64 = parts.iter().map(|part| f64::from(part.weight)).sum();
        for i in 0..len {
            let sum: f64 = plain_parts.iter().map(|part| {
                let word: [u8; 4] = part.payload[i * 4..i * 4 + 4].try_into().unwrap();
                f64::from(part.weight) * f64::from(part.clip) * f64::from(f32::from_le_bytes(word))
            }).sum();
            let g = sum / total;
            let m = f64::from(mu) * f64::from(before[i]) + g;
            let step = f64::from(lr) * (g + f64::from(mu) * m);
            prop_assert!((f64::from(theta[i]) - (f64::from(base[i]) - step)).abs() < 1e-5);
        }
        let mut member = base;
        apply_update(&mut member, Codec::F32, &update.bytes).unwrap();
        prop_assert_eq!(member, theta);
    }

    /// What was told plus what is left is what was to be told, over several rounds of one replica.
    #[test]
    fn payloads_and_residual_are_the_sum_of_deltas(seed: u64) {
        let len = 700;
        let (mut residual, mut told, mut meant) = (vec![0.0; len], vec![0.0_f64; len], vec![0.0_f64; len]);
        for round in 0..6_u64 {
            let base = drawn(seed ^ round, len, 1.0);
            let local = drawn(seed ^ round ^ 99, len, 1.0);
            let packed = pack(Codec::Int4, &base, &local, &mut residual).unwrap();
            prop_assert!(check_payload(Codec::Int4, &packed.payload, len).unwrap() > 0.0);
            let mut values = vec![0.0; len];
            decode(Codec::Int4, &packed.payload, &mut values).unwrap();
            for i in 0..len {
                told[i] += f64::from(values[i]);
                meant[i] += f64::from(base[i] - local[i]);
            }
        }
        for i in 0..len {
            prop_assert!((told[i] + f64::from(residual[i]) - meant[i]).abs() < 1e-5);
        }
    }
}

#[test]
fn outer_momentum_goes_from_point_to_point_with_committed_tokens_and_stays_at_its_end() {
    let training = spec().training;
    let all = [0, 25_000, 50_000, 75_000, 100_000, 1_000_000].map(Tokens);
    let found = all.map(|tokens| training.outer_momentum_at(tokens));
    for (found, expected) in found.into_iter().zip([0.2, 0.5, 0.8, 0.6, 0.4, 0.4]) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}
