//! `suanli status`, `jobs` and `watch`.

use super::{ending, program, stop_flag};
use crate::arguments::{Folder, Watch};
use crate::context::Context;
use crate::exit::{Class, Failure, Whose};
use crate::language::Language;
use crate::show::{self, printable};
use crate::words;
use serde_json::json;
use std::time::Duration;
use suanli_host::control::{
    CityStatus, ControlReply, FamilyStatus, JobStatus, MemberStatus, NodeKind, StatusEvent,
};

pub(super) async fn status(context: &Context, folder: &Folder) -> Result<(), Failure> {
    let (mut city, mut family) = (None, None);
    for mut node in context.nodes(folder).await? {
        match node.kind() {
            NodeKind::City => city = Some(node.city_status().await?),
            NodeKind::Family => family = Some(node.family_status().await?),
        }
    }
    if city.is_none() && family.is_none() {
        return Err(nothing_runs());
    }
    context.answer(&json!({ "city": city, "family": family }), || {
        let city = city.map(|city| city_text(context.language, &city));
        let family = family.map(|family| family_text(context.language, &family));
        [city, family].into_iter().flatten().collect::<Vec<_>>().join("\n")
    })
}

pub(super) async fn jobs(context: &Context, folder: &Folder) -> Result<(), Failure> {
    let mut nodes = context.nodes(folder).await?;
    // The city knows more than a family that runs beside it.
    nodes.sort_by_key(|node| node.kind() == NodeKind::Family);
    let mut node = nodes.into_iter().next().ok_or_else(nothing_runs)?;
    let jobs = node.jobs().await?;
    context.answer(&json!({ "jobs": jobs }), || jobs_text(context.language, &jobs))
}

fn nothing_runs() -> Failure {
    Failure {
        class: Class::Environment,
        what: words::nothing_runs(Language::English),
        whose: Whose::Yours,
        next: "start a city (suanli city serve) or a family (suanli join), or name a folder with \
               --dir"
            .into(),
    }
}

pub(super) async fn watch(context: &Context, arguments: &Watch) -> Result<(), Failure> {
    let mut nodes = context.nodes(&arguments.folder).await?;
    nodes.sort_by_key(|node| node.kind() == NodeKind::Family);
    let node = nodes.into_iter().next().ok_or_else(nothing_runs)?;
    let mut watching = node.watch(arguments.interval).await?;
    let (_stopper, mut stop) = stop_flag(false)?;
    let screen = Screen::new(context);
    loop {
        let reply = tokio::select! {
            reply = watching.next() => reply?,
            _ = stop.wait() => return ending(&stop),
        };
        match reply {
            Some(reply) if context.json => context.answer(&reply, String::new)?,
            Some(reply) => screen.show(&reply),
            None => {
                context.say(words::stopped(context.language));
                return Ok(());
            }
        }
    }
}

/// Where a watcher looks: one line that is drawn anew and events above it, or plain lines where
/// there is no terminal.
struct Screen {
    language: Language,
    line: indicatif::ProgressBar,
}

impl Screen {
    fn new(context: &Context) -> Self {
        let line = indicatif::ProgressBar::new_spinner();
        line.enable_steady_tick(Duration::from_millis(200));
        Self { language: context.language, line }
    }

    fn show(&self, reply: &ControlReply) {
        let language = self.language;
        match reply {
            ControlReply::City(status) => self.status(&city_line(language, status)),
            ControlReply::Family(status) => self.status(&family_line(language, status)),
            ControlReply::Event(event) => {
                if let Some(text) = event_text(language, event) {
                    self.above(&text);
                }
            }
            _ => {}
        }
    }

    fn status(&self, text: &str) {
        if self.line.is_hidden() {
            println!("{text}");
        } else {
            self.line.set_message(text.to_owned());
        }
    }

    fn above(&self, text: &str) {
        if self.line.is_hidden() {
            println!("{text}");
        } else {
            self.line.println(text);
        }
    }
}

