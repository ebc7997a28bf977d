//! `suanli train`: read the job file, say what it takes, prepare the data, ask, hand it in.

use super::join::{now, read_ticket};
use super::status::short;
use super::{program, quoted, stop_flag};
use crate::arguments::{Folder, Train};
use crate::context::{Context, block_on};
use crate::exit::{At as _, Failure};
use crate::plan::Plan;
use crate::{measure, show, words};
use serde_json::json;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use suanli_bus::JobSpec;
use suanli_engine::Cancel;
use suanli_host::control::{Client, ControlReply, ControlRequest, NodeKind, Stop};
use suanli_host::job::{self, Prepared};
use suanli_host::trainer;
use suanli_identity::{Role, Ticket};
use suanli_store::data::Progress;
use suanli_store::job_file::{JOB_FILE_BYTES_MAX, JobFile};

/// Where a job goes.
enum City {
    /// A city that runs on this machine.
    Here(PathBuf),
    /// A city that the ticket names.
    Far(Box<Ticket>),
}

pub(super) fn run(context: &Context, arguments: &Train) -> Result<(), Failure> {
    if arguments.example {
        let example = JobFile::with_paths(vec!["texts".into(), "more/*.jsonl".into()]);
        return context.answer(&json!({ "example": example.to_toml() }), || example.to_toml());
    }
    let path = arguments.job.as_deref().unwrap_or_else(|| Path::new("job.toml"));
    let job = read_job(path)?;
    if arguments.plan {
        let plan = plan(arguments, &job)?;
        return context.answer(&plan, || plan.text(context.language));
    }
    let city = city(context, arguments.city.as_deref())?;
    block_on(submit(context, arguments, path, job, city))
}

/// Reads a job file.
fn read_job(path: &Path) -> Result<JobFile, Failure> {
    let file = std::fs::File::open(path).at("read the job file", path)?;
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to know.
    file.take(JOB_FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .at("read the job file", path)?;
    let wrong = |what: String| {
        let next = format!("correct {}; suanli train --example shows one", path.display());
        Failure::input(format!("{}: {what}", path.display()), next)
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("this is not UTF-8 text".into()))?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    JobFile::parse_in(&text, folder).map_err(|error| wrong(error.to_string()))
}

fn plan(arguments: &Train, job: &JobFile) -> Result<Plan, Failure> {
    let (speed, measured) = match arguments.tokens_per_s {
        Some(speed) => (speed, false),
        None => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            (measure::tokens_per_s(job, threads)?, true)
        }
    };
    Plan::new(job, arguments.replicas, speed, measured)
}

fn city(context: &Context, named: Option<&str>) -> Result<City, Failure> {
    match named {
        Some(text) if text.trim_start().starts_with("suanli1") || Path::new(text).is_file() => {
            let ticket = read_ticket(text)?;
            ticket.check(now(), Role::Train)?;
            Ok(City::Far(Box::new(ticket)))
        }
        Some(text) if Path::new(text).is_dir() => Ok(City::Here(text.into())),
        Some(text) => Err(Failure::usage(
            format!("expected a ticket or a city's data folder, found {text:?}"),
            "copy the ticket anew, or check the path",
        )),
        None => Ok(City::Here(context.city_folder(&Folder::default())?)),
    }
}

