//! Continuing a text: from a prompt's tokens to characters, with stops, and the reason of the end.
//!
//! Not for: showing it. Nothing here knows a terminal or a clock.
//!
//! Invariants: what is handed out are whole characters; no part of a stop is ever among them,
//! however tokens cut it; put together they are the text that is returned.

use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::traits::{Cancel, Engine, Sampling, StepError};

/// Most stops.
pub const STOPS_MAX: usize = 16;
/// Most bytes of a stop.
pub const STOP_BYTES_MAX: usize = 1024;

/// How to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// How tokens are drawn, and how many at most.
    pub sampling: Sampling,
    /// Seed of the draws.
    pub seed: u64,
    /// Texts before which the continuation ends; none is handed out.
    pub stops: Vec<String>,
    /// Tokens that end the continuation, such as the model's end of text.
    pub ends: Vec<u32>,
    /// What happens when the context is full.
    pub when_full: WhenFull,
}

/// What happens when the context is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The text ends; a prompt longer than the context is refused.
    #[default]
    End,
    /// The second half of the context is read again, and the text goes on from there. Of a prompt
    /// that fills the context, only so much is read.
    Slide,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As many tokens as wished for were made.
    Length,
    /// The model said one of the ending tokens.
    EndOfText,
    /// A stop was about to be said.
    Stop,
    /// The context is full.
    Context,
    /// Whoever watched had seen enough.
    Asked,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The text, without the prompt.
    pub text: String,
    /// Tokens drawn, with those of a stop, without one that ended the text.
    pub tokens: usize,
    /// Why it ended.
    pub ending: Ending,
}

/// Why a text was not continued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The engine refused the prompt or the settings.
    #[error(transparent)]
    Engine(#[from] StepError),
    /// The tokenizer does not know a token that is within its vocabulary.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// More stops than are looked for.
    #[error("expected at most {STOPS_MAX} stops, found {found}: leave some out")]
    TooManyStops {
        /// How many.
        found: usize,
    },
    /// A stop is empty or too long.
    #[error("expected a stop of 1 to {STOP_BYTES_MAX} bytes, found one of {found}")]
    StopLength {
        /// Its bytes.
        found: usize,
    },
}

/// Continues `prompt`. Every piece of new text goes to `watch` as soon as it is known, until that
/// says `false` or `cancel` is raised.
///
/// # Errors
/// A prompt, settings or stops that cannot work, or a tokenizer that is not the model's.
pub fn continue_text(
    engine: &mut dyn Engine,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    wishes: &Wishes,
    cancel: &Cancel,
    watch: &mut dyn FnMut(&str) -> bool,
) -> Result<Written, TextError> {
    let mut stream = Stream::new(&wishes.stops)?;
    let context = engine.config().context;
    let tokens_max = wishes.sampling.tokens_max;
    let mut written = Written { text: String::new(), tokens: 0, ending: Ending::Length };
    let mut ids = prompt.to_vec();
    let mut seed = wishes.seed;
    while written.tokens < tokens_max {
        if wishes.when_full == WhenFull::Slide && ids.len() >= context {
            // Room for at least one more.
            ids.drain(..ids.len() - (context / 2).max(1));
        }
        let seen = ids.clone();
        let sampling = Sampling { tokens_max: tokens_max - written.tokens, ..wishes.sampling };
        let (mut ending, mut failed) = (None, None);
        let made = engine.generate(&seen, &sampling, seed, cancel, &mut |id| {
            if wishes.ends.contains(&id) {
                ending = Some(Ending::EndOfText);
                return false;
            }
            ids.push(id);
            written.tokens += 1;
            let before = written.text.len();
            let mut bytes = Vec::new();
            // Entries beyond the tokenizer's only make the vocabulary a round number.
            if (id as usize) < tokenizer.vocab_size()
                && let Err(error) = tokenizer.push_token(id, &mut bytes)
            {
                failed = Some(error);
                return false;
            }
            if stream.push(&bytes, &mut written.text) {
                ending = Some(Ending::Stop);
            }
            if before < written.text.len() && !watch(&written.text[before..]) {
                ending = Some(Ending::Asked);
            }
            ending.is_none()
        });
        match made {
            Err(StepError::Cancelled) => ending = Some(Ending::Asked),
            other => other?,
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let full = wishes.when_full == WhenFull::End && written.tokens < tokens_max;
        if let Some(ending) = ending.or(full.then_some(Ending::Context)) {
            written.ending = ending;
            break;
        }
        seed = seed.wrapping_add(1);
    }
    let before = written.text.len();
    stream.finish(&mut written.text);
    if before < written.text.len() && written.ending != Ending::Asked {
        // The end has come already: there is nothing left to ask for.
        let _ = watch(&written.text[before..]);
    }
    Ok(written)
}

/// Text out of bytes that come piece by piece: whole characters only, and nothing of a stop.
/// Bytes that are no text become U+FFFD, as in the whole.
#[derive(Clone, Debug)]
pub struct Stream {
    stops: Vec<Vec<u8>>,
    /// What may yet become a character or a stop.
    held: Vec<u8>,
}

impl Stream {
    /// A stream that ends before any of `stops`.
    ///
    /// # Errors
    /// Too many stops, or one that is empty or too long.
    pub fn new(stops: &[String]) -> Result<Self, TextError> {
        if stops.len() > STOPS_MAX {
            return Err(TextError::TooManyStops { found: stops.len() });
        }
        let bad = |found: &usize| !(1..=STOP_BYTES_MAX).contains(found);
        if let Some(found) = stops.iter().map(String::len).find(bad) {
            return Err(TextError::StopLength { found });
        }
        let stops = stops.iter().map(|stop| stop.as_bytes().to_vec()).collect();
        Ok(Self { stops, held: Vec::new() })
    }

    /// Takes bytes and appends what is certain to `out`; `true` when a stop has come, of which and
    /// of what follows nothing is appended.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) -> bool {
        self.held.extend_from_slice(bytes);
        let found = |stop: &Vec<u8>| self.held.windows(stop.len()).position(|at| at == stop);
        if let Some(start) = self.stops.iter().filter_map(found).min() {
            self.held.truncate(start);
            self.finish(out);
            return true;
        }
        let begins = |from: &usize| {
            let end = &self.held[*from..];
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        let first = self.held.len().saturating_sub(STOP_BYTES_MAX);
        let safe = (first..self.held.len()).find(begins).unwrap_or(self.held.len());
        let certain = whole_characters(&self.held[..safe]);
        out.push_str(&String::from_utf8_lossy(&self.held[..certain]));
        self.held.drain(..certain);
        false
    }

    /// Appends what was held back: nothing more comes.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.held));
        self.held.clear();
    }
}

