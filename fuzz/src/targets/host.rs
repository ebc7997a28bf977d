//! What comes over a node's own sockets: the owner's orders as JSON lines, and the worker process's
//! frames.

use crate::Target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use suanli_host::control::{ControlReply, ControlRequest};
use suanli_identity::Role;
use suanli_worker::protocol::{
    FRAME_BYTES_MAX, FromWorker, Reply, ShareOfCpu, ToWorker, Work, encode, read_frame,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("control-request", "an order reads back as it was, or is refused", orders, order),
    Target::new("control-reply", "an answer reads back as it was, or is refused", answers, answer),
    Target {
        // A length within the bound is reserved whole.
        allocation: |len| FRAME_BYTES_MAX + (1 << 20) + 64 * len,
        ..Target::new("worker-frames", "frames read back, or end the worker", worker, frames)
    },
];

fn lines<T: Serialize>(all: &[T]) -> Vec<Vec<u8>> {
    all.iter().map(|one| serde_json::to_vec(one).expect("our own types")).collect()
}

fn orders() -> Vec<Vec<u8>> {
    lines(&[
        ControlRequest::Status,
        ControlRequest::Watch { interval_ms: 1000 },
        ControlRequest::SetShare { percent: 50 },
        ControlRequest::Ticket { role: Role::Join, expires_in_s: 86_400, uses: 16 },
        ControlRequest::Export { job: "fables".into(), dir: "model".into(), adapters: true },
        ControlRequest::Stop,
    ])
}

fn answers() -> Vec<Vec<u8>> {
    lines(&[
        ControlReply::Done,
        ControlReply::Jobs { jobs: Vec::new() },
        ControlReply::Ticket { ticket: "suanli1abc".into() },
        ControlReply::Exported { dir: "model".into(), round: 7, tokens: 9 },
    ])
}

fn reads_back<T: Serialize + DeserializeOwned>(input: &[u8]) {
    if let Ok(found) = serde_json::from_slice::<T>(input) {
        let text = serde_json::to_vec(&found).expect("our own types");
        let again: T = serde_json::from_slice(&text).expect("our own text");
        assert_eq!(serde_json::to_vec(&again).expect("our own types"), text);
    }
}

fn order(input: &[u8]) {
    reads_back::<ControlRequest>(input);
}

fn answer(input: &[u8]) {
    reads_back::<ControlReply>(input);
}

fn worker() -> Vec<Vec<u8>> {
    let to = [
        ToWorker::Work { id: 1, work: Work::Init { seed: 7 } },
        ToWorker::Work { id: 2, work: Work::Seal },
        ToWorker::Cancel { through: 2 },
        ToWorker::Share(ShareOfCpu::WHOLE),
    ];
    let from = [
        FromWorker { id: 1, reply: Reply::Initialised },
        FromWorker { id: 2, reply: Reply::Token(65) },
    ];
    let to = to.iter().map(|message| encode(message).expect("short"));
    let from = from.iter().map(|message| encode(message).expect("short"));
    let (to, from): (Vec<_>, Vec<_>) = (to.collect(), from.collect());
    vec![to.concat(), from.concat()]
}

fn frames(input: &[u8]) {
    stream::<ToWorker>(input);
    stream::<FromWorker>(input);
}

fn stream<T: Serialize + DeserializeOwned>(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some(message)) = read_frame::<T>(&mut rest) {
        let bytes = encode(&message).expect("what came in a frame fits one");
        let again = read_frame::<T>(&mut bytes.as_slice()).expect("our own bytes");
        assert_eq!(encode(&again.expect("a whole frame")).expect("as before"), bytes);
    }
}
