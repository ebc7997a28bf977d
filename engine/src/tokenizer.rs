//! Text to token ids and back: plain bytes, or a byte-level BPE trained on the job's own data.
//!
//! This is the only place that knows the `tokenizers` crate. Either kind writes a Hugging Face
//! `tokenizer.json` that opens in `transformers` and gives the same ids there.
//! [`Tokenizer::from_json`] reads what [`Tokenizer::to_json`] writes for these two, and refuses the
//! rest. [`Tokenizer::from_any_json`] also takes the tokenizer of another's checkpoint, whose
//! parts are checked one by one in [`Foreign`].
//!
//! Invariants of the two that are ours: ids are `0..vocab_size()` without gaps; every byte string
//! decodes exactly; equal text gives an equal trained tokenizer, byte for byte; there are no
//! special tokens.

mod foreign;
mod words;

use std::collections::{BTreeMap, HashMap};

use tokenizers::models::bpe::{BPE, BpeTrainer, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizerWrapper, TokenizerBuilder, TokenizerImpl};

use foreign::Begins;
pub use foreign::Foreign;
use words::Words;

/// Ids of the byte tokenizer, and the least a BPE holds: one for every byte.
pub const BYTE_VOCAB: usize = 256;
/// Most entries a BPE may hold: four times the largest vocabulary in common use.
pub const VOCAB_MAX: usize = 1 << 20;
/// Most bytes [`Tokenizer::encode`] takes at once; longer text goes through [`split_point`].
pub const ENCODE_BYTES_MAX: usize = 64 << 20;
/// Most bytes of text a BPE is trained on.
pub const TRAIN_BYTES_MAX: usize = 256 << 20;
/// Most bytes of a `tokenizer.json` that is read.
pub const JSON_BYTES_MAX: usize = 64 << 20;

/// The longest token in bytes: bounds what a run of one character can turn into.
const TOKEN_BYTES_MAX: usize = 64;
/// Training cuts longer stretches of one kind (no white space, or nothing else): its time grows
/// with the square of a word's length.
const TRAIN_RUN_BYTES: usize = 256;
/// Text goes through the pre-tokeniser in pieces of about this size: its working memory is some
/// fifty times its input.
const PIECE_BYTES: usize = 64 << 10;
/// ASCII that is shorter goes with the other text around it.
const ASCII_RUN_BYTES: usize = 256;

type Inner = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>;

/// What is wrong with a text, a vocabulary or a `tokenizer.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Text for a BPE is not UTF-8.
    #[error(
        "expected UTF-8 text, found a byte that is none at offset {offset}: convert the text, \
             or use the tokenizer kind \"bytes\", which takes any file"
    )]
    NotUtf8 {
        /// Where in the given bytes.
        offset: usize,
    },
    /// More input than a call takes.
    #[error("expected at most {max} bytes {what}, found {found}")]
    TooLong {
        /// What the bytes are.
        what: &'static str,
        /// How many came.
        found: usize,
        /// How many are taken.
        max: usize,
    },
    /// A vocabulary size that cannot be.
    #[error(
        "expected a vocabulary of {BYTE_VOCAB} to {VOCAB_MAX} entries, found {found}: \
             set `vocab` under [tokenizer]"
    )]
    VocabSize {
        /// The size asked for or read.
        found: usize,
    },
    /// Training had no text.
    #[error("expected text to train the tokenizer on, found none: check the data's paths")]
    NoText,
    /// The crate underneath failed on input that passed our checks: a defect, of it or of us.
    #[error("the tokenizer failed while {doing}: {reason}; this is a defect, please report it")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// What the crate said.
        reason: String,
    },
    /// A `tokenizer.json` is damaged or not of our making.
    #[error(
        "this tokenizer.json cannot be used: {wrong}; expected a byte-level BPE as this \
             program writes it, so export it again from the job"
    )]
    Json {
        /// What is wrong with it.
        wrong: String,
    },
    /// A part of another's `tokenizer.json` that this program does not know.
    #[error(
        "this tokenizer.json cannot be used: `{field}`: expected {expected}, found {found}; a \
             byte-level BPE and a BPE with byte fallback can be read"
    )]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A part of another's tokenizer gave up on a text.
    #[error(
        "the checkpoint's tokenizer fails on this text: {reason}; change the text, or use another \
             tokenizer"
    )]
    Foreign {
        /// What the crate said.
        reason: String,
    },
    /// An id outside the vocabulary.
    #[error("expected token ids below {vocab}, found {found}: the ids come from another tokenizer")]
    UnknownId {
        /// The id.
        found: u32,
        /// How many ids there are.
        vocab: usize,
    },
}

