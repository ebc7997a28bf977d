//! What is learned from: the Rust sources that cargo keeps on this machine, or the prose of their
//! comments, prepared once.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use suanli_engine::order::{GROUP_SAMPLES, SampleOrder};
use suanli_engine::{Batch, Cancel};
use suanli_store::data::{Prepared, Recipe, SampleLayout, prepare, rust_sources};
use suanli_store::job_file::{TokenizerKind, TokenizerSection};

/// Enough for three runs of 2.46 M tokens that hardly share a sample.
const TEXT_BYTES_MAX: u64 = 8 << 20;
/// Sources that are looked through for as much prose.
const SOURCE_BYTES_MAX: u64 = 64 << 20;
/// A file with less prose than this has headings at most.
const PROSE_BYTES_MIN: usize = 200;
const HELD_OUT: f64 = 0.1;
/// Names the folder of the prepared data, so that later runs measure with the same text even when
/// cargo has fetched more in between.
const CHOSEN: &str = "chosen";

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// Rust sources as they are.
    Code,
    /// The English of their documentation comments, without their examples.
    Prose,
}

/// Samples of context + 1 tokens, in training order, and some that nobody trains on.
pub struct Corpus {
    name: String,
    width: usize,
    training: Vec<u32>,
    held_out: Vec<u32>,
    order: SampleOrder,
}

/// The rows of a batch: what an engine borrows.
pub(super) struct Rows {
    length: usize,
    inputs: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Rows {
    fn of(samples: &[u32], width: usize) -> Self {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for sample in samples.chunks_exact(width) {
            inputs.extend_from_slice(&sample[..width - 1]);
            targets.extend_from_slice(&sample[1..]);
        }
        let weights = vec![1.0; inputs.len()];
        Self { length: width - 1, inputs, targets, weights }
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch {
            sequences: self.inputs.len() / self.length,
            length: self.length,
            inputs: &self.inputs,
            targets: &self.targets,
            weights: &self.weights,
        }
    }
}

impl Corpus {
    /// The samples in `folder`, prepared there first unless an earlier run did.
    ///
    /// # Errors
    /// When cargo keeps no sources on this machine, or the disk fails.
    pub fn prepared_in(folder: &Path, text: Text, context: usize) -> Result<Self> {
        let chosen = folder.join(CHOSEN);
        let earlier = std::fs::read_to_string(&chosen).ok();
        let earlier = earlier.and_then(|name| Prepared::open(&folder.join(name.trim())).ok());
        let prepared = match earlier {
            Some(prepared) => prepared,
            None => prepare_in(folder, &chosen, text, context)?,
        };
        Self::read(&prepared)
    }

    fn read(prepared: &Prepared) -> Result<Self> {
        let manifest = prepared.manifest();
        let layout = manifest.layout();
        let mut training = Vec::new();
        for index in 0..manifest.shards.len() {
            training.extend(tokens(&prepared.shard_path(index), layout)?);
        }
        Self::new(
            manifest.input.short(),
            layout.sample_tokens as usize,
            training,
            tokens(&prepared.held_out_path(), layout)?,
        )
    }

    /// A corpus of the given samples.
    pub(super) fn new(
        name: String,
        width: usize,
        training: Vec<u32>,
        held_out: Vec<u32>,
    ) -> Result<Self> {
        let whole = |tokens: &[u32]| !tokens.is_empty() && tokens.len().is_multiple_of(width);
        ensure!(width > 1 && whole(&training) && whole(&held_out), "samples of {width} tokens");
        let order = SampleOrder::new((training.len() / width) as u64, GROUP_SAMPLES, 1)?;
        Ok(Self { name, width, training, held_out, order })
    }

    /// What tells this text from another.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Samples to train with, in one epoch.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.order.samples()
    }

    /// The samples at these places of the job's endless sequence, each place with so many.
    pub(super) fn rows(&self, places: impl Iterator<Item = u64>, count: u64) -> Rows {
        let mut samples = Vec::new();
        for range in places.flat_map(|start| self.order.ranges(start, count)) {
            let place = |sample: u64| sample as usize * self.width;
            samples.extend_from_slice(&self.training[place(range.start)..place(range.end)]);
        }
        Rows::of(&samples, self.width)
    }

    /// At most `count` samples that nobody trains on: the same ones each time.
    pub(super) fn held_out(&self, count: usize) -> Rows {
        let tokens = self.held_out.len().min(count * self.width);
        Rows::of(&self.held_out[..tokens], self.width)
    }
}

fn prepare_in(folder: &Path, chosen: &Path, text: Text, context: usize) -> Result<Prepared> {
    let sources = match text {
        Text::Code => rust_sources(None, TEXT_BYTES_MAX)?,
        Text::Prose => {
            let path = folder.join("prose.txt");
            std::fs::write(&path, all_prose()?)
                .with_context(|| format!("write {}", path.display()))?;
            vec![path]
        }
    };
    let recipe = Recipe {
        field: "text".into(),
        held_out: HELD_OUT,
        max_bytes: None,
        tokenizer: TokenizerSection { kind: TokenizerKind::Bytes, vocab: 256 },
        context,
        seed: 1,
    };
    let prepared = prepare(&sources, &recipe, folder, &mut |_| {}, &Cancel::new())?;
    let name = prepared.folder().file_name().context("a prepared folder has a name")?;
    std::fs::write(chosen, name.as_encoded_bytes())
        .with_context(|| format!("write {}", chosen.display()))?;
    Ok(prepared)
}

/// The prose of all sources, file after file, up to a bound.
fn all_prose() -> Result<String> {
    let mut all = String::new();
    for path in rust_sources(None, SOURCE_BYTES_MAX)? {
        let source = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let prose = prose(&String::from_utf8_lossy(&source));
        if all.len() + prose.len() > TEXT_BYTES_MAX as usize {
            break;
        }
        if prose.len() >= PROSE_BYTES_MIN {
            all += &prose;
        }
    }
    Ok(all)
}

/// Documentation comments without examples; an empty line where code stood between.
fn prose(source: &str) -> String {
    let (mut text, mut example) = (String::new(), false);
    for line in source.lines() {
        let line = line.trim_start();
        let Some(words) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            example = false;
            if !text.is_empty() && !text.ends_with("\n\n") {
                text.push('\n');
            }
            continue;
        };
        let words = words.strip_prefix(' ').unwrap_or(words);
        if words.trim_start().starts_with("```") {
            example = !example;
        } else if !example && !words.starts_with("    ") {
            text += words;
            text.push('\n');
        }
    }
    text
}

fn tokens(path: &Path, layout: SampleLayout) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(layout.tokens(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_what_comments_say_without_their_examples() {
        let source = "//! Sums.\n//!\n//! ```\n//! let x = 1;\n//! ```\n//! Ends.\n\nuse a;\n\n    \
                      /// Adds.\n    fn add() {} // not this\n    /// Takes.\n";
        assert_eq!(prose(source), "Sums.\n\nEnds.\n\nAdds.\n\nTakes.\n");
    }
}
