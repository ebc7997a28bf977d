//! A tokenizer that came with somebody's checkpoint: a byte-level BPE (Llama 3, Qwen, SmolLM), or
//! a BPE over characters that falls back to bytes (Llama 2, Mistral).
//!
//! Its `tokenizer.json` is taken apart here: every part must be on a list of known ones, with its
//! numbers in bounds, before the `tokenizers` crate sees it. Ids are those of `transformers`
//! without special tokens added; what its template puts around a text is [`Foreign::start`] and
//! [`Foreign::end`]. Truncation and padding are left out, as `transformers` does.
//!
//! Not for: Unigram and WordPiece, and normalisers that throw text away.
//!
//! Invariants: reading gives an error and never a panic; the original text is given back unchanged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    Tokenizer as Library,
};

use super::{
    PIECE_BYTES, TokenizerError, VOCAB_MAX, byte_characters, check_entries, pieces_of, wrong,
};

/// Longest entry of a vocabulary, in bytes of its text.
const ENTRY_BYTES_MAX: usize = 1 << 12;
/// Most merges.
const MERGES_MAX: usize = 4 * VOCAB_MAX;
/// Most added tokens.
const ADDED_MAX: usize = 1 << 16;
/// Most normalisers, pre-tokenisers or decoders in a row.
const PARTS_MAX: usize = 16;
/// Longest pattern of a pre-tokeniser: several times the longest in use.
const PATTERN_BYTES_MAX: usize = 1 << 12;
/// Longest text that a normaliser puts in.
const INSERT_BYTES_MAX: usize = 16;
/// Ids without a token, at most, beside as many as there are tokens.
const GAP_MAX: usize = 1 << 12;
/// Most ids that a template puts before or after a text.
const FRAME_MAX: usize = 16;
/// Text is encoded whole up to this when it cannot be cut at line ends.
const WHOLE_BYTES: usize = 16 * PIECE_BYTES;
/// What a text that goes on is encoded behind, so that nothing is put before it.
const BEFORE: &str = "x\n";
/// What stands for a space in a vocabulary over characters.
const SPACE: char = '▁';

/// A tokenizer that other software made.
#[derive(Clone, Debug)]
pub struct Foreign {
    inner: Library,
    text: String,
    /// The tokens' bytes by id; empty where there is no such token.
    tokens: Vec<Vec<u8>>,
    start: Vec<u32>,
    end: Vec<u32>,
    /// Spaces that are taken off the beginning of a decoded text.
    stripped: usize,
    /// Whether the ids of a text are those of its pieces, cut at line ends.
    cuts: bool,
    /// The ids of [`BEFORE`].
    before: Vec<u32>,
}

impl Foreign {
    /// Reads the `tokenizer.json` whose text and value are given.
    pub(super) fn read(text: &str, json: &Value) -> Result<Self, TokenizerError> {
        let alphabet = alphabet(json)?;
        let added = added_tokens(&json["added_tokens"])?;
        let mut vocab = vocabulary(&json["model"]["vocab"])?;
        make_room(&mut vocab, &added)?;
        let tokens = token_bytes(&vocab, &added, &alphabet)?;
        let model = model(&json["model"], vocab, &alphabet)?;
        let (start, end) = frame(&json["post_processor"], tokens.len())?;
        let inner = assemble(json, model, &added)?;
        let stripped = match alphabet {
            Alphabet::Bytes => 0,
            Alphabet::Characters { stripped } => stripped,
        };
        let text = text.to_owned();
        let (cuts, before) = (false, Vec::new());
        let mut read = Self { inner, text, tokens, start, end, stripped, cuts, before };
        read.before = read.whole(BEFORE)?;
        read.cuts = read.can_be_cut()?;
        Ok(read)
    }

