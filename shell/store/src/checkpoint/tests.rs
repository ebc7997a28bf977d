use std::fs;

use suanli_engine::initial_params;

use super::*;

fn sizes(tied: bool) -> ModelConfig {
    ModelConfig {
        vocab: 256,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn: 24,
        context: 32,
        rope_theta: 5000.0,
        norm_eps: 1e-6,
        tied,
        ..ModelConfig::demo()
    }
}

fn write_to(
    folder: &Path,
    config: &ModelConfig,
    overwrite: Overwrite,
) -> Result<Vec<f32>, CheckpointError> {
    let params = initial_params(config, 7);
    let card = Card {
        name: "Small".to_owned(),
        facts: vec![("rounds | x".to_owned(), "40\n".to_owned())],
        sample: Some("fn main".to_owned()),
    };
    let contents = Contents {
        config,
        params: &params,
        tokenizer: &Tokenizer::Bytes,
        companions: &Companions::default(),
        card: &card,
    };
    write(folder, &contents, overwrite)?;
    Ok(params)
}

fn written(config: &ModelConfig) -> (tempfile::TempDir, PathBuf, Vec<f32>) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    let params = write_to(&folder, config, Overwrite::OursOnly).unwrap();
    (root, folder, params)
}

#[test]
fn what_is_written_reads_back_bit_for_bit() {
    for tied in [false, true] {
        let config = sizes(tied);
        let (_root, folder, params) = written(&config);
        let loaded = read(&folder).unwrap();
        assert_eq!(loaded.config, config);
        assert_eq!(loaded.params, params);
        let card = fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(card.contains("| rounds \\| x | 40  |"), "{card}");
    }
}

#[test]
fn the_safetensors_crate_reads_our_file_and_we_read_its() {
    let config = sizes(false);
    let (_root, folder, params) = written(&config);
    let path = folder.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), config.space().tensors().len());
    for tensor in config.space().tensors() {
        let view = theirs.tensor(&tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        let expected: Vec<u8> =
            params[tensor.range()].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(view.data(), expected);
    }
    // It sorts by name, so offsets and order differ from ours.
    safetensors::serialize_to_file(theirs.tensors(), None, &folder.join("sorted")).unwrap();
    fs::rename(folder.join("sorted"), &path).unwrap();
    assert!(read(&folder).unwrap_err().to_string().contains("its hash is not the one"));
    fs::remove_file(folder.join("suanli.json")).unwrap();
    assert_eq!(read(&folder).unwrap().params, params);
}

#[test]
fn only_our_own_folders_and_empty_ones_are_replaced() {
    let config = sizes(false);
    let (root, folder, _) = written(&config);
    write_to(&folder, &sizes(true), Overwrite::OursOnly).unwrap();
    assert!(read(&folder).unwrap().config.tied);

    fs::write(folder.join("thesis.txt"), "three years of work").unwrap();
    let error = write_to(&folder, &config, Overwrite::OursOnly).unwrap_err();
    assert!(matches!(error, CheckpointError::NotOurs { .. }), "{error}");
    let params = initial_params(&config, 7);
    let card = Card::default();
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &Tokenizer::Bytes,
        companions: &Companions::default(),
        card: &card,
    };
    let aside = write(&folder, &contents, Overwrite::AnyFolder).unwrap().unwrap();
    assert!(aside.join("thesis.txt").exists());
    assert!(!read(&folder).unwrap().config.tied);

    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write_to(&empty, &config, Overwrite::OursOnly).unwrap();
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = write_to(&file, &config, Overwrite::AnyFolder).unwrap_err();
    assert!(matches!(error, CheckpointError::NotAFolder { .. }), "{error}");
    let mut left: Vec<_> =
        fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["empty", "file", "model", "model.before-1"]);
}

