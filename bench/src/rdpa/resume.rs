//! A READ cut at a random moment, and gone on with on a new connection.

use super::place::{CHUNK_BYTES, Kind, content, dial, hold, limits, region, two_sides};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Result, ensure};
use std::time::Duration;
use suanli_base::Random;
use suanli_identity::Role;
use suanli_link::reader::{Opened, Reader};
use suanli_rdpa::{ChunkSet, Hello};

const BYTES: usize = 64 << 20;
const CUTS: u64 = 100;
/// The longest wait before a cut: what a whole READ takes on a slow machine.
const WAIT_US_MAX: u64 = 60_000;
/// One chunk of the lane that was cut, and what is read ahead of a header at most.
const WASTE_MAX: f64 = 1.0 + 65_536.0 / CHUNK_BYTES as f64;
/// The longest record of TLS 1.3 (RFC 8446, 5.1 and 5.2): its text, and what it needs beside: a header
/// of 5 bytes, the type and a tag of 16.
const RECORD_TEXT: u64 = 16 << 10;
const RECORD_REST: u64 = 22;

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "resume",
        what: "a READ cut at random moments: chunks that had come and were read again, per lane",
        run: measure,
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let bytes = content(BYTES);
    let held = bytes.clone();
    let cuts = if short { 5 } else { CUTS };
    let (worst, within) = two_sides(
        move |ready| hold(Kind::Tls, held, ready),
        async |address| {
            let mut random = Random::new(3);
            let mut memory = vec![0; BYTES];
            let (mut worst, mut within) = (0.0_f64, 0);
            for _ in 0..cuts {
                memory.fill(0);
                let wait = Duration::from_micros(random.below(WAIT_US_MAX));
                let (mut have, came) = cut(&address, &mut memory, wait).await?;
                let kept = u64::from(have.count()) * u64::from(CHUNK_BYTES);
                worst = worst.max(came.saturating_sub(kept) as f64 / f64::from(CHUNK_BYTES));
                within += u64::from(have.count() > 0 && !have.is_full());
                let (mut reader, opened, _) = open(&address).await?;
                reader.resume(&opened, &mut memory, &mut have).await?;
                ensure!(memory[..] == bytes[..], "other bytes after a cut");
                let sent = reader.stat(None).await?.session.bytes_sent;
                let rest = BYTES as u64 - kept;
                ensure!(sent <= rest + 65_536, "{sent} bytes were sent for {rest}");
                reader.close().await;
            }
            Ok((worst, within))
        },
    )?;
    let row = if short { Row::short } else { Row::new };
    let note = format!(
        "worst of {cuts} cuts, {within} of them within the READ; what was missing was sent once"
    );
    Ok(vec![row("resume", worst, "chunks", Goal::AtMost(WASTE_MAX)).note(note)])
}

/// A reader, what it opened, and the bytes of its socket so far.
async fn open(address: &str) -> Result<(Reader, Opened, impl Fn() -> u64)> {
    let link = dial(Kind::Tls, address).await?;
    let counters = link.counters();
    let hello = Hello::new(Role::Watch, Vec::new());
    let mut reader = Reader::with(link, hello, limits(), 7).await?;
    let opened = reader.open(region()).await?;
    let before = counters.down();
    Ok((reader, opened, move || counters.down() - before))
}

/// Reads until the connection is cut; what has been verified, and the bytes that had come.
async fn cut(address: &str, memory: &mut [u8], wait: Duration) -> Result<(ChunkSet, u64)> {
    let (mut reader, opened, came) = open(address).await?;
    let mut have = ChunkSet::empty(opened.info.chunk_count());
    let read = reader.resume(&opened, memory, &mut have);
    // Without a goodbye, wherever it is.
    let _ = tokio::time::timeout(wait, read).await;
    drop(reader);
    let came = came();
    // What is TLS's own at the least, and cannot be kept.
    Ok((have, came - came / (RECORD_TEXT + RECORD_REST) * RECORD_REST))
}
