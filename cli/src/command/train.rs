//! `suanli train`: read the job file, say what it takes, prepare the data, ask, hand it in.

use super::join::{now, read_ticket};
use super::status::short;
use super::{program, quoted};
use crate::arguments::{Folder, Train};
use crate::context::{Context, block_on};
use crate::exit::{At as _, Class, Failure};
use crate::plan::Plan;
use crate::{measure, show, words};
use serde_json::json;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use suanli_host::control::{Client, ControlReply, ControlRequest, NodeKind};
use suanli_identity::{Role, Ticket};
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
    // A city that is not there is found out before an hour of preparing.
    let city = city(context, arguments.city.as_deref())?;
    block_on(submit(context, arguments, path, &job, city))
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
    JobFile::parse(&text).map_err(|error| wrong(error.to_string()))
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
    job: &JobFile,
    city: City,
) -> Result<(), Failure> {
    let mut client = match &city {
        City::Here(folder) => Client::connect(folder).await?.expect_kind(NodeKind::City)?,
        City::Far(_) => return Err(Failure::ours("this command is not in this build")),
    };
    let prepared = PathBuf::new();
    let _ = job;
    context.say(words::train_readers(context.language));
    if !arguments.yes && !agreed(context)? {
        context.say(words::train_not_asked(context.language));
        return Ok(());
    }
    let name = path.file_stem().map_or("job".into(), |stem| stem.to_string_lossy().into_owned());
    let request = ControlRequest::Submit { folder: prepared };
    let id = match client.call(&request).await? {
        ControlReply::Submitted { job } => job,
        other => return Err(Failure::ours(format!("expected a job's id, found {other:?}"))),
    };
    let folder = match &city {
        City::Here(folder) => format!(" --dir {}", quoted(folder)),
        City::Far(_) => String::new(),
    };
    context.answer(&json!({ "job": id, "name": name }), || {
        let command = format!("{} watch{folder}", program());
        words::train_submitted(context.language, &name, &short(&id))
            + "\n"
            + &words::train_watch_with(context.language, &command)
    })
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

/// Keeps the class of an interruption when a preparation was stopped by Ctrl-C.
#[allow(dead_code)]
fn stopped() -> Failure {
    Failure { class: Class::Interrupted, ..Failure::interrupted() }
}
