//! `suanli city grant`, `city revoke`, `grant show`, `grant narrow`: who may do what with regions.

use crate::arguments::Folder;
use crate::context::{Context, block_on};
use crate::exit::{Class, Failure, Whose};
use crate::grant_settings::{Grant, Issue, Narrow};
use crate::{show, words};
use serde_json::{Value, json};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use suanli_base::Time;
use suanli_host::control::{ControlReply, ControlRequest, GrantOrder, NodeKind};
use suanli_identity::{AccessLine, Bounds, Link, Prefix};
use suanli_link::Way;
use suanli_store::{KeyError, create_key, load_key};

/// Bytes of a file that holds a grant, at most.
const FILE_BYTES_MAX: u64 = 32 << 10;

pub(super) fn run(context: &Context, command: Grant) -> Result<(), Failure> {
    match command {
        Grant::Show { grant } => shown(context, &read(&grant)?),
        Grant::Node { key } => node(context, key),
        Grant::Narrow(arguments) => narrow(context, &arguments),
    }
}

fn node(context: &Context, key: Option<PathBuf>) -> Result<(), Failure> {
    let path = key.map_or_else(|| context.folders.guest_key(), Ok)?;
    let key = match load_key(&path) {
        Err(KeyError::Missing { .. }) => {
            if let Some(folder) = path.parent() {
                let mut maker = std::fs::DirBuilder::new();
                let made = maker.recursive(true).mode(0o700).create(folder);
                made.map_err(|error| Failure::io("make", folder, &error))?;
            }
            create_key(&path)
        }
        found => found,
    };
    let node = key.map_err(|error| no_key(&error))?.node().to_string();
    context.answer(&json!({ "node": node, "key": path }), || node.clone())
}

fn no_key(error: &KeyError) -> Failure {
    Failure {
        class: Class::Environment,
        what: error.to_string(),
        whose: Whose::Yours,
        next: "name the file of the key that the grant is for".into(),
    }
}

pub(super) fn issue(context: &Context, folder: &Folder, wish: Issue) -> Result<(), Failure> {
    let order = GrantOrder {
        to: wish.to,
        prefix: wish.regions,
        rights: wish.rights,
        bytes_max: wish.bytes.unwrap_or(u64::MAX),
        bytes_per_s: wish.rate.unwrap_or(u64::MAX),
        lasts_s: wish.expires,
        depth: wish.depth,
    };
    let reply = block_on(async {
        let mut city = context.node(folder, NodeKind::City).await?;
        Ok::<_, Failure>(city.call(&ControlRequest::Grant(order)).await?)
    })?;
    match reply {
        ControlReply::Grant { grant } => {
            context.answer(&json!({ "grant": grant }), || grant.clone())
        }
        other => Err(Failure::ours(format!("expected a grant, found {other:?}"))),
    }
}

pub(super) fn revoke(context: &Context, folder: &Folder, prefix: Prefix) -> Result<(), Failure> {
    let regions = named(&prefix);
    let reply = block_on(async {
        let mut city = context.node(folder, NodeKind::City).await?;
        Ok::<_, Failure>(city.call(&ControlRequest::Revoke { prefix }).await?)
    })?;
    match reply {
        ControlReply::Revoked { epoch } => context
            .answer(&json!({ "regions": regions, "epoch": epoch }), || {
                words::grants_revoked(context.language, &regions, epoch)
            }),
        other => Err(Failure::ours(format!("expected an epoch, found {other:?}"))),
    }
}

fn narrow(context: &Context, wish: &Narrow) -> Result<(), Failure> {
    let line = read(&wish.grant)?;
    let key = wish.key.clone().map_or_else(|| context.folders.guest_key(), Ok)?;
    let key = load_key(&key).map_err(|error| no_key(&error))?;
    let held = line.access.bounds();
    let Some(depth) = held.depth.checked_sub(1) else {
        return Err(permission(
            "this grant may not be handed on",
            "ask its issuer for one that may",
        ));
    };
    let until = wish.expires.map(|s| now().after(suanli_base::Duration::from_s(s)));
    let bounds = Bounds {
        prefix: wish.regions.clone().unwrap_or_else(|| held.prefix.clone()),
        rights: wish.rights.unwrap_or(held.rights),
        bytes_max: wish.bytes.unwrap_or(held.bytes_max),
        bytes_per_s: wish.rate.unwrap_or(held.bytes_per_s),
        not_after: until.unwrap_or(held.not_after),
        depth: wish.depth.unwrap_or(depth),
        ..held.clone()
    };
    let drawn = suanli_store::draw();
    let drawn = drawn.map_err(|error| Failure::io("read", "/dev/urandom".as_ref(), &error))?;
    // Makes two grants of equal content differ, and so have budgets of their own.
    let nonce = u64::from_le_bytes(*drawn.first_chunk().expect("32 bytes have eight"));
    let part = line.access.delegate(&key, wish.to, bounds, nonce);
    let part =
        part.map_err(|error| permission(error.to_string(), "ask for no more than is held"))?;
    let text = AccessLine { access: part, addresses: line.addresses }.to_string();
    context.answer(&json!({ "grant": text }), || text.clone())
}

