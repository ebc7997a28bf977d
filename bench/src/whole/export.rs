//! An exported job in `transformers`: its logits against those of our engine.

use super::live::Live;
use crate::{Goal, Length, Row, RowSpec, Session, root};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use suanli_engine::{Engine as _, Fast};
use suanli_host::control::JobState;
use suanli_store::checkpoint;
use suanli_store::job_file::Length as JobLength;

const DIFFERENCE_MAX: f64 = 1e-4;
/// The Python that has torch and transformers.
const PYTHON: &str = "SUANLI_PYTHON";
const TEXT: &str = "fn main() {\n    println!(\"算粒\");\n}\n";

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "export",
        what: "an export's logits in transformers against ours",
        run: measure,
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let Some(python) = std::env::var_os(PYTHON) else {
        let why = format!("needs Python with torch and transformers: set {PYTHON}");
        return Ok(vec![Row::not_measured("export", Goal::AtMost(DIFFERENCE_MAX), why)]);
    };
    let short = session.length() == Length::Short;
    let rounds = if short { 2 } else { 10 };
    let mut live = Live::found(session)?;
    live.serve(None)?;
    live.submit(session, |job| {
        job.training.length = JobLength::Rounds(rounds);
        job.training.inner_steps = 10;
        job.replicas.min = 2;
        job.replicas.expected = 2;
    })?;
    live.join("family-1", 100)?;
    live.join("family-2", 100)?;
    let limit = Duration::from_secs(300);
    live.until("the job's end", limit, |job| job.state == JobState::Done)?;
    // The script takes a folder of such folders.
    let case = live.folder().join("exports").join("trained");
    std::fs::create_dir_all(&case).context("make the folder of the export")?;
    live.export(&case.join("model"))?;
    write_expected(&case)?;
    let script = root().join("tests").join("transformers_logits.py");
    let output = Command::new(&python).arg(&script).arg(live.folder().join("exports")).output();
    let output = output.with_context(|| format!("start {}", python.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(worst) = worst_of(&text) else {
        bail!("{}: {text}{}", script.display(), String::from_utf8_lossy(&output.stderr));
    };
    let row = if short { Row::short } else { Row::new };
    Ok(vec![row("export", worst, "logit", Goal::AtMost(DIFFERENCE_MAX))])
}

/// Writes what our engine makes of the checkpoint beside it.
fn write_expected(case: &Path) -> Result<()> {
    let loaded = checkpoint::read(&case.join("model"))?;
    let (config, tokenizer) = (&loaded.config, &loaded.tokenizer);
    let mut engine = Fast::new(config.clone(), 1)?;
    engine.params_mut().copy_from_slice(&loaded.params);
    let prompt: Vec<u32> =
        (0..config.context as u32).map(|i| (i * 37 + 11) % config.vocab as u32).collect();
    let expected = serde_json::json!({
        "text": TEXT,
        "ids": tokenizer.encode(TEXT.as_bytes())?,
        "vocab": config.vocab,
        "rope_theta": config.rope_theta,
        "tied": config.tied,
        "prompt": prompt,
        "logits": engine.logits(&prompt)?,
    });
    std::fs::write(case.join("expected.json"), expected.to_string()).context("write our own logits")
}

/// The number behind the word "worst".
fn worst_of(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == "worst")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_difference_is_read_from_the_scripts_last_line() {
        let text = "trained: largest difference 3.81e-06 at a spread of 2.10\n\
                    transformers 5.23.0: 1 exports, worst 3.81e-06\n";
        assert_eq!(worst_of(text), Some(3.81e-6));
        assert_eq!(worst_of("Traceback"), None);
    }
}
