//! `suanli demo`: one city and several families as separate processes on this machine train a
//! model; one is killed on the way, one joins, and the run does not care. The demo itself is only
//! an operator with quick hands: it starts the commands that people start, and looks at the
//! control sockets that people look at.

mod chaos;
mod children;
mod observe;
mod place;
mod report;
mod screen;
mod stage;
mod text;

use crate::arguments::Demo;
use crate::command::{program, quoted, stop_flag};
use crate::context::{Context, block_on};
use crate::exit::{At as _, Class, Failure};
use crate::words;
use place::{Place, Record};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

/// Families at the start, when nobody says otherwise.
const FAMILIES: u8 = 4;
/// Minutes of training, when nobody says otherwise.
const MINUTES: f64 = 4.0;
/// The seed, when nobody says otherwise.
const SEED: u64 = 1;
/// The folder, when nobody says otherwise.
const FOLDER: &str = "suanli-demo";

/// Runs the demo to its end, or to Ctrl-C.
pub(crate) fn run(context: &Context, arguments: &Demo) -> Result<(), Failure> {
    let settings = &context.config.demo;
    let dir = arguments.dir.as_deref().or(settings.dir.as_deref());
    let dir = dir.unwrap_or_else(|| Path::new(FOLDER));
    let place = Place::new(dir)?;
    let families = arguments.families.or(settings.families).unwrap_or(FAMILIES);
    let Some(record) = settle(context, arguments, &place, families)? else { return Ok(()) };
    let wishes = stage::Wishes {
        data: arguments.data.clone(),
        minutes: arguments.minutes.or(settings.minutes).unwrap_or(MINUTES),
        rounds: arguments.rounds.map(u64::from),
        chaos: !arguments.no_chaos,
    };
    block_on(play(context, place, record, wishes, dir))
}

/// Decides between going on and beginning anew. Nothing: there is nothing left to do.
fn settle(
    context: &Context,
    arguments: &Demo,
    place: &Place,
    families: u8,
) -> Result<Option<Record>, Failure> {
    let language = context.language;
    let shown = report::here(&place.root).display().to_string();
    let anew = || {
        place.clear()?;
        Ok(Some(Record::new(arguments.seed.unwrap_or(SEED), families)))
    };
    if arguments.fresh {
        // Also out of a folder whose record is damaged; never out of a stranger's folder.
        if !place.is_ours() {
            place.earlier()?;
        }
        return anew();
    }
    let Some(earlier) = place.earlier()? else {
        if arguments.resume {
            let what = format!("there is no demo in {shown} to go on with");
            return Err(Failure::input(what, "leave --resume out, or name its folder with --dir"));
        }
        return anew();
    };
    if earlier.finished {
        let command = format!("{} demo --fresh", program());
        context.say(words::demo_finished_before(language, &shown));
        context.say(words::demo_fresh_hint(language, &command));
        return Ok(None);
    }
    let asks = !arguments.resume && !context.json && !context.quiet;
    if asks && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        print!("{}", words::demo_ask_resume(language, &shown));
        std::io::stdout().flush().at("write to", "standard output")?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).at("read from", "standard input")?;
        if answer.trim().to_lowercase().starts_with('n') {
            return anew();
        }
    }
    context.say(words::demo_resumes(language, &shown));
    let other = arguments.data.is_some()
        || arguments.minutes.is_some()
        || arguments.rounds.is_some()
        || families != earlier.families
        || arguments.seed.is_some_and(|seed| seed != earlier.seed);
    if other && earlier.job.is_some() {
        context.say(words::demo_keeps_its_job(language));
    }
    if !arguments.resume {
        let command = format!("{} demo --fresh", program());
        context.say(words::demo_fresh_hint(language, &command));
    }
    Ok(Some(earlier))
}

async fn play(
    context: &Context,
    place: Place,
    record: Record,
    wishes: stage::Wishes,
    dir: &Path,
) -> Result<(), Failure> {
    let (_stopper, mut stop) = stop_flag(false)?;
    let mut stage = stage::Stage::new(context, place.clone(), record, wishes)?;
    let outcome = tokio::select! {
        outcome = stage.play() => outcome,
        _ = stop.wait() => Err(Failure::interrupted()),
    };
    // Whatever happened, nobody is left behind.
    let remembered = stage.close().await;
    match outcome {
        Ok(report) => {
            remembered?;
            context.answer(&report, || report.text(context.language, &place))
        }
        Err(failure) => {
            if failure.class == Class::Interrupted {
                let command = format!("{} demo --resume --dir {}", program(), quoted(dir));
                context.say(words::demo_interrupted(context.language, &command));
            }
            Err(failure)
        }
    }
}
