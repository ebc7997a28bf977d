//! `suanli join`: lend this computer to a city.

use super::{ending, stop_flag};
use crate::arguments::Join;
use crate::context::{Context, block_on};
use crate::exit::{At as _, Class, Failure, Whose};
use crate::language::Language;
use crate::{upload_settings, words};
use serde_json::json;
use std::path::Path;
use suanli_base::Time;
use suanli_host::control::{FamilyNote, FamilyOptions, Limits};
use suanli_identity::{Role, Ticket};

/// The most bytes a file with a ticket may have.
const TICKET_FILE_BYTES_MAX: u64 = 16 << 10;

pub(super) fn run(context: &Context, arguments: Join) -> Result<(), Failure> {
    // A bad ticket is said before anything is started or written.
    let ticket = arguments.ticket.as_deref().map(read_ticket).transpose()?;
    if let Some(ticket) = &ticket {
        ticket.check(now(), Role::Join)?;
    }
    block_on(join(context, arguments, ticket))
}

async fn join(context: &Context, arguments: Join, ticket: Option<Ticket>) -> Result<(), Failure> {
    let settings = &context.config.join;
    let folder = context.family_folder(&arguments.folder)?;
    if ticket.is_none() && !folder.exists() {
        return Err(Failure {
            class: Class::Permission,
            what: format!("{} never joined a city, and no ticket was given", folder.display()),
            whose: Whose::Yours,
            next: "suanli join TICKET; a city's operator prints one with suanli city ticket".into(),
        });
    }
    let share_percent = arguments.share.or(settings.share).unwrap_or(100);
    let threads = arguments.threads.or(settings.threads);
    let upload = upload_settings::limits(&arguments.upload, &settings.upload)?;
    let limits = Limits { share_percent, threads, upload };
    let program = std::env::current_exe().at("find", "this program")?;
    let (_stopper, stop) = stop_flag(arguments.parent.stop_on_eof)?;
    let (notes, mut when_noted) = tokio::sync::mpsc::unbounded_channel();
    let (ready, when_ready) = tokio::sync::oneshot::channel();
    let options = FamilyOptions {
        folder,
        ticket,
        name: arguments.name.or_else(|| settings.name.clone()),
        limits,
        prefer: arguments.link.or(settings.link).unwrap_or_default().into(),
        trainer: arguments.trainer,
        worker: vec![program.into_os_string(), "worker".into()],
        stop: stop.clone(),
        ready: Some(ready),
        notes: Some(notes),
    };
    let listener = context.clone();
    tokio::spawn(async move {
        while let Some(note) = when_noted.recv().await {
            if !listener.quiet {
                eprintln!("suanli: {}", note_in_words(listener.language, &note));
            }
        }
    });
    let speaker = context.clone();
    tokio::spawn(async move {
        if let Ok(ready) = when_ready.await {
            let ready: suanli_host::control::FamilyReady = ready;
            let _ = speaker.answer(
                &json!({
                    "node": ready.node.to_string(), "name": ready.name,
                    "city": ready.city.to_string(), "link": ready.link,
                }),
                || {
                    let threads = match threads {
                        None => words::threads_all(speaker.language),
                        Some(1) => words::threads_one(speaker.language),
                        Some(count) => words::threads_some(speaker.language, count),
                    };
                    let name = crate::show::printable(&ready.name);
                    words::family_joined(speaker.language, &name, &ready.city.short())
                        + "\n"
                        + &words::family_share(speaker.language, share_percent, &threads)
                        + &super::network::link_line(speaker.language, ready.link.as_ref())
                },
            );
        }
    });
    suanli_host::family::run(options).await?;
    context.say(words::stopped(context.language));
    ending(&stop)
}

fn note_in_words(language: Language, note: &FamilyNote) -> String {
    let plain = crate::show::printable;
    match note {
        FamilyNote::Unreachable { address, why } => {
            // The sentence goes on after it.
            let why = plain(why.trim_end_matches(['.', '?']));
            words::city_unreachable(language, &plain(address), &why)
        }
        FamilyNote::Lost { city } => words::city_lost(language, &city.short()),
        FamilyNote::Again { city } => words::city_again(language, &city.short()),
        FamilyNote::Other(text) => plain(text),
        other => format!("{other:?}"),
    }
}

/// A ticket from its text, or from a file that holds it.
pub(crate) fn read_ticket(text: &str) -> Result<Ticket, Failure> {
    let looks_like_a_ticket = text.trim_start().starts_with("suanli1");
    let path = Path::new(text);
    if looks_like_a_ticket || !path.is_file() {
        return Ok(text.parse::<Ticket>()?);
    }
    let size = path.metadata().at("look at", path)?.len();
    if size > TICKET_FILE_BYTES_MAX {
        return Err(Failure {
            class: Class::Permission,
            what: format!(
                "{text} has {size} bytes; a file with a ticket has at most {TICKET_FILE_BYTES_MAX}"
            ),
            whose: Whose::Yours,
            next: "name the file that holds the ticket".into(),
        });
    }
    let bytes = std::fs::read(path).at("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).parse::<Ticket>()?)
}

/// The time of this machine's clock.
pub(crate) fn now() -> Time {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
