//! One training run with outer numbers of one's choice, kept beside those of the quality row.
//!
//! `cargo run --release -p suanli-bench --example outer -- FOLDER LR SEED OUTER_LR MOMENTUM [LAST
//! MOMENTUM [f32]]`, or `FOLDER LR SEED` alone for AdamW in one process. It learns prose; with
//! `code` as the last word, code.

use anyhow::{Context, Result};
use suanli_bench::whole::quality::{Exchange, Method, Moments, Plan, Runs, Text, WHOLE};
use suanli_params::Codec;

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let code = words.pop_if(|word| word == "code").is_some();
    let folder = words.first().context("name the folder that keeps the runs")?;
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<f32>().ok());
    let method = match (number(3), number(4)) {
        (Some(outer_lr), Some(first)) => {
            let plain = words.last().is_some_and(|word| word == "f32");
            let (codec, moments) =
                if plain { (Codec::F32, Moments::Kept) } else { (Codec::Int4, Moments::Sealed) };
            let outer_momentum = [first, number(5).unwrap_or(first)];
            Method::Replicas(Exchange { codec, moments, outer_lr, outer_momentum })
        }
        _ => Method::OneProcess,
    };
    let lr = number(1).context("name the learning rate")?;
    let seed = number(2).context("name the seed")? as u64;
    let plan = Plan { method, lr, seed, size: WHOLE };
    let outcome = Runs::in_folder(folder.into(), if code { Text::Code } else { Text::Prose })?
        .outcome(&plan)?;
    println!("{}", serde_json::to_string(&(plan, outcome))?);
    Ok(())
}
