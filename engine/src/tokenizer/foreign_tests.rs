use serde_json::json;

use super::super::{Tokenizer, split_point};
use super::*;

const TEXT: &str =
    "It's 12345 words;\nand \u{7b97}\u{7c92} \u{1f642} at home.\n\n  Two  spaces\r\n\tend é\n";
/// Words with a leading sign, numbers by threes, signs with the line ends behind them, white space.
const PATTERN: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn special(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

fn begin_template(id: u32, content: &str) -> Value {
    json!({"type": "TemplateProcessing",
           "single": [{"SpecialToken": {"id": content, "type_id": 0}},
                      {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [],
           "special_tokens": {content: {"id": content, "ids": [id], "tokens": [content]}}})
}

/// A byte-level BPE with a pattern of its own, special tokens and a template.
pub(super) fn byte_level() -> Value {
    let ours = Tokenizer::train([TEXT.repeat(30)], 300).unwrap().to_json().unwrap();
    let mut json: Value = serde_json::from_str(&ours).unwrap();
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    json["added_tokens"] = json!([special(300, "<|begin|>"), special(301, "<|end|>")]);
    json["post_processor"] = json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        begin_template(300, "<|begin|>"),
    ]});
    json["model"]["ignore_merges"] = json!(true);
    json["truncation"] =
        json!({"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"});
    json
}

/// A BPE over characters, with a byte for each that it lacks.
pub(super) fn characters() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend("▁etaoinsrhdlucmfw".chars().map(String::from));
    let merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("o", "r"), ("▁", "▁"), ("▁", "w")];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": begin_template(1, "<s>"),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": merges.map(|(a, b)| format!("{a} {b}"))},
    })
}

fn variants() -> Vec<(&'static str, Value)> {
    let mut digits = byte_level();
    digits["normalizer"] = json!({"type": "NFC"});
    digits["pre_tokenizer"]["pretokenizers"] = json!([
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]);
    digits["post_processor"] = Value::Null;
    let mut prefixed = byte_level();
    prefixed["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let mut metaspace = characters();
    metaspace["normalizer"] = Value::Null;
    metaspace["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    vec![
        ("byte level", byte_level()),
        ("digits", digits),
        ("prefixed", prefixed),
        ("characters", characters()),
        ("metaspace", metaspace),
    ]
}

fn read(json: &Value) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_any_json(&json.to_string())
}

fn refusal(json: &Value) -> String {
    read(json).unwrap_err().to_string()
}

/// The crate itself, on the whole file: the judge.
fn library(json: &Value) -> Library {
    let mut library = Library::from_bytes(json.to_string()).unwrap();
    library.with_truncation(None).unwrap();
    library
}

#[test]
fn ids_and_text_are_those_of_the_library() {
    for (name, json) in variants() {
        let (ours, theirs) = (read(&json).unwrap(), library(&json));
        for text in [TEXT, "", " ", "a", "x <|begin|> y<s>z</s> w", "the \u{0}worth\u{7f}"] {
            let expected = theirs.encode(text, false).unwrap().get_ids().to_vec();
            assert_eq!(ours.encode(text.as_bytes()).unwrap(), expected, "{name}: {text:?}");
            let decoded = theirs.decode(&expected, false).unwrap();
            assert_eq!(ours.decode(&expected).unwrap(), decoded, "{name}: {text:?}");
        }
        let whole = theirs.encode("a", true).unwrap().get_ids().to_vec();
        let ids = ours.encode(b"a").unwrap();
        assert_eq!([ours.document_start(), &ids, ours.document_end()].concat(), whole, "{name}");
    }
}

#[test]
fn what_was_read_is_given_back_unchanged() {
    for (name, json) in variants() {
        let text = format!("{json:#}");
        let tokenizer = Tokenizer::from_any_json(&text).unwrap();
        assert_eq!(tokenizer.to_json().unwrap(), text, "{name}");
        assert!(Tokenizer::from_json(&text).is_err(), "{name}: it is none of ours");
    }
    let ours = Tokenizer::train([TEXT.repeat(30)], 300).unwrap().to_json().unwrap();
    assert!(matches!(Tokenizer::from_any_json(&ours), Ok(Tokenizer::Bpe(_))));
    let bytes = Tokenizer::Bytes.to_json().unwrap();
    assert!(matches!(Tokenizer::from_any_json(&bytes), Ok(Tokenizer::Bytes)));
}

#[test]
fn long_text_in_pieces_has_the_ids_of_the_whole() {
    let text = TEXT.repeat(5 * PIECE_BYTES / 2 / TEXT.len());
    for (name, json) in variants() {
        let (ours, theirs) = (read(&json).unwrap(), library(&json));
        let Tokenizer::Foreign(foreign) = &ours else { panic!("{name}") };
        assert!(foreign.cuts, "{name}");
        let expected = theirs.encode(text.as_str(), false).unwrap().get_ids().to_vec();
        assert_eq!(ours.encode(text.as_bytes()).unwrap(), expected, "{name}");
        let cut = split_point(text.as_bytes(), text.len() / 2).unwrap();
        let mut halves = ours.encode(&text.as_bytes()[..cut]).unwrap();
        halves.extend(ours.encode_more(&text.as_bytes()[cut..]).unwrap());
        assert_eq!(halves, expected, "{name}");
    }
}