fn shown(context: &Context, line: &AccessLine) -> Result<(), Failure> {
    let (access, bounds) = (&line.access, line.access.bounds());
    // Without the pass of a relay.
    let ways = line.addresses.iter().filter_map(|way| way.parse::<Way>().ok());
    let ways: Vec<String> = ways.map(|way| way.to_string()).collect();
    let links: Vec<Value> =
        access.links().map(|(name, link)| of_link(&name.to_string(), link)).collect();
    let value = json!({
        "owner": access.root().to_string(),
        "holder": access.holder().to_string(),
        "regions": named(&bounds.prefix),
        "rights": bounds.rights.to_string(),
        "bytes": bounded(bounds.bytes_max),
        "bytes_per_s": bounded(bounds.bytes_per_s),
        "not_before_ms": bounds.not_before.0,
        "not_after_ms": bounds.not_after.0,
        "epoch": bounds.epoch,
        "depth": bounds.depth,
        "addresses": ways,
        "links": links,
    });
    context.answer(&value, || {
        let language = context.language;
        let none = || words::grant_no_bound(language);
        let size = |bytes| bounded(bytes).map_or_else(none, show::bytes);
        let left = bounds.not_after.0.saturating_sub(now().0);
        let time = match left {
            0 => words::grant_over(language),
            left => words::grant_left(language, &show::span(Duration::from_millis(left))),
        };
        let (owner, holder) = (access.root().to_string(), access.holder().to_string());
        let mut lines = vec![
            words::grant_whose(language, &owner, &holder),
            words::grant_what(language, &bounds.rights.to_string(), &named(&bounds.prefix)),
            words::grant_bounds(
                language,
                &size(bounds.bytes_max),
                &size(bounds.bytes_per_s),
                &time,
            ),
            words::grant_depth(language, bounds.depth, links.len()),
        ];
        if !ways.is_empty() {
            lines.push(words::grant_where(language, &ways.join(", ")));
        }
        lines.join("\n")
    })
}

fn of_link(name: &str, link: &Link) -> Value {
    let Bounds { prefix, rights, bytes_max, bytes_per_s, not_before, not_after, epoch, depth } =
        &link.bounds;
    json!({
        "name": name,
        "holder": link.holder.to_string(),
        "regions": named(prefix),
        "rights": rights.to_string(),
        "bytes": bounded(*bytes_max),
        "bytes_per_s": bounded(*bytes_per_s),
        "not_before_ms": not_before.0,
        "not_after_ms": not_after.0,
        "epoch": epoch,
        "depth": depth,
    })
}

fn named(prefix: &Prefix) -> String {
    if prefix.as_str().is_empty() { "/".to_owned() } else { prefix.to_string() }
}

/// The largest number stands for "without a bound".
const fn bounded(bytes: u64) -> Option<u64> {
    if bytes == u64::MAX { None } else { Some(bytes) }
}

/// A grant, or the one in a file.
fn read(text: &str) -> Result<AccessLine, Failure> {
    let path = Path::new(text);
    let text = if AccessLine::is_meant_by(text) || !path.is_file() {
        text.to_owned()
    } else {
        let failed = |error| Failure::io("read", path, &error);
        let found = std::fs::metadata(path).map_err(failed)?.len();
        if found > FILE_BYTES_MAX {
            let what = format!("{} has {found} bytes, which is no grant", path.display());
            return Err(permission(what, "name a file that holds the line of a grant"));
        }
        std::fs::read_to_string(path).map_err(failed)?
    };
    let next = "copy the whole line that begins with suanligrant1";
    text.parse().map_err(|error: suanli_identity::LineError| permission(error.to_string(), next))
}

fn permission(what: impl Into<String>, next: &str) -> Failure {
    Failure { class: Class::Permission, what: what.into(), whose: Whose::Yours, next: next.into() }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
