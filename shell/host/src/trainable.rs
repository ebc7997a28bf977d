//! What a job trains, read from its specification and checked: a model, or adapters beside one.

use std::path::{Path, PathBuf};

use suanli_bus::JobSpec;
use suanli_engine::{Lora, ModelConfig, Storage};

use suanli_worker::{Adapters, Layout, WorkerSpec};

/// A job's model, and the adapters when only these are trained.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trainable {
    pub model: ModelConfig,
    pub lora: Option<Lora>,
    pub storage: Storage,
}

impl Trainable {
    /// Reads both and checks that the counts of the specification are theirs.
    pub(crate) fn of(spec: &JobSpec) -> Result<Self, String> {
        let model: ModelConfig =
            serde_json::from_str(&spec.model).map_err(|error| format!("its model: {error}"))?;
        model.check().map_err(|error| format!("its model: {error}"))?;
        let lora = spec.frozen.as_ref().map(|frozen| {
            let lora: Lora = serde_json::from_str(&frozen.adapters)
                .map_err(|error| format!("its adapters: {error}"))?;
            lora.check().map_err(|error| format!("its adapters: {error}"))?;
            Ok::<_, String>(lora)
        });
        let storage = Storage::of_class(&spec.numeric_class).map_err(|error| error.to_string())?;
        let trainable = Self { lora: lora.transpose()?, model, storage };
        let whole = trainable.model.parameters() as u64;
        let fits = spec.frozen.as_ref().is_none_or(|frozen| frozen.parameters == whole)
            && trainable.parameters() as u64 == spec.parameters
            && trainable.model.context + 1 >= spec.data.sample_tokens as usize;
        if fits {
            Ok(trainable)
        } else {
            Err("its model and its data do not fit each other".into())
        }
    }

    /// How many parameters are trained.
    pub(crate) fn parameters(&self) -> usize {
        let adapters = self.lora.as_ref().map(|lora| lora.parameters(&self.model));
        adapters.unwrap_or_else(|| self.model.parameters())
    }

    /// A worker for sequences of `length` tokens with one area of `words`; the frozen model, if
    /// any, lies at `frozen`.
    pub(crate) fn worker(
        self,
        length: usize,
        words: u64,
        frozen: impl FnOnce() -> PathBuf,
    ) -> WorkerSpec {
        let layout = Layout::for_model(self.parameters(), 1, words);
        // A model from elsewhere may read further than it is trained here: no room is kept for that.
        let model = ModelConfig { context: length, ..self.model };
        let adapters = self.lora.map(|lora| Adapters { lora, frozen: frozen() });
        let storage = self.storage;
        WorkerSpec { adapters, storage, ..WorkerSpec::new(model, layout) }
    }
}

/// The parameters in a file of little-endian f32, whose length is known.
pub(crate) fn read_params(path: &Path, parameters: u64) -> Result<Vec<f32>, String> {
    let named = |why: String| format!("{}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| named(error.to_string()))?;
    if bytes.len() as u64 != parameters.saturating_mul(4) {
        return Err(named(format!(
            "expected {parameters} parameters, found {} bytes",
            bytes.len()
        )));
    }
    let words = bytes.as_chunks::<4>().0;
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}
