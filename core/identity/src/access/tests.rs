use super::*;
use crate::Right;
use proptest::prelude::*;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn node(seed: u8) -> NodeId {
    key(seed).node()
}

fn bounds(depth: u8) -> Bounds {
    Bounds {
        prefix: Prefix::new("job/1/").unwrap(),
        rights: Rights::of(&[Right::Read, Right::Subscribe]),
        bytes_max: 1000,
        bytes_per_s: 100,
        not_before: Time(10),
        not_after: Time(20),
        epoch: 3,
        depth,
    }
}

/// Owner 1, holders 2, 3, 4, 5.
fn chain(links: u8) -> Access {
    let first = Access::issue(&key(1), node(2), bounds(links - 1), 7).unwrap();
    let next = |access: Access, i: u8| {
        access.delegate(&key(i), node(i + 1), bounds(links - i), 7).unwrap()
    };
    (2..=links).fold(first, next)
}

/// A link that nobody checked, signed by `key`.
fn forced(mut access: Access, key: &SecretKey, link: Link) -> Access {
    let signed = Signed::seal(key, &domain(link.root), &link);
    access.push(link, signed);
    access
}

/// A chain of these bounds without a check, as a hostile holder would sign it.
fn unchecked(all: &[Bounds]) -> Access {
    let mut access = Access { links: Vec::new() };
    for (i, bounds) in (1..).zip(all) {
        let parent = access.links.last().map_or(Hash::ZERO, |last| last.id);
        let (root, holder, bounds) = (node(1), node(i + 1), bounds.clone());
        let link = Link { format: FORMAT, root, holder, bounds, nonce: 7, parent };
        access = forced(access, &key(i), link);
    }
    access
}

#[test]
fn a_chain_of_each_length_serves_its_last_holder_only() {
    for links in 1..=4 {
        let access = chain(links);
        let bytes = access.to_bytes();
        assert!(bytes.len() <= ACCESS_BYTES_MAX && Access::is_meant_by(&bytes));
        let verified = Access::verify(&bytes, node(1), node(links + 1)).unwrap();
        assert_eq!(verified.access(), &access);
        assert_eq!(verified.access().links().len(), usize::from(links));
        let stolen = AccessError::NotYours { holder: node(links + 1), bearer: node(9) };
        assert_eq!(Access::verify(&bytes, node(1), node(9)), Err(stolen));
        let other = AccessError::OtherOwner { expected: node(8), found: node(1) };
        assert_eq!(Access::verify(&bytes, node(8), node(links + 1)), Err(other));
    }
}

#[test]
fn only_the_holder_hands_on_and_not_more_often_than_allowed() {
    let access = chain(2);
    let thief = AccessError::NotYours { holder: node(3), bearer: node(2) };
    assert_eq!(access.delegate(&key(2), node(4), bounds(0), 1), Err(thief));
    let deep = AccessError::Widened { link: 3, issuer: node(3), what: Bound::Depth };
    assert_eq!(access.delegate(&key(3), node(4), bounds(0), 1), Err(deep));
    let fault = LinkFault::Depth { found: 4, max: 3 };
    let five = AccessError::Link { link: 1, issuer: node(1), fault };
    assert_eq!(Access::issue(&key(1), node(2), bounds(4), 1), Err(five));
}

#[test]
fn no_byte_of_a_chain_can_be_changed_cut_off_or_added() {
    let bytes = chain(2).to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Access::from_bytes(&changed).is_err(), "byte {at}");
        assert!(Access::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Access::from_bytes(&longer), Err(AccessError::NotAGrant { found: bytes.len() + 1 }));
    let huge = vec![0; ACCESS_BYTES_MAX + 1];
    assert_eq!(Access::from_bytes(&huge), Err(AccessError::TooLarge { found: huge.len() }));
}

#[test]
fn a_link_cannot_be_moved_to_another_chain() {
    let (mut one, two) = (chain(2), chain(3));
    // The same holder and wide enough bounds, but another parent.
    one.links.truncate(1);
    one.links.push(two.links[1].clone());
    let error = Access::from_bytes(&one.to_bytes()).unwrap_err();
    let fault = LinkFault::OtherParent { expected: one.links[0].id, found: two.links[0].id };
    assert_eq!(error, AccessError::Link { link: 2, issuer: node(2), fault });
    // Nor be left out: then the wrong node has signed.
    let mut short = two;
    short.links.remove(1);
    let error = Access::from_bytes(&short.to_bytes()).unwrap_err();
    assert!(matches!(error, AccessError::Forged { link: 2, .. }), "{error}");
}

#[test]
fn a_link_for_another_owner_or_signed_by_a_stranger_is_refused() {
    let first = chain(2).links[0].clone();
    let base = Access { links: vec![first.clone()] };
    let link = |root, parent| Link {
        format: FORMAT,
        root,
        holder: node(3),
        bounds: bounds(0),
        nonce: 1,
        parent,
    };
    // Under the domain of the other owner the signature does not even match.
    let other = forced(base.clone(), &key(2), link(node(6), first.id));
    let error = Access::from_bytes(&other.to_bytes()).unwrap_err();
    assert!(matches!(error, AccessError::Forged { link: 2, .. }), "{error}");
    let stranger = forced(base, &key(6), link(node(1), first.id));
    let error = Access::from_bytes(&stranger.to_bytes()).unwrap_err();
    assert!(matches!(error, AccessError::Forged { issuer, .. } if issuer == node(2)), "{error}");
    // An owner's name in a first link that somebody else signed.
    let forged = forced(Access { links: Vec::new() }, &key(6), link(node(1), Hash::ZERO));
    let error = Access::verify(&forged.to_bytes(), node(1), node(3)).unwrap_err();
    assert!(matches!(error, AccessError::Forged { link: 1, .. }), "{error}");
}