fn city_line(language: Language, city: &CityStatus) -> String {
    let at_work = city.members.iter().filter(|member| member.last_seen_ms < 10_000).count();
    let mut text = format!(
        "{} {}: {at_work}/{} {}",
        words::head_city(language),
        printable(&city.name),
        city.members.len(),
        words::head_member(language)
    );
    for job in city.jobs.iter().filter(|job| !job.state.is_over()) {
        text += &format!(
            " | {} {}{} {} {}/s",
            printable(&job.name),
            job.round,
            job.rounds.map(|rounds| format!("/{rounds}")).unwrap_or_default(),
            loss_text(job),
            show::count(job.tokens_per_s.max(0.0) as u64),
        );
    }
    text
}

fn family_line(language: Language, family: &FamilyStatus) -> String {
    format!(
        "{}: {} {}/{} | {} {}/s | {} {}",
        printable(&family.name),
        show::family_state(language, family.state),
        family.step,
        family.steps,
        words::head_speed(language),
        show::count(family.tokens_per_s.max(0.0) as u64),
        words::head_contributions(language),
        family.contributions,
    )
}

/// An event as a sentence; nothing for events of a later version.
pub(crate) fn event_text(language: Language, event: &StatusEvent) -> Option<String> {
    Some(match event {
        StatusEvent::MemberConnected { name, .. } => {
            words::event_member_connected(language, &printable(name))
        }
        StatusEvent::MemberLost { name, .. } => {
            words::event_member_lost(language, &printable(name))
        }
        StatusEvent::ContributionAccepted { round, name, tokens, .. } => {
            words::event_accepted(language, &printable(name), *round, &show::count(*tokens))
        }
        StatusEvent::RoundCommitted { round, contributions, tokens, .. } => {
            words::event_round(language, *round, *contributions, &show::count(*tokens))
        }
        StatusEvent::LossMeasured { round, loss, .. } => words::event_loss(language, *round, *loss),
        StatusEvent::JobOver { job } => words::event_job_over(language, &short(job)),
        StatusEvent::WorkerRestarted { reason } => {
            words::event_worker(language, &printable(reason))
        }
        StatusEvent::Missed { events } => words::event_missed(language, *events),
        _ => return None,
    })
}

fn city_text(language: Language, city: &CityStatus) -> String {
    let mut text = format!(
        "{} {} ({})\n  {}\n  {}\n",
        words::head_city(language),
        printable(&city.name),
        short(&city.city),
        city.addresses.join(", "),
        city.folder.display(),
    );
    let upload = &city.upload;
    let limits =
        upload_words(language, upload.bytes_per_day, upload.bytes_per_s, upload.today_bytes);
    for line in limits.into_iter().chain(upload.held.as_ref().map(|_| words::upload_held(language)))
    {
        text += &format!("  {line}\n");
    }
    text += "\n";
    if city.members.is_empty() {
        text += &(words::no_members(language) + "\n");
    } else {
        text += &members_text(language, &city.members);
    }
    text + "\n" + &jobs_text(language, &city.jobs)
}

fn members_text(language: Language, members: &[MemberStatus]) -> String {
    let head = [
        words::head_member(language),
        words::head_state(language),
        words::head_share(language),
        words::head_speed(language),
        words::head_contributions(language),
        words::head_tokens(language),
        words::head_up(language),
        words::head_down(language),
        words::head_seen(language),
    ];
    let row = |member: &MemberStatus| {
        vec![
            printable(&member.name),
            show::member_state(language, member.state),
            member.share_percent.map_or("-".into(), |share| format!("{share} %")),
            show::count(member.tokens_per_s.max(0.0) as u64),
            member.contributions.to_string(),
            show::count(member.tokens),
            show::bytes(member.bytes_up),
            show::bytes(member.bytes_down),
            show::span(Duration::from_millis(member.last_seen_ms)),
        ]
    };
    show::table(&head, &members.iter().map(row).collect::<Vec<_>>())
}

