//! Tickets: their text, their bytes, and grants that somebody signed but made up.

use crate::Target;
use suanli_base::{CityId, Time};
use suanli_identity::{Domain, Grant, Kind, Role, SecretKey, Signed, TICKET_ADDRESSES_MAX, Ticket};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("ticket-text", "a ticket reads back as it was, or is refused", texts, text),
    Target::new("ticket-bytes", "only what the city signed is a ticket", bytes, from_bytes),
    Target::new("grant-signed", "a signed grant keeps its bounds", grants, signed_grant),
];

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn tickets() -> Vec<Ticket> {
    let key = key();
    let issue = |role, addresses: &[&str]| {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        let city = key.node().into();
        let grant = Grant { city, role, expires: Time(1 << 41), uses: 9, nonce: 7, addresses };
        Ticket::issue(&key, grant).expect("within its bounds")
    };
    vec![issue(Role::Join, &[]), issue(Role::Operate, &["127.0.0.1:7000", "home.example:1"])]
}

fn texts() -> Vec<Vec<u8>> {
    tickets().iter().map(|ticket| ticket.to_string().into_bytes()).collect()
}

fn bytes() -> Vec<Vec<u8>> {
    tickets().iter().map(Ticket::to_bytes).collect()
}

fn grants() -> Vec<Vec<u8>> {
    let open = |ticket: &Ticket| {
        let domain = Domain::lasting(Kind::Grant, 1, ticket.grant().city);
        Signed::seal(&key(), &domain, ticket.grant()).bytes
    };
    tickets().iter().map(open).collect()
}

fn text(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }
}

fn from_bytes(input: &[u8]) {
    if let Ok(ticket) = Ticket::from_bytes(input) {
        assert_eq!(Ticket::from_bytes(&ticket.to_bytes()), Ok(ticket));
    }
}

/// The signature is good, so that the decoder behind it is reached.
fn signed_grant(input: &[u8]) {
    let key = key();
    let domain = Domain::lasting(Kind::Grant, 1, CityId::from(key.node()));
    let signature = key.sign(&domain, input);
    let signed = Signed { signer: key.node(), signature, bytes: input.to_vec() };
    // The encoding of `Signed`: key, signature, length, bytes.
    let mut bytes = signed.signer.0.to_vec();
    bytes.extend(signed.signature.0);
    let mut length = input.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(input);
    if let Ok(ticket) = Ticket::from_bytes(&bytes) {
        assert!(ticket.grant().addresses.len() <= TICKET_ADDRESSES_MAX);
        assert_eq!(Ticket::from_bytes(&ticket.to_bytes()), Ok(ticket));
    }
}
