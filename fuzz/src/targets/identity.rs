//! Tickets and grants to regions: their text, their bytes, and what somebody signed but made up.

use crate::Target;
use suanli_base::{CityId, Hash, Time};
use suanli_identity::{
    ACCESS_BYTES_MAX, ACCESS_LINKS_MAX, Access, AccessLine, Bounds, Domain, Grant, Kind, Prefix,
    Right, Rights, Role, SecretKey, Signed, TICKET_ADDRESSES_MAX, Ticket,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("ticket-text", "a ticket reads back as it was, or is refused", texts, text),
    Target::new("ticket-bytes", "only what the city signed is a ticket", bytes, from_bytes),
    Target::new("grant-signed", "a signed grant keeps its bounds", grants, signed_grant),
    Target::new("access-bytes", "only what was signed link by link is a grant", accesses, access),
    Target::new("access-line", "a grant's line reads back as it was, or is refused", lines, line),
    Target::new(
        "access-signed",
        "a link that its issuer signed keeps its bounds",
        links,
        signed_link,
    ),
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

fn holder() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

fn bounds(depth: u8) -> Bounds {
    Bounds {
        prefix: Prefix::new("job/1/").expect("a good prefix"),
        rights: Rights::of(&[Right::Read, Right::Subscribe]),
        bytes_max: 1 << 40,
        bytes_per_s: u64::MAX,
        not_before: Time(1),
        not_after: Time(1 << 41),
        epoch: 5,
        depth,
    }
}

/// The owner's link alone, and one that its holder handed on.
fn chains() -> [Access; 2] {
    let first = Access::issue(&key(), holder().node(), bounds(3), 7).expect("good bounds");
    let narrow = Bounds { epoch: 4, ..bounds(0) };
    let second = first.delegate(&holder(), key().node(), narrow, 8).expect("narrower bounds");
    [first, second]
}

fn accesses() -> Vec<Vec<u8>> {
    chains().iter().map(Access::to_bytes).collect()
}

/// Before a link: magic, format and count, once, and 66 bytes of signature and length each.
const HEAD: usize = 6;
const BEFORE_LINK: usize = 66;

fn links() -> Vec<Vec<u8>> {
    let [first, second] = chains().map(|chain| chain.to_bytes());
    let behind = second[first.len() + BEFORE_LINK..].to_vec();
    vec![first[HEAD + BEFORE_LINK..].to_vec(), behind]
}

fn access(input: &[u8]) {
    if let Ok(access) = Access::from_bytes(input) {
        assert_eq!(access.to_bytes(), input);
        assert!(chains().contains(&access), "a chain that nobody signed");
    }
}

/// The signatures are good, so that the decoder and the rules behind it are reached: as the first
/// link of a chain, and as the second.
fn signed_link(input: &[u8]) {
    let domain = Domain::lasting(Kind::Access, 1, CityId::from(key().node()));
    let sealed = |key: &SecretKey| {
        let mut bytes = key.sign(&domain, input).0.to_vec();
        bytes.extend((input.len() as u16).to_le_bytes());
        bytes.extend(input);
        bytes
    };
    let alone = [b"SLAC\x01\x01".as_slice(), &sealed(&key())].concat();
    let mut behind = [&chains()[0].to_bytes(), sealed(&holder()).as_slice()].concat();
    behind[HEAD - 1] = 2;
    for bytes in [alone, behind] {
        let Ok(access) = Access::from_bytes(&bytes) else { continue };
        assert_eq!(access.to_bytes(), bytes);
        assert!(bytes.len() <= ACCESS_BYTES_MAX);
        let all: Vec<_> = access.links().map(|(_, link)| &link.bounds).collect();
        for bounds in &all {
            assert!(bounds.not_before < bounds.not_after && bounds.prefix.as_str().len() <= 160);
            assert!(usize::from(bounds.depth) < ACCESS_LINKS_MAX);
            assert!(bounds.rights.within(Rights::ALL));
        }
        assert!(all.windows(2).all(|pair| pair[1].widens(pair[0]).is_none()));
    }
}

/// What is in a line, without its checksum.
fn lines() -> Vec<Vec<u8>> {
    let addresses = ["city.example:7000", "relay:https://relay.example#pass"];
    let line = |chain: Access, ways: usize| {
        let mut bytes = (chain.to_bytes().len() as u16).to_le_bytes().to_vec();
        bytes.extend(chain.to_bytes());
        for address in &addresses[..ways] {
            bytes.push(address.len() as u8);
            bytes.extend(address.as_bytes());
        }
        let there = AccessLine::new(chain, addresses[..ways].iter().map(|&a| a.into()).collect());
        assert_eq!(line_of(&bytes), there.expect("short addresses").to_string());
        bytes
    };
    let [first, second] = chains();
    vec![line(first, 0), line(second, 2)]
}

/// The text of a line: checksum and base32 (RFC 4648, small letters, no padding).
fn line_of(bytes: &[u8]) -> String {
    let sum = Hash::of_parts("suanli 2026 grant checksum", &[bytes]);
    let bits: Vec<u8> = [bytes, &sum.0[..4]]
        .concat()
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let letter = |five: &[u8]| {
        let number = (0..5).fold(0, |sum, at| sum << 1 | five.get(at).copied().unwrap_or(0));
        char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(number)])
    };
    format!("suanligrant1{}", bits.chunks(5).map(letter).collect::<String>())
}

fn line(input: &[u8]) {
    let text = line_of(input);
    if let Ok(line) = text.parse::<AccessLine>() {
        assert_eq!(line.to_string(), text);
        assert!(chains().contains(&line.access), "a chain that nobody signed");
        assert!(line.addresses.len() <= TICKET_ADDRESSES_MAX);
    }
}