/// Turns text into token ids and back.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// A token is a byte, its id the byte's value.
    Bytes,
    /// A trained byte-level BPE.
    Bpe(Box<Bpe>),
    /// One that came with another's checkpoint.
    Foreign(Box<Foreign>),
}

/// A byte-level BPE with the bytes of each of its tokens.
#[derive(Clone, Debug)]
pub struct Bpe {
    inner: Inner,
    /// The tokens' bytes by id.
    tokens: Vec<Vec<u8>>,
    /// The vocabulary's character for each byte.
    characters: Box<[char; BYTE_VOCAB]>,
}

impl Tokenizer {
    /// Trains a byte-level BPE of at most `vocab` entries on `texts`; less text gives fewer.
    ///
    /// # Errors
    /// When `vocab` is out of range, there is no text, or more than [`TRAIN_BYTES_MAX`] of it.
    pub fn train<S: AsRef<str>>(
        texts: impl IntoIterator<Item = S>,
        vocab: usize,
    ) -> Result<Self, TokenizerError> {
        check_vocab(vocab)?;
        let mut pieces: Vec<String> = Vec::new();
        let mut total = 0_usize;
        for text in texts {
            let text = text.as_ref();
            total = total.saturating_add(text.len());
            bounded("of text to train a tokenizer on", total, TRAIN_BYTES_MAX)?;
            pieces.extend(pieces_of(text).flat_map(bounded_runs).map(str::to_owned));
        }
        if total == 0 {
            return Err(TokenizerError::NoText);
        }
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(2)
            .max_token_length(Some(TOKEN_BYTES_MAX))
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut inner = assemble(BPE::default(), Splitting::Words)?;
        inner.train(&mut trainer, pieces.iter()).map_err(internal("training"))?;
        Self::bpe(inner)
    }