async fn submit(
    context: &Context,
    arguments: &Train,
    path: &Path,
    job: JobFile,
    city: City,
) -> Result<(), Failure> {
    let (_stopper, stop) = stop_flag(false)?;
    // A city that does not run is found out before an hour of preparing.
    if let City::Here(folder) = &city {
        Client::connect(folder).await?.expect_kind(NodeKind::City)?;
    }
    let stem = path.file_stem().map_or("job".into(), |stem| stem.to_string_lossy().into_owned());
    let name = arguments.name.clone().unwrap_or(stem);
    let prepared = prepare(context, arguments, path, &name, &job, stop.clone()).await?;
    let spec = JobSpec::from_bytes(&prepared.spec)
        .map_err(|error| Failure::ours(format!("the prepared job does not check: {error}")))?;
    let bytes = prepared.contents.iter().map(|(_, info)| info.shape.bytes).sum();
    context.say(words::train_prepared(
        context.language,
        &show::bytes(bytes),
        &show::count(spec.data.samples),
        spec.data.shards.len(),
    ));
    context.say(words::train_readers(context.language));
    if !arguments.yes && !agreed(context)? {
        context.say(words::train_not_asked(context.language));
        return Ok(());
    }
    let mut stop = stop;
    let id = tokio::select! {
        id = hand_in(context, &city, &prepared) => id?,
        _ = stop.wait() => return Err(Failure::interrupted()),
    };
    let folder = match &city {
        City::Here(folder) => format!(" --dir {}", quoted(folder)),
        City::Far(_) => String::new(),
    };
    context.answer(&json!({ "job": id, "name": name, "prepared": prepared.folder }), || {
        let done = words::train_submitted(context.language, &show::printable(&name), &short(&id));
        let command = format!("{} watch{folder}", program());
        done + "\n" + &words::train_watch_with(context.language, &command)
    })
}

/// Prepares data and first parameters, with a bar; Ctrl-C ends it and leaves nothing half made.
async fn prepare(
    context: &Context,
    arguments: &Train,
    path: &Path,
    name: &str,
    job: &JobFile,
    mut stop: Stop,
) -> Result<Prepared, Failure> {
    let out = match &arguments.prepared {
        Some(dir) => std::path::absolute(dir).at("name", dir)?,
        None => context.folders.prepared()?,
    };
    let path = std::path::absolute(path).at("name", path)?;
    let base = path.parent().unwrap_or_else(|| Path::new("/")).to_path_buf();
    let (name, job, cancel) = (name.to_owned(), job.clone(), Cancel::new());
    let bar = bar(context);
    let (raised, shown, language) = (cancel.clone(), bar.clone(), context.language);
    let work = tokio::task::spawn_blocking(move || {
        let mut progress = |progress: Progress| {
            shown.set_length(progress.total.max(progress.done));
            shown.set_position(progress.done);
            shown.set_message(words::stage(language, progress.stage));
        };
        job::prepare(&name, &job, &base, &out, &mut progress, &cancel)
    });
    let raising = tokio::spawn(async move {
        stop.wait().await;
        raised.raise();
        stop
    });
    let done = work.await.map_err(|error| Failure::ours(error.to_string()))?;
    bar.finish_and_clear();
    let interrupted = raising.is_finished();
    raising.abort();
    match done {
        Ok(prepared) => Ok(prepared),
        Err(_) if interrupted => Err(Failure::interrupted()),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Hands the prepared job over; its id.
async fn hand_in(context: &Context, city: &City, prepared: &Prepared) -> Result<String, Failure> {
    match city {
        City::Here(folder) => {
            let mut client = Client::connect(folder).await?.expect_kind(NodeKind::City)?;
            let folder = std::path::absolute(&prepared.folder).at("name", &prepared.folder)?;
            match client.call(&ControlRequest::Submit { folder }).await? {
                ControlReply::Submitted { job } => Ok(job),
                other => Err(Failure::ours(format!("expected a job's id, found {other:?}"))),
            }
        }
        City::Far(ticket) => {
            let key = context.folders.trainer_key()?;
            let bar = bar(context);
            bar.set_message(words::train_sending(context.language));
            let mut progress = |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            };
            let id = trainer::submit(ticket, &key, prepared, &mut progress).await;
            bar.finish_and_clear();
            Ok(id?.to_string())
        }
    }
}

/// A bar of bytes on a terminal, nothing elsewhere.
fn bar(context: &Context) -> indicatif::ProgressBar {
    if context.json || context.quiet {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("[{bar:24}] {percent:>3} % {msg}")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(1).with_style(style.progress_chars("=> "))
}

/// Asks the person. Where there is none, only --yes counts.
fn agreed(context: &Context) -> Result<bool, Failure> {
    if context.json || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "handing a job in needs a yes, and nobody is here to be asked",
            "add --yes; members of the city will read the data",
        ));
    }
    print!("{}", words::train_ask(context.language));
    std::io::stdout().flush().at("write to", "standard output")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).at("read from", "standard input")?;
    let answer = answer.trim().to_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes" | "j" | "是" | "好"))
}
