//! What a family remembers of how it joined: `family.toml` in its data folder, owner-only, because
//! the ticket in it is a secret.

use crate::control::{FamilyOptions, Refusal, RefusalClass};
use serde::{Deserialize, Serialize};
use std::path::Path;
use suanli_base::CityId;
use suanli_identity::{Role, Ticket};
use suanli_link::Way;

const FILE: &str = "family.toml";

/// How a family joined.
pub(super) struct Settings {
    pub city: CityId,
    pub ways: Vec<Way>,
    pub ticket: Vec<u8>,
    pub name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    ticket: String,
}

impl Settings {
    /// What was typed, else what is remembered; and remembers it.
    pub(super) fn merge(options: &FamilyOptions) -> Result<Self, Refusal> {
        let path = options.folder.join(FILE);
        let known = read(&path)?;
        let ticket = match (&options.ticket, &known) {
            (Some(ticket), _) => ticket.clone(),
            (None, Some(file)) => ticket_of(&path, file)?,
            (None, None) => {
                let text = "this folder never joined a city: a ticket is needed";
                return Err(Refusal::new(RefusalClass::Usage, text, "suanli join TICKET"));
            }
        };
        if options.ticket.is_some() {
            check(&ticket)?;
        }
        let remembered = known.map(|file| file.name);
        let name = options.name.clone().or(remembered).unwrap_or_else(host_name);
        let file = File { name: name.clone(), ticket: ticket.to_string() };
        write(&path, &file)?;
        let grant = ticket.grant();
        Ok(Self { city: grant.city, ways: ways(&ticket), ticket: ticket.to_bytes(), name })
    }
}

/// The ticket that a folder joined with, if it ever did.
pub(crate) fn remembered(folder: &Path) -> Result<Option<Ticket>, Refusal> {
    let path = folder.join(FILE);
    read(&path)?.map(|file| ticket_of(&path, &file)).transpose()
}

fn ticket_of(path: &Path, file: &File) -> Result<Ticket, Refusal> {
    file.ticket.parse::<Ticket>().map_err(|error| {
        let text = format!("{}: {error}", path.display());
        Refusal::new(RefusalClass::Corrupt, text, "join again with a ticket")
    })
}

/// A ticket that cannot work is refused before anything is dialled.
fn check(ticket: &Ticket) -> Result<(), Refusal> {
    let now = crate::clock::Clock::start().now();
    ticket
        .check(now, Role::Join)
        .map_err(|error| Refusal::new(RefusalClass::Permission, error.to_string(), ""))?;
    if ways(ticket).is_empty() {
        let text = match ticket.grant().addresses.first() {
            None => "the ticket names no address of its city".to_owned(),
            Some(found) => format!("this program knows no such way to a city as {found:?}"),
        };
        let next = "ask the operator for a ticket that names another; this program may be too old";
        return Err(Refusal::new(RefusalClass::Permission, text, next));
    }
    Ok(())
}

/// The ways that this program knows. A newer city may name others besides.
pub(crate) fn ways(ticket: &Ticket) -> Vec<Way> {
    ticket.grant().addresses.iter().filter_map(|text| text.parse().ok()).collect()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "family".into() } else { name.chars().take(32).collect() }
}

fn read(path: &Path) -> Result<Option<File>, Refusal> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            return Err(Refusal::new(RefusalClass::Environment, text, ""));
        }
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        let text = format!("{} is not what this program writes there: {error}", path.display());
        Refusal::new(RefusalClass::Corrupt, text, "join again with a ticket")
    })
}

fn write(path: &Path, file: &File) -> Result<(), Refusal> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let text = toml::to_string(file).expect("two strings are TOML");
    let part = path.with_extension("toml.part");
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
    made.and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|error| {
            let text = format!("cannot write {}: {error}", path.display());
            Refusal::new(RefusalClass::Environment, text, "free some room, or choose another --dir")
        })
}