    /// How many ids there are; for a foreign one, one more than the largest.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => BYTE_VOCAB,
            Self::Bpe(bpe) => bpe.tokens.len(),
            Self::Foreign(foreign) => foreign.vocab_size(),
        }
    }

    /// The ids of `text`. For a BPE these are the ids of the whole text, however long, though the
    /// work goes in pieces.
    ///
    /// # Errors
    /// When `text` is longer than [`ENCODE_BYTES_MAX`], or a BPE is given what is not UTF-8.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, TokenizerError> {
        bounded("of text in one call", text.len(), ENCODE_BYTES_MAX)?;
        match self {
            Self::Bytes => Ok(text.iter().map(|&byte| u32::from(byte)).collect()),
            Self::Bpe(bpe) => {
                let text = std::str::from_utf8(text)
                    .map_err(|e| TokenizerError::NotUtf8 { offset: e.valid_up_to() })?;
                let mut ids = Vec::with_capacity(text.len() / 3);
                let mut words = Words::new(text, &bpe.characters);
                let mut at = 0;
                for piece in pieces_of(text) {
                    bpe.encode_piece(&mut words, at, piece, &mut ids)
                        .map_err(internal("encoding"))?;
                    at += piece.len();
                }
                Ok(ids)
            }
            Self::Foreign(foreign) => foreign.encode(utf8(text)?, Begins::Here),
        }
    }

    /// The ids of `text` in which special tokens may stand, such as a rendered chat. Our own
    /// tokenizers have none, and a foreign one finds its own in any text, as `transformers` does:
    /// so they are those of [`encode`](Self::encode).
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_with_special(&self, text: &[u8]) -> Result<Vec<u32>, TokenizerError> {
        self.encode(text)
    }

    /// The ids of a text that goes on behind a line end: where a foreign tokenizer puts a space
    /// before a text, here it puts none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_more(&self, text: &[u8]) -> Result<Vec<u32>, TokenizerError> {
        let Self::Foreign(foreign) = self else { return self.encode(text) };
        bounded("of text in one call", text.len(), ENCODE_BYTES_MAX)?;
        foreign.encode(utf8(text)?, Begins::Inside)
    }

    /// What belongs before a document: the token that begins one, where a foreign tokenizer has it.
    #[must_use]
    pub fn document_start(&self) -> &[u32] {
        match self {
            Self::Bytes | Self::Bpe(_) => &[],
            Self::Foreign(foreign) => foreign.start(),
        }
    }

    /// What belongs behind a document.
    #[must_use]
    pub fn document_end(&self) -> &[u32] {
        match self {
            Self::Bytes | Self::Bpe(_) => &[],
            Self::Foreign(foreign) => foreign.end(),
        }
    }

    /// The bytes that `ids` stand for. A foreign tokenizer that puts a space before a text takes it
    /// off again.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>, TokenizerError> {
        let mut bytes = Vec::with_capacity(ids.len() * 2);
        for &id in ids {
            self.push_token(id, &mut bytes)?;
        }
        if let Self::Foreign(foreign) = self {
            foreign.strip(&mut bytes);
        }
        Ok(bytes)
    }

    /// The text that `ids` stand for; bytes that are no text become U+FFFD.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(ids)?).into_owned())
    }

    /// Appends the bytes of one token: for text that is shown while it is generated.
    ///
    /// # Errors
    /// When the id is not in the vocabulary.
    pub fn push_token(&self, id: u32, bytes: &mut Vec<u8>) -> Result<(), TokenizerError> {
        let unknown = || TokenizerError::UnknownId { found: id, vocab: self.vocab_size() };
        match self {
            Self::Bytes => bytes.push(u8::try_from(id).map_err(|_| unknown())?),
            Self::Bpe(bpe) => {
                let index = usize::try_from(id).map_err(|_| unknown())?;
                bytes.extend_from_slice(bpe.tokens.get(index).ok_or_else(unknown)?);
            }
            Self::Foreign(foreign) => {
                bytes.extend_from_slice(foreign.token(id).ok_or_else(unknown)?);
            }
        }
        Ok(())
    }

    /// The Hugging Face `tokenizer.json` of this tokenizer: equal tokenizers give equal text. Of a
    /// foreign one it is the text that was read.
    ///
    /// # Errors
    /// Only by a defect.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let mut text = match self {
            Self::Bytes => byte_inner()?.to_string(true),
            Self::Bpe(bpe) => bpe.inner.to_string(true),
            Self::Foreign(foreign) => return Ok(foreign.text().to_owned()),
        }
        .map_err(internal("writing tokenizer.json"))?;
        text.push('\n');
        Ok(text)
    }

    /// Reads a `tokenizer.json` that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// When it is too long, damaged, or says anything that ours do not.
    pub fn from_json(text: &str) -> Result<Self, TokenizerError> {
        bounded("of tokenizer.json", text.len(), JSON_BYTES_MAX)?;
        let read: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
        let parts: Parts = serde_json::from_value(read["model"].clone()).map_err(wrong)?;
        let words = read["pre_tokenizer"]["use_regex"] == serde_json::Value::Bool(true);
        let splitting = if words { Splitting::Words } else { Splitting::Nothing };
        let inner = rebuild(parts, splitting)?;
        // Everything but the vocabulary and the merges is fixed: compare instead of interpreting.
        let ours = inner.to_string(false).map_err(internal("writing tokenizer.json"))?;
        let ours: serde_json::Value = serde_json::from_str(&ours).map_err(wrong)?;
        if let Some(field) = first_difference(&ours, &read) {
            return Err(wrong(format!("its field `{field}` differs from ours")));
        }
        let read = Self::bpe(inner)?;
        match (splitting, read) {
            (Splitting::Words, read) => Ok(read),
            (Splitting::Nothing, Self::Bpe(bpe)) if bpe.is_plain_bytes() => Ok(Self::Bytes),
            (Splitting::Nothing, _) => {
                Err(wrong("it does not split into words, yet is not the byte table"))
            }
        }
    }

    /// Reads any `tokenizer.json` that can be used: one of ours, or that of another's checkpoint.
    ///
    /// # Errors
    /// When it is too long, damaged, or of a kind that is not known here.
    pub fn from_any_json(text: &str) -> Result<Self, TokenizerError> {
        bounded("of tokenizer.json", text.len(), JSON_BYTES_MAX)?;
        let json: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
        if may_be_ours(&json)
            && let Ok(ours) = Self::from_json(text)
        {
            return Ok(ours);
        }
        Ok(Self::Foreign(Box::new(Foreign::read(text, &json)?)))
    }

    fn bpe(inner: Inner) -> Result<Self, TokenizerError> {
        let tokens = token_bytes(&inner)?;
        let characters = Box::new(byte_characters());
        Ok(Self::Bpe(Box::new(Bpe { inner, tokens, characters })))
    }
}

