//! What a city keeps of the versions it publishes.

use crate::paper;
use crate::town::{Town, key};
use suanli_base::{FragmentId, Hash, JobId, NodeId, Round, Time, Tokens};
use suanli_bus::authority::Settled;
use suanli_bus::{
    Ask, CONTRIBUTION_FORMAT, CityState, Contribution, HEAD_FORMAT, Head, JobSpec, StateRoot,
    ToCity,
};
use suanli_identity::Role;
use suanli_log::{Entry, LeaseRecord, StateBlobs};
use suanli_node::city::{ConnId, Done, Work};
use suanli_node::{JobRegion, Name};
use suanli_rdpa::{Answer, Code, Handle, Op};

/// The parameters of a version: one chunk, which is one number over and over.
fn theta(version: Round) -> Vec<u8> {
    (version.0 as f32).to_le_bytes().repeat(100)
}

fn root(version: Round) -> Hash {
    suanli_params::root(&[Hash::of(&theta(version))])
}

fn blobs(version: Round) -> StateBlobs {
    let blob = Hash::of(&theta(version));
    StateBlobs { theta: blob, momentum: Hash([2; 32]), residual: Hash([3; 32]) }
}

fn spec() -> JobSpec {
    JobSpec { theta_root: root(Round(0)), ..paper::spec() }
}

fn job() -> JobId {
    JobSpec::id_of(&spec().to_bytes())
}

/// A town with one job at version 0, which can be read.
fn running() -> Town {
    let mut town = Town::founded(|state: &mut CityState, time: Time| {
        let head = Head {
            format: HEAD_FORMAT,
            city: state.city,
            job: job(),
            fragment: FragmentId(0),
            version: Round(0),
            before: Hash::ZERO,
            theta_root: root(Round(0)),
            update_root: Hash::ZERO,
            merged: Vec::new(),
            tokens: Tokens(0),
            time,
        };
        let (spec, head) = (spec().to_bytes(), head.sign(&key(0)));
        let (trainer, blobs) = (NodeId::from(state.city), blobs(Round(0)));
        let added = Entry::JobAdded { job: job(), spec, trainer, head, state: blobs, time };
        state.apply(&added).unwrap();
    });
    let theta_chunks = vec![Hash::of(&theta(Round(0)))];
    town.done(Done::Catalogued { job: job(), theta_chunks, updates: Vec::new() });
    town
}

/// One member trains and hands in, and the round is merged.
fn round(town: &mut Town, member: ConnId, node: NodeId) {
    let before = town.city.state().jobs[&job()].version;
    let have = Some((job(), before));
    let ask = Ask { have, private: Hash::ZERO, rate: 1000, memory_bytes: 1 << 30 };
    let bytes = ToCity::Ask(ask).to_bytes().into();
    town.ask(member, Op::Send { bytes }).unwrap();
    let record = town.city.state().leases.values().next().unwrap().clone();
    let settled = Settled {
        node,
        contribution: contribution(&record),
        contribution_blob: Hash([20; 32]),
        payload_blob: Hash([21; 32]),
        norm_squared: 1.0,
    };
    let (lease, result) = (record.lease, Ok(Box::new(settled)));
    town.done(Done::Settled { node, lease, result });
    town.later(1_000);
    let merges = |work: &Work| matches!(work, Work::Merge { order, .. } if order.round == before);
    assert!(town.work.iter().any(merges), "{:?}", town.work);
    let version = before.next();
    town.done(Done::Merged {
        job: job(),
        round: before,
        update: Hash([version.0 as u8; 32]),
        update_chunks: vec![Hash([5; 32])],
        theta_chunks: vec![Hash::of(&theta(version))],
        state: blobs(version),
    });
    assert_eq!(town.city.state().jobs[&job()].version, version);
}

fn contribution(record: &LeaseRecord) -> Contribution {
    let root = StateRoot { root: Hash::ZERO, segments: [Hash::ZERO; 16] };
    Contribution {
        format: CONTRIBUTION_FORMAT,
        job: record.job,
        lease: record.lease,
        base_root: record.base_root,
        start: record.start,
        samples: record.samples(),
        engine_build: "test".into(),
        numeric_class: "test".into(),
        steps: record.steps,
        tokens: Tokens(u64::from(record.steps) * 64),
        state_before: root,
        state_after: root,
        delta_root: Hash::ZERO,
        residual_before: Hash::ZERO,
        residual_after: Hash::ZERO,
        payload_root: Hash([4; 32]),
        private_after: Hash([6; 32]),
        salt: [0; 16],
    }
}

fn open(town: &mut Town, reader: ConnId) -> (Handle, Hash) {
    let region = Name::Job(job(), JobRegion::Theta).region();
    match town.ask(reader, Op::Open { region }) {
        Ok(Answer::Opened { handle, info }) => (handle, info.root),
        other => panic!("expected the parameters, found {other:?}"),
    }
}

/// Reads the one chunk; the host has the bytes of every version still.
fn read(town: &mut Town, reader: ConnId, handle: Handle, version: Round) -> Result<(), Code> {
    town.work.clear();
    let id = town.send(reader, Op::Read { handle, chunks: vec![0] });
    if let Some(Work::Read { conn, token, .. }) = town.work.pop() {
        town.done(Done::Read { conn, token, bytes: Some(theta(version).into()) });
    }
    match town.outcome(reader, id).unwrap() {
        Ok(Answer::ReadDone) => Ok(()),
        Ok(other) => panic!("{other:?}"),
        Err(code) => Err(code),
    }
}

#[test]
fn a_reader_slower_than_two_rounds_is_told_that_its_version_is_gone_and_opens_again() {
    // Exactly one old version is kept, whoever reads, which nothing said and nothing tested.
    let mut town = running();
    let (member, reader) = (town.member(1, Role::Join), town.member(2, Role::Train));
    let (handle, opened) = open(&mut town, reader);
    assert_eq!(opened, root(Round(0)));
    round(&mut town, member, key(1).node());
    assert_eq!(read(&mut town, reader, handle, Round(0)), Ok(()), "the one before is kept");
    round(&mut town, member, key(1).node());
    assert_eq!(read(&mut town, reader, handle, Round(0)), Err(Code::VersionGone));
    let (handle, opened) = open(&mut town, reader);
    assert_eq!(opened, root(Round(2)));
    assert_eq!(read(&mut town, reader, handle, Round(2)), Ok(()));
}
