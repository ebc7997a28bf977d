//! `suanli generate`: continue a text, or answer in a chat, with a checkpoint.

use super::{ending, stop_flag};
use crate::arguments::Generate;
use crate::context::{Context, block_on};
use crate::exit::Failure;
use crate::{show, words};
use serde_json::json;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use suanli_engine::chat::Message;
use suanli_engine::text::{self, Ending, WhenFull, Wishes, Written};
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Cancel, Fast, Sampling, Settings, Storage};
use suanli_store::checkpoint::{self, Dialogue, Loaded};

/// Most bytes of a prompt on standard input.
const PROMPT_BYTES_MAX: u64 = 16 << 20;
/// How long a token may take after Ctrl-C before the program ends without it.
const GRACE: Duration = Duration::from_millis(1500);

pub(super) fn run(context: &Context, arguments: &Generate) -> Result<(), Failure> {
    let prompt = match arguments.prompt.as_str() {
        "-" => standard_input()?,
        text => text.to_owned(),
    };
    let held = Held {
        threads: arguments.threads,
        adapter: arguments.adapter.as_deref(),
        storage: if arguments.bf16 { Storage::Bf16 } else { Storage::F32 },
    };
    let mut model = Model::load(&arguments.checkpoint, &held)?;
    let dialogue = checkpoint::read_dialogue(&arguments.checkpoint)?;
    let ids = if arguments.chat {
        model.ids_of_chat(&dialogue, arguments.system.as_deref(), &prompt)?
    } else {
        model.ids_of_text(&prompt)?
    };
    let wishes = Wishes {
        sampling: Sampling {
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            top_k: arguments.top_k,
            tokens_max: arguments.tokens as usize,
        },
        seed: arguments.seed,
        stops: arguments.stop.clone(),
        ends: dialogue.ends,
        when_full: if arguments.chat { WhenFull::End } else { WhenFull::Slide },
    };
    // Checked before anything is shown.
    text::Stream::new(&wishes.stops)
        .map_err(|error| Failure::usage(error.to_string(), "give another --stop"))?;
    let mut shown = Shown::new(context.json);
    if !arguments.chat {
        shown.more(&prompt)?;
    }
    block_on(async {
        let (_stopper, mut stop) = stop_flag(false)?;
        let asked = stop.clone();
        let count = ids.len();
        let cancel = Cancel::new();
        let raised = cancel.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut failed = None;
            let mut clock = Clock::start();
            let written = model.continue_ids(&ids, &wishes, &raised, &mut |text| {
                clock.tick();
                failed = shown.more(text).err();
                failed.is_none() && asked.reason().is_none() && !shown.closed
            })?;
            failed.map_or(Ok((written, clock.stop(), shown)), Err)
        });
        let late = async {
            stop.wait().await;
            cancel.raise();
            tokio::time::sleep(GRACE).await;
        };
        let (written, times, shown) = tokio::select! {
            done = work => done.map_err(|error| Failure::ours(error.to_string()))??,
            () = late => {
                if !context.json {
                    println!();
                }
                return ending(&stop);
            }
        };
        let rate = times.rate(written.tokens);
        if context.json {
            let answer = json!({
                "prompt": prompt,
                "text": written.text,
                "prompt_tokens": count,
                "tokens": written.tokens,
                "ended": name(written.ending),
                "first_text_s": times.first,
                "tokens_per_s": rate,
            });
            context.answer(&answer, String::new)?;
        } else {
            shown.finish();
            if context.verbose > 0 {
                let (tokens, rate) = (written.tokens, rate.unwrap_or(0.0));
                eprintln!("{}", words::generated(context.language, count, tokens, rate));
            }
        }
        ending(&stop)
    })
}

/// What programs are told of the end.
const fn name(ending: Ending) -> &'static str {
    match ending {
        Ending::Length => "length",
        Ending::EndOfText => "end_of_text",
        Ending::Stop => "stop",
        Ending::Context => "context",
        Ending::Asked => "interrupted",
    }
}

/// The text on standard input, without the line end that `echo` adds.
fn standard_input() -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let next = format!("give a text of at most {PROMPT_BYTES_MAX} bytes in UTF-8");
        Failure::input(format!("cannot read the prompt from standard input: {error}"), next)
    };
    let mut bytes = Vec::new();
    let taken = std::io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes);
    taken.map_err(|error| failed(&error))?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(failed(&"it is longer"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// What a person, or the next program, sees while the text grows.
struct Shown {
    json: bool,
    terminal: bool,
    /// Whoever read has gone.
    closed: bool,
    /// Whether the last line has ended.
    at_line_start: bool,
}

impl Shown {
    fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { json, terminal, closed: false, at_line_start: true }
    }

    /// Shows what is new.
    fn more(&mut self, text: &str) -> Result<(), Failure> {
        if self.json || self.closed || text.is_empty() {
            return Ok(());
        }
        self.at_line_start = text.ends_with('\n');
        let mut out = std::io::stdout();
        let written = if self.terminal {
            // What steers a terminal is not for a model to say.
            out.write_all(show::lines(text).as_bytes())
        } else {
            out.write_all(text.as_bytes())
        };
        match written.and_then(|()| out.flush()) {
            // Whoever read it has seen enough, as `head` does.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => self.closed = true,
            Err(error) => return Err(Failure::io("write to", "standard output".as_ref(), &error)),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Ends the last line.
    fn finish(mut self) {
        if !self.at_line_start {
            // Nothing is lost with a line end.
            let _ = self.more("\n");
        }
    }
}

/// When tokens came.
struct Clock {
    began: Instant,
    first: Option<Instant>,
}

struct Times {
    /// Seconds until the first text: the prompt was read then.
    first: Option<f64>,
    /// Seconds from there to the end.
    rest: f64,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), first: None }
    }

    fn tick(&mut self) {
        self.first.get_or_insert_with(Instant::now);
    }

    fn stop(&self) -> Times {
        let first = self.first.map(|first| (first - self.began).as_secs_f64());
        Times { first, rest: self.first.map_or(0.0, |first| first.elapsed().as_secs_f64()) }
    }
}

