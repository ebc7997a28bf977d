//! What the demo shows while it runs: a line for the city and one for each family on a terminal,
//! plain lines elsewhere. Every number comes from a status.

use crate::context::Context;
use crate::language::Language;
use crate::{show, words};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};
use suanli_host::control::{FamilyStatus, JobStatus};

/// Where there is no terminal: a line at least this often.
const PLAIN_EVERY: Duration = Duration::from_secs(15);
const NAME_COLUMNS: usize = 10;
const SPARK_COLUMNS: usize = 20;

/// The screen.
pub(super) struct Screen {
    language: Language,
    silent: bool,
    bars: MultiProgress,
    city: ProgressBar,
    wire: ProgressBar,
    families: Vec<(String, ProgressBar)>,
    plain: Option<(usize, Instant)>,
}

impl Screen {
    pub(super) fn new(context: &Context) -> Self {
        let silent = context.json || context.quiet;
        let bars = MultiProgress::new();
        if silent {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let city = bars.add(ProgressBar::new(1).with_style(style("[{bar:24}] {wide_msg}")));
        city.set_prefix(show::padded(&words::head_city(context.language), NAME_COLUMNS));
        let wire = bars.add(ProgressBar::new(1).with_style(style("{wide_msg}")));
        wire.set_prefix(" ".repeat(NAME_COLUMNS));
        let language = context.language;
        Self { language, silent, bars, city, wire, families: Vec::new(), plain: None }
    }

    /// A sentence that stays.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        if self.silent {
            return;
        }
        // Where there is no terminal, indicatif would swallow it.
        if self.bars.is_hidden() || self.bars.println(text.as_ref()).is_err() {
            println!("{}", text.as_ref());
        }
    }

    /// How the job does.
    pub(super) fn job(&mut self, job: &JobStatus) {
        let text = job_line(self.language, job);
        let bytes = bytes_line(self.language, job);
        if self.bars.is_hidden() {
            // One line a round: when its loss is known.
            let now = job.losses.len();
            let due = match self.plain {
                None => true,
                Some((before, at)) => before != now || at.elapsed() >= PLAIN_EVERY,
            };
            if due {
                self.plain = Some((now, Instant::now()));
                self.say(format!("{text} | {bytes}"));
            }
        } else {
            self.city.set_length(1000);
            self.city.set_position((job.progress() * 1000.0) as u64);
            self.city.set_message(text);
            self.wire.set_message(bytes);
        }
    }

    /// How a family does; nothing when it does not answer.
    pub(super) fn family(&mut self, name: &str, share: u8, status: Option<&FamilyStatus>) {
        if self.bars.is_hidden() {
            return;
        }
        let bar = self.bar(name);
        match status {
            Some(status) => {
                bar.set_length(status.steps.max(1));
                bar.set_position(status.step.min(status.steps));
                bar.set_message(family_line(self.language, share, status));
            }
            None => {
                bar.set_position(0);
                bar.set_message(words::state_away(self.language));
            }
        }
    }

    fn bar(&mut self, name: &str) -> ProgressBar {
        if let Some((_, bar)) = self.families.iter().find(|(known, _)| known == name) {
            return bar.clone();
        }
        let bar = self.bars.add(ProgressBar::new(1).with_style(style("[{bar:24}] {wide_msg}")));
        bar.set_prefix(show::padded(name, NAME_COLUMNS));
        self.families.push((name.to_owned(), bar.clone()));
        bar
    }

    /// Takes the moving lines away; what was said stays.
    pub(super) fn close(&self) {
        self.city.finish_and_clear();
        self.wire.finish_and_clear();
        for (_, bar) in &self.families {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{{prefix}} {template}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn job_line(language: Language, job: &JobStatus) -> String {
    let losses: Vec<f64> = job.losses.iter().map(|point| point.loss).collect();
    let loss = match losses.last() {
        Some(loss) => format!("{loss:.4} {}", show::sparkline(&losses, SPARK_COLUMNS)),
        None => "-".to_owned(),
    };
    let of = job.rounds.map(|rounds| format!("/{rounds}")).unwrap_or_default();
    format!(
        "{} {}{of} | {} {loss} | {} {}",
        words::head_round(language),
        job.round,
        words::head_loss(language),
        show::count(job.tokens_per_s.max(0.0) as u64),
        words::head_speed(language),
    )
}

fn bytes_line(language: Language, job: &JobStatus) -> String {
    let ours = show::bytes(job.traffic.training());
    match job.traffic.times_fewer() {
        Some(times) => {
            let theirs = show::bytes(job.traffic.bytes_data_parallel);
            words::demo_wire(language, &ours, &theirs, times)
        }
        None => words::demo_wire_yet(language, &ours),
    }
}

fn family_line(language: Language, share: u8, family: &FamilyStatus) -> String {
    let loss = family.loss.map(|loss| format!(" {loss:.3}")).unwrap_or_default();
    format!(
        "{} {}/{}{loss} | {} {} | {} | {share} %",
        show::family_state(language, family.state),
        family.step,
        family.steps,
        show::count(family.tokens_per_s.max(0.0) as u64),
        words::head_speed(language),
        words::contributions(language, family.contributions),
    )
}
