//! `suanli doctor --network`: the ways to a city, the link that is chosen and why, what it carries,
//! and what is in the way.

use super::join::read_ticket;
use crate::arguments::Doctor;
use crate::context::{Context, block_on};
use crate::exit::{Class, Failure, Whose};
use crate::language::Language;
use crate::{show, words};
use suanli_host::control::LinkStatus;
use suanli_host::network::{Finding, Measured, Network, NetworkOptions, WayTried, look};

pub(super) fn run(context: &Context, arguments: &Doctor) -> Result<(), Failure> {
    let ticket = arguments.ticket.as_deref().map(read_ticket).transpose()?;
    let folder = context.family_folder(&arguments.folder)?;
    let prefer = context.config.join.link.unwrap_or_default().into();
    let found = block_on(async { Ok(look(NetworkOptions { ticket, folder, prefer }).await?) })?;
    context.answer(&found, || report(context.language, &found))?;
    match found.link.is_none() && found.city.is_some() {
        true => Err(Failure {
            class: Class::Network,
            what: "no way leads to the city".to_owned(),
            whose: Whose::Nobody,
            next: "see what was found above; then try again".to_owned(),
        }),
        false => Ok(()),
    }
}

fn report(language: Language, found: &Network) -> String {
    let machine = &found.machine;
    let addresses: Vec<String> = machine.addresses.iter().map(ToString::to_string).collect();
    let yes = |it| if it { words::yes(language) } else { words::no(language) };
    let mut lines = vec![
        words::network_addresses(language, &addresses.join(", ")),
        words::network_sockets(
            language,
            &yes(machine.udp),
            &yes(machine.multicast),
            machine.tcp_congestion.as_deref().unwrap_or("?"),
            &yes(machine.tcp_has_bbr),
        ),
    ];
    if let Some(city) = &found.city {
        lines.push(words::network_city(language, &super::status::short(city)));
    }
    lines.extend(found.ways.iter().map(|way| way_line(language, way)));
    if let Some(link) = &found.link {
        lines.push(link_words(language, link));
    }
    if let Some(measured) = &found.measured {
        lines.push(measured_line(language, measured));
    }
    lines.extend(found.findings.iter().map(|finding| format!("! {}", told(language, finding))));
    if found.findings.is_empty() {
        lines.push(words::network_clear(language));
    }
    lines.join("\n")
}

fn way_line(language: Language, way: &WayTried) -> String {
    let name = show::printable(&way.way);
    match (way.took_ms, &way.error) {
        (Some(ms), _) => words::network_way(language, &name, &format!("{ms:.1}")),
        (None, Some(error)) => words::network_no_way(language, &name, &show::printable(error)),
        (None, None) => words::network_no_way(language, &name, "?"),
    }
}

fn measured_line(language: Language, measured: &Measured) -> String {
    words::network_measured(
        language,
        &format!("{:.1}", measured.rtt_ms),
        &show::rate(measured.down_bit_per_s),
        &show::rate(measured.up_bit_per_s),
    )
}

/// A link in one sentence, with the reason.
pub(super) fn link_words(language: Language, link: &LinkStatus) -> String {
    let kind = match link.kind.as_str() {
        "quic" => "QUIC",
        _ => "TCP + TLS 1.3",
    };
    let why = match link.why.as_str() {
        "asked" => words::why_asked(language),
        "only" => words::why_only(language),
        "near" => words::why_near(language),
        "tcp_has_bbr" => words::why_tcp_has_bbr(language),
        "tcp_has_no_bbr" => words::why_tcp_has_no_bbr(language),
        "other_failed" => words::why_other_failed(language),
        "other_slow" => words::why_other_slow(language),
        "found_nearby" => words::why_found_nearby(language),
        other => show::printable(other),
    };
    words::link_chosen(language, kind, &show::printable(&link.remote), link.took_ms, &why)
}

/// The same as a line of its own, if there is a link.
pub(super) fn link_line(language: Language, link: Option<&LinkStatus>) -> String {
    link.map_or_else(String::new, |link| format!("\n{}", link_words(language, link)))
}

fn told(language: Language, finding: &Finding) -> String {
    match finding {
        Finding::NoCity => words::finding_no_city(language),
        Finding::NoNetwork => words::finding_no_network(language),
        Finding::NoUdp => words::finding_no_udp(language),
        Finding::NothingAnswered => words::finding_nothing_answered(language),
        Finding::WrongKey { way } => words::finding_wrong_key(language, &show::printable(way)),
        Finding::UdpBlocked => words::finding_udp_blocked(language),
        Finding::TcpBlocked => words::finding_tcp_blocked(language),
        Finding::OnlyItsMachine => words::finding_only_its_machine(language),
        Finding::OnlyRelay => words::finding_only_relay(language),
        Finding::TcpWithoutBbr => words::finding_tcp_without_bbr(language),
        Finding::NotAMember => words::finding_not_a_member(language),
        Finding::Refused { why } => words::finding_refused(language, &show::printable(why)),
        Finding::Broke { why } => words::finding_broke(language, &show::printable(why)),
        other => format!("{other:?}"),
    }
}