#[test]
fn a_token_over_a_line_end_or_a_pattern_over_it_keeps_text_whole() {
    let mut spanning = characters();
    spanning["model"]["vocab"]["e\nt"] = json!(290);
    let mut pattern = byte_level();
    pattern["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w+(?=\n\w)|\w|\W");
    for json in [spanning, pattern] {
        let Tokenizer::Foreign(foreign) = read(&json).unwrap() else { panic!("foreign") };
        assert!(!foreign.cuts);
        let expected = library(&json).encode(TEXT, false).unwrap().get_ids().to_vec();
        assert_eq!(foreign.encode(TEXT, Begins::Here).unwrap(), expected);
    }
}

#[test]
fn text_appears_byte_by_byte_as_it_is_generated() {
    let tokenizer = read(&characters()).unwrap();
    let ids = tokenizer.encode("the \u{7b97}".as_bytes()).unwrap();
    let mut bytes = Vec::new();
    for (index, &id) in ids.iter().enumerate() {
        tokenizer.push_token(id, &mut bytes).unwrap();
        // The last three are the bytes of one character.
        assert_eq!(std::str::from_utf8(&bytes).is_err(), [2, 1].contains(&(ids.len() - 1 - index)));
    }
    assert_eq!(bytes, " the \u{7b97}".as_bytes());
    let unknown = tokenizer.push_token(9999, &mut bytes).unwrap_err();
    assert!(matches!(unknown, TokenizerError::UnknownId { found: 9999, .. }), "{unknown}");
}

#[test]
fn added_tokens_keep_ids_beyond_a_gap() {
    let mut json = byte_level();
    json["added_tokens"] = json!([special(310, "<|end|>"), special(305, "<|begin|>")]);
    json["post_processor"] = begin_template(305, "<|begin|>");
    let tokenizer = read(&json).unwrap();
    assert_eq!(tokenizer.vocab_size(), 311);
    assert_eq!(tokenizer.encode(b"<|end|>").unwrap(), [310]);
    assert_eq!(tokenizer.document_start(), [305]);
    assert_eq!(tokenizer.decode(&[305, 302]).unwrap(), "<|begin|>");
}

#[test]
fn what_is_not_known_is_named_with_what_is() {
    let changed = |pointer: &str, value: Value| {
        let mut json = byte_level();
        *json.pointer_mut(pointer).expect(pointer) = value;
        refusal(&json)
    };
    for (pointer, value, expected) in [
        ("/model/type", json!("Unigram"), "`model.type`: expected \"BPE\", found \"Unigram\""),
        ("/model/type", json!("WordPiece"), "found \"WordPiece\""),
        ("/normalizer", json!({"type": "Precompiled"}), "`normalizer`: expected nothing, NFC"),
        ("/normalizer", json!({"type": "Lowercase"}), "found Lowercase"),
        ("/pre_tokenizer", json!({"type": "BertPreTokenizer"}), "`pre_tokenizer`"),
        ("/decoder", json!({"type": "WordPiece"}), "`decoder`: expected ByteLevel, or a Sequence"),
        ("/decoder", Value::Null, "`decoder`"),
        ("/post_processor", json!({"type": "BertProcessing"}), "`post_processor`"),
        ("/model/dropout", json!(0.5), "`model.dropout`"),
        ("/model/end_of_word_suffix", json!("</w>"), "no prefix or suffix"),
        ("/model/continuing_subword_prefix", json!("##"), "no prefix or suffix"),
        ("/model/unk_token", json!("<nothing>"), "`model.unk_token`"),
        ("/model/vocab/!", json!(1), "its id is taken"),
        ("/model/vocab/!", json!(-1), "`model.vocab`"),
        ("/model/vocab/!", json!(1_u64 << 40), "`model.vocab`"),
        ("/model/vocab/!", json!(1_000_000), "tokens have ids up to 1000000"),
        ("/model/vocab", json!([]), "`model.vocab`"),
        ("/model/merges", json!([["!", "nowhere"]]), "`model.merges`"),
        ("/model/merges", json!([["!", "!"]]), "whose union is one too"),
        ("/model/merges", json!(["!"]), "`model.merges`"),
        ("/added_tokens", json!([{"id": 7}]), "`added_tokens`"),
        ("/added_tokens", json!([special(5, "!")]), "has another id elsewhere"),
        ("/added_tokens", json!([special(5, "new")]), "is that of two tokens"),
    ] {
        let error = changed(pointer, value);
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    let long = "x".repeat(PATTERN_BYTES_MAX + 1);
    let split = json!({"type": "Split", "pattern": {"Regex": long}, "behavior": "Isolated", "invert": false});
    assert!(changed("/pre_tokenizer", split).contains("`pre_tokenizer`"));
    let broken = json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false});
    assert!(changed("/pre_tokenizer/pretokenizers/0", broken).contains("cannot be used"));
    let mut lacking = characters();
    lacking["model"]["vocab"].as_object_mut().unwrap().remove("<0xE7>");
    assert!(refusal(&lacking).contains("`model.byte_fallback`"));
}

#[test]
fn a_pattern_that_gives_up_loses_no_text() {
    let mut json = byte_level();
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"(?i)(a|b|ab)*(?>c)");
    let tokenizer = read(&json).unwrap();
    // Some 2^64 ways to go back: the crate stops after a million.
    let text = "ab".repeat(64);
    assert_eq!(tokenizer.decode(&tokenizer.encode(text.as_bytes()).unwrap()).unwrap(), text);
}
