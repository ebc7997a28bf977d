//! The run itself: who is on stage, what happens in which order, and how all leave it.

use super::chaos::{self, Act, Chaos};
use super::children::{Node, Program, Running};
use super::observe::{self, Observed};
use super::place::{Mark, MarkKind, Place, Record};
use super::report::Report;
use super::screen::Screen;
use super::text;
use crate::arguments::TicketRole;
use crate::command::{ask_ticket, continue_text, event_text, export_job};
use crate::context::Context;
use crate::exit::{At as _, Class, Failure, Whose};
use crate::{measure, show, words};
use std::path::PathBuf;
use std::time::Duration;
use suanli_host::control::{CityStatus, Client, FamilyStatus, JobStatus, NodeKind, StatusEvent};
use suanli_store::job_file::{JobFile, Length, TrainingSection};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// What each family's owner lends, in percent of a core; they are not equal on purpose.
const SHARES: [u8; 4] = [100, 60, 40, 25];
/// What the one that joins in mid-run lends.
const NEWCOMER_SHARE: u8 = 80;
/// Of a core's speed, what is left for steps beside leases, links and merges (measured: a run's
/// speed by its statuses against one engine alone).
const USEFUL: f64 = 0.8;
/// Fewer rounds show nothing; more than this is not a demo.
const ROUNDS: std::ops::RangeInclusive<u64> = 8..=2000;
/// After so many times the minutes asked for, the demo ends with what there is.
const OVERTIME: f64 = 2.0;
/// A city that commits nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(180);
/// How long the report waits for the last held-out loss.
const LAST_LOSS_MAX: Duration = Duration::from_secs(30);
/// Between two looks at everyone.
const TICK: Duration = Duration::from_millis(200);
/// A family that ends by itself is started again so often.
const RESTARTS_MAX: u32 = 3;
const TICKET_S: u64 = 7 * 86_400;
const TEXT_TOKENS: u32 = 240;
const JOB_NAME: &str = "demo";

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    pub(super) data: Option<PathBuf>,
    pub(super) minutes: f64,
    pub(super) rounds: Option<u64>,
    pub(super) chaos: bool,
}

/// Everyone and everything on stage.
pub(super) struct Stage<'a> {
    context: &'a Context,
    place: Place,
    record: Record,
    wishes: Wishes,
    program: Program,
    screen: Screen,
    city: Option<Running>,
    families: Vec<Family>,
    began: Option<Instant>,
    /// Seconds of training in earlier runs.
    earlier_s: f64,
}

struct Family {
    name: String,
    share: u8,
    running: Option<Running>,
    observed: Observed<FamilyStatus>,
    restarts: u32,
}