fn jobs_text(language: Language, jobs: &[JobStatus]) -> String {
    if jobs.is_empty() {
        let command = format!("{} train JOB.toml --city DIR", program());
        return words::no_jobs(language, &command) + "\n";
    }
    let head = [
        words::head_job(language),
        "id".to_owned(),
        words::head_state(language),
        words::head_round(language),
        words::head_tokens(language),
        words::head_speed(language),
        words::head_loss(language),
        words::head_bytes(language),
        words::head_fewer(language),
    ];
    let row = |job: &JobStatus| {
        vec![
            printable(&job.name),
            short(&job.id),
            show::job_state(language, job.state),
            format!("{}{}", job.round, job.rounds.map(|n| format!("/{n}")).unwrap_or_default()),
            show::count(job.tokens),
            show::count(job.tokens_per_s.max(0.0) as u64),
            loss_text(job),
            show::bytes(job.traffic.training()),
            job.traffic.times_fewer().map_or("-".into(), |times| format!("{times:.0}x")),
        ]
    };
    show::table(&head, &jobs.iter().map(row).collect::<Vec<_>>())
}

fn family_text(language: Language, family: &FamilyStatus) -> String {
    let reason = family.reason.as_deref().map(|text| format!(" ({})", printable(text)));
    let job = family.job_name.as_deref().map_or("-".into(), printable);
    let limits = &family.limits;
    let (today, rate) = (limits.upload_bytes_per_day, limits.upload_bytes_per_s);
    let comma = match language {
        Language::English => ", ",
        Language::Chinese => "，",
    };
    let limit: String = upload_words(language, today, rate, limits.uploaded_today_bytes)
        .iter()
        .map(|part| format!("{comma}{part}"))
        .collect();
    let lines = [
        format!(
            "{} {} ({})",
            words::head_family(language),
            printable(&family.name),
            short(&family.node)
        ),
        format!("{} {} {}", words::head_city(language), short(&family.city), family.address),
        family.folder.display().to_string(),
        format!(
            "{}: {}{}",
            words::head_state(language),
            show::family_state(language, family.state),
            reason.unwrap_or_default()
        ),
        format!(
            "{}: {job}, {} {}, {}/{}",
            words::head_job(language),
            words::head_round(language),
            family.round,
            family.step,
            family.steps
        ),
        format!(
            "{}: {:.0}   {}: {}   {}: {}",
            words::head_speed(language),
            family.tokens_per_s,
            words::head_contributions(language),
            family.contributions,
            words::head_tokens(language),
            show::count(family.tokens)
        ),
        format!(
            "{} {}   {} {}",
            words::head_up(language),
            show::bytes(family.bytes_up),
            words::head_down(language),
            show::bytes(family.bytes_down)
        ),
        format!("{}: {} %{limit}", words::head_share(language), family.limits.share_percent),
    ];
    let link = family.link.as_ref().map(|link| super::network::link_words(language, link));
    lines.into_iter().chain(link).collect::<Vec<_>>().join("\n  ") + "\n"
}

/// The limits of upload that there are, in words.
fn upload_words(
    language: Language,
    per_day: Option<u64>,
    per_s: Option<u64>,
    today: u64,
) -> Vec<String> {
    let today = per_day
        .map(|limit| words::upload_today(language, &show::bytes(today), &show::bytes(limit)));
    let rate = per_s.map(|rate| words::upload_rate(language, &show::rate(8.0 * rate as f64)));
    today.into_iter().chain(rate).collect()
}

fn loss_text(job: &JobStatus) -> String {
    job.losses.last().map_or("-".into(), |point| format!("{:.4}", point.loss))
}

/// The beginning of an id, as tables show it.
pub(crate) fn short(id: &str) -> String {
    printable(id).chars().take(10).collect()
}
