//! Orders to a running family or city: pause, resume, share, leave, export.

use crate::arguments::{Export, Folder, Share};
use crate::context::Context;
use crate::exit::{At as _, Failure};
use crate::{show, words};
use serde_json::json;
use std::path::Path;
use suanli_host::control::{Client, ControlReply, ControlRequest, NodeKind};

async fn family(
    context: &Context,
    folder: &Folder,
    order: &ControlRequest,
    done: String,
) -> Result<(), Failure> {
    let mut family = context.node(folder, NodeKind::Family).await?;
    family.order(order).await?;
    context.answer(&json!({ "done": true }), || done)
}

pub(super) async fn pause(context: &Context, folder: &Folder) -> Result<(), Failure> {
    family(context, folder, &ControlRequest::Pause, words::paused(context.language)).await
}

pub(super) async fn resume(context: &Context, folder: &Folder) -> Result<(), Failure> {
    family(context, folder, &ControlRequest::Resume, words::resumed(context.language)).await
}

pub(super) async fn share(context: &Context, arguments: &Share) -> Result<(), Failure> {
    let percent = arguments.percent;
    let done = words::share_set(context.language, percent);
    family(context, &arguments.folder, &ControlRequest::SetShare { percent }, done).await
}

pub(super) async fn leave(context: &Context, folder: &Folder) -> Result<(), Failure> {
    family(context, folder, &ControlRequest::Leave, words::left(context.language)).await
}

pub(super) async fn export(context: &Context, arguments: &Export) -> Result<(), Failure> {
    refuse_full(&arguments.out)?;
    let mut city = context.node(&arguments.folder, NodeKind::City).await?;
    let job = match &arguments.job {
        Some(job) => job.clone(),
        None => only_job(&mut city).await?,
    };
    // The city has a working directory of its own.
    let dir = std::path::absolute(&arguments.out).at("name", &arguments.out)?;
    let (dir, round, tokens) = export_job(&mut city, &job, &dir, arguments.adapters).await?;
    context.answer(&json!({ "folder": dir, "round": round, "tokens": tokens }), || {
        let folder = arguments.out.display().to_string();
        words::exported(context.language, &folder, round, &show::count(tokens))
    })
}

/// Asks a city to write a job's last parameters into `dir`: where they lie, their round and the
/// tokens behind them.
pub(crate) async fn export_job(
    city: &mut Client,
    job: &str,
    dir: &Path,
    adapters: bool,
) -> Result<(std::path::PathBuf, u64, u64), Failure> {
    let request = ControlRequest::Export { job: job.into(), dir: dir.into(), adapters };
    match city.call(&request).await? {
        ControlReply::Exported { dir, round, tokens } => Ok((dir, round, tokens)),
        other => Err(Failure::ours(format!("expected a checkpoint, found {other:?}"))),
    }
}

/// A folder with something in it is left alone.
fn refuse_full(dir: &Path) -> Result<(), Failure> {
    let next = "name a folder that does not exist yet, or an empty one";
    if dir.is_file() {
        return Err(Failure::input(format!("{} is a file", dir.display()), next));
    }
    if dir.is_dir() && dir.read_dir().at("look into", dir)?.next().is_some() {
        let what = format!("{} is not empty; an export overwrites nothing", dir.display());
        return Err(Failure::input(what, next));
    }
    Ok(())
}

async fn only_job(city: &mut Client) -> Result<String, Failure> {
    let jobs = city.jobs().await?;
    match jobs.as_slice() {
        [job] => Ok(job.id.clone()),
        [] => Err(Failure::input("the city has no job", "hand one in with suanli train")),
        several => {
            let names: Vec<_> = several.iter().map(|job| show::printable(&job.name)).collect();
            Err(Failure::usage(
                format!("the city has {} jobs: {}", several.len(), names.join(", ")),
                "say which: suanli export JOB --out DIR",
            ))
        }
    }
}