    /// One more than the largest id.
    pub(super) const fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The ids of a text, or of one that goes on where another ended.
    pub(super) fn encode(&self, text: &str, begins: Begins) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut begins = begins;
        let mut rest = text;
        while !self.cuts && rest.len() > WHOLE_BYTES {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(WHOLE_BYTES));
            ids.extend(self.piece(piece, begins)?);
            (rest, begins) = (after, Begins::Inside);
        }
        if !self.cuts {
            ids.extend(self.piece(rest, begins)?);
            return Ok(ids);
        }
        for piece in pieces_of(rest) {
            ids.extend(self.piece(piece, begins)?);
            begins = Begins::Inside;
        }
        Ok(ids)
    }

    /// The bytes of a token, if there is such an id.
    pub(super) fn token(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(usize::try_from(id).ok()?).map(Vec::as_slice)
    }

    /// What decoding takes off the beginning of a text: the space that encoding put there.
    pub(super) fn strip(&self, bytes: &mut Vec<u8>) {
        let spaces = bytes.iter().take(self.stripped).take_while(|&&byte| byte == b' ').count();
        bytes.drain(..spaces);
    }

    /// What the template puts before a text: the token that begins one, for most.
    pub(super) fn start(&self) -> &[u32] {
        &self.start
    }

    /// What the template puts behind a text.
    pub(super) fn end(&self) -> &[u32] {
        &self.end
    }

    /// The text that was read.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn piece(&self, text: &str, begins: Begins) -> Result<Vec<u32>, TokenizerError> {
        if begins == Begins::Here || text.is_empty() {
            return self.whole(text);
        }
        // A word that begins a text may get a space before it; one behind a line end does not.
        let mut ids = self.whole(&format!("{BEFORE}{text}"))?;
        if !ids.starts_with(&self.before) {
            return self.whole(text);
        }
        ids.drain(..self.before.len());
        Ok(ids)
    }

    fn whole(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding
            .map_err(|reason| TokenizerError::Foreign { reason: shown(&reason.to_string()) })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether a cut behind a line feed between two printable characters (what
    /// [`split_point`](super::split_point) looks for) changes no ids: no token may span it, and
    /// the patterns must make the same words on either side. The latter is tried out with every
    /// printable character next to a cut.
    fn can_be_cut(&self) -> Result<bool, TokenizerError> {
        let spans = |token: &Vec<u8>| {
            token.windows(2).any(|pair| pair[0] == b'\n' && pair[1].is_ascii_graphic())
        };
        if self.tokens.iter().any(spans) {
            return Ok(false);
        }
        let printable = || (b'!'..=b'~').map(char::from);
        let pieces = printable().zip(printable().rev()).map(|(a, b)| format!("{a}ab 1{b}\n"));
        let (mut whole, mut ids) = (String::new(), Vec::new());
        // Whether a word ends at a cut says nothing: no token spans it.
        let (mut ends, mut cuts) = (BTreeSet::new(), BTreeSet::new());
        for piece in pieces {
            let begins = if whole.is_empty() { Begins::Here } else { Begins::Inside };
            ids.extend(self.piece(&piece, begins)?);
            let before = if whole.is_empty() { "" } else { BEFORE };
            let words = self.word_ends(&format!("{before}{piece}"))?;
            let inside = words.into_iter().filter(|end| *end >= before.len());
            ends.extend(inside.map(|end| whole.len() + end - before.len()));
            whole.push_str(&piece);
            cuts.insert(whole.len());
        }
        let mut expected = self.word_ends(&whole)?;
        expected.extend(&cuts);
        ends.extend(&cuts);
        // A cut also stands where the first piece begins.
        ends.remove(&0);
        Ok(ids == self.whole(&whole)? && ends == expected)
    }

    /// Where the words of a text end that the pre-tokeniser makes.
    fn word_ends(&self, text: &str) -> Result<BTreeSet<usize>, TokenizerError> {
        let mut words = PreTokenizedString::from(text);
        if let Some(part) = self.inner.get_pre_tokenizer() {
            let done = part.pre_tokenize(&mut words);
            done.map_err(|reason| TokenizerError::Foreign { reason: shown(&reason.to_string()) })?;
        }
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(words.into_iter().map(|(_, (_, end), _)| end).collect())
    }
}

/// Where a text that is encoded stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// It is the beginning.
    Here,
    /// Other text went before, up to the end of a line.
    Inside,
}

/// What the entries of the vocabulary are made of.
enum Alphabet {
    /// Characters that stand for bytes.
    Bytes,
    /// Characters, and `<0xNN>` for the bytes of those that are missing.
    Characters {
        /// Spaces that decoding takes off the beginning.
        stripped: usize,
    },
}

