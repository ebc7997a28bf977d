//! The gate against a model that keeps a diary of everything and recounts it at each question.

use proptest::collection::vec;
use proptest::prelude::*;
use suanli_base::{Hash, NodeId, Time};
use suanli_identity::{Access, Bounds, Prefix, Right, Rights, SecretKey};
use suanli_rdpa::{Code, Gate, GateBooks, GateLimits, Pass, RegionName};

const NAMES: [&str; 7] = ["a", "a/b", "a/c", "a/b/c", "a/b/d", "d", "a/bc"];
const PREFIXES: [&str; 7] = ["", "", "a/", "a/b", "a/b/", "a/b/c", "d"];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn node(seed: u8) -> NodeId {
    key(seed).node()
}

/// Segment by segment, unlike the gate, which looks at text.
fn means(prefix: &str, name: &str) -> bool {
    let Some(folder) = prefix.strip_suffix('/') else { return prefix.is_empty() || prefix == name };
    let (folder, name): (Vec<_>, Vec<_>) = (folder.split('/').collect(), name.split('/').collect());
    name.len() > folder.len() && name[..folder.len()] == folder[..]
}

#[derive(Default)]
struct Diary {
    /// (link, bytes) for every link that something was booked with.
    booked: Vec<(Hash, u64)>,
    revoked: Vec<(&'static str, u64)>,
}

impl Diary {
    fn allows(&self, access: &Access, now: u64, right: Right, name: &str, bytes: u64) -> bool {
        access.links().all(|(id, link)| {
            let Bounds { prefix, rights, bytes_max, not_before, not_after, epoch, .. } =
                &link.bounds;
            let used: u64 = self.booked.iter().filter(|(l, _)| *l == id).map(|(_, b)| b).sum();
            let ended = self.revoked.iter().any(|(p, e)| means(p, name) && e > epoch);
            let fits = bytes == 0 || *bytes_max == u64::MAX || used + bytes <= *bytes_max;
            not_before.0 <= now
                && now < not_after.0
                && means(prefix.as_str(), name)
                && rights.has(right)
                && !ended
                && fits
        })
    }
}

fn some_bounds(depth: u8) -> impl Strategy<Value = Bounds> {
    let prefix = prop::sample::select(PREFIXES.to_vec());
    let rights = prop::sample::select(vec![0x7F, 0x7F, 3, 1]);
    let bytes = prop_oneof![Just(u64::MAX), 0..400_u64];
    let time =
        (prop_oneof![3 => Just(0), 1 => 0..40_u64], prop_oneof![2 => Just(100), 1 => 50..99_u64]);
    (prefix, rights, bytes, time, 2..5_u64).prop_map(
        move |(prefix, rights, bytes_max, time, epoch)| Bounds {
            prefix: Prefix::new(prefix).expect("one of PREFIXES"),
            rights: Rights::try_from(rights).expect("known bits"),
            bytes_max,
            bytes_per_s: u64::MAX,
            not_before: Time(time.0),
            not_after: Time(time.1),
            epoch,
            depth,
        },
    )
}

/// What both hold at most.
fn narrower(parent: &Bounds, wish: &Bounds) -> Bounds {
    let covers = parent.prefix.covers(wish.prefix.as_str());
    let rights = u16::from(parent.rights) & u16::from(wish.rights);
    Bounds {
        prefix: if covers { wish.prefix.clone() } else { parent.prefix.clone() },
        rights: Rights::try_from(rights).expect("known bits"),
        bytes_max: parent.bytes_max.min(wish.bytes_max),
        bytes_per_s: parent.bytes_per_s.min(wish.bytes_per_s),
        not_before: parent.not_before.max(wish.not_before),
        not_after: parent.not_after.min(wish.not_after),
        epoch: parent.epoch.min(wish.epoch),
        depth: parent.depth - 1,
    }
}

/// A tree of grants: each after the first follows the owner or one before it.
fn tree(wishes: &[(usize, Bounds)]) -> Vec<(u8, Access)> {
    let mut all: Vec<(u8, Access)> = Vec::new();
    for (i, (parent, wish)) in wishes.iter().enumerate() {
        let (holder, nonce) = (10 + i as u8, i as u64);
        let parent = all.get(*parent).filter(|(_, access)| access.bounds().depth > 0);
        let access = match parent {
            Some((by, access)) => {
                let bounds = narrower(access.bounds(), wish);
                access.delegate(&key(*by), node(holder), bounds, nonce)
            }
            None => Access::issue(&key(1), node(holder), wish.clone(), nonce),
        };
        all.push((holder, access.expect("narrower than its parent")));
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    /// With which grant, which right, on which name, how many bytes.
    Ask(usize, Right, &'static str, u64),
    Revoke(&'static str, u64),
    Sleep(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let right =
        || prop::sample::select(vec![Right::Read, Right::Read, Right::Write, Right::Commit]);
    let name = prop::sample::select(NAMES.to_vec());
    let ask =
        (0..6_usize, right(), name, 0..150_u64).prop_map(|(a, r, n, b)| Step::Ask(a, r, n, b));
    let prefix = prop::sample::select(PREFIXES.to_vec());
    let revoke = (prefix, 0..5_u64).prop_map(|(prefix, epoch)| Step::Revoke(prefix, epoch));
    let sleep = (0..9_u64).prop_map(Step::Sleep);
    vec(prop_oneof![12 => ask, 1 => revoke, 3 => sleep, 1 => Just(Step::Restart)], 1..60)
}

/// A node admitted once, before anything was revoked, whose pass stays open.
fn admitted(gate: &Gate, (holder, access): &(u8, Access)) -> Pass {
    let middle = Time((access.bounds().not_before.0 + access.bounds().not_after.0) / 2);
    gate.admit(middle, node(*holder), &access.to_bytes()).expect("nothing was revoked")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_gate_allows_what_a_diary_of_everything_allows(
        wishes in vec((0..6_usize, some_bounds(3)), 6),
        steps in steps(),
    ) {
        let fresh = |books| Gate::new(node(1), GateLimits::default(), Vec::new(), books);
        let mut gate = fresh(GateBooks::default());
        let grants = tree(&wishes);
        let passes: Vec<Pass> = grants.iter().map(|grant| admitted(&gate, grant)).collect();
        let mut diary = Diary::default();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Ask(which, right, name, bytes) => {
                    let access = &grants[which].1;
                    let region = RegionName::new(name).unwrap();
                    let expected = diary.allows(access, now, right, name, bytes);
                    let said = gate.check(Time(now), &passes[which], right, &region, bytes);
                    prop_assert_eq!(said.is_ok(), expected, "{:?}", said);
                    if expected && bytes > 0 {
                        diary.booked.extend(access.links().map(|(id, _)| (id, bytes)));
                    }
                    // Budgets alone are OVER_BUDGET: with no bytes it would have gone through.
                    if let Err(denied) = said {
                        let without = diary.allows(access, now, right, name, 0);
                        prop_assert_eq!(denied.code == Code::OverBudget, without);
                    }
                }
                Step::Revoke(prefix, epoch) => {
                    diary.revoked.push((prefix, epoch));
                    gate.revoke(Prefix::new(prefix).unwrap(), epoch).unwrap();
                }
                Step::Sleep(ms) => now += ms,
                Step::Restart => gate = fresh(gate.books()),
            }
        }
    }
}
