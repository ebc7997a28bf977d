//! Tokens a second of one text against `transformers`' `generate`, and how near the weights come as
//! fast as memory gives them.

use super::median;
use super::read::Memory;
use super::side::{Side, Work, answer};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;
use suanli_base::Random;
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Cancel, Engine as _, Fast, ModelConfig, Sampling, initial_params};
use suanli_store::checkpoint::{Card, Companions, Contents, Overwrite, read, write};

const SPEED_MIN: f64 = 1.5;
const BANDWIDTH_MIN: f64 = 0.7;
const THREADS: usize = 2;
/// Turns; the medians over them are compared.
const TURNS: usize = 5;
/// New tokens of a text.
const TOKENS: usize = 128;
/// Those of the short form.
const TOKENS_SHORT: usize = 16;
/// What both sides continue.
const PROMPT: [u32; 8] = [11, 222, 3333, 4444, 55, 666, 7777, 88];

pub(super) fn row() -> RowSpec {
    RowSpec {
        name: "generate",
        what: "tokens/s of one greedy text against transformers' generate, 110 M parameters, 2 threads; \
               weight bytes/s against memory",
        run: measure,
    }
}

/// What our side continues, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Speech {
    folder: PathBuf,
    threads: usize,
    tokens: usize,
}

impl Speech {
    /// Continues the prompt whenever told.
    pub(super) fn serve(&self) -> Result<()> {
        let loaded = read(&self.folder)?;
        let parameters = loaded.params.len();
        let mut engine = Fast::new(loaded.config, self.threads)?;
        engine.params_mut().copy_from_slice(&loaded.params);
        drop(loaded.params);
        let sampling =
            Sampling { temperature: 0.0, tokens_max: self.tokens, ..Sampling::default() };
        let mut write = || -> Result<f64> {
            let begun = Instant::now();
            let mut made = 0;
            engine.generate(&PROMPT, &sampling, 0, &Cancel::new(), &mut |_| {
                made += 1;
                true
            })?;
            ensure!(made == self.tokens, "expected {} tokens, made {made}", self.tokens);
            Ok(begun.elapsed().as_secs_f64())
        };
        write()?;
        answer(parameters, write)
    }
}

/// 109.5 M parameters in the shape of small models in use.
fn model() -> ModelConfig {
    let (vocab, hidden, layers, ffn, context) = (16_000, 768, 12, 2048, 1024);
    let (heads, kv_heads) = (12, 12);
    ModelConfig { vocab, hidden, layers, heads, kv_heads, ffn, context, ..ModelConfig::demo() }
}

/// Bytes of the matrices that every token goes through once.
fn bytes_per_token(c: &ModelConfig) -> usize {
    let layer = (c.qkv_width() + c.query_width() + 3 * c.ffn) * c.hidden;
    4 * (c.layers * layer + c.vocab * c.hidden)
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let (speed, bandwidth) = (Goal::AtLeast(SPEED_MIN), Goal::AtLeast(BANDWIDTH_MIN));
    let Some(mut script) = Side::script("transformers_generate.py") else {
        let why = Side::without_torch();
        return Ok(vec![
            Row::not_measured("generate", speed, &*why),
            Row::not_measured("generate.bandwidth", bandwidth, why),
        ]);
    };
    let short = session.length() == Length::Short;
    let (turns, tokens) = if short { (1, TOKENS_SHORT) } else { (TURNS, TOKENS) };
    let folder = checkpoint(&session.shared("generate-model")?)?;
    script.arg(&folder).args(["--threads", &THREADS.to_string(), "--tokens", &tokens.to_string()]);
    script.arg("--prompt").arg(PROMPT.map(|id| id.to_string()).join(","));
    let mut theirs = Side::start(&mut script)?;
    let speech = Speech { folder, threads: THREADS, tokens };
    let mut ours = Side::start(&mut Side::this(&Work::Generate(speech))?)?;
    let memory = Memory::new(THREADS);
    let (mut our_rates, mut their_rates, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns {
        let rate = |side: &mut Side| -> Result<f64> {
            let seconds = side.steps(1)?.seconds;
            let seconds = seconds.first().context("the seconds of one text")?;
            Ok(tokens as f64 / seconds)
        };
        our_rates.push(rate(&mut ours)?);
        reads.push(memory.bytes_per_s());
        their_rates.push(rate(&mut theirs)?);
    }
    let (our_rate, their_rate, read) = (median(our_rates), median(their_rates), median(reads));
    let weights = our_rate * bytes_per_token(&model()) as f64;
    let row = if short { Row::short } else { Row::new };
    let note = format!("{our_rate:.1} against {their_rate:.1} tokens/s, {THREADS} threads");
    let note = format!("{note}, {tokens} tokens after {}", PROMPT.len());
    let both = format!("{:.1} GB/s of weights, memory gives {:.1}", weights / 1e9, read / 1e9);
    Ok(vec![
        row("generate", our_rate / their_rate, "x", speed).note(note),
        row("generate.bandwidth", weights / read, "x", bandwidth).note(both),
    ])
}

/// The folder that both sides read; made once.
fn checkpoint(folder: &Path) -> Result<PathBuf> {
    let config = model();
    if read(folder).is_ok_and(|found| found.config == config) {
        return Ok(folder.to_path_buf());
    }
    let tokenizer = tokenizer(config.vocab)?;
    let (params, card) = (initial_params(&config, 1), Card::default());
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &tokenizer,
        companions: &Companions::default(),
        card: &card,
    };
    write(folder, &contents, Overwrite::OursOnly)?;
    Ok(folder.to_path_buf())
}

/// A tokenizer of exactly `vocab` entries, from words that nobody says.
fn tokenizer(vocab: usize) -> Result<Tokenizer> {
    let mut random = Random::new(1);
    let mut letter = || char::from(b'a' + random.below(26) as u8);
    let words: Vec<String> = (0..vocab).map(|_| (0..5).map(|_| letter()).collect()).collect();
    let text = words.join(" ");
    let tokenizer = Tokenizer::train([&text, &text], vocab)?;
    let found = tokenizer.vocab_size();
    ensure!(found == vocab, "expected {vocab} entries, found {found}: too few words");
    Ok(tokenizer)
}
