//! What the demo leaves behind: the table of contributions, the loss curve, two samples of text,
//! and what to try next.

use super::place::{Mark, MarkKind, Place, Record};
use crate::command::{program, quoted};
use crate::exit::Failure;
use crate::language::Language;
use crate::svg::Chart;
use crate::{show, words};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use suanli_host::control::{ContributionStatus, JobStatus, LossPoint, TrafficStatus};

/// Everything a program may want to know of a demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) job: String,
    pub(super) rounds: u64,
    pub(super) tokens: u64,
    pub(super) parameters: u64,
    pub(super) trained_s: f64,
    pub(super) losses: Vec<LossPoint>,
    pub(super) traffic: TrafficStatus,
    pub(super) times_fewer: Option<f64>,
    pub(super) contributions: Vec<ContributionStatus>,
    pub(super) killed: usize,
    pub(super) joined: usize,
    pub(super) prompt: String,
    pub(super) text_before: String,
    pub(super) text_after: String,
    pub(super) checkpoint: PathBuf,
    pub(super) chart: PathBuf,
}

impl Report {
    /// Draws the curve and puts everything together.
    pub(super) fn new(
        language: Language,
        place: &Place,
        record: &Record,
        job: &JobStatus,
        texts: (String, String),
    ) -> Result<Self, Failure> {
        let svg = chart(language, record, job).to_svg();
        let chart = place.write("loss.svg", &svg)?;
        Ok(Self {
            job: job.id.clone(),
            rounds: job.round,
            tokens: job.tokens,
            parameters: job.parameters,
            trained_s: record.trained_s,
            losses: job.losses.clone(),
            traffic: job.traffic,
            times_fewer: job.traffic.times_fewer(),
            contributions: job.contributions.clone(),
            killed: record.count(MarkKind::Killed),
            joined: record.count(MarkKind::Joined),
            prompt: record.prompt.clone(),
            text_before: texts.0,
            text_after: texts.1,
            checkpoint: place.checkpoint(),
            chart,
        })
    }

    /// The whole report for a person.
    pub(super) fn text(&self, language: Language, place: &Place) -> String {
        let mut parts = vec![self.contributions_text(language), self.figures(language)];
        for (head, text) in [
            (words::demo_text_before(language), &self.text_before),
            (words::demo_text_after(language), &self.text_after),
        ] {
            let shown = show::block(&format!("{}{text}", self.prompt));
            parts.push(format!("{head}\n{shown}"));
        }
        parts.push(self.next(language, place));
        parts.join("\n")
    }

    fn contributions_text(&self, language: Language) -> String {
        let head = [
            words::head_family(language),
            words::head_contributions(language),
            words::head_tokens(language),
            words::head_part(language),
            words::head_up(language),
            words::head_down(language),
        ];
        let all: u64 = self.contributions.iter().map(|one| one.tokens).sum();
        let row = |one: &ContributionStatus| {
            vec![
                show::printable(&one.name),
                one.contributions.to_string(),
                show::count(one.tokens),
                format!("{:.1} %", 100.0 * one.tokens as f64 / all.max(1) as f64),
                show::bytes(one.bytes_up),
                show::bytes(one.bytes_down),
            ]
        };
        show::table(&head, &self.contributions.iter().map(row).collect::<Vec<_>>())
    }

    fn figures(&self, language: Language) -> String {
        let span = show::span(Duration::from_secs_f64(self.trained_s.max(0.0)));
        let tokens = show::count(self.tokens);
        let mut text = words::demo_figures(language, self.rounds, &tokens, &span) + "\n";
        if let [first, .., last] = self.losses.as_slice() {
            text += &words::demo_losses(language, first.loss, last.loss);
            text.push('\n');
        }
        if let Some(times) = self.times_fewer {
            let ours = show::bytes(self.traffic.training());
            let theirs = show::bytes(self.traffic.bytes_data_parallel);
            text += &words::demo_bytes(language, &ours, &theirs, times);
            text.push('\n');
            let first = show::bytes(self.traffic.bytes_first_download);
            let shards = show::bytes(self.traffic.bytes_shards);
            text += &words::demo_bytes_aside(language, &first, &shards);
            text.push('\n');
        }
        text
    }

    fn next(&self, language: Language, place: &Place) -> String {
        let program = program();
        let checkpoint = quoted(&here(&self.checkpoint));
        let root = quoted(&here(&place.root));
        let prompt = quoted(self.prompt.as_ref());
        let chart = here(&self.chart).display().to_string();
        [
            words::demo_files(language, &checkpoint, &chart),
            words::demo_next(language),
            format!("  {program} generate --checkpoint {checkpoint} --prompt {prompt}"),
            format!("  {program} log verify {root}/city"),
            format!("  {program} train --example > job.toml"),
            String::new(),
        ]
        .join("\n")
    }
}

/// A path as seen from the working directory, when it lies below.
pub(super) fn here(path: &std::path::Path) -> PathBuf {
    let seen = std::env::current_dir().ok().and_then(|folder| path.strip_prefix(folder).ok());
    seen.unwrap_or(path).to_path_buf()
}

fn chart(language: Language, record: &Record, job: &JobStatus) -> Chart {
    let mark = |mark: &Mark| {
        let word = match mark.kind {
            MarkKind::Killed => words::mark_killed(language, &mark.family),
            MarkKind::Back => words::mark_back(language, &mark.family),
            MarkKind::Joined => words::mark_joined(language, &mark.family),
        };
        (mark.tokens as f64, word)
    };
    Chart {
        title: words::demo_chart(language, &show::count(job.parameters)),
        subtitle: words::demo_figures(
            language,
            job.round,
            &show::count(job.tokens),
            &show::span(Duration::from_secs_f64(record.trained_s.max(0.0))),
        ),
        x_name: words::demo_chart_x(language),
        y_name: words::demo_chart_y(language),
        points: job.losses.iter().map(|point| (point.tokens as f64, point.loss)).collect(),
        marks: record.marks.iter().map(mark).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_the_numbers_of_the_status_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path()).unwrap();
        let mut record = Record::new(1, 2);
        record.marks.push(Mark { tokens: 50, kind: MarkKind::Killed, family: "family-2".into() });
        record.trained_s = 61.0;
        let losses = [(0, 0, 5.5), (1, 100, 3.25)];
        let job = JobStatus {
            round: 1,
            tokens: 100,
            losses: losses.map(|(round, tokens, loss)| LossPoint { round, tokens, loss }).to_vec(),
            traffic: TrafficStatus {
                bytes_up: 10,
                bytes_down: 10,
                bytes_data_parallel: 5000,
                ..TrafficStatus::default()
            },
            contributions: vec![ContributionStatus {
                name: "family-1".into(),
                contributions: 3,
                tokens: 75,
                ..ContributionStatus::default()
            }],
            ..JobStatus::default()
        };
        let texts = ("xxqq".to_owned(), "and then".to_owned());
        for language in [Language::English, Language::Chinese] {
            let report = Report::new(language, &place, &record, &job, texts.clone()).unwrap();
            let text = report.text(language, &place);
            for part in ["5.5", "3.25", "250", "family-1", "xxqq", "and then", "generate"] {
                assert!(text.contains(part), "{part} in {text}");
            }
            let svg = std::fs::read_to_string(&report.chart).unwrap();
            assert!(svg.contains("family-2"), "{svg}");
        }
    }
}