/// The city as the run sees it.
struct View {
    job: String,
    ticket: String,
    status: Observed<CityStatus>,
    events: mpsc::Receiver<StatusEvent>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        context: &'a Context,
        place: Place,
        record: Record,
        wishes: Wishes,
    ) -> Result<Self, Failure> {
        place.remember(&record)?;
        let config = place.write("nodes.toml", "")?;
        Ok(Self {
            context,
            program: Program::new(config, context.language.code())?,
            screen: Screen::new(context),
            city: None,
            families: Vec::new(),
            began: None,
            earlier_s: record.trained_s,
            place,
            record,
            wishes,
        })
    }

    /// From an empty stage to the report.
    pub(super) async fn play(&mut self) -> Result<Report, Failure> {
        let language = self.context.language;
        let folder = super::report::here(&self.place.root).display().to_string();
        self.screen.say(words::demo_begins(language, &folder));
        let job_file = self.job_file()?;
        self.start_city().await?;
        let job = self.job(&job_file).await?;
        let mut city = Client::connect(&self.place.city()).await?.expect_kind(NodeKind::City)?;
        if !self.place.checkpoint_before().exists() {
            export_job(&mut city, &job, &self.place.checkpoint_before(), false).await?;
        }
        let ticket = ask_ticket(&mut city, TicketRole::Join, TICKET_S, 1000).await?;
        let (status, events) = observe::city(self.place.city());
        let mut view = View { job, ticket, status, events };
        if !job_of(&city.city_status().await?, &view.job)?.state.is_over() {
            self.start_families(&view.ticket).await?;
            self.watch(&mut view).await?;
        }
        let status = city.city_status().await?;
        self.finish(&mut city, job_of(&status, &view.job)?).await
    }

    /// The job file: written once, so that a resumed demo goes on with the same.
    fn job_file(&mut self) -> Result<PathBuf, Failure> {
        let path = self.place.root.join("job.toml");
        if path.exists() {
            return Ok(path);
        }
        let data = self.data()?;
        self.record.prompt = text::prompt_of(&data);
        let data = data.to_str().ok_or_else(|| {
            let what = format!("the path {} is not UTF-8", data.display());
            Failure::input(what, "name a text with a plain path: --data")
        })?;
        let mut job = JobFile::with_paths(vec![data.to_owned()]);
        job.training.seed = self.record.seed;
        job.replicas.min = u32::from(self.record.families);
        job.replicas.expected = u32::from(self.record.families);
        let rounds = match self.wishes.rounds {
            Some(rounds) => {
                self.screen.say(words::demo_rounds(self.context.language, rounds));
                rounds
            }
            None => self.rounds_of_minutes(&job)?,
        };
        // Without a number of rounds to keep to, the schedule ends where it was to end, although
        // one family joins late and one is killed.
        job.training.length = match self.wishes.rounds {
            Some(rounds) => Length::Rounds(rounds),
            None => Length::Tokens(rounds * job.tokens_per_round()),
        };
        (job.training.outer_lr, job.training.outer_momentum) = TrainingSection::outer(rounds);
        self.place.remember(&self.record)?;
        self.place.write("job.toml", &job.to_toml())
    }

    /// What there is to learn from.
    fn data(&self) -> Result<PathBuf, Failure> {
        let language = self.context.language;
        if let Some(path) = &self.wishes.data {
            let path = std::path::absolute(path).at("name", path)?;
            path.metadata().at("read", &path)?;
            self.screen.say(words::demo_data(language, &path.display().to_string()));
            return Ok(path);
        }
        let sample = text::collect(None)?;
        let bytes = show::bytes(sample.text.len() as u64);
        self.screen.say(words::demo_sample(language, &bytes, sample.files));
        self.place.write("data/rust.txt", &sample.text)
    }

    /// How many rounds fill the minutes, by the speed of this machine, measured now.
    fn rounds_of_minutes(&self, job: &JobFile) -> Result<u64, Failure> {
        let core = measure::tokens_per_s(job, 1)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let asked: f64 = shares(self.record.families).map(|share| f64::from(share) / 100.0).sum();
        let speed = core * cores.min(asked) * USEFUL;
        let tokens = speed * self.wishes.minutes * 60.0;
        let rounds = (tokens / job.tokens_per_round() as f64).round() as u64;
        let rounds = rounds.clamp(*ROUNDS.start(), *ROUNDS.end());
        let minutes = (rounds * job.tokens_per_round()) as f64 / speed / 60.0;
        let core = show::count(core as u64);
        self.screen.say(words::demo_measured(self.context.language, &core, rounds, minutes));
        Ok(rounds)
    }

    async fn start_city(&mut self) -> Result<(), Failure> {
        let folder = self.place.city();
        let (text, log) = (path_text(&folder)?, self.place.log("city"));
        if !folder.exists() {
            let arguments = ["city", "init", "--dir", text, "--name", "demo"];
            self.program.run(&arguments, &log).await?;
        }
        let node =
            Node { name: "city".into(), folder: folder.clone(), log: log.clone(), ticket: None };
        let arguments = ["city", "serve", "--dir", text, "--listen", "127.0.0.1:0"];
        self.city = Some(self.program.start(node, &arguments).await?);
        Ok(())
    }

    /// The job's id: handed in now, unless an earlier run did.
    async fn job(&mut self, job_file: &std::path::Path) -> Result<String, Failure> {
        if let Some(job) = &self.record.job {
            return Ok(job.clone());
        }
        let city = self.place.city();
        let mut client = Client::connect(&city).await?.expect_kind(NodeKind::City)?;
        // It may be in although we were stopped before we remembered it.
        let known = client.city_status().await?.jobs.pop();
        if known.is_none() {
            let (prepared, city) = (self.place.root.join("prepared"), path_text(&city)?);
            let (job_file, prepared) = (path_text(job_file)?, path_text(&prepared)?);
            let arguments =
                ["train", job_file, "--city", city, "--name", JOB_NAME, "--prepared", prepared];
            let arguments = [&arguments[..], &["--yes", "--json"]].concat();
            self.program.run(&arguments, &self.place.log("train")).await?;
        }
        let job = match known {
            Some(job) => job,
            None => client
                .city_status()
                .await?
                .jobs
                .pop()
                .ok_or_else(|| Failure::ours("the city took the job but does not list it"))?,
        };
        let parameters = show::count(job.parameters);
        self.screen.say(words::demo_job_in(self.context.language, JOB_NAME, &parameters));
        self.record.job = Some(job.id.clone());
        self.place.remember(&self.record)?;
        Ok(job.id)
    }

    async fn start_families(&mut self, ticket: &str) -> Result<(), Failure> {
        for (at, share) in shares(self.record.families).enumerate() {
            self.enter(&format!("family-{}", at + 1), share, ticket).await?;
        }
        // The one that joined in mid-run, if the demo was stopped after that.
        if self.record.count(MarkKind::Joined) > 0 {
            let name = newcomer(self.record.families);
            self.enter(&name, NEWCOMER_SHARE, ticket).await?;
        }
        Ok(())
    }

    async fn enter(&mut self, name: &str, share: u8, ticket: &str) -> Result<(), Failure> {
        let running = self.start_family(name, share, ticket).await?;
        let pid = Client::connect(&running.node.folder).await?.pid();
        self.screen.say(words::demo_family_up(self.context.language, name, share, pid));
        let observed = observe::family(running.node.folder.clone());
        self.families.push(Family {
            name: name.into(),
            share,
            running: Some(running),
            observed,
            restarts: 0,
        });
        Ok(())
    }

    async fn start_family(&self, name: &str, share: u8, ticket: &str) -> Result<Running, Failure> {
        let folder = self.place.family(name);
        let share = share.to_string();
        let node = Node {
            name: name.into(),
            folder: folder.clone(),
            log: self.place.log(name),
            ticket: Some(ticket.into()),
        };
        let arguments = [
            "join",
            "--dir",
            path_text(&folder)?,
            "--name",
            name,
            "--share",
            &share,
            "--threads",
            "1",
        ];
        self.program.start(node, &arguments).await
    }

    /// Looks at everyone until the job is over, and does what chaos asks for.
    async fn watch(&mut self, view: &mut View) -> Result<(), Failure> {
        let began = Instant::now();
        self.began = Some(began);
        let mut chaos = if self.wishes.chaos && self.families.len() > chaos::VICTIM {
            let record = &self.record;
            Chaos::new(record.count(MarkKind::Killed) > 0, record.count(MarkKind::Joined) > 0)
        } else {
            Chaos::none()
        };
        let overtime = Duration::from_secs_f64(self.wishes.minutes * 60.0 * OVERTIME);
        let (mut seen, mut moved) = ((0, 0), began);
        loop {
            sleep(TICK).await;
            self.look_after(&view.ticket).await?;
            while let Ok(event) = view.events.try_recv() {
                self.tell(&event);
            }
            for family in &self.families {
                let status = family.observed.latest();
                self.screen.family(&family.name, family.share, status.as_ref());
            }
            let Some(status) = view.status.latest() else { continue };
            let job = job_of(&status, &view.job)?;
            self.screen.job(&job);
            if job.state.is_over() {
                return self.last_loss(view).await;
            }
            if (job.round, job.tokens) != seen {
                (seen, moved) = ((job.round, job.tokens), Instant::now());
            }
            if moved.elapsed() > SILENCE {
                return Err(self.stuck());
            }
            if self.wishes.rounds.is_none() && began.elapsed() > overtime && job.round > 0 {
                self.screen.say(words::demo_overtime(self.context.language));
                return Ok(());
            }
            if let Some(act) = chaos.due(job.progress(), began.elapsed()) {
                self.act(act, &job, &view.ticket).await?;
            }
        }
    }

    /// Waits a little for the loss of the last round, which is measured after it is committed.
    async fn last_loss(&mut self, view: &View) -> Result<(), Failure> {
        let began = Instant::now();
        while began.elapsed() < LAST_LOSS_MAX {
            if let Some(status) = view.status.latest() {
                let job = job_of(&status, &view.job)?;
                self.screen.job(&job);
                if job.losses.last().is_some_and(|point| point.round == job.round) {
                    return Ok(());
                }
            }
            sleep(TICK).await;
        }
        Ok(())
    }

    fn stuck(&self) -> Failure {
        Failure {
            class: Class::Unknown,
            what: format!("no round was committed for {} s", SILENCE.as_secs()),
            whose: Whose::Ours,
            next: format!("look into {}", self.place.log("city").display()),
        }
    }

    /// What happens at the city, for those who asked for more words. Rounds are on the screen.
    fn tell(&self, event: &StatusEvent) {
        let plain = matches!(event, StatusEvent::WorkerRestarted { .. });
        if (plain || self.context.verbose > 0)
            && let Some(text) = event_text(self.context.language, event)
        {
            self.screen.say(text);
        }
    }

    /// A node that ended although nobody asked it to.
    async fn look_after(&mut self, ticket: &str) -> Result<(), Failure> {
        if let Some(city) = &mut self.city
            && let Some(status) = city.ended()
        {
            return Err(city.failure(status));
        }
        for at in 0..self.families.len() {
            let family = &mut self.families[at];
            let Some(running) = &mut family.running else { continue };
            let Some(status) = running.ended() else { continue };
            let failure = running.failure(status);
            family.running = None;
            family.restarts += 1;
            if family.restarts > RESTARTS_MAX {
                return Err(failure);
            }
            let name = family.name.clone();
            let why = status.to_string();
            self.screen.say(words::demo_died(self.context.language, &name, &why));
            let share = self.families[at].share;
            self.families[at].running = Some(self.start_family(&name, share, ticket).await?);
        }
        Ok(())
    }

    async fn act(&mut self, act: Act, job: &JobStatus, ticket: &str) -> Result<(), Failure> {
        let language = self.context.language;
        let victim = &mut self.families[chaos::VICTIM];
        let (kind, name) = match act {
            Act::Kill => {
                if let Some(mut running) = victim.running.take() {
                    running.kill().await?;
                }
                self.screen.say(words::demo_killed(language, &victim.name, job.round));
                (MarkKind::Killed, victim.name.clone())
            }
            Act::Restart => {
                let (name, share) = (victim.name.clone(), victim.share);
                let running = self.start_family(&name, share, ticket).await?;
                self.families[chaos::VICTIM].running = Some(running);
                self.screen.say(words::demo_back(language, &name));
                (MarkKind::Back, name)
            }
            Act::Join => {
                let name = newcomer(self.record.families);
                self.screen.say(words::demo_joined(language, &name));
                self.enter(&name, NEWCOMER_SHARE, ticket).await?;
                (MarkKind::Joined, name)
            }
        };
        self.record.marks.push(Mark { tokens: job.tokens, kind, family: name });
        self.place.remember(&self.record)
    }

    /// Exports, lets both checkpoints speak, and writes the report.
    async fn finish(&mut self, city: &mut Client, job: JobStatus) -> Result<Report, Failure> {
        self.count_time();
        self.stop_families().await;
        let checkpoint = self.place.checkpoint();
        if checkpoint.exists() {
            // Of an attempt to finish that was stopped; the city overwrites nothing.
            std::fs::remove_dir_all(&checkpoint).at("remove", &checkpoint)?;
        }
        export_job(city, &job.id, &checkpoint, false).await?;
        let text =
            |folder| continue_text(folder, &self.record.prompt, TEXT_TOKENS, self.record.seed);
        let texts = (text(&self.place.checkpoint_before())?, text(&checkpoint)?);
        let report = Report::new(self.context.language, &self.place, &self.record, &job, texts)?;
        let json = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::ours(error.to_string()))?;
        self.place.write("report.json", &json)?;
        self.record.finished = true;
        self.place.remember(&self.record)?;
        self.screen.close();
        Ok(report)
    }

    fn count_time(&mut self) {
        if let Some(began) = self.began.take() {
            self.record.trained_s = self.earlier_s + began.elapsed().as_secs_f64();
        }
    }

    async fn stop_families(&mut self) {
        let running = self.families.iter_mut().filter_map(|family| family.running.take());
        let stops: Vec<_> = running.map(|running| tokio::spawn(running.stop())).collect();
        for stop in stops {
            let _ = stop.await;
        }
    }

    /// Everyone leaves: families first, so that the city hears their goodbye.
    pub(super) async fn close(&mut self) -> Result<(), Failure> {
        self.count_time();
        if self.city.is_some() {
            self.screen.say(words::demo_stopping(self.context.language));
        }
        self.screen.close();
        self.stop_families().await;
        if let Some(city) = self.city.take() {
            city.stop().await;
        }
        self.place.remember(&self.record)
    }
}

fn shares(families: u8) -> impl Iterator<Item = u8> {
    SHARES.into_iter().cycle().take(usize::from(families))
}

fn newcomer(families: u8) -> String {
    format!("family-{}", usize::from(families) + 1)
}

fn job_of(status: &CityStatus, id: &str) -> Result<JobStatus, Failure> {
    let found = status.jobs.iter().find(|job| job.id == id).cloned();
    found.ok_or_else(|| Failure {
        class: Class::Corrupt,
        what: format!("the city in {} does not know job {id}", status.folder.display()),
        whose: Whose::ThisMachine,
        next: "begin anew with --fresh".into(),
    })
}

fn path_text(path: &std::path::Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| {
        let what = format!("the path {} is not UTF-8", path.display());
        Failure::input(what, "name a folder with a plain path: --dir")
    })
}
