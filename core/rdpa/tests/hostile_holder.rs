//! The frozen corpus of what a hostile holder sends, against a reader's session.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use suanli_base::Time;
use suanli_identity::Role;
use suanli_rdpa::{
    Answer, Decoder, Event, Failure, Hello, Limits, Op, RegionInfo, RegionName, Session, Side,
};

const NOW: Time = Time(1_000);

/// What comes of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Close,
    Lie,
    Refused(String),
    /// All was read.
    Whole(Vec<u8>),
}

struct Line {
    name: &'static str,
    step: usize,
    outcome: &'static str,
    bytes: Vec<u8>,
}

fn corpus() -> Vec<Line> {
    let text = include_str!("../../../docs/spec/vectors/rdpa-hostile-holder.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &'static str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, step, outcome, hex] = words[..] else { panic!("four words: {line}") };
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes = (0..hex.len()).step_by(2).map(byte).collect();
        Line { name, step: step.parse().unwrap(), outcome, bytes }
    };
    lines.map(parse).collect()
}

/// A reader's whole conversation; `answers` are the bytes that come after each of its four questions.
fn converse(answers: &[Vec<u8>]) -> End {
    let mut session = Session::new(Side::Connecting, NOW, Limits::reliable(), 1);
    let mut decoder = Decoder::new();
    let (mut handles, mut chunks) = (Vec::new(), BTreeMap::new());
    for (step, bytes) in answers.iter().enumerate() {
        let op = match step {
            0 => Op::Hello(Hello::new(Role::Watch, Vec::new())),
            1 => Op::Open { region: RegionName::new("theta").unwrap() },
            2 => Op::Open { region: RegionName::new("eta").unwrap() },
            _ => Op::Read { handle: handles[0], chunks: vec![0, 1, 2, 3] },
        };
        session.request(NOW, op).unwrap();
        while session.poll_transmit(NOW).is_some() {}
        decoder.push(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) if session.handle_frame(NOW, frame.clone()).is_ok() => {}
                Ok(None) => break,
                _ => return End::Close,
            }
        }
        while let Some(event) = session.poll_event() {
            match event {
                Event::Answered { answer: Answer::Opened { handle, info }, .. } => {
                    assert_eq!(info.check(), Ok(()));
                    handles.push(handle);
                }
                Event::Answered { .. } => {}
                Event::Chunk { chunk, bytes, .. } => {
                    assert_eq!(chunks.insert(chunk, bytes), None, "a chunk came twice");
                }
                Event::Failed { failure: Failure::Refused { text, .. }, .. } => {
                    return End::Refused(text);
                }
                Event::Failed { failure, .. } if failure.is_lie() => return End::Lie,
                other => panic!("{other:?}"),
            }
        }
    }
    End::Whole(chunks.into_values().flatten().collect())
}

#[test]
fn what_a_hostile_holder_sends_ends_as_the_corpus_says() {
    let lines = corpus();
    let good = lines.iter().filter(|line| line.outcome == "good");
    let good: Vec<Vec<u8>> = good.map(|line| line.bytes.clone()).collect();
    let content: Vec<u8> = (0..1_000_u32).map(|i| (i * 7 % 251) as u8).collect();
    assert_eq!(RegionInfo::of(9, &content, 300).unwrap().chunk_count(), 4);
    assert_eq!(converse(&good), End::Whole(content.clone()));
    for Line { name, step, outcome, mut bytes } in lines {
        let mut answers = good.clone();
        if outcome == "ignored" {
            bytes.extend(&good[step - 1]);
        }
        answers[step - 1] = bytes;
        let end = converse(&answers);
        let right = match outcome {
            "close" => end == End::Close,
            "lie" => end == End::Lie,
            "refused" => matches!(&end, End::Refused(text)
                if text.len() <= 256 && !text.chars().any(char::is_control)),
            _ => end == End::Whole(content.clone()),
        };
        assert!(right, "{name}: {end:?}");
    }
}