/// Looks at every part but the vocabulary, and says how tokens become bytes.
fn alphabet(json: &Value) -> Result<Alphabet, TokenizerError> {
    for part in parts(&json["normalizer"], "normalizer", "normalizers")? {
        check_normalizer(part)?;
    }
    let mut byte_level = false;
    for part in parts(&json["pre_tokenizer"], "pre_tokenizer", "pretokenizers")? {
        byte_level |= kind_of(part) == "ByteLevel";
        check_pre_tokenizer(part)?;
    }
    let decoders = parts(&json["decoder"], "decoder", "decoders")?;
    if decoders.iter().any(|part| kind_of(part) == "ByteLevel") {
        if decoders.len() == 1 && byte_level {
            return Ok(Alphabet::Bytes);
        }
        let expected = "ByteLevel alone, with a pre-tokeniser ByteLevel";
        return Err(unsupported("decoder", expected, &json["decoder"]));
    }
    let mut stripped = 0;
    let mut fallback = false;
    for part in decoders {
        match kind_of(part) {
            "Replace" if part["pattern"]["String"] == "▁" && part["content"] == " " => {}
            "ByteFallback" => fallback = true,
            "Fuse" => {}
            "Strip" if part["content"] == " " && part["stop"] == 0 => {
                stripped = bounded_count(&part["start"], PARTS_MAX)
                    .ok_or_else(|| unsupported("decoder", "a Strip of few spaces", part))?;
            }
            _ => return Err(unsupported("decoder", DECODERS, part)),
        }
    }
    if byte_level || !fallback {
        return Err(unsupported("decoder", DECODERS, &json["decoder"]));
    }
    Ok(Alphabet::Characters { stripped })
}

const DECODERS: &str = "ByteLevel, or a Sequence of Replace (of ▁ by a space), ByteFallback, Fuse \
                        and Strip";

/// The parts of something that is one part, a sequence of them, or nothing.
fn parts<'a>(
    value: &'a Value,
    field: &'static str,
    list: &str,
) -> Result<Vec<&'a Value>, TokenizerError> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    if kind_of(value) != "Sequence" {
        return Ok(vec![value]);
    }
    match value[list].as_array() {
        Some(parts) if parts.len() <= PARTS_MAX => Ok(parts.iter().collect()),
        _ => Err(unsupported(field, "a Sequence of at most 16 parts", value)),
    }
}