impl Bpe {
    /// Appends the ids of `piece`, which begins at byte `at` of the words' text: ASCII is split by
    /// comparisons, the lines with anything else by the pattern itself.
    fn encode_piece(
        &self,
        words: &mut Words<'_>,
        at: usize,
        piece: &str,
        ids: &mut Vec<u32>,
    ) -> tokenizers::Result<()> {
        let mut rest = 0;
        while let Some(stretch) = next_stretch(&piece[rest..]) {
            let (start, end) = (rest, rest + stretch.end);
            if stretch.ascii {
                words.encode_ascii(self.inner.get_model(), at + start..at + end, ids)?;
            } else {
                words.encode_any(self.inner.get_model(), at + start..at + end, ids)?;
            }
            rest = end;
        }
        Ok(())
    }

    fn is_plain_bytes(&self) -> bool {
        self.tokens.len() == BYTE_VOCAB
            && self.tokens.iter().zip(0_u8..=255).all(|(token, byte)| token == &[byte])
    }
}

/// Whether it is worth trying to read it as one of ours: others are long, and have other parts.
fn may_be_ours(json: &serde_json::Value) -> bool {
    let none = |field: &str| json[field].is_null();
    none("normalizer") && none("post_processor") && json["pre_tokenizer"]["type"] == "ByteLevel"
}

fn utf8(text: &[u8]) -> Result<&str, TokenizerError> {
    std::str::from_utf8(text).map_err(|e| TokenizerError::NotUtf8 { offset: e.valid_up_to() })
}

/// Where `text` may be cut so that encoding the two halves one by one gives the ids of the whole:
/// the last such place at or below `limit`, or `None` when there is none.
///
/// The place is after a line feed between two characters that are not white space: the
/// pre-tokeniser's pattern ends a word there whatever follows.
#[must_use]
pub fn split_point(text: &[u8], limit: usize) -> Option<usize> {
    let upper = limit.min(text.len().saturating_sub(1));
    (2..=upper).rev().find(|&cut| is_split(text, cut))
}

/// Whether [`split_point`] may name `cut`, which is at least 2 and inside the text.
fn is_split(text: &[u8], cut: usize) -> bool {
    // ASCII on both sides only: white space beyond ASCII would need decoding to be told.
    let solid = |byte: u8| byte.is_ascii_graphic();
    text[cut - 1] == b'\n' && solid(text[cut - 2]) && solid(text[cut])
}

/// The beginning of a text, as far as one way of encoding goes.
struct Stretch {
    end: usize,
    ascii: bool,
}

