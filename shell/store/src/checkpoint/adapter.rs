//! Low-rank adapters as a folder in the layout of Hugging Face PEFT.
//!
//! `adapter_config.json` says which matrices have one, `adapter_model.safetensors` holds their two
//! factors. Reading takes what PEFT saves for LoRA on the attention and feed-forward matrices;
//! anything that would change the arithmetic (another kind of adapter, trained biases, ranks by
//! pattern, DoRA, rank-stabilised scales) is refused by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use suanli_engine::{Lora, ModelConfig, Target};

use super::error::{CheckpointError, damaged};
use super::folder::{Draft, check_hashes, read_text};
use super::header::TensorFile;
use super::{CONFIG_BYTES_MAX, Overwrite, tensors};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What is written of adapters.
#[derive(Clone, Copy, Debug)]
pub struct AdapterContents<'a> {
    /// Which adapters.
    pub lora: &'a Lora,
    /// The sizes of the model they are for.
    pub config: &'a ModelConfig,
    /// Their parameters, flat, in the order of [`Lora::space`].
    pub params: &'a [f32],
    /// Where the model they are for is found: a name or a path, for PEFT.
    pub base: &'a str,
}

/// Writes adapters to `folder`; says where a foreign folder went that had to make room.
///
/// # Errors
/// As for [`super::write`].
pub fn write_adapter(
    folder: &Path,
    contents: &AdapterContents<'_>,
    overwrite: Overwrite,
) -> Result<Option<PathBuf>, CheckpointError> {
    let AdapterContents { lora, config, params, base } = *contents;
    config.check()?;
    lora.check()?;
    let (expected, found) = (lora.parameters(config), params.len());
    if expected != found {
        return Err(CheckpointError::ParameterCount { expected, found });
    }
    let mut draft = Draft::beside(folder, overwrite)?;
    draft.write(CONFIG, to_json(lora, base).as_bytes())?;
    draft.stream(WEIGHTS, |out| tensors::write(out, &lora.space(config), params))?;
    draft.publish()
}

/// Reads adapters for a model of `config` from `folder` and checks all of it.
///
/// # Errors
/// What is missing, damaged, for another model, or of a kind that this program does not train.
pub fn read_adapter(
    folder: &Path,
    config: &ModelConfig,
) -> Result<(Lora, Vec<f32>), CheckpointError> {
    let path = folder.join(CONFIG);
    let text = read_text(&path, CONFIG_BYTES_MAX)?;
    let value = serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
    let lora = Fields { path: &path, value: &value }.lora()?;
    check_hashes(folder)?;
    let file = TensorFile::open(&folder.join(WEIGHTS))?;
    let params = tensors::read_all(&file, &lora.space(config))?;
    Ok((lora, params))
}

fn to_json(lora: &Lora, base: &str) -> String {
    let targets: Vec<&str> = lora.targets.iter().map(|target| target.name()).collect();
    let value = json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    format!("{value:#}\n")
}

struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Fields<'_> {
    fn lora(&self) -> Result<Lora, CheckpointError> {
        self.only("peft_type", &json!("LORA"))?;
        for (field, plain) in [
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("lora_bias", json!(false)),
            ("use_dora", json!(false)),
            ("use_rslora", json!(false)),
            ("use_qalora", json!(false)),
            ("modules_to_save", Value::Null),
            ("layers_to_transform", Value::Null),
            ("layer_replication", Value::Null),
            ("trainable_token_indices", Value::Null),
            ("target_parameters", Value::Null),
            ("exclude_modules", Value::Null),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
        ] {
            if !self.value[field].is_null() {
                self.only(field, &plain)?;
            }
        }
        let rank = self.value["r"].as_u64().and_then(|rank| usize::try_from(rank).ok());
        let rank = rank.ok_or_else(|| self.wrong("r", "a rank, at least 1"))?;
        let alpha = self.value["lora_alpha"].as_f64();
        let alpha = alpha.ok_or_else(|| self.wrong("lora_alpha", "a number"))? as f32;
        let lora = Lora { rank, alpha, targets: self.targets()? };
        lora.check()?;
        Ok(lora)
    }

    fn targets(&self) -> Result<Vec<Target>, CheckpointError> {
        let known = || {
            let names: Vec<&str> = Target::ALL.iter().map(|target| target.name()).collect();
            self.wrong("target_modules", format!("a list of some of {}", names.join(", ")))
        };
        let list = self.value["target_modules"].as_array().ok_or_else(known)?;
        let each = list.iter().map(|name| Target::from_name(name.as_str()?));
        let targets = each.collect::<Option<BTreeSet<Target>>>().ok_or_else(known)?;
        Ok(targets.into_iter().collect())
    }

    fn only(&self, field: &'static str, only: &Value) -> Result<(), CheckpointError> {
        if self.value[field] == *only {
            return Ok(());
        }
        Err(self.wrong(field, only.to_string()))
    }

    fn wrong(&self, field: &'static str, expected: impl Into<String>) -> CheckpointError {
        let found: String = self.value[field].to_string().chars().take(100).collect();
        let (path, expected) = (self.path.to_owned(), expected.into());
        CheckpointError::Adapter { path, field, expected, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> ModelConfig {
        let demo = ModelConfig::demo();
        ModelConfig { hidden: 16, layers: 2, heads: 4, kv_heads: 2, ffn: 24, context: 32, ..demo }
    }

    fn written() -> (tempfile::TempDir, PathBuf, Lora, Vec<f32>) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("adapter");
        let targets = vec![Target::QProj, Target::VProj, Target::DownProj];
        let lora = Lora { rank: 3, alpha: 6.0, targets };
        let params: Vec<f32> =
            (0..lora.parameters(&sizes())).map(|i| i as f32 * 0.25 - 9.0).collect();
        let contents =
            AdapterContents { lora: &lora, config: &sizes(), params: &params, base: "base" };
        write_adapter(&folder, &contents, Overwrite::OursOnly).unwrap();
        (home, folder, lora, params)
    }

    #[test]
    fn adapters_come_back_as_they_were_written() {
        let (_home, folder, lora, params) = written();
        assert_eq!(read_adapter(&folder, &sizes()).unwrap(), (lora, params));
        // The judge of our writer.
        let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
        assert_eq!(file.tensor(name).unwrap().shape(), [16, 3]);
        assert_eq!(file.names().len(), 2 * 3 * 2);
    }

    #[test]
    fn another_models_adapters_and_other_kinds_are_refused_by_name() {
        let (_home, folder, ..) = written();
        let wider = ModelConfig { ffn: 25, ..sizes() };
        let error = read_adapter(&folder, &wider).unwrap_err().to_string();
        assert!(error.contains("down_proj.lora_A") && error.contains("[3, 24]"), "{error}");
        let deeper = ModelConfig { layers: 3, ..sizes() };
        assert!(read_adapter(&folder, &deeper).unwrap_err().to_string().contains("layers.2"));
        let shallower = ModelConfig { layers: 1, ..sizes() };
        assert!(read_adapter(&folder, &shallower).unwrap_err().to_string().contains("layers.1"));
        std::fs::remove_file(folder.join("suanli.json")).unwrap();
        let text = std::fs::read_to_string(folder.join(CONFIG)).unwrap();
        for (from, to, field) in [
            ("\"LORA\"", "\"IA3\"", "peft_type"),
            ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
            ("\"r\": 3", "\"r\": -1", "`r`"),
            ("\"r\": 3", "\"r\": 0", "lora.rank"),
            ("\"v_proj\"", "\"c_attn\"", "target_modules"),
            ("\"lora_alpha\": 6.0", "\"lora_alpha\": \"big\"", "lora_alpha"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from}");
            std::fs::write(folder.join(CONFIG), changed).unwrap();
            let error = read_adapter(&folder, &sizes()).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        std::fs::write(folder.join(CONFIG), "{").unwrap();
        assert!(matches!(read_adapter(&folder, &sizes()), Err(CheckpointError::Damaged { .. })));
        assert!(matches!(
            read_adapter(&folder.join("no"), &sizes()),
            Err(CheckpointError::Missing { .. })
        ));
    }
}