fn kind_of(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

fn check_normalizer(part: &Value) -> Result<(), TokenizerError> {
    let expected = "nothing, NFC, NFD, NFKC, NFKD, Prepend, Replace, or a Sequence of these";
    let fits = match kind_of(part) {
        "NFC" | "NFD" | "NFKC" | "NFKD" => true,
        "Prepend" => part["prepend"].as_str().is_some_and(|text| text.len() <= INSERT_BYTES_MAX),
        "Replace" => {
            part["content"].as_str().is_some_and(|text| text.len() <= INSERT_BYTES_MAX)
                && pattern_fits(&part["pattern"])
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(unsupported("normalizer", expected, part)) }
}

fn check_pre_tokenizer(part: &Value) -> Result<(), TokenizerError> {
    let expected = "nothing, ByteLevel, Split, Digits, Punctuation, Metaspace with ▁, or a \
                    Sequence of these";
    let fits = match kind_of(part) {
        "ByteLevel" | "Digits" | "Punctuation" => true,
        "Split" => pattern_fits(&part["pattern"]),
        "Metaspace" => part["replacement"] == SPACE.to_string(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(unsupported("pre_tokenizer", expected, part)) }
}

fn pattern_fits(pattern: &Value) -> bool {
    let text = pattern["String"].as_str().or_else(|| pattern["Regex"].as_str());
    text.is_some_and(|text| (1..=PATTERN_BYTES_MAX).contains(&text.len()))
}

/// The vocabulary: every id once and in bounds.
fn vocabulary(value: &Value) -> Result<HashMap<String, u32>, TokenizerError> {
    let Some(entries) = value.as_object() else {
        return Err(unsupported("model.vocab", "an object of tokens and their ids", value));
    };
    check_entries(entries.len())?;
    let mut ids = BTreeSet::new();
    let mut vocab = HashMap::with_capacity(entries.len());
    for (token, id) in entries {
        let id = id_of(id).ok_or_else(|| unsupported("model.vocab", IDS, id))?;
        if token.len() > ENTRY_BYTES_MAX || token.is_empty() || !ids.insert(id) {
            let token = shown(token);
            return Err(wrong(format!("token {token:?} is empty, too long, or its id is taken")));
        }
        vocab.insert(token.clone(), id);
    }
    Ok(vocab)
}

const IDS: &str = "ids below 1048576";

fn id_of(value: &Value) -> Option<u32> {
    let id = u32::try_from(value.as_u64()?).ok()?;
    (usize::try_from(id).ok()? < VOCAB_MAX).then_some(id)
}

fn bounded_count(value: &Value, max: usize) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|count| *count <= max)
}

/// Tokens outside the model, special ones among them.
fn added_tokens(value: &Value) -> Result<Vec<(u32, AddedToken)>, TokenizerError> {
    let none = Vec::new();
    let list = if value.is_null() { Some(&none) } else { value.as_array() };
    let Some(list) = list.filter(|list| list.len() <= ADDED_MAX) else {
        return Err(unsupported("added_tokens", "a list of at most 65536", value));
    };
    list.iter().map(added_token).collect()
}

fn added_token(value: &Value) -> Result<(u32, AddedToken), TokenizerError> {
    let set = |field: &str| value[field].as_bool().unwrap_or(false);
    let content = value["content"].as_str();
    let content = content.filter(|text| (1..=ENTRY_BYTES_MAX).contains(&text.len()));
    let (Some(id), Some(content)) = (id_of(&value["id"]), content) else {
        return Err(unsupported("added_tokens", "an id and a content in each", value));
    };
    let token = AddedToken::from(content, set("special"))
        .single_word(set("single_word"))
        .lstrip(set("lstrip"))
        .rstrip(set("rstrip"))
        .normalized(set("normalized"));
    Ok((id, token))
}

/// The crate numbers added tokens behind the vocabulary, one by one; where theirs have other ids
/// they go into the vocabulary, where an id can be said.
fn make_room(
    vocab: &mut HashMap<String, u32>,
    added: &[(u32, AddedToken)],
) -> Result<(), TokenizerError> {
    let missing = || added.iter().filter(|(_, token)| !vocab.contains_key(&token.content));
    let next = u32::try_from(vocab.len()).expect("at most 2^20 entries");
    let in_turn = missing().map(|(id, _)| *id).zip(next..).all(|(id, next)| id == next);
    let mut known: BTreeMap<u32, &str> = BTreeMap::new();
    for (id, token) in added {
        let other = known.insert(*id, &token.content);
        let taken = vocab.get(&token.content).is_some_and(|known| known != id);
        if taken || other.is_some_and(|other| other != token.content) {
            let content = shown(&token.content);
            return Err(wrong(format!("its added token {content:?} has another id elsewhere")));
        }
    }
    if !in_turn {
        let missing: Vec<_> = missing().map(|(id, token)| (token.content.clone(), *id)).collect();
        vocab.extend(missing);
        check_entries(vocab.len())?;
    }
    Ok(())
}

/// The bytes of each token by id: what the decoder of the file would make of it alone.
fn token_bytes(
    vocab: &HashMap<String, u32>,
    added: &[(u32, AddedToken)],
    alphabet: &Alphabet,
) -> Result<Vec<Vec<u8>>, TokenizerError> {
    let bytes_of: BTreeMap<char, u8> = byte_characters().into_iter().zip(0_u8..=255).collect();
    let bytes = |token: &str| match alphabet {
        Alphabet::Bytes => {
            let bytes: Option<Vec<u8>> = token.chars().map(|c| bytes_of.get(&c).copied()).collect();
            bytes.unwrap_or_else(|| token.as_bytes().to_vec())
        }
        Alphabet::Characters { .. } => match fallback_byte(token) {
            Some(byte) => vec![byte],
            None => token.replace(SPACE, " ").into_bytes(),
        },
    };
    let added = added.iter().map(|(id, token)| (token.content.as_str(), *id));
    let all: Vec<(&str, u32)> =
        vocab.iter().map(|(token, id)| (token.as_str(), *id)).chain(added).collect();
    let most = all.iter().map(|(_, id)| *id as usize + 1).max().unwrap_or(0);
    if most > 2 * all.len() + GAP_MAX {
        return Err(wrong(format!("{} tokens have ids up to {}", all.len(), most - 1)));
    }
    let mut tokens: Vec<Vec<u8>> = vec![Vec::new(); most];
    let mut names: Vec<&str> = vec![""; most];
    for (token, id) in all {
        let index = id as usize;
        if !names[index].is_empty() && names[index] != token {
            return Err(wrong(format!("its id {id} is that of two tokens")));
        }
        (names[index], tokens[index]) = (token, bytes(token));
    }
    Ok(tokens)
}

/// The byte that a token `<0xNN>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = (digits.len() == 2).then_some(digits)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
    u8::from_str_radix(digits, 16).ok()
}

