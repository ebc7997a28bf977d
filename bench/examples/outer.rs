//! One training run with outer numbers of one's choice, kept beside those of the quality row.
//!
//! `cargo run --release -p suanli-bench --example outer -- FOLDER [NAME=VALUE ...]`
//!
//! | name | value | default |
//! | --- | --- | --- |
//! | `beta2` | AdamW's decay of the second moment | 0.95 |
//! | `lr` | peak of the inner learning rate | 0.002 |
//! | `seed` | of the run | 1 |
//! | `outer` | outer learning rate; without it AdamW in one process | |
//! | `momentum` | one number, or several with commas: from the first to the last round | 0.5 |
//! | `codec` | `int4`, `f32` | `int4` |
//! | `moments` | `sealed`, `kept` | `sealed` |
//! | `text` | `prose`, `code` | `prose` |

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use suanli_bench::whole::quality::{Exchange, Method, Moments, Plan, Runs, Text, WHOLE};
use suanli_params::Codec;

const NAMES: [&str; 8] = ["beta2", "lr", "seed", "outer", "momentum", "codec", "moments", "text"];

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().context("name the folder that keeps the runs")?;
    let mut named = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=').with_context(|| format!("{word}: no NAME="))?;
        ensure!(NAMES.contains(&name), "{name}: expected one of {}", NAMES.join(", "));
        named.insert(name.to_owned(), value.to_owned());
    }
    let value =
        |name: &str, default: &str| named.get(name).map_or(default, String::as_str).to_owned();
    let number = |text: &str| text.parse::<f32>().with_context(|| format!("{text}: no number"));
    let method = if let Some(outer) = named.get("outer") {
        let momentum = value("momentum", "0.5");
        Method::Replicas(Exchange {
            codec: match value("codec", "int4").as_str() {
                "int4" => Codec::Int4,
                "f32" => Codec::F32,
                other => bail!("{other}: expected int4 or f32"),
            },
            moments: match value("moments", "sealed").as_str() {
                "sealed" => Moments::Sealed,
                "kept" => Moments::Kept,
                other => bail!("{other}: expected sealed or kept"),
            },
            outer_lr: number(outer)?,
            outer_momentum: momentum.split(',').map(number).collect::<Result<Vec<f32>>>()?,
        })
    } else {
        Method::OneProcess
    };
    let text = match value("text", "prose").as_str() {
        "prose" => Text::Prose,
        "code" => Text::Code,
        other => bail!("{other}: expected prose or code"),
    };
    let (lr, seed) = (number(&value("lr", "0.002"))?, number(&value("seed", "1"))? as u64);
    let beta2 = number(&value("beta2", "0.95"))?;
    let plan = Plan { method, lr, seed, size: WHOLE, beta2 };
    let outcome = Runs::in_folder(folder.into(), text)?.outcome(&plan)?;
    println!("{}", serde_json::to_string(&(plan, outcome))?);
    Ok(())
}