/// The first stretch of `text` that is all ASCII, or else one that is not, cut where the ids allow
/// it; none of an empty text.
fn next_stretch(text: &str) -> Option<Stretch> {
    let bytes = text.as_bytes();
    let foreign_from = |from: usize, to: usize| {
        bytes[from..to].iter().position(|byte| !byte.is_ascii()).map(|at| from + at)
    };
    let Some(mut foreign) = foreign_from(0, bytes.len()) else {
        return (!text.is_empty()).then_some(Stretch { end: text.len(), ascii: true });
    };
    if let Some(end) = split_point(bytes, foreign) {
        return Some(Stretch { end, ascii: true });
    }
    loop {
        let cuts = (foreign + 1).max(2)..bytes.len();
        let end = cuts.into_iter().find(|&cut| is_split(bytes, cut)).unwrap_or(bytes.len());
        // Lines that alternate go together: each call of the crate costs something of its own.
        match foreign_from(end, bytes.len().min(end + ASCII_RUN_BYTES)) {
            Some(next) => foreign = next,
            None => return Some(Stretch { end, ascii: false }),
        }
    }
}

/// `text` in pieces of about [`PIECE_BYTES`]. A stretch without a [`split_point`] stays whole up
/// to sixteen times that, then is cut at the next character.
fn pieces_of(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(piece_end(rest));
        rest = after;
        Some(piece)
    })
}

fn piece_end(text: &str) -> usize {
    let mut window = PIECE_BYTES;
    while window < text.len() && window <= 16 * PIECE_BYTES {
        if let Some(cut) = split_point(text.as_bytes(), window) {
            return cut;
        }
        window *= 2;
    }
    if window >= text.len() {
        return text.len();
    }
    text.floor_char_boundary(window)
}

/// `piece` cut so that no stretch of one kind is much longer than [`TRAIN_RUN_BYTES`]. Ordinary
/// text stays whole.
fn bounded_runs(piece: &str) -> impl Iterator<Item = &str> {
    let mut cuts = vec![0];
    let mut run_start = 0;
    let mut was_space = None;
    for (at, character) in piece.char_indices() {
        let space = character.is_whitespace();
        if was_space != Some(space) {
            (run_start, was_space) = (at, Some(space));
        } else if at - run_start >= TRAIN_RUN_BYTES {
            run_start = at;
            cuts.push(at);
        }
    }
    cuts.push(piece.len());
    (1..cuts.len()).map(move |index| &piece[cuts[index - 1]..cuts[index]])
}

#[derive(Clone, Copy)]
enum Splitting {
    /// The pattern of GPT-2: merges never cross words.
    Words,
    /// None: the byte table has no merges to keep apart.
    Nothing,
}

fn assemble(model: BPE, splitting: Splitting) -> Result<Inner, TokenizerError> {
    let words = matches!(splitting, Splitting::Words);
    let level = || ByteLevel::new(false, false, words);
    TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(None)
        .with_pre_tokenizer(Some(level()))
        .with_post_processor(None)
        .with_decoder(Some(level()))
        .build()
        .map_err(internal("assembling"))
}

/// What differs between two of our `tokenizer.json`.
#[derive(serde::Deserialize)]
struct Parts {
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
}

fn rebuild(parts: Parts, splitting: Splitting) -> Result<Inner, TokenizerError> {
    check_vocab(parts.vocab.len())?;
    // The crate takes room for every id up to the largest, and for the union of every merge.
    let entries = parts.vocab.len();
    if let Some(id) = parts.vocab.values().find(|id| **id as usize >= entries) {
        return Err(wrong(format!("its ids have a gap: {entries} tokens, and an id {id}")));
    }
    let known = |(first, second): &&(String, String)| {
        let union = format!("{first}{second}");
        [first, second, &union].iter().all(|token| parts.vocab.contains_key(*token))
    };
    if let Some((first, second)) = parts.merges.iter().find(|merge| !known(merge)) {
        let pair = format!("{first} {second}").chars().take(60).collect::<String>();
        return Err(wrong(format!("its merge {pair:?} makes no token")));
    }
    let vocab: Vocab = parts.vocab.into_iter().collect();
    let model = BPE::builder().vocab_and_merges(vocab, parts.merges).build().map_err(wrong)?;
    assemble(model, splitting)
}

