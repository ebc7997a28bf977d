//! What is learned from: the Rust sources that cargo keeps on this machine, prepared once.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use suanli_engine::order::{GROUP_SAMPLES, SampleOrder};
use suanli_engine::{Batch, Cancel};
use suanli_store::data::{Prepared, Recipe, SampleLayout, prepare, rust_sources};
use suanli_store::job_file::{TokenizerKind, TokenizerSection};

/// Enough for three runs of 2.46 M tokens that hardly share a sample.
const TEXT_BYTES_MAX: u64 = 8 << 20;
const HELD_OUT: f64 = 0.1;
/// Names the folder of the prepared data, so that later runs measure with the same text even when
/// cargo has fetched more in between.
const CHOSEN: &str = "chosen";

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
    pub fn prepared_in(folder: &Path, context: usize) -> Result<Self> {
        let chosen = folder.join(CHOSEN);
        let earlier = std::fs::read_to_string(&chosen).ok();
        let earlier = earlier.and_then(|name| Prepared::open(&folder.join(name.trim())).ok());
        let prepared = match earlier {
            Some(prepared) => prepared,
            None => prepare_in(folder, &chosen, context)?,
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

fn prepare_in(folder: &Path, chosen: &Path, context: usize) -> Result<Prepared> {
    let sources = rust_sources(None, TEXT_BYTES_MAX)?;
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

fn tokens(path: &Path, layout: SampleLayout) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(layout.tokens(&bytes)?)
}
