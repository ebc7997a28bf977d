//! `suanli generate`: continue a text with an exported checkpoint.

use crate::arguments::Generate;
use crate::context::Context;
use crate::exit::{At as _, Failure};
use crate::show;
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use suanli_engine::{Engine as _, Fast, Sampling};
use suanli_store::checkpoint::{self, Loaded};

pub(super) fn run(context: &Context, arguments: &Generate) -> Result<(), Failure> {
    let mut model = Model::load(&arguments.checkpoint)?;
    let wishes = Wishes {
        tokens: arguments.tokens,
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    let mut shown = Shown { live: !context.json && std::io::stdout().is_terminal(), chars: 0 };
    if shown.live {
        shown.more(&show::lines(&arguments.prompt), 0)?;
    }
    let start = shown.chars;
    let text = model.continue_text(&arguments.prompt, &wishes, &mut |text| {
        // What steers a terminal is not for a model to say.
        shown.more(&show::lines(text), start)
    })?;
    if shown.live {
        println!();
        return Ok(());
    }
    let whole = format!("{}{text}", arguments.prompt);
    context.answer(&json!({ "prompt": arguments.prompt, "text": text }), || whole)
}

/// What is on the terminal already.
struct Shown {
    live: bool,
    chars: usize,
}

impl Shown {
    /// Shows what is new of a text that grows, `offset` characters after the beginning.
    fn more(&mut self, text: &str, offset: usize) -> Result<(), Failure> {
        if !self.live {
            return Ok(());
        }
        let new: String = text.chars().skip(self.chars - offset).collect();
        self.chars += new.chars().count();
        print!("{new}");
        std::io::stdout().flush().at("write to", "standard output")
    }
}

/// How to continue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) tokens: u32,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) seed: u64,
}

/// Continues `prompt` with the checkpoint in `folder` by at most `tokens` tokens, as `generate`
/// does by default; without the prompt itself.
pub(crate) fn continue_text(
    folder: &Path,
    prompt: &str,
    tokens: u32,
    seed: u64,
) -> Result<String, Failure> {
    let Sampling { temperature, top_p, .. } = Sampling::default();
    let wishes = Wishes { tokens, temperature, top_p, seed };
    Model::load(folder)?.continue_text(prompt, &wishes, &mut |_| Ok(()))
}

struct Model {
    engine: Fast,
    tokenizer: suanli_engine::tokenizer::Tokenizer,
}

impl Model {
    fn load(folder: &Path) -> Result<Self, Failure> {
        let Loaded { config, params, tokenizer } = checkpoint::read(folder)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut engine = Fast::new(config, threads)
            .map_err(|error| Failure::input(error.to_string(), "export the checkpoint again"))?;
        engine.params_mut().copy_from_slice(&params);
        Ok(Self { engine, tokenizer })
    }

    /// Continues a text; `watch` sees it grow. When the context is full, its second half is read
    /// again and the text goes on.
    fn continue_text(
        &mut self,
        prompt: &str,
        wishes: &Wishes,
        watch: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::input(error.to_string(), "give another --prompt")
        };
        let mut ids = self.tokenizer.encode(prompt.as_bytes()).map_err(|error| wrong(&error))?;
        if ids.is_empty() {
            return Err(Failure::usage("the prompt is empty", "give a text: --prompt TEXT"));
        }
        let context = self.engine.config().context;
        let mut made = Vec::new();
        let mut failed = None;
        let mut left = wishes.tokens as usize;
        let mut seed = wishes.seed;
        while left > 0 && failed.is_none() {
            // Room for at least one more.
            let keep = if ids.len() < context { ids.len() } else { (context / 2).max(1) };
            let seen = ids.split_off(ids.len() - keep);
            let settings =
                Sampling { temperature: wishes.temperature, top_p: wishes.top_p, tokens_max: left };
            let (tokenizer, before) = (&self.tokenizer, left);
            let mut new = Vec::new();
            let mut emit = |id| {
                new.push(id);
                left -= 1;
                let pushed = tokenizer.push_token(id, &mut made).map_err(|error| wrong(&error));
                let shown = pushed.and_then(|()| watch(&String::from_utf8_lossy(&made)));
                failed = failed.take().or(shown.err());
                failed.is_none() && left > 0
            };
            self.engine.generate(&seen, &settings, seed, &mut emit).map_err(|e| wrong(&e))?;
            ids = seen;
            ids.extend(new);
            seed = seed.wrapping_add(1);
            if left == before {
                break;
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None => Ok(String::from_utf8_lossy(&made).into_owned()),
        }
    }
}
