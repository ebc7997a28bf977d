//! The quick way through a byte-level BPE: word by word, each new one merged once.
//!
//! Text repeats its words: one met before has its ids copied from where they already stand in the
//! output. Only new words go through the `tokenizers` crate, so its merges stay the only ones. The
//! crate spends most of its time on where each character came from, which nobody asks for here.
//! The pattern of GPT-2 is a few comparisons when every character is a byte; letters and digits
//! beyond ASCII need Unicode's tables, and there the pattern itself is run.
//!
//! Not for: other patterns and vocabularies that are not of bytes.
//!
//! Invariant: the ids are those the crate gives for the same text; the tests compare the two.

use std::ops::Range;
use std::sync::LazyLock;

use tokenizers::Model;
use tokenizers::models::bpe::BPE;
use tokenizers::utils::SysRegex;

/// Words remembered within a call, a power of two: 16 384 are 256 KiB, and hold what a mebibyte of
/// source code repeats.
const SLOTS_MAX: usize = 1 << 14;
/// Longer words are rare and not worth a look at every byte twice.
const REMEMBERED_BYTES_MAX: usize = 48;

/// Words of one text and where their ids stand in the output.
pub(super) struct Words<'a> {
    text: &'a str,
    characters: &'a [char; 256],
    slots: Vec<Slot>,
    mapped: String,
}

/// A word by its place in the text, and its ids by their place in the output. Lengths of zero: no
/// word yet.
#[derive(Clone, Copy, Default)]
struct Slot {
    word: u32,
    ids: u32,
    word_len: u16,
    ids_len: u16,
}

impl<'a> Words<'a> {
    /// Nothing remembered of `text` yet, which a call takes whole: its places fit in 32 bits.
    pub(super) fn new(text: &'a str, characters: &'a [char; 256]) -> Self {
        let slots = (text.len() / 16).next_power_of_two().clamp(16, SLOTS_MAX);
        Self { text, characters, slots: vec![Slot::default(); slots], mapped: String::new() }
    }

    /// Appends the ids of a stretch of the text, all of it ASCII, that is encoded for itself.
    pub(super) fn encode_ascii(
        &mut self,
        model: &BPE,
        stretch: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> tokenizers::Result<()> {
        let mut at = stretch.start;
        while at < stretch.end {
            let end = at + word_len(&self.text.as_bytes()[at..stretch.end]);
            self.word(model, at..end, ids)?;
            at = end;
        }
        Ok(())
    }

    /// The same for any stretch that begins and ends between characters.
    pub(super) fn encode_any(
        &mut self,
        model: &BPE,
        stretch: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> tokenizers::Result<()> {
        let mut at = stretch.start;
        for (start, end) in PATTERN.find_iter(&self.text[stretch.clone()]) {
            let (start, end) = (stretch.start + start, stretch.start + end);
            if start != at {
                break;
            }
            self.word(model, start..end, ids)?;
            at = end;
        }
        // Every character is in some word, so only the pattern's own failure ends it early.
        if at == stretch.end { Ok(()) } else { Err("the pattern gave up on a word".into()) }
    }

    fn word(
        &mut self,
        model: &BPE,
        range: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> tokenizers::Result<()> {
        let text = self.text.as_bytes();
        let word = &text[range.clone()];
        let slot = slot_of(word) & (self.slots.len() - 1);
        let known = self.slots[slot];
        let place = known.word as usize;
        if text[place..place + usize::from(known.word_len)] == *word {
            let from = known.ids as usize;
            ids.extend_from_within(from..from + usize::from(known.ids_len));
            return Ok(());
        }
        self.mapped.clear();
        self.mapped.extend(word.iter().map(|&byte| self.characters[usize::from(byte)]));
        let first = ids.len();
        ids.extend(model.tokenize(&self.mapped)?.iter().map(|token| token.id));
        let place = (u32::try_from(range.start), u32::try_from(first));
        let lengths = (u16::try_from(word.len()), u16::try_from(ids.len() - first));
        if word.len() <= REMEMBERED_BYTES_MAX
            && let ((Ok(word), Ok(ids)), (Ok(word_len), Ok(ids_len))) = (place, lengths)
        {
            self.slots[slot] = Slot { word, ids, word_len, ids_len };
        }
        Ok(())
    }
}

/// GPT-2's pattern, as the crate has it.
static PATTERN: LazyLock<SysRegex> = LazyLock::new(|| {
    let pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    SysRegex::new(pattern).expect("a pattern that the tests run")
});

/// The length of the first word, as [`PATTERN`] has it, of ASCII that is not empty.
fn word_len(text: &[u8]) -> usize {
    let first = Class::of(text[0]);
    if first == Class::Space {
        return spaces_len(text);
    }
    if text[0] == b'\'' {
        match text.get(1..).unwrap_or_default() {
            [b's' | b't' | b'm' | b'd', ..] => return 2,
            [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => return 3,
            _ => {}
        }
    }
    run_len(text, first)
}

/// The same for one that begins with white space. A single space belongs to the word after it; of
/// more white space, the last is left for that word.
fn spaces_len(text: &[u8]) -> usize {
    let spaces = run_len(text, Class::Space);
    match text.get(spaces) {
        None => spaces,
        Some(&next) if spaces == 1 && text[0] == b' ' => 1 + run_len(&text[1..], Class::of(next)),
        Some(_) => (spaces - 1).max(1),
    }
}

fn run_len(text: &[u8], class: Class) -> usize {
    text.iter().position(|&byte| Class::of(byte) != class).unwrap_or(text.len())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Other,
}

impl Class {
    const fn of(byte: u8) -> Self {
        CLASSES[byte as usize]
    }
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            // Tab, line feed, vertical tab, form feed, carriage return.
            b' ' | 9..=13 => Class::Space,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// Where a word is remembered: its first eight bytes, its last eight and its length, mixed.
fn slot_of(word: &[u8]) -> usize {
    let (mut head, mut tail) = ([0; 8], [0; 8]);
    let len = word.len().min(8);
    head[..len].copy_from_slice(&word[..len]);
    tail[..len].copy_from_slice(&word[word.len() - len..]);
    let mixed = u64::from_le_bytes(head).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ u64::from_le_bytes(tail).rotate_left(29)
        ^ word.len() as u64;
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as usize
}