/// How many bytes come before a character that has only begun.
fn whole_characters(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(_) => return bytes.len(),
            Err(error) => match error.error_len() {
                Some(wrong) => at += error.valid_up_to() + wrong,
                None => return at + error.valid_up_to(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fast, ModelConfig, initial_params};
    use proptest::prelude::*;

    /// Stops looked for in the whole text after every piece.
    fn plain(pieces: &[Vec<u8>], stops: &[String]) -> (String, bool) {
        let mut whole = Vec::new();
        for piece in pieces {
            whole.extend(piece);
            let first = (0..whole.len())
                .find(|at| stops.iter().any(|stop| whole[*at..].starts_with(stop.as_bytes())));
            if let Some(first) = first {
                return (String::from_utf8_lossy(&whole[..first]).into_owned(), true);
            }
        }
        (String::from_utf8_lossy(&whole).into_owned(), false)
    }

    proptest! {
        #[test]
        fn a_stream_is_the_whole_text_up_to_the_first_stop(
            text in "[ab算\n]{0,40}",
            stops in prop::collection::vec("[ab算\n]{1,4}", 0..4),
            noise in prop::option::of((0_usize..100, any::<u8>())),
            sizes in prop::collection::vec(1_usize..5, 1..20),
        ) {
            let mut bytes = text.into_bytes();
            if let Some((at, byte)) = noise {
                bytes.insert(at % (bytes.len() + 1), byte);
            }
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let mut stream = Stream::new(&stops).unwrap();
            let mut out = String::new();
            let stopped = pieces.iter().any(|piece| stream.push(piece, &mut out));
            if !stopped {
                stream.finish(&mut out);
            }
            prop_assert_eq!((out, stopped), plain(&pieces, &stops));
        }
    }

    #[test]
    fn a_character_or_a_stop_that_has_begun_is_held_back() {
        let mut stream = Stream::new(&["</end>".to_owned()]).unwrap();
        let mut out = String::new();
        for (piece, expected) in [
            (&b"a\xE7"[..], "a"),
            (b"\xAE\x97 <", "a算 "),
            (b"/e", "a算 "),
            (b"x", "a算 </ex"),
            (b"</end", "a算 </ex"),
        ] {
            assert!(!stream.push(piece, &mut out));
            assert_eq!(out, expected);
        }
        assert!(stream.push(b"> and more", &mut out));
        assert_eq!(out, "a算 </ex");
    }

    fn engine() -> Fast {
        let config = ModelConfig { context: 24, ..ModelConfig::demo() };
        let mut engine = Fast::new(config.clone(), 1).unwrap();
        engine.params_mut().copy_from_slice(&initial_params(&config, 4));
        engine
    }

    fn write(wishes: &Wishes) -> (Written, String) {
        let mut seen = String::new();
        let written = continue_text(
            &mut engine(),
            &Tokenizer::Bytes,
            b"abc".map(u32::from).as_ref(),
            wishes,
            &Cancel::new(),
            &mut |text| {
                seen.push_str(text);
                true
            },
        );
        (written.unwrap(), seen)
    }

    #[test]
    fn a_text_ends_for_the_reason_that_comes_first() {
        let sampling = Sampling { tokens_max: 60, temperature: 1.0, ..Sampling::default() };
        let base = Wishes { sampling, when_full: WhenFull::Slide, ..Wishes::default() };
        let (whole, seen) = write(&base);
        assert_eq!((whole.tokens, whole.ending, &whole.text), (60, Ending::Length, &seen));
        let (short, seen) = write(&Wishes { when_full: WhenFull::End, ..base.clone() });
        // One more than the context holds: the last one is said and never read.
        assert_eq!((short.tokens, short.ending), (24 - 3 + 1, Ending::Context));
        assert!(
            short.text == seen && whole.text.starts_with(short.text.trim_end_matches('\u{fffd}'))
        );
        // A stop out of the middle of the text itself, as far as it is ASCII.
        let letter = whole.text.char_indices().skip(30).find(|(_, c)| c.is_ascii()).unwrap();
        let stop = letter.1.to_string();
        let (stopped, seen) = write(&Wishes { stops: vec![stop.clone()], ..base.clone() });
        assert_eq!((stopped.ending, &stopped.text), (Ending::Stop, &seen));
        assert_eq!(stopped.text, whole.text[..whole.text.find(&stop).unwrap()]);
        let (ended, _) = write(&Wishes { ends: vec![letter.1 as u32], ..base.clone() });
        assert_eq!((ended.ending, ended.text), (Ending::EndOfText, stopped.text));
        assert_eq!(ended.tokens + 1, stopped.tokens);
        let mut calls = 0;
        let prompt = [1];
        let asked = continue_text(
            &mut engine(),
            &Tokenizer::Bytes,
            &prompt,
            &base,
            &Cancel::new(),
            &mut |_| {
                calls += 1;
                calls < 3
            },
        );
        assert_eq!((asked.unwrap().ending, calls), (Ending::Asked, 3));
    }

    #[test]
    fn entries_beyond_the_tokenizers_are_read_on_and_not_shown() {
        let config = ModelConfig { vocab: 300, ..ModelConfig::demo() };
        let mut engine = Fast::new(config.clone(), 1).unwrap();
        // A stream of ones and a head that likes nothing but the last entry.
        engine.params_mut().fill(1.0);
        let space = config.space();
        let head = space.tensor("lm_head.weight").unwrap().range();
        engine.params_mut()[head.start..head.end - config.hidden].fill(0.0);
        let sampling = Sampling { temperature: 0.0, tokens_max: 5, ..Sampling::default() };
        let wishes = Wishes { sampling, ..Wishes::default() };
        let written = continue_text(
            &mut engine,
            &Tokenizer::Bytes,
            &[1],
            &wishes,
            &Cancel::new(),
            &mut |_| true,
        )
        .unwrap();
        assert_eq!((written.tokens, written.text.as_str()), (5, ""));
    }

    #[test]
    fn prompts_and_stops_that_cannot_work_are_refused() {
        let refused = |prompt: &[u32], wishes: &Wishes| {
            let mut engine = engine();
            continue_text(
                &mut engine,
                &Tokenizer::Bytes,
                prompt,
                wishes,
                &Cancel::new(),
                &mut |_| true,
            )
            .unwrap_err()
            .to_string()
        };
        let base = Wishes::default();
        let stops = |stops: Vec<String>| Wishes { stops, ..Wishes::default() };
        assert!(refused(&[], &base).contains("at least 1"));
        assert!(refused(&[1; 25], &base).contains("context of 24"));
        assert!(refused(&[256], &base).contains("vocabulary of 256"));
        assert!(refused(&[1], &stops(vec![String::new()])).contains("found one of 0"));
        assert!(refused(&[1], &stops(vec!["x".repeat(1025)])).contains("found one of 1025"));
        assert!(refused(&[1], &stops(vec!["x".into(); 17])).contains("found 17"));
        let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
        assert!(refused(&[1], &Wishes { sampling: hot, ..base }).contains("temperature"));
    }
}
