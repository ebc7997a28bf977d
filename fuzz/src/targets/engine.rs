//! What the engine reads of a stranger's: a tokenizer, the sizes of a model and of its adapters, and
//! a state to go on from.

use crate::{ALLOCATION_BASE, ALLOCATION_PER_BYTE, Target};
use serde_json::{Value, json};
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{
    Engine as _, Lora, ModelConfig, Reference, RopeScaling, State, Target as Matrix,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "tokenizer-json",
        "what loads encodes and decodes any text exactly, or is refused",
        tokenizers,
        tokenizer,
    ),
    // A pattern that repeats itself may take the regex crate's own limit of 10 MiB, a few times.
    Target {
        allocation: |len| ALLOCATION_BASE + (64 << 20) + ALLOCATION_PER_BYTE * len,
        ..Target::new(
            "tokenizer-foreign",
            "what loads gives known ids for any text, and its own text back, or is refused",
            foreign_tokenizers,
            foreign_tokenizer,
        )
    },
    Target::new(
        "engine-sizes",
        "sizes that pass make a space of as many parameters as they say, or are refused",
        sizes,
        size,
    ),
    Target::new(
        "engine-adapters",
        "adapters that pass have as many parameters as they say, or are refused",
        adapters,
        adapter,
    ),
    Target::new(
        "engine-state",
        "a state has one form, and an engine that takes it up can seal it and give it back",
        states,
        state,
    ),
];

const TEXT: &str = "the cat sat on the mat, the cat sat on the hat";

fn tokenizers() -> Vec<Vec<u8>> {
    let bpe = Tokenizer::train([TEXT], 270).expect("there is text");
    [Tokenizer::Bytes, bpe].iter().map(|t| t.to_json().expect("our own").into_bytes()).collect()
}

fn tokenizer(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(tokenizer) = Tokenizer::from_json(text) else { return };
    let ids = tokenizer.encode(TEXT.as_bytes()).expect("UTF-8 text");
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    assert_eq!(tokenizer.decode_bytes(&ids).expect("its own ids"), TEXT.as_bytes());
}

/// A byte-level BPE with a pattern of its own and a template, and a BPE that falls back to bytes.
fn foreign_tokenizers() -> Vec<Vec<u8>> {
    [byte_level(), characters()].iter().map(|json| json.to_string().into_bytes()).collect()
}

fn template(id: usize, token: &str) -> Value {
    json!({"type": "TemplateProcessing",
           "single": [{"SpecialToken": {"id": token, "type_id": 0}},
                      {"Sequence": {"id": "A", "type_id": 0}}],
           "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
}

fn byte_level() -> Value {
    let bpe = Tokenizer::train([TEXT], 262).expect("there is text");
    let mut json: Value = serde_json::from_str(&bpe.to_json().expect("our own")).expect("JSON");
    json["normalizer"] = json!({"type": "NFC"});
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)|."}, "behavior": "Isolated",
         "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    let end = bpe.vocab_size();
    json["added_tokens"] = json!([{"id": end, "content": "<|end|>", "special": true}]);
    json["post_processor"] = template(end, "<|end|>");
    json
}

fn characters() -> Value {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned()];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["\u{2581}", "t", "h", "e", "he", "the", "\u{2581}the"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    json!({
        "added_tokens": [{"id": 1, "content": "<s>", "special": true, "lstrip": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "post_processor": template(1, "<s>"),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": vocab, "merges": ["h e", "t he", "\u{2581} the"]},
    })
}

fn foreign_tokenizer(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(tokenizer) = Tokenizer::from_any_json(text) else { return };
    if let Tokenizer::Foreign(_) = tokenizer {
        assert_eq!(tokenizer.to_json().expect("it was read"), text);
    }
    for sample in [TEXT, "\u{7b97}\u{7c92} <s>\n\n x<|end|>  \u{0}y", text] {
        let sample = &sample[..sample.floor_char_boundary(1 << 12)];
        for ids in [tokenizer.encode(sample.as_bytes()), tokenizer.encode_more(sample.as_bytes())] {
            let Ok(ids) = ids else { continue };
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
            tokenizer.decode_bytes(&ids).expect("its own ids");
        }
    }
    let frame = [tokenizer.document_start(), tokenizer.document_end()].concat();
    tokenizer.decode(&frame).expect("its own ids");
}

/// Names of tensors take memory, so that only so many are made here.
const LAYERS: usize = 4;

fn sizes() -> Vec<Vec<u8>> {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 16,
    };
    let (rope_scaling, head_dim) = (Some(llama3), Some(8));
    let demo = ModelConfig::demo();
    let all =
        ModelConfig { rope_scaling, head_dim, qkv_bias: true, qk_norm: true, tied: true, ..demo };
    let json = |config: &ModelConfig| serde_json::to_vec(config).expect("our own");
    vec![json(&ModelConfig::demo()), json(&all)]
}

fn size(input: &[u8]) {
    let Ok(config) = serde_json::from_slice::<ModelConfig>(input) else { return };
    if config.check().is_err() || config.layers > LAYERS {
        return;
    }
    assert_eq!(config.space().len(), config.parameters());
    let json = serde_json::to_vec(&config).expect("it was read");
    assert_eq!(serde_json::from_slice::<ModelConfig>(&json).expect("our own"), config);
}

fn adapters() -> Vec<Vec<u8>> {
    let some = vec![Matrix::KProj, Matrix::DownProj];
    let all = [(1, some), (1024, Matrix::ALL.to_vec())];
    let json = |(rank, targets)| serde_json::to_vec(&Lora { rank, alpha: 16.0, targets });
    all.into_iter().map(|lora| json(lora).expect("our own")).collect()
}

fn adapter(input: &[u8]) {
    let Ok(lora) = serde_json::from_slice::<Lora>(input) else { return };
    if lora.check().is_err() {
        return;
    }
    let config = ModelConfig::demo();
    let space = lora.space(&config);
    assert_eq!(space.len(), lora.parameters(&config));
    assert_eq!(space.tensors().len(), 2 * lora.targets.len() * config.layers);
    assert!(lora.scale().is_finite() && lora.scale() > 0.0);
}

/// The smallest model there is.
fn tiny() -> ModelConfig {
    let (vocab, hidden, layers, heads, kv_heads, ffn, context) = (2, 2, 1, 1, 1, 1, 1);
    let demo = ModelConfig::demo();
    ModelConfig { vocab, hidden, layers, heads, kv_heads, ffn, context, tied: true, ..demo }
}

fn engine() -> Reference<f32> {
    Reference::new(tiny()).expect("the smallest model")
}

fn states() -> Vec<Vec<u8>> {
    vec![engine().export().to_bytes()]
}

fn state(input: &[u8]) {
    let Ok(state) = State::from_bytes(input, tiny().parameters()) else { return };
    assert_eq!(state.to_bytes(), input);
    let mut engine = engine();
    if engine.import(&state).is_err() {
        return;
    }
    assert_eq!(engine.state_hash(), state.hash());
    let sealed = engine.seal();
    engine.unseal(&sealed).expect("its own");
    assert_eq!(engine.seal(), sealed);
}
