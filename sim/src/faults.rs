//! What goes wrong in a run: drawn from the seed before it begins.

use crate::context::Context;
use crate::network::Weather;
use crate::replica::PendingFile;
use suanli_base::{Hash, Random, Tokens};
use suanli_bus::merge::payload_len;
use suanli_params::{Codec, encode};

/// Something goes wrong, or an owner wants something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A node is killed; it starts again after so many milliseconds.
    Crash { node: usize, down_ms: u64 },
    /// A node dies in the middle of one of its next disk operations.
    Fuse { node: usize, operations: u32 },
    /// A link ends.
    Cut { family: usize },
    /// Nothing gets through a link any more, and nobody is told.
    Silence { family: usize },
    /// A family cannot be reached and cannot dial.
    Partition { family: usize, ms: u64 },
    /// A disk has no room for a while.
    Full { node: usize, ms: u64 },
    /// A sync fails.
    BadSync { node: usize },
    /// A clock is set.
    ClockStep { node: usize, by: i64 },
    /// A process stands still.
    Stall { node: usize, ms: u64 },
    /// An owner wants the machine for a while.
    Pause { family: usize, ms: u64 },
    /// An owner leaves, and comes back after a while.
    Leave { family: usize, ms: u64 },
    /// A family's private state is replaced by an old copy, or lost, while it is down.
    OldPrivate { family: usize },
    /// The engine's process dies.
    EngineDies { family: usize },
}

/// What a run will be like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) weather: Weather,
    /// By time.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// When each family joins.
    pub(crate) joins: Vec<u64>,
    /// Tokens a second of each family.
    pub(crate) speeds: Vec<u64>,
    /// Which families make up what they hand in.
    pub(crate) liars: Vec<bool>,
}

impl Plan {
    /// A run in which nothing goes wrong.
    pub(crate) fn calm(random: &mut Random, families: usize) -> Self {
        Self {
            weather: Weather::Streams,
            faults: Vec::new(),
            joins: (0..families).map(|_| random.below(500)).collect(),
            speeds: (0..families).map(|_| speed(random)).collect(),
            liars: vec![false; families],
        }
    }

    /// A run with everything that can go wrong, within `fault_ms`.
    pub(crate) fn draw(random: &mut Random, families: usize, fault_ms: u64) -> Self {
        let mut plan = Self::calm(random, families);
        plan.weather = match random.below(3) {
            0 => Weather::Streams,
            1 => Weather::Datagrams { lost: 20, doubled: 20, held_up: 50 },
            _ => Weather::Datagrams {
                lost: few(random, 200),
                doubled: few(random, 200),
                held_up: few(random, 300),
            },
        };
        for join in &mut plan.joins {
            if random.chance(200) {
                *join = random.below(fault_ms);
            }
        }
        let liars = if random.chance(250) { 300 } else { 40 };
        for liar in plan.liars.iter_mut().skip(2) {
            *liar = random.chance(liars);
        }
        let count = 3 + random.below(8 + families as u64);
        for _ in 0..count {
            let at = random.below(fault_ms);
            let fault = fault(random, families);
            plan.faults.push((at, fault));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }
}

fn few(random: &mut Random, bound: u64) -> u32 {
    u32::try_from(random.below(bound)).unwrap_or(0)
}

/// Tenfold between the slowest and the fastest.
fn speed(random: &mut Random) -> u64 {
    let base = 8 + random.below(25);
    if random.chance(150) { base / 4 } else { base }
}

fn fault(random: &mut Random, families: usize) -> Fault {
    let family = usize::try_from(random.below(families as u64)).unwrap_or(0);
    // The city is one node among many, and what matters most.
    let node = if random.chance(450) { 0 } else { family + 1 };
    let ms = 200 + random.below(6000);
    match random.below(17) {
        0 | 1 => Fault::Crash { node, down_ms: 100 + random.below(4000) },
        2..=4 => Fault::Fuse { node, operations: few(random, 14) },
        5 => Fault::Cut { family },
        6 => Fault::Silence { family },
        7 => Fault::Partition { family, ms },
        8 => Fault::Full { node, ms },
        9 => Fault::BadSync { node },
        10 => {
            let far = random.chance(400);
            let by = random.below(if far { 7_200_000 } else { 4000 }) as i64;
            Fault::ClockStep { node, by: if random.chance(500) { by } else { -by } }
        }
        11 => Fault::Stall { node, ms },
        12 => Fault::Pause { family, ms: if random.chance(600) { ms / 8 } else { ms } },
        13 => Fault::Leave { family, ms },
        14 => Fault::EngineDies { family },
        15 => Fault::OldPrivate { family },
        _ => Fault::Crash { node: family + 1, down_ms: 100 + random.below(15_000) },
    }
}

/// A member makes up what it hands in.
pub(crate) fn lie(cx: &mut Context<'_>, file: &mut PendingFile) {
    match cx.random.below(7) {
        // Bytes that mean nothing, honestly described.
        0 | 1 => {
            file.payload.fill(0xFF);
            describe(file);
        }
        2 => file.contribution.tokens = Tokens(file.contribution.tokens.0 * 2),
        3 => file.contribution.steps += 1000,
        4 => file.contribution.start += 1,
        // Nothing at all, in good order: taken until it is audited. All who do so hand in the same
        // bytes, which are one blob.
        _ => {
            let before = file.contribution.payload_root;
            let n = file.private.residual.len();
            // Of two of one length either will do: their zeros are the same bytes.
            let all = (0..=u8::MAX).filter_map(|id| Codec::from_id(id).ok());
            let fits = |codec: &Codec| payload_len(*codec, n) as u64 == file.shape.bytes;
            let codec = all.into_iter().find(fits).expect("every payload is in some codec");
            file.payload.clear();
            encode(codec, &vec![0.0; n], &mut file.payload).expect("zeros can be encoded");
            describe(file);
            let contribution = &file.contribution;
            cx.watch.replaced(contribution.lease, before, contribution.payload_root, &file.payload);
        }
    }
}

fn describe(file: &mut PendingFile) {
    let chunk = file.shape.chunk_bytes as usize;
    let hashes: Vec<Hash> = file.payload.chunks(chunk).map(Hash::of).collect();
    file.contribution.payload_root = suanli_params::root(&hashes);
}
