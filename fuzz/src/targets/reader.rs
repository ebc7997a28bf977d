//! A reader of RDPA against a holder that sends whatever it likes.
//!
//! The seeds are the frozen corpus of hostile holders, each line with the good answers around it. A case
//! is such a stream, changed; lengths and payload hashes are put right again. The reader asks as the
//! corpus does, and takes chunks as an endpoint does: where it can, straight into its memory.

use super::session::{frames, hex};
use crate::Target;
use std::sync::Arc;
use suanli_base::{Hash, Time};
use suanli_identity::Role;
use suanli_rdpa::{
    Announced, Answer, Download, DownloadStep, Event, Frame, Gather, GatherStep, Handle, Hello,
    Limits, Op, Place, RegionInfo, RegionName, Session, Side, SourceId,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("reader", "what counts as read is verified and in its place", seeds, reader),
    Target::new("gather", "a gather bears any holders", seeds, gather),
    Target::new("download", "a download bears any holders", seeds, download),
];

/// Memory that a case may ask for; a reader of more is out of what is looked at here.
const MEMORY_MAX: u64 = 1 << 20;

struct Line {
    step: usize,
    good: bool,
    bytes: Vec<u8>,
}

fn corpus() -> Vec<Line> {
    let text = include_str!("../../../docs/spec/vectors/rdpa-hostile-holder.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let mut word = || words.next().expect("four words a line");
        let step = word().parse().expect("a step");
        Line { step, good: word() == "good", bytes: hex(word()) }
    };
    lines.map(parse).collect()
}

/// Each line in its place, the good answer of its step behind it.
fn seeds() -> Vec<Vec<u8>> {
    let lines = corpus();
    let good: Vec<&Vec<u8>> =
        lines.iter().filter(|line| line.good).map(|line| &line.bytes).collect();
    let whole = |line: &Line| {
        let mut answers: Vec<Vec<u8>> = good.iter().map(|bytes| (*bytes).clone()).collect();
        if !line.good {
            answers[line.step - 1].splice(0..0, line.bytes.iter().copied());
        }
        answers.concat()
    };
    lines.iter().filter(|line| !line.good || line.step == 1).map(whole).collect()
}

fn theta() -> RegionName {
    RegionName::new("theta").expect("a good name")
}

fn eta() -> RegionName {
    RegionName::new("eta").expect("a good name")
}

fn session() -> Session {
    let mut session = Session::new(Side::Connecting, Time(0), Limits::lossy(), 7);
    let hello = Op::Hello(Hello::new(Role::Watch, Vec::new()));
    session.request(Time(0), hello).expect("the first request");
    session
}

/// What is read, and where.
struct Memory {
    handle: Handle,
    info: Arc<RegionInfo>,
    bytes: Vec<u8>,
}

impl Memory {
    fn place(&mut self, chunk: u32) -> &mut [u8] {
        let shape = self.info.shape;
        let at = chunk as usize * shape.chunk_bytes as usize;
        let len = shape.chunk_len(chunk).expect("only what was asked for comes");
        &mut self.bytes[at..at + len as usize]
    }

    fn verified(&mut self, chunk: u32) {
        let expected = self.info.chunks[chunk as usize];
        assert_eq!(Hash::of(self.place(chunk)), expected, "something else counts as read");
    }
}

fn reader(input: &[u8]) {
    let mut session = session();
    let mut memory: Option<Memory> = None;
    for (count, frame) in frames(input).into_iter().enumerate() {
        let now = Time(10 * count as u64);
        while session.poll_transmit(now).is_some() {}
        let taken = match memory.as_mut().filter(|_| count % 2 == 0) {
            Some(memory) => land(&mut session, now, memory, frame),
            None => session.handle_frame(now, frame).is_ok(),
        };
        if !taken {
            return;
        }
        while let Some(event) = session.poll_event() {
            match event {
                Event::Answered { answer: Answer::Welcome(_), .. } => {
                    let _ = session.request(now, Op::Open { region: theta() });
                }
                Event::Answered { answer: Answer::Opened { handle, info }, .. } => {
                    if memory.is_none() && info.shape.bytes <= MEMORY_MAX {
                        let bytes = vec![0; info.shape.bytes as usize];
                        memory = Some(Memory { handle, info, bytes });
                        let _ = session.request(now, Op::Open { region: eta() });
                    } else if let Some(Memory { handle, info, .. }) = &memory {
                        let chunks = (0..info.chunk_count().min(64)).collect();
                        let _ = session.request(now, Op::Read { handle: *handle, chunks });
                    }
                }
                Event::Chunk { chunk, bytes, .. } => {
                    let memory = memory.as_mut().expect("a READ names an opened region");
                    memory.place(chunk).copy_from_slice(&bytes);
                    memory.verified(chunk);
                }
                Event::Landed { place: Place::Chunk { chunk, .. }, .. } => {
                    memory.as_mut().expect("as above").verified(chunk);
                }
                _ => {}
            }
        }
        session.handle_timeout(now);
    }
}