fn model(
    json: &Value,
    vocab: HashMap<String, u32>,
    alphabet: &Alphabet,
) -> Result<BPE, TokenizerError> {
    // Older files name no type; merges tell a BPE then.
    let kind = &json["type"];
    if kind != "BPE" && !(kind.is_null() && json["merges"].is_array()) {
        return Err(unsupported("model.type", "\"BPE\"", kind));
    }
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let value = &json[field];
        if !value.is_null() && value != "" {
            return Err(unsupported("model", "no prefix or suffix of words", value));
        }
    }
    if json["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0) {
        return Err(unsupported("model.dropout", "none", &json["dropout"]));
    }
    let set = |field: &str| json[field].as_bool().unwrap_or(false);
    if let Alphabet::Characters { .. } = alphabet {
        let missing = (0_u8..=255).find(|byte| !vocab.contains_key(&format!("<0x{byte:02X}>")));
        if !set("byte_fallback") || missing.is_some() {
            let expected = "true, with a token <0x00> to <0xFF> for each byte";
            return Err(unsupported("model.byte_fallback", expected, &json["byte_fallback"]));
        }
    }
    let unknown = json["unk_token"].as_str();
    if let Some(unknown) = unknown.filter(|token| !vocab.contains_key(*token)) {
        let expected = "a token of the vocabulary";
        return Err(unsupported("model.unk_token", expected, &Value::from(unknown)));
    }
    let merges = merges(&json["merges"], &vocab)?;
    let vocab: Vocab = vocab.into_iter().collect();
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(set("fuse_unk"))
        .byte_fallback(set("byte_fallback"))
        .ignore_merges(set("ignore_merges"));
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown.to_owned());
    }
    builder.build().map_err(wrong)
}

/// The merges; every part and every result is in the vocabulary (the crate takes that for granted).
fn merges(
    value: &Value,
    vocab: &HashMap<String, u32>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let expected = "a list of pairs of tokens";
    let list = value.as_array().filter(|list| list.len() <= MERGES_MAX);
    let Some(list) = list else { return Err(unsupported("model.merges", expected, value)) };
    let mut merged = String::new();
    let mut merge = |value: &Value| {
        let pair = match value {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(first), Value::String(second)] => Some((first.as_str(), &**second)),
                _ => None,
            },
            _ => None,
        };
        let (first, second) = pair.ok_or_else(|| unsupported("model.merges", expected, value))?;
        merged.clear();
        merged.extend([first, second]);
        if [first, second, &merged].iter().any(|token| !vocab.contains_key(*token)) {
            let expected = "tokens of the vocabulary, whose union is one too";
            return Err(unsupported("model.merges", expected, value));
        }
        Ok((first.to_owned(), second.to_owned()))
    };
    list.iter().map(&mut merge).collect()
}

/// What a template puts before and behind a single text.
fn frame(value: &Value, vocab: usize) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let expected = "nothing, ByteLevel, TemplateProcessing, or a Sequence of these";
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    for part in parts(value, "post_processor", "processors")? {
        match kind_of(part) {
            "ByteLevel" => {}
            "TemplateProcessing" if before.is_empty() && behind.is_empty() => {
                (before, behind) = template(part, vocab)
                    .ok_or_else(|| unsupported("post_processor", "a template of one text", part))?;
            }
            _ => return Err(unsupported("post_processor", expected, part)),
        }
    }
    Ok((before, behind))
}

fn template(part: &Value, vocab: usize) -> Option<(Vec<u32>, Vec<u32>)> {
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    let mut text_seen = false;
    for piece in part["single"].as_array()?.iter().take(FRAME_MAX) {
        if !piece["Sequence"].is_null() {
            text_seen = true;
            continue;
        }
        let name = piece["SpecialToken"]["id"].as_str()?;
        let side = if text_seen { &mut behind } else { &mut before };
        for id in part["special_tokens"][name]["ids"].as_array()?.iter().take(FRAME_MAX) {
            side.push(id_of(id).filter(|id| (*id as usize) < vocab)?);
        }
    }
    text_seen.then_some((before, behind))
}

fn assemble(
    json: &Value,
    model: BPE,
    added: &[(u32, AddedToken)],
) -> Result<Library, TokenizerError> {
    let mut inner = Library::new(model);
    if !json["normalizer"].is_null() {
        let part: NormalizerWrapper =
            serde_json::from_value(json["normalizer"].clone()).map_err(wrong)?;
        inner.with_normalizer(Some(part)).map_err(wrong)?;
    }
    if !json["pre_tokenizer"].is_null() {
        let part: PreTokenizerWrapper =
            serde_json::from_value(json["pre_tokenizer"].clone()).map_err(wrong)?;
        inner.with_pre_tokenizer(Some(part));
    }
    inner.add_tokens(added.iter().map(|(_, token)| token.clone())).map_err(wrong)?;
    match added.iter().find(|(id, token)| inner.token_to_id(&token.content) != Some(*id)) {
        Some((id, token)) => {
            let content = shown(&token.content);
            Err(wrong(format!("its added token {content:?} cannot have the id {id}")))
        }
        None => Ok(inner),
    }
}

fn unsupported(field: &'static str, expected: &'static str, found: &Value) -> TokenizerError {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) if !kind_of(found).is_empty() => shown(kind_of(found)),
        other => shown(&other.to_string()),
    };
    TokenizerError::Unsupported { field, expected, found }
}

/// At most 60 characters of what somebody wrote.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
