//! Making tokens: our `encode` against the `tokenizers` crate used alone, and the whole stage.

use super::median;
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Instant;
use suanli_engine::Cancel;
use suanli_engine::tokenizer::Tokenizer;
use suanli_store::data::{Recipe, Stage, prepare, rust_sources};
use suanli_store::job_file::{JobFile, TokenizerKind, TokenizerSection};

const TIMES_MIN: f64 = 0.95;
const VOCAB: usize = 8192;
/// Turns; the medians over them are compared.
const TURNS: usize = 5;

pub(super) fn row() -> RowSpec {
    RowSpec {
        name: "tokenise",
        what: "text to tokens on one core against the tokenizers crate alone; all cores together",
        run: measure,
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let (learnt_bytes, measured_bytes, staged_bytes) =
        if short { (1 << 20, 1 << 20, 4 << 20) } else { (8 << 20, 16 << 20, 64 << 20) };
    let files = rust_sources(None, staged_bytes)?;
    let documents = read(&files, measured_bytes)?;
    let bytes: usize = documents.iter().map(String::len).sum();
    let ours = Tokenizer::train(some(&documents, learnt_bytes), VOCAB)?;
    let crate_alone = tokenizers::Tokenizer::from_bytes(ours.to_json()?.as_bytes())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (our_seconds, our_tokens) =
            timed(&documents, |text| Ok(ours.encode(text.as_bytes())?.len()))?;
        let (their_seconds, their_tokens) = timed(&documents, |text| {
            let encoding = crate_alone.encode_fast(text, false);
            Ok(encoding.map_err(|error| anyhow::anyhow!("{error}"))?.len())
        })?;
        ensure!(our_tokens == their_tokens, "{our_tokens} tokens, and {their_tokens} by the crate");
        our_times.push(our_seconds);
        their_times.push(their_seconds);
    }
    let megabytes = |bytes: usize, seconds: f64| bytes as f64 / 1e6 / seconds;
    let our_rate = megabytes(bytes, median(our_times));
    let their_rate = megabytes(bytes, median(their_times));
    let (staged, seconds) = stage(&files, &session.scratch()?)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let row = if short { Row::short } else { Row::new };
    Ok(vec![
        row("tokenise", our_rate / their_rate, "x", Goal::AtLeast(TIMES_MIN))
            .note(format!("{our_rate:.1} against {their_rate:.1} MB/s on one core"))
            .note(format!(
                "the whole stage: {:.1} MB/s on {cores} threads",
                megabytes(staged, seconds)
            )),
    ])
}

/// Whole files of about so many bytes together, each a document.
fn read(files: &[PathBuf], bytes: usize) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    let mut left = bytes;
    // Evenly from all of them: neighbours are of one crate.
    let every = (files.len() * 4096 / bytes.max(1)).max(1);
    for file in files.iter().step_by(every) {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let Ok(text) = String::from_utf8(text) else { continue };
        left = left.saturating_sub(text.len());
        documents.push(text);
        if left == 0 {
            break;
        }
    }
    Ok(documents)
}

/// The documents that a tokenizer learns from.
fn some(documents: &[String], bytes: usize) -> impl Iterator<Item = &String> {
    let mut left = bytes;
    documents.iter().take_while(move |text| {
        left = left.saturating_sub(text.len());
        left > 0
    })
}

/// Seconds over all documents, and how many tokens they became.
fn timed(documents: &[String], encode: impl Fn(&str) -> Result<usize>) -> Result<(f64, usize)> {
    let begun = Instant::now();
    let tokens = documents.iter().map(|text| encode(text)).sum::<Result<usize>>()?;
    Ok((begun.elapsed().as_secs_f64(), tokens))
}

/// The stage of a preparation that makes tokens: its bytes and its seconds.
fn stage(files: &[PathBuf], folder: &Path) -> Result<(usize, f64)> {
    let mut job = JobFile::with_paths(Vec::new());
    job.tokenizer = TokenizerSection { kind: TokenizerKind::Bpe, vocab: VOCAB };
    let (mut begun, mut ended, mut bytes) = (None, None, 0);
    let mut progress = |at: suanli_store::data::Progress| match at.stage {
        Stage::Tokenizing => {
            begun.get_or_insert_with(Instant::now);
            bytes = at.done;
        }
        Stage::Writing => {
            ended.get_or_insert_with(Instant::now);
        }
        _ => {}
    };
    prepare(files, &Recipe::of_job(&job), folder, &mut progress, &Cancel::new())?;
    let begun = begun.context("no token was made")?;
    let ended = ended.context("no sample was written")?;
    Ok((usize::try_from(bytes)?, (ended - begun).as_secs_f64()))
}
