//! The frozen vectors of `docs/spec/vectors/access.txt`, made by an independent implementation.

use suanli_base::NodeId;
use suanli_identity::{Access, AccessError, Bound, LinkFault, SecretKey, SignedError};

const VECTORS: &str = include_str!("../../../docs/spec/vectors/access.txt");

fn cases(kind: &str) -> Vec<(&'static str, Vec<u8>)> {
    let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    let of_kind = fields.filter(|fields| fields[0] == kind);
    of_kind.map(|fields| (fields[1], from_hex(fields[2]))).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let decoded = data_encoding::HEXLOWER.decode(text.as_bytes());
    decoded.expect("the vectors are hexadecimal")
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// The last holder by the rule of the vectors' head.
fn last_holder(bytes: &[u8]) -> NodeId {
    key(bytes[5].wrapping_add(1)).node()
}

#[test]
fn the_good_chains_read_and_are_what_we_would_sign() {
    let cases = cases("good");
    assert!(cases.len() >= 5, "the file of vectors has lost its good lines");
    for (name, bytes) in cases {
        let verified = Access::verify(&bytes, key(1).node(), last_holder(&bytes)).expect(name);
        let mut links = verified.access().links().map(|(_, link)| link.clone());
        let first = links.next().expect("a chain has a link");
        let mut ours = Access::issue(&key(1), first.holder, first.bounds, first.nonce);
        for (seed, link) in (2..).zip(links) {
            let next = |access: Access| {
                access.delegate(&key(seed), link.holder, link.bounds.clone(), link.nonce)
            };
            ours = ours.and_then(next);
        }
        assert_eq!(ours.expect(name).to_bytes(), bytes, "{name}");
    }
}

#[test]
fn the_bad_chains_are_refused_each_for_its_reason() {
    let cases = cases("bad");
    assert!(cases.len() >= 29, "the file of vectors has lost its bad lines");
    for (why, bytes) in cases {
        let error = Access::verify(&bytes, key(1).node(), last_holder(&bytes)).expect_err(why);
        assert!(is_reason(why, &error), "{why}: {error:?}");
    }
}

fn is_reason(why: &str, error: &AccessError) -> bool {
    let widened = |bound| matches!(error, AccessError::Widened { what, .. } if *what == bound);
    let forged = |signature| match error {
        AccessError::Forged { error, .. } => {
            matches!(error, SignedError::Signature(_)) == signature
        }
        _ => false,
    };
    let fault = match error {
        AccessError::Link { fault, .. } => Some(fault),
        _ => None,
    };
    match why {
        "wider-prefix" | "prefix-of-another-segment" | "name-of-the-folder" => {
            widened(Bound::Prefix)
        }
        "more-rights" => widened(Bound::Rights),
        "more-bytes" => widened(Bound::Bytes),
        "faster" => widened(Bound::Rate),
        "earlier" => widened(Bound::NotBefore),
        "later" => widened(Bound::NotAfter),
        "later-epoch" => widened(Bound::Epoch),
        "too-deep" | "handed-on-without-leave" => widened(Bound::Depth),
        "depth-of-four" => fault == Some(&LinkFault::Depth { found: 4, max: 3 }),
        "never-good" => matches!(fault, Some(LinkFault::NeverGood { .. })),
        "unknown-right" | "bad-prefix" => forged(false),
        "other-format-of-a-link" => fault == Some(&LinkFault::Format { found: 2 }),
        "other-parent" | "parent-in-the-first" => {
            matches!(fault, Some(LinkFault::OtherParent { .. }))
        }
        "signed-by-the-owner-again"
        | "signed-by-a-stranger"
        | "another-owner-in-the-second"
        | "of-a-ticket's-kind" => forged(true),
        "for-another-owner" => matches!(error, AccessError::OtherOwner { .. }),
        "five-links" | "no-link" => matches!(error, AccessError::Links { found: 0 | 5 }),
        "left-over" | "cut-off" | "other-magic" | "other-format" => {
            matches!(error, AccessError::NotAGrant { .. })
        }
        _ => false,
    }
}
