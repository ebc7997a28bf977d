//! A family's worker, one input after the other.

use suanli_base::{Duration, JobId, LeaseId, Round, Time};
use suanli_bus::worker::{Action, Input, Phase, Worker, step};

const JOB: JobId = JobId([1; 32]);

fn offer(lease: u64) -> Input {
    let (lease, base, duration) = (LeaseId(lease), Round(0), Duration(2000));
    Input::Offer { lease, job: JOB, base, steps: 4, duration }
}

fn told(w: &mut Worker, now: u64, inputs: &[Input]) -> Vec<Action> {
    let mut out = Vec::new();
    inputs.iter().for_each(|input| step(w, Time(now), *input, &mut out));
    out
}

/// A worker that holds version 0 and has asked for work.
fn asking() -> Worker {
    let mut w = Worker::new();
    let prepared = Input::Prepared { job: JOB, version: Round(0) };
    told(&mut w, 0, &[Input::Connected, Input::Prepare { job: JOB, version: Round(0) }, prepared]);
    assert_eq!(w.phase, Phase::Asking);
    w
}

/// The city had replaced lease 7 by lease 8; the network delivered the two the other way round, and
/// the worker trained lease 7 after lease 8, from a private state it no longer had (simulator,
/// seed 204 of eight families).
#[test]
fn an_offer_that_was_overtaken_is_declined() {
    let mut w = asking();
    let (lease, done) = (LeaseId(8), 4);
    let inputs = [
        offer(8),
        Input::Trained { lease, done },
        Input::Packed { lease },
        Input::Uploaded { lease },
        Input::Accepted { lease },
    ];
    told(&mut w, 10, &inputs);
    assert_eq!(w.phase, Phase::Asking);
    assert_eq!(told(&mut w, 20, &[offer(7)]), [Action::Decline { lease: LeaseId(7) }]);
    assert!(told(&mut w, 30, &[offer(9)]).contains(&Action::Train { lease: LeaseId(9), from: 0 }));
}

/// A worker whose owner paused it before the first step, and for longer than the lease, gave the
/// lease back and then did nothing for good (simulator, seed 60 of eight families).
#[test]
fn a_lease_held_past_its_end_without_a_step_is_given_back_and_work_is_asked_for() {
    let mut w = asking();
    let lease = LeaseId(1);
    told(&mut w, 10, &[offer(1), Input::Pause, Input::Trained { lease, done: 0 }]);
    assert_eq!(w.phase, Phase::Held);
    let actions = told(&mut w, 9000, &[Input::Resume]);
    assert!(actions.contains(&Action::Decline { lease }), "{actions:?}");
    assert!(actions.contains(&Action::Ask), "{actions:?}");
}
