//! What hostile and slow holders do to a reader: each ends in a typed error, with the reader's memory as
//! long as it was, and nothing counts as read that was not verified.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::time::Duration;
use suanli_base::{Fault, Hash};
use suanli_identity::{Role, SecretKey};
use suanli_link::reader::{ReadError, Reader};
use suanli_link::{Lane, Link, LinkLimits, Listener, connect};
use suanli_rdpa::{
    ChunkSet, Direction, Failure, Frame, HEADER_BYTES, Header, Hello, Limits, Opcode, RegionInfo,
    RegionName, Shape,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(20);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn hello() -> Hello {
    Hello::new(Role::Watch, Vec::new())
}

/// A link, and the lane of whoever is at its other end.
async fn link_and_lane() -> (Link, Lane) {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key(1), LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (reader, holder) = (key(2), key(1).node());
    let ours = connect(&address, &reader, holder, PATIENCE);
    let theirs = async { listener.accept().await.unwrap().handshake().await.unwrap() };
    let (ours, theirs) = tokio::join!(ours, theirs);
    (ours.unwrap(), theirs.into_lanes().remove(0))
}

async fn read_frame(lane: &mut Lane) -> Option<Frame> {
    let mut bytes = vec![0; HEADER_BYTES];
    lane.reader.read_exact(&mut bytes).await.ok()?;
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
    let mut payload = vec![0; len as usize];
    lane.reader.read_exact(&mut payload).await.ok()?;
    bytes.extend(payload);
    Frame::from_bytes(bytes.into()).ok()
}

async fn say(lane: &mut Lane, bytes: &[u8]) {
    // A reader that has had enough is gone.
    let _ = lane.writer.write_all(bytes).await;
    let _ = lane.writer.flush().await;
}

/// Answers the requests of a reader by their number, and holds the line until it is gone.
async fn answer_with(mut lane: Lane, answers: Vec<Vec<u8>>) {
    while let Some(frame) = read_frame(&mut lane).await {
        let Header { opcode, request, direction, .. } = *frame.header();
        let place = usize::try_from(request).unwrap().wrapping_sub(1);
        let asked = direction == Direction::Request && opcode != Opcode::Ping;
        if let Some(answer) = answers.get(place).filter(|_| asked && opcode != Opcode::Cancel) {
            say(&mut lane, answer).await;
        }
    }
}

/// HELLO, two OPENs and a READ by each of the ways to read; what each brought.
async fn read_all(link: Link, way: usize) -> Result<Vec<u8>, ReadError> {
    let mut reader = Reader::connect(link, hello(), 3).await?;
    let theta = reader.open(name("theta")).await?;
    reader.open(name("eta")).await?;
    let mut memory = vec![0xEE; usize::try_from(theta.info.shape.bytes).unwrap()];
    match way {
        0 => reader.read(&theta, &mut memory).await?,
        1 => {
            let mut have = ChunkSet::empty(theta.info.chunk_count());
            let read = reader.resume(&theta, &mut memory, &mut have).await;
            for chunk in (0..have.bound()).filter(|chunk| have.contains(*chunk)) {
                let start = chunk as usize * theta.info.shape.chunk_bytes as usize;
                let end = start + theta.info.shape.chunk_len(chunk).unwrap() as usize;
                assert_eq!(Hash::of(&memory[start..end]), theta.info.chunks[chunk as usize]);
            }
            read?;
        }
        _ => reader.read_verified(&theta, 0, &mut memory).await?,
    }
    Ok(memory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hostile_holder_sends_ends_in_a_typed_error() {
    let text = include_str!("../../../docs/spec/vectors/rdpa-hostile-holder.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    let bytes = |line: &[&str]| -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&line[3][at..at + 2], 16).unwrap();
        (0..line[3].len()).step_by(2).map(byte).collect()
    };
    let good: Vec<Vec<u8>> =
        lines.iter().filter(|line| line[2] == "good").map(|line| bytes(line)).collect();
    let content: Vec<u8> = (0..1_000_u32).map(|i| (i * 7 % 251) as u8).collect();
    for (line, way) in lines.iter().flat_map(|line| (0..3).map(move |way| (line, way))) {
        let (mut answers, step) = (good.clone(), line[1].parse::<usize>().unwrap() - 1);
        answers[step] = bytes(line);
        if line[2] == "ignored" {
            answers[step].extend(&good[step]);
        }
        let (link, lane) = link_and_lane().await;
        let holder = tokio::spawn(answer_with(lane, answers));
        let read = tokio::time::timeout(PATIENCE, read_all(link, way)).await.expect(line[0]);
        let right = match (line[2], &read) {
            ("close", Err(error @ (ReadError::Ended { .. } | ReadError::Link(_)))) => {
                error.fault() == Fault::Peer
            }
            ("lie", Err(ReadError::Failed(failure))) => failure.is_lie(),
            ("refused", Err(ReadError::Failed(failure))) => {
                matches!(failure, Failure::Refused { .. })
            }
            ("good" | "ignored", Ok(memory)) => *memory == content,
            _ => false,
        };
        assert!(right, "{} by way {way}: {read:?}", line[0]);
        holder.abort();
    }
}

fn reply(opcode: Opcode, request: u64, handle: u64, payload: Bytes) -> Vec<u8> {
    let header = Header { handle, ..Header::new(opcode, Direction::Reply, request) };
    Frame::unhashed(header, payload).to_bytes().to_vec()
}

/// As postcard writes it: version 2, 64 requests, a window of 127 bytes, time 1.
fn welcome() -> Vec<u8> {
    reply(Opcode::Hello, 1, 0, Bytes::from_static(&[2, 64, 127, 1]))
}

/// As postcard writes it, of one chunk.
fn opened(request: u64, info: &RegionInfo) -> Vec<u8> {
    let mut body = Vec::new();
    for mut number in [info.version, info.shape.bytes, u64::from(info.shape.chunk_bytes)] {
        while number > 127 {
            body.push((number & 127 | 128) as u8);
            number >>= 7;
        }
        body.push(number as u8);
    }
    body.extend(info.root.0);
    body.push(1);
    body.extend(info.chunks[0].0);
    reply(Opcode::Open, request, 7, body.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_of_four_mebibytes_for_ten_bytes_of_memory_does_not_panic_the_reader() {
    // OPEN announced ten bytes with the hash of four mebibytes; what came was written past the end of
    // the caller's memory, by each of the three ways to read.
    let chunk = Bytes::from(vec![5; 4 << 20]);
    let shape = Shape { bytes: 10, chunk_bytes: 10 };
    let info = RegionInfo::new(1, shape, vec![Hash::of(&chunk)]).unwrap();
    for way in 0..3 {
        let data = reply(Opcode::Read, 3, 0, chunk.clone());
        let answers = vec![welcome(), opened(2, &info), data];
        let (link, lane) = link_and_lane().await;
        let holder = tokio::spawn(answer_with(lane, answers));
        let mut reader = Reader::connect(link, hello(), 3).await.unwrap();
        let theta = reader.open(name("theta")).await.unwrap();
        let mut memory = vec![0; 10];
        let mut have = ChunkSet::empty(1);
        let read = match way {
            0 => reader.read(&theta, &mut memory).await,
            1 => reader.resume(&theta, &mut memory, &mut have).await,
            _ => reader.read_verified(&theta, 3, &mut memory[..5]).await,
        };
        let failure = Failure::WrongLength { chunk: 0, expected: 10, found: 4 << 20 };
        assert!(matches!(&read, Err(ReadError::Failed(found)) if *found == failure), "{read:?}");
        assert!(memory == [0; 10] && have.count() == 0);
        holder.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_takes_longer_than_silence_may_is_read() {
    // Only whole frames counted as heard: over one lane a chunk that took longer than `silent_after`
    // could not be read at all. The holder sends a piece each time the reader asks whether it is there,
    // and answers nothing else.
    let chunk = Bytes::from((0..200_u8).collect::<Vec<_>>());
    let shape = Shape { bytes: 200, chunk_bytes: 200 };
    let info = RegionInfo::new(1, shape, vec![Hash::of(&chunk)]).unwrap();
    let limits = Limits {
        ping_every: suanli_base::Duration(50),
        silent_after: suanli_base::Duration(1_000),
        ..Limits::reliable()
    };
    let (link, mut lane) = link_and_lane().await;
    let slow = tokio::spawn({
        let (info, data) = (info.clone(), reply(Opcode::Read, 3, 0, chunk.clone()));
        async move {
            let mut pieces = data.chunks(6);
            let mut reading = false;
            while let Some(frame) = read_frame(&mut lane).await {
                match frame.header().opcode {
                    Opcode::Hello => say(&mut lane, &welcome()).await,
                    Opcode::Open => say(&mut lane, &opened(2, &info)).await,
                    Opcode::Read => reading = true,
                    Opcode::Ping if reading => say(&mut lane, pieces.next().unwrap_or(&[])).await,
                    _ => {}
                }
            }
        }
    });
    let begun = std::time::Instant::now();
    let mut reader = Reader::with(link, hello(), limits, 3).await.unwrap();
    let theta = reader.open(name("theta")).await.unwrap();
    let mut memory = vec![0; 200];
    tokio::time::timeout(PATIENCE, reader.read(&theta, &mut memory)).await.unwrap().unwrap();
    assert!(memory == chunk);
    assert!(begun.elapsed() > Duration::from_secs(2), "44 pieces, one each 50 ms at most");
    slow.abort();
}
