//! What the engine reads of a stranger's: a tokenizer and a model's sizes.

use crate::Target;
use suanli_engine::tokenizer::Tokenizer;

pub(crate) const TARGETS: &[Target] = &[Target::new(
    "tokenizer-json",
    "what loads encodes and decodes any text exactly, or is refused",
    tokenizers,
    tokenizer,
)];

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