impl Times {
    /// Tokens a second after the first.
    fn rate(&self, tokens: usize) -> Option<f64> {
        (tokens > 1 && self.rest > 0.0).then(|| (tokens - 1) as f64 / self.rest)
    }
}

/// Continues `prompt` with the checkpoint in `folder` by at most `tokens` tokens, as `generate`
/// does by default; without the prompt itself.
pub(crate) fn continue_text(
    folder: &Path,
    prompt: &str,
    tokens: u32,
    seed: u64,
) -> Result<String, Failure> {
    let sampling = Sampling { tokens_max: tokens as usize, ..Sampling::default() };
    let wishes = Wishes { sampling, seed, when_full: WhenFull::Slide, ..Wishes::default() };
    let mut model = Model::load(folder, &Held::default())?;
    let ids = model.ids_of_text(prompt)?;
    Ok(model.continue_ids(&ids, &wishes, &Cancel::new(), &mut |_| true)?.text)
}

/// How the model is held.
#[derive(Clone, Copy, Default)]
struct Held<'a> {
    threads: Option<u32>,
    adapter: Option<&'a Path>,
    storage: Storage,
}

struct Model {
    engine: Fast,
    tokenizer: Tokenizer,
}

fn wrong(error: &dyn std::fmt::Display) -> Failure {
    Failure::input(error.to_string(), "give another --prompt")
}

impl Model {
    fn load(folder: &Path, held: &Held<'_>) -> Result<Self, Failure> {
        let Loaded { config, mut params, tokenizer, .. } = checkpoint::read(folder)?;
        if let Some(adapter) = held.adapter {
            let (lora, adapters) = checkpoint::read_adapter(adapter, &config)?;
            lora.merge(&config, &adapters, &mut params);
        }
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = held.threads.map_or_else(all, |threads| threads as usize);
        let settings = Settings { threads, storage: held.storage, ..Settings::default() };
        let mut engine = Fast::with(config, &settings)
            .map_err(|error| Failure::input(error.to_string(), "export the checkpoint again"))?;
        engine.params_mut().copy_from_slice(&params);
        Ok(Self { engine, tokenizer })
    }

    fn ids_of_text(&self, prompt: &str) -> Result<Vec<u32>, Failure> {
        let ids = self.tokenizer.encode(prompt.as_bytes()).map_err(|error| wrong(&error))?;
        let ids = Self::not_empty(ids)?;
        Ok([self.tokenizer.document_start(), &ids].concat())
    }

    /// The ids of what the user says, and before it perhaps the system, as the model's own
    /// template writes it.
    fn ids_of_chat(
        &self,
        dialogue: &Dialogue,
        system: Option<&str>,
        prompt: &str,
    ) -> Result<Vec<u32>, Failure> {
        let Some(template) = &dialogue.template else {
            let what = "the checkpoint has no chat template: its model continues texts only";
            return Err(Failure::input(what, "leave out --chat, or take a model made for chats"));
        };
        if prompt.is_empty() {
            return Self::not_empty(Vec::new());
        }
        let system = system.map(|text| Message::new("system", text));
        let messages: Vec<Message> =
            system.into_iter().chain([Message::new("user", prompt)]).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let text = template
            .render(&messages, now.map_or(0, |now| now.as_secs()))
            .map_err(|error| Failure::input(error.to_string(), "see the model's card"))?;
        let ids = self.tokenizer.encode_with_special(text.as_bytes());
        Self::not_empty(ids.map_err(|error| wrong(&error))?)
    }

    fn not_empty(ids: Vec<u32>) -> Result<Vec<u32>, Failure> {
        if ids.is_empty() {
            return Err(Failure::usage("the prompt is empty", "give a text: --prompt TEXT"));
        }
        Ok(ids)
    }

    fn continue_ids(
        &mut self,
        ids: &[u32],
        wishes: &Wishes,
        cancel: &Cancel,
        watch: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Written, Failure> {
        text::continue_text(&mut self.engine, &self.tokenizer, ids, wishes, cancel, watch)
            .map_err(|error| wrong(&error))
    }
}
