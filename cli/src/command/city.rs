//! `suanli city`: found, run, give tickets, stop.

use super::{ending, program, quoted, stop_flag};
use crate::arguments::{City, Folder, Serve, TicketRole};
use crate::context::{Context, block_on};
use crate::exit::Failure;
use crate::{upload_settings, words};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use suanli_host::control::{
    CityInit, CityOptions, CityReady, Client, ControlReply, ControlRequest, DoorOptions, NodeKind,
};
use suanli_link::{RelayAddr, Way};

pub(super) fn run(context: &Context, command: City) -> Result<(), Failure> {
    match command {
        City::Init { folder, name } => block_on(init(context, &folder, name)),
        City::Serve(arguments) => block_on(serve(context, arguments)),
        City::Ticket { folder, role, expires, uses } => {
            block_on(ticket(context, &folder, role, expires, uses))
        }
        City::Grant { folder, wish } => super::grant::issue(context, &folder, wish),
        City::Revoke { folder, regions } => super::grant::revoke(context, &folder, regions),
        City::Stop(folder) => block_on(stop(context, &folder)),
    }
}

async fn init(context: &Context, folder: &Folder, name: Option<String>) -> Result<(), Failure> {
    let dir = context.city_folder(folder)?;
    let name = name.or_else(|| context.config.city.name.clone()).unwrap_or_else(|| "city".into());
    let id = suanli_host::city::init(&dir, &CityInit { name: name.clone() })?.to_string();
    let command = format!("{} city serve --dir {}", program(), quoted(&dir));
    context.answer(&json!({ "city": id, "name": name, "folder": dir }), || {
        let folder = dir.display().to_string();
        words::city_founded(context.language, &name, &id, &folder)
            + "\n"
            + &words::city_start_with(context.language, &command)
    })
}

async fn serve(context: &Context, arguments: Serve) -> Result<(), Failure> {
    let folder = context.city_folder(&arguments.folder)?;
    let listen = arguments
        .listen
        .or(context.config.city.listen)
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut advertise = arguments.advertise;
    if advertise.is_empty() {
        advertise.clone_from(&context.config.city.advertise);
    }
    let settings = &context.config.city;
    let via = arguments.via.as_deref().or(settings.via.as_deref());
    let doors = DoorOptions {
        advertise,
        quic: !arguments.no_quic && settings.quic.unwrap_or(true),
        relay: arguments.relay.or(settings.relay),
        via: via.map(relay_of).transpose()?,
        lan: arguments.lan.or(settings.lan),
        ..DoorOptions::on(listen)
    };
    if doors.relay.is_some() && doors.via.is_some() {
        return Err(Failure::usage(
            "expected one relay, found its own (relay) and another (via)",
            "leave one of them out",
        ));
    }
    if !doors.quic && (doors.relay.is_some() || doors.via.is_some()) {
        return Err(Failure::usage(
            "a relay carries QUIC, and QUIC is off",
            "leave one of them out",
        ));
    }
    let upload = upload_settings::limits(&arguments.upload, &settings.upload)?;
    let (_stopper, stop) = stop_flag(arguments.parent.stop_on_eof)?;
    let (ready, when_ready) = tokio::sync::oneshot::channel();
    let worker = Vec::new();
    let (stop_city, ready) = (stop.clone(), Some(ready));
    let options = CityOptions { folder, doors, upload, worker, stop: stop_city, ready };
    let speaker = context.clone();
    tokio::spawn(async move {
        if let Ok(ready) = when_ready.await {
            greet(&speaker, &ready, listen);
        }
    });
    suanli_host::city::serve(options).await?;
    context.say(words::stopped(context.language));
    ending(&stop)
}

/// A relay as `suanli relay` prints it.
fn relay_of(text: &str) -> Result<RelayAddr, Failure> {
    let next = "copy the whole line that `suanli relay` printed";
    match text.parse::<Way>() {
        Ok(Way::Relay(relay)) => Ok(relay),
        Ok(_) => {
            Err(Failure::usage("expected relay:http://host:port#PASS, found an address", next))
        }
        Err(error) => Err(Failure::usage(error.to_string(), next)),
    }
}

fn greet(context: &Context, ready: &CityReady, listen: SocketAddr) {
    let ticket = ready.ticket.as_ref().map(ToString::to_string);
    let city = ready.city.to_string();
    let _ = context.answer(
        &json!({ "city": city, "addresses": ready.addresses, "ticket": ticket }),
        || {
            let language = context.language;
            let addresses = ready.addresses.join(", ");
            let mut lines = vec![words::city_listens(language, &ready.city.short(), &addresses)];
            if listen.ip().is_loopback() {
                lines.push(words::city_only_here(language));
            }
            if let Some(ticket) = &ticket {
                let command = format!("{} join {ticket}", program());
                lines.push(words::city_join_with(language, &command));
            }
            lines.join("\n")
        },
    );
}

async fn ticket(
    context: &Context,
    folder: &Folder,
    role: TicketRole,
    expires_in_s: u64,
    uses: u32,
) -> Result<(), Failure> {
    let mut city = context.node(folder, NodeKind::City).await?;
    let ticket = ask_ticket(&mut city, role, expires_in_s, uses).await?;
    context.answer(&json!({ "ticket": ticket }), || ticket.clone())
}

/// Asks a running city for a ticket.
pub(crate) async fn ask_ticket(
    city: &mut Client,
    role: TicketRole,
    expires_in_s: u64,
    uses: u32,
) -> Result<String, Failure> {
    let request = ControlRequest::Ticket { role: role.into(), expires_in_s, uses };
    match city.call(&request).await? {
        ControlReply::Ticket { ticket } => Ok(ticket),
        other => Err(Failure::ours(format!("expected a ticket, found {other:?}"))),
    }
}

async fn stop(context: &Context, folder: &Folder) -> Result<(), Failure> {
    let mut city = context.node(folder, NodeKind::City).await?;
    city.order(&ControlRequest::Stop).await?;
    context.answer(&json!({ "done": true }), || words::stop_asked(context.language))
}