#[test]
fn contents_that_do_not_belong_together_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    let config = sizes(false);
    let card = Card::default();
    let mut params = initial_params(&config, 7);
    let attempt = |config: &ModelConfig, params: &[f32]| {
        let contents = Contents {
            config,
            params,
            tokenizer: &Tokenizer::Bytes,
            companions: &Companions::default(),
            card: &card,
        };
        write(&folder, &contents, Overwrite::OursOnly).unwrap_err()
    };
    let short = attempt(&config, &params[1..]);
    assert!(matches!(short, CheckpointError::ParameterCount { .. }), "{short}");
    let vocab = attempt(&ModelConfig { vocab: 300, ..config.clone() }, &params);
    assert!(matches!(vocab, CheckpointError::Vocab { expected: 300, found: 256 }), "{vocab}");
    params[256 * 16 + 3] = f32::NAN;
    let error = attempt(&config, &params).to_string();
    assert!(
        error.contains("parameter 3 of tensor model.layers.0.input_layernorm.weight is NaN"),
        "{error}"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_truncated_or_missing_file_and_a_flipped_bit_are_named() {
    let config = sizes(false);
    let (_root, folder, _) = written(&config);
    for name in [CONFIG, WEIGHTS, TOKENIZER, GENERATION] {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        let last = flipped.len() - 3;
        flipped[last] ^= 1;
        for bad in [good[..good.len() - 5].to_vec(), flipped] {
            fs::write(&path, bad).unwrap();
            let error = read(&folder).unwrap_err();
            assert!(matches!(error, CheckpointError::Damaged { .. }), "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = read(&folder).unwrap_err();
        assert!(matches!(error, CheckpointError::Missing { .. }), "{name}: {error}");
        fs::write(&path, good).unwrap();
    }
    read(&folder).unwrap();
    assert!(matches!(read(&folder.join("nowhere")), Err(CheckpointError::Missing { .. })));
}

/// The error of a weights file with another header before the same body.
fn with_header(change: impl Fn(&str) -> String) -> String {
    let config = sizes(false);
    let (_root, folder, _) = written(&config);
    fs::remove_file(folder.join("suanli.json")).unwrap();
    let path = folder.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let changed = change(&header);
    assert_ne!(changed, header, "the test changes something");
    let mut file = (changed.len() as u64).to_le_bytes().to_vec();
    file.extend(changed.as_bytes());
    file.extend(&bytes[8 + length..]);
    fs::write(&path, file).unwrap();
    read(&folder).unwrap_err().to_string()
}

#[test]
fn a_header_that_lies_is_seen() {
    let norm = "\"model.norm.weight\":{\"data_offsets\":";
    for (from, to, expected) in [
        (
            "lm_head.weight",
            "lm_head.weighs",
            "tensor lm_head.weight: expected F32, F16 or BF16 of shape [256, 16], found no such tensor",
        ),
        (
            "\"__metadata__\":{\"format\":\"pt\"}",
            "\"extra\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}",
            "tensor extra: expected no such tensor",
        ),
        ("\"shape\":[256,16]", "\"shape\":[16,256]", "found F32 of shape [16, 256]"),
        ("\"F32\"", "\"I32\"", "found I32 of shape"),
        ("\"F32\"", "\"F16\"", "bytes inside the file"),
        (norm, &format!("{norm}[0,64],\"x\":"), "unknown field"),
        ("\"data_offsets\":[0,", "\"data_offsets\":[4,", "found bytes 4.."),
        (
            "\"data_offsets\":[0,16384]",
            "\"data_offsets\":[18446744073709535232,18446744073709551615]",
            "bytes inside the file",
        ),
        ("\"data_offsets\":[0,16384]", "\"data_offsets\":[64,16448]", "overlap, leave gaps"),
        ("\"data_offsets\":[0,16384]", "\"data_offsets\":[-1,16384]", "its header"),
        ("{", "[", "its header"),
    ] {
        let error = with_header(|header| header.replacen(from, to, 1));
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
}

#[test]
fn a_length_that_lies_is_not_believed() {
    let config = sizes(false);
    let (_root, folder, _) = written(&config);
    fs::remove_file(folder.join("suanli.json")).unwrap();
    let path = folder.join(WEIGHTS);
    let good = fs::read(&path).unwrap();
    for length in [u64::MAX, 1 << 40, good.len() as u64 - 7, 0, 3] {
        let bad = [&length.to_le_bytes(), &good[8..]].concat();
        fs::write(&path, bad).unwrap();
        let error = read(&folder).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{length}: {error}");
    }
    for bytes in [&good[..5], b"", &[good.as_slice(), b"tail"].concat()] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(read(&folder), Err(CheckpointError::Damaged { .. })));
    }
    let mut nan = good.clone();
    let at = good.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, nan).unwrap();
    assert!(matches!(read(&folder), Err(CheckpointError::WeightNotFinite { .. })));
}

#[test]
fn another_shape_of_model_is_refused_by_its_field() {
    let config = sizes(false);
    let (_root, folder, _) = written(&config);
    let good = fs::read_to_string(folder.join(CONFIG)).unwrap();
    for (from, to, expected) in [
        (
            "\"llama\"",
            "\"gpt2\"",
            "`model_type`: expected \"llama\", \"mistral\", \"qwen2\" or \"qwen3\", found \"gpt2\"",
        ),
        ("\"silu\"", "\"gelu\"", "`hidden_act`"),
        ("\"mlp_bias\": false", "\"mlp_bias\": true", "`mlp_bias`: expected false, found true"),
        ("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "`rope_parameters`"),
        ("\"head_dim\": 4", "\"head_dim\": 5", "model.head_dim"),
        (
            "\"hidden_size\": 16",
            "\"hidden_size\": \"big\"",
            "`hidden_size`: expected a whole number",
        ),
        ("\"hidden_size\": 16", "\"hidden_size\": 99999999999", "model.hidden"),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "model.heads"),
        ("\"vocab_size\": 256", "\"vocab_size\": 300", "do not belong together"),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(folder.join(CONFIG), good.replacen(from, to, 1)).unwrap();
        fs::remove_file(folder.join("suanli.json")).ok();
        let error = read(&folder).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}