/// As an endpoint does it: where the header tells of a chunk that is waited for, its payload goes
/// straight to its place. False when the connection ends.
fn land(session: &mut Session, now: Time, memory: &mut Memory, frame: Frame) -> bool {
    let announced = Announced::read(&frame.header_bytes()).expect("it is a frame");
    let Some(landing) = session.landing(&announced) else {
        return session.handle_frame(now, frame).is_ok();
    };
    let Place::Chunk { chunk, .. } = landing.place else { panic!("no pieces were asked for") };
    memory.place(chunk).copy_from_slice(frame.payload());
    session.landed(now, &landing, Some(Hash::of(frame.payload()))).is_ok()
}

/// Two holders take turns with the frames; each answers as if it was asked alone.
fn gather(input: &[u8]) {
    let mut gather = Gather::new(theta(), None);
    let mut sessions = [session(), session()];
    let mut over = [false; 2];
    let mut info: Option<Arc<RegionInfo>> = None;
    for (count, frame) in frames(input).into_iter().enumerate() {
        let now = Time(10 * count as u64);
        for (at, session) in (0_u32..).zip(&mut sessions) {
            let (id, over) = (SourceId(at), &mut over[at as usize]);
            while session.poll_transmit(now).is_some() {}
            if !*over && session.handle_frame(now, frame.clone()).is_err() {
                *over = true;
                gather.lost(id);
            }
            while let Some(event) = session.poll_event().filter(|_| !*over) {
                if matches!(event, Event::Answered { answer: Answer::Welcome(_), .. }) {
                    assert!(gather.add(now, id, session), "a fresh source");
                    // As in the corpus, so that its READ has the number that is answered.
                    let _ = session.request(now, Op::Open { region: eta() });
                }
                gather.handle(now, id, session, &event);
            }
            session.handle_timeout(now);
        }
        while let Some(step) = gather.poll() {
            match step {
                GatherStep::Opened(_, opened) => info = Some(opened),
                GatherStep::Chunk(_, chunk, bytes) => {
                    let info = info.as_ref().expect("opened before");
                    assert_eq!(Some(bytes.len() as u32), info.shape.chunk_len(chunk));
                    assert_eq!(Hash::of(&bytes), info.chunks[chunk as usize]);
                }
                GatherStep::Tend(SourceId(at)) if !over[at as usize] => {
                    gather.tend(now, SourceId(at), &mut sessions[at as usize]);
                }
                _ => {}
            }
        }
    }
}

fn download(input: &[u8]) {
    let mut download = Download::new(theta(), None, 4);
    let mut session = session();
    let mut info: Option<Arc<RegionInfo>> = None;
    for (count, frame) in frames(input).into_iter().enumerate() {
        let now = Time(10 * count as u64);
        while session.poll_transmit(now).is_some() {}
        if session.handle_frame(now, frame).is_err() {
            return;
        }
        while let Some(event) = session.poll_event() {
            if matches!(event, Event::Answered { answer: Answer::Welcome(_), .. }) {
                download.start(now, &mut session);
                let _ = session.request(now, Op::Open { region: eta() });
            }
            download.handle(now, &mut session, &event);
        }
        while let Some(step) = download.poll() {
            match step {
                DownloadStep::Opened(opened) => info = Some(opened),
                DownloadStep::Chunk(chunk, bytes) => {
                    let info = info.as_ref().expect("opened before");
                    assert_eq!(Some(bytes.len() as u32), info.shape.chunk_len(chunk));
                    assert_eq!(Hash::of(&bytes), info.chunks[chunk as usize]);
                }
                DownloadStep::Failed(_) => download.start(now, &mut session),
                _ => {}
            }
        }
        session.handle_timeout(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_good_conversation_is_read_to_its_end() {
        let mut session = session();
        let (mut chunks, mut opened) = (0, None);
        for frame in frames(&seeds()[0]) {
            while session.poll_transmit(Time(0)).is_some() {}
            session.handle_frame(Time(0), frame).expect("a good holder");
            while let Some(event) = session.poll_event() {
                match event {
                    Event::Answered { answer: Answer::Welcome(_), .. } => {
                        session.request(Time(0), Op::Open { region: theta() }).expect("room");
                    }
                    Event::Answered { answer: Answer::Opened { handle, .. }, .. } => {
                        match opened {
                            None => session.request(Time(0), Op::Open { region: eta() }),
                            Some(handle) => {
                                let chunks = (0..4).collect();
                                session.request(Time(0), Op::Read { handle, chunks })
                            }
                        }
                        .expect("room");
                        opened = opened.or(Some(handle));
                    }
                    Event::Chunk { .. } => chunks += 1,
                    _ => {}
                }
            }
        }
        assert_eq!(chunks, 4);
    }
}