#[test]
fn the_longest_chain_fits_into_a_hello() {
    let wide = |depth| Bounds {
        prefix: Prefix::new("p".repeat(160)).unwrap(),
        rights: Rights::ALL,
        bytes_max: u64::MAX,
        bytes_per_s: u64::MAX,
        not_before: Time(u64::MAX - 1),
        not_after: Time(u64::MAX),
        epoch: u64::MAX,
        depth,
    };
    let first = Access::issue(&key(1), node(2), wide(3), u64::MAX).unwrap();
    let next = |access: Access, i: u8| {
        access.delegate(&key(i), node(i + 1), wide(4 - i), u64::MAX).unwrap()
    };
    let access = (2..=4).fold(first, next);
    assert!(access.links.iter().all(|link| link.signed.bytes.len() <= LINK_BYTES_MAX));
    let bytes = access.to_bytes();
    assert_eq!(Access::from_bytes(&bytes), Ok(access));
    assert!(bytes.len() <= 2048, "{} bytes", bytes.len());
}

/// Names that tell the prefixes of [`some_bounds`] apart, so that one prefix covers another exactly
/// when its names are a superset.
const NAMES: [&str; 8] = ["a", "a/b", "a/c", "a/b/c", "a/b/d", "d", "e", "a/bc"];

/// The model: whether `name` is meant by `prefix`, segment by segment.
fn means(prefix: &str, name: &str) -> bool {
    let Some(folder) = prefix.strip_suffix('/') else { return prefix.is_empty() || prefix == name };
    let (folder, name): (Vec<_>, Vec<_>) = (folder.split('/').collect(), name.split('/').collect());
    name.len() > folder.len() && name[..folder.len()] == folder[..]
}

fn narrow_in_the_model(child: &Bounds, parent: &Bounds) -> bool {
    let names = NAMES
        .iter()
        .all(|name| !means(child.prefix.as_str(), name) || means(parent.prefix.as_str(), name));
    let rights = Right::ALL.iter().all(|r| !child.rights.has(*r) || parent.rights.has(*r));
    let times = (0..8).all(|t| {
        let within = |b: &Bounds| b.not_before.0 <= t && t < b.not_after.0;
        !within(child) || within(parent)
    });
    // An epoch above the link's ends it.
    let epochs = (0..4).all(|epoch| epoch > child.epoch || epoch <= parent.epoch);
    let bytes = (0..4).all(|bytes| bytes > child.bytes_max || bytes <= parent.bytes_max);
    let rates = (0..4).all(|rate| rate > child.bytes_per_s || rate <= parent.bytes_per_s);
    names && rights && times && epochs && bytes && rates && child.depth < parent.depth
}

/// Bounds from a few values each, most of them wide, so that chains are good about as often as not.
fn some_bounds(depth: std::ops::Range<u8>) -> impl Strategy<Value = Bounds> {
    let prefix = prop::sample::select(vec!["", "", "", "a", "a/", "a/b", "a/b/", "d"]);
    let rights = prop::sample::select(vec![0x7F, 0x7F, 3, 1]);
    let number = || prop_oneof![3 => Just(3), 1 => 0..4_u64];
    let time = (prop_oneof![3 => Just(0), 1 => 0..4_u64], prop_oneof![3 => Just(8), 1 => 5..8_u64]);
    (prefix, rights, number(), number(), time, number(), depth).prop_map(
        |(prefix, rights, bytes_max, bytes_per_s, time, epoch, depth)| Bounds {
            prefix: Prefix::new(prefix).unwrap(),
            rights: Rights::try_from(rights).unwrap(),
            bytes_max,
            bytes_per_s,
            not_before: Time(time.0),
            not_after: Time(time.1),
            epoch,
            depth,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_chain_is_good_exactly_when_each_link_is_a_part_of_its_parent(
        first in some_bounds(2..4), second in some_bounds(0..3), third in some_bounds(0..2),
        links in 1..=3_usize,
    ) {
        let all = &[first, second, third][..links];
        let good = all.windows(2).all(|pair| narrow_in_the_model(&pair[1], &pair[0]));
        let read = Access::from_bytes(&unchecked(all).to_bytes());
        prop_assert_eq!(read.is_ok(), good, "{:?}", read);
        // Who signs honestly gets the same verdict before anything is handed out.
        let mut honest = Access::issue(&key(1), node(2), all[0].clone(), 7);
        for (i, bounds) in (2..).zip(&all[1..]) {
            honest = honest.and_then(|a| a.delegate(&key(i), node(i + 1), bounds.clone(), 7));
        }
        prop_assert_eq!(honest, read);
    }
}
