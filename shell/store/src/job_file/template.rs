//! Writes a job file with a comment for every key: what `train --example` prints.

use suanli_engine::{Lora, Storage};

use super::{EngineName, JobFile, Length, SHORT_RUN_ROUNDS, Schedule, TokenizerKind};

/// The text of `job`; reading it gives `job` back.
pub(super) fn write(job: &JobFile) -> String {
    let tokenizer = job.model.from.is_none().then(|| tokenizer(job));
    let lora = job.lora.as_ref().map(lora);
    let head = [model(job), data(job)].into_iter().chain(tokenizer).chain(lora);
    let sections: Vec<String> = head.chain([training(job), replicas(job)]).collect();
    aligned(&sections.join("\n"))
}

/// Puts the comments behind values into one column.
fn aligned(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once("  # ") {
        // A path may hold anything, and its line has no comment.
        Some((value, comment)) if !["paths", "from"].iter().any(|key| line.starts_with(key)) => {
            format!("{value:<24}  # {comment}\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn model(job: &JobFile) -> String {
    let m = &job.model;
    if let Some(from) = &m.from {
        return format!(
            "# A job for Suanli that goes on from a checkpoint.\n\
             \n\
             [model]  # sizes, first parameters and tokenizer are those of the checkpoint\n\
             from = {}\n\
             context = {}  # the length of a training sample\n",
            quoted(&from.folder),
            m.context,
        );
    }
    format!(
        "# A job for Suanli. Every key but data.paths may be left out.\n\
         \n\
         [model]  # a decoder of the Llama shape\n\
         # To go on from a checkpoint (Llama, Mistral, Qwen2, Qwen3; safetensors): its folder, and\n\
         # beside it only context; leave out the other sizes and [tokenizer]. To train adapters\n\
         # only, add a section [lora] (rank = 16, alpha = 32.0, targets = [\"q_proj\", ...]).\n\
         # from = \"folder\"\n\
         hidden = {}  # width; a multiple of 2 x heads\n\
         layers = {}\n\
         heads = {}  # default: hidden / 32\n\
         kv_heads = {}  # divides heads; default: heads\n\
         ffn = {}  # default: 8/3 of hidden\n\
         context = {}  # longest sequence, and the length of a training sample\n\
         tied = {}  # whether the head is the embedding\n\
         rope_theta = {:?}\n\
         norm_eps = {:?}\n",
        m.hidden, m.layers, m.heads, m.kv_heads, m.ffn, m.context, m.tied, m.rope_theta, m.norm_eps,
    )
}

fn data(job: &JobFile) -> String {
    let d = &job.data;
    let paths: Vec<String> = d.paths.iter().map(|path| quoted(path)).collect();
    let max_bytes = match d.max_bytes {
        Some(bytes) => format!("max_bytes = {bytes}"),
        None => "# max_bytes = 100000000".to_owned(),
    };
    format!(
        "[data]\n\
  # Files, folders (with all below) and patterns, relative to this file. Files that end in\n\
  # .jsonl hold a JSON object a line, in .parquet a text a row; everything else is text.\n\
  # Members will read it.\n\
         paths = [{}]\n\
         field = {}  # of a .jsonl line, or the .parquet column: where the text is\n\
         held_out = {:?}  # share kept out of training, to measure with\n\
         {max_bytes}  # most bytes of text to use\n",
        paths.join(", "),
        quoted(&d.field),
        d.held_out,
    )
}

fn tokenizer(job: &JobFile) -> String {
    let kind = match job.tokenizer.kind {
        TokenizerKind::Bytes => "bytes",
        TokenizerKind::Bpe => "bpe",
        TokenizerKind::Checkpoint => return String::new(),
    };
    format!(
        "[tokenizer]\n\
         kind = \"{kind}\"  # \"bytes\", or \"bpe\" trained on the data\n\
         vocab = {}  # for \"bpe\": at most so many entries, 256 or more\n",
        job.tokenizer.vocab,
    )
}

fn lora(lora: &Lora) -> String {
    let targets: Vec<String> = lora.targets.iter().map(|target| quoted(target.name())).collect();
    format!(
        "[lora]  # only these adapters are trained; the checkpoint stays as it is\n\
         rank = {}  # inner width\n\
         alpha = {:?}  # what they say is scaled by alpha / rank; default 2 x rank\n\
         targets = [{}]\n",
        lora.rank,
        f64::from(lora.alpha),
        targets.join(", "),
    )
}

fn training(job: &JobFile) -> String {
    let t = &job.training;
    let schedule = match t.schedule {
        Schedule::Wsd => "wsd",
        Schedule::Cosine => "cosine",
    };
    let codec = t.codec;
    let storage = match t.storage {
        Storage::F32 => "f32",
        Storage::Bf16 => "bf16",
    };
    let engine = match t.engine {
        EngineName::Suanli => "suanli",
        EngineName::Any => "any",
    };
    let length = match t.length {
        Length::Rounds(rounds) => {
            format!("rounds = {rounds}  # or: tokens = ..., committed by all replicas together")
        }
        Length::Tokens(tokens) => {
            format!("tokens = {tokens}  # committed by all replicas together; or: rounds = ...")
        }
    };
    format!(
        "[training]\n\
         {length}\n\
         inner_steps = {}  # steps of a full lease between two merges (H)\n\
         batch_sequences = {}  # sequences a replica reads in a step\n\
         lr = {:?}  # peak of the inner AdamW; default 0.004 x 128 / hidden\n\
         warmup = {:?}  # share of the tokens over which it rises\n\
         schedule = \"{schedule}\"  # \"wsd\": stable, then a fall; \"cosine\"\n\
         decay = {:?}  # wsd: share of the tokens over which it falls\n\
         min_lr = {:?}  # what it falls to, as a share of the peak\n\
         weight_decay = {:?}\n\
         clip = {:?}  # largest norm of a gradient; 0 means any\n\
         beta1 = {:?}\n\
         beta2 = {:?}\n\
         # The outer Nesterov step. Default: 1.0 and a momentum that rises and\n\
         # falls under {SHORT_RUN_ROUNDS} rounds, 0.7 and 0.9 above.\n\
         outer_lr = {:?}\n\
         outer_momentum = {:?}  # one number, or several from the first to the last round\n\
         codec = \"{codec}\"  # how updates travel: \"int4\"; \"topk\" in less, \"int8\", \"bf16\",\n\
                          # \"f16\" or \"f32\" in more bytes\n\
         storage = \"{storage}\"  # matrices and activations: \"f32\", or \"bf16\" in less memory\n\
         engine = \"{engine}\"  # \"any\": members may train with programs of their own, such as\n\
                           # PyTorch; their steps cannot be checked by doing them again\n\
         seed = {}\n",
        t.inner_steps,
        t.batch_sequences,
        t.lr,
        t.warmup,
        t.decay,
        t.min_lr,
        t.weight_decay,
        t.clip,
        t.beta1,
        t.beta2,
        t.outer_lr,
        t.outer_momentum,
        t.seed,
    )
}

fn replicas(job: &JobFile) -> String {
    let r = &job.replicas;
    format!(
        "[replicas]\n\
         min = {}  # the job waits for so many\n\
         max = {}  # and takes no more than so many\n\
         expected = {}  # what --plan counts with\n\
         quorum = {:?}  # share of a round's tokens that starts its grace window\n\
         grace_ms = {}  # how long a round then waits for the rest\n",
        r.min, r.max, r.expected, r.quorum, r.grace_ms,
    )
}

/// A TOML text on one line, whatever is in it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => {
                out.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}