fn byte_inner() -> Result<Inner, TokenizerError> {
    let vocab = byte_characters()
        .into_iter()
        .zip(0_u32..)
        .map(|(character, id)| (character.to_string(), id))
        .collect();
    rebuild(Parts { vocab, merges: Vec::new() }, Splitting::Nothing)
}

/// The printable character that stands for each byte in a byte-level vocabulary (GPT-2's
/// `bytes_to_unicode`): itself where printable, else the next free one from U+0100.
fn byte_characters() -> [char; BYTE_VOCAB] {
    let mut stand_in = 0x100_u32;
    std::array::from_fn(|byte| {
        let byte = u8::try_from(byte).expect("256 entries, one for each byte");
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        let character = char::from_u32(stand_in).expect("U+0100 to U+0143 are characters");
        stand_in += 1;
        character
    })
}

/// The bytes of each token by id; refuses gaps, characters outside the byte alphabet and a
/// vocabulary that lacks a byte.
fn token_bytes(inner: &Inner) -> Result<Vec<Vec<u8>>, TokenizerError> {
    let vocab = inner.get_vocab(true);
    check_vocab(vocab.len())?;
    let by_id: BTreeMap<u32, String> = vocab.into_iter().map(|(token, id)| (id, token)).collect();
    let bytes_of: BTreeMap<char, u8> = byte_characters().into_iter().zip(0_u8..=255).collect();
    let mut tokens = Vec::with_capacity(by_id.len());
    for (expected, (id, token)) in (0_u32..).zip(&by_id) {
        if *id != expected {
            return Err(wrong(format!("its ids have a gap: expected {expected}, found {id}")));
        }
        let bytes: Option<Vec<u8>> = token.chars().map(|c| bytes_of.get(&c).copied()).collect();
        match bytes {
            Some(bytes) if !bytes.is_empty() => tokens.push(bytes),
            _ => return Err(wrong(format!("token {id} is not made of byte characters"))),
        }
    }
    let single = |byte: u8| tokens.iter().any(|token| token == &[byte]);
    if let Some(byte) = (0_u8..=255).find(|&byte| !single(byte)) {
        return Err(wrong(format!("it has no token for byte {byte}")));
    }
    Ok(tokens)
}

/// The first top-level field in which two JSON objects differ.
fn first_difference(ours: &serde_json::Value, read: &serde_json::Value) -> Option<String> {
    let (Some(ours), Some(read)) = (ours.as_object(), read.as_object()) else {
        return Some("(the whole)".to_owned());
    };
    let differs = |key: &&String| ours.get(*key) != read.get(*key);
    ours.keys().chain(read.keys()).find(differs).map(|key| key.chars().take(40).collect())
}

fn check_vocab(found: usize) -> Result<(), TokenizerError> {
    if (BYTE_VOCAB..=VOCAB_MAX).contains(&found) {
        Ok(())
    } else {
        Err(TokenizerError::VocabSize { found })
    }
}

/// A foreign vocabulary may lack some bytes.
fn check_entries(found: usize) -> Result<(), TokenizerError> {
    if (1..=VOCAB_MAX).contains(&found) { Ok(()) } else { Err(TokenizerError::VocabSize { found }) }
}

fn bounded(what: &'static str, found: usize, max: usize) -> Result<(), TokenizerError> {
    if found <= max { Ok(()) } else { Err(TokenizerError::TooLong { what, found, max }) }
}

fn internal(doing: &'static str) -> impl Fn(tokenizers::Error) -> TokenizerError {
    move |reason| TokenizerError::Internal { doing, reason: reason.to_string() }
}

fn wrong(what: impl ToString) -> TokenizerError {
    TokenizerError::Json { wrong: what.to_string() }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
