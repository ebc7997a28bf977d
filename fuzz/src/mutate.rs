//! From good inputs to bad ones: what noise, a cut line, a liar and a bit flip make of bytes.

use suanli_base::Random;

/// Longest input that is made.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// Changes to one input, at most.
const CHANGES_MAX: u64 = 6;
/// Values at the edges of their types.
const EDGES: [u64; 13] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x7FF0_0000_0000_0000,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// The bytes that these draws make of the seeds.
pub(crate) fn input(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if seeds.is_empty() || random.chance(30) {
        let mut noise = vec![0; random.below(300) as usize];
        random.fill(&mut noise);
        return noise;
    }
    let mut bytes = seeds[index(random, seeds.len())].clone();
    for _ in 0..=random.below(CHANGES_MAX) {
        change(&mut bytes, seeds, random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn index(random: &mut Random, len: usize) -> usize {
    random.below(len as u64) as usize
}

/// A place and a stretch from there.
fn stretch(bytes: &[u8], random: &mut Random) -> (usize, usize) {
    let start = index(random, bytes.len() + 1);
    let rest = bytes.len() - start;
    let longest = if random.chance(800) { rest.min(16) } else { rest };
    (start, start + index(random, longest + 1))
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.next_u64() as u8);
        return;
    }
    let at = index(random, bytes.len());
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next_u64() as u8,
        2 => number(bytes, at, random),
        3 => bytes.truncate(at),
        4 => {
            let (from, to) = stretch(bytes, random);
            bytes.drain(from..to);
        }
        5 => {
            let (from, to) = stretch(bytes, random);
            let copy = bytes[from..to].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let other = &seeds[index(random, seeds.len())];
            let (from, to) = stretch(other, random);
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        7 => {
            let mut noise = vec![0; 1 + index(random, 8)];
            random.fill(&mut noise);
            bytes.splice(at..at, noise);
        }
        _ => digits(bytes, at, random),
    }
}

/// Overwrites 1, 2, 4 or 8 bytes with a number from the edge of its type, or one off.
fn number(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = (1_usize << random.below(4)).min(bytes.len() - at);
    let edge = EDGES[index(random, EDGES.len())];
    let value = edge.wrapping_add(random.below(3)).wrapping_sub(1);
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// In text: puts another number in the place of one.
fn digits(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    const NUMBERS: [&str; 8] = [
        "0",
        "-1",
        "1e308",
        "18446744073709551616",
        "4294967297",
        "0.5",
        "nan",
        "9223372036854775807",
    ];
    let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset)
    else {
        bytes[at] ^= 0x20;
        return;
    };
    let len = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let other = NUMBERS[index(random, NUMBERS.len())];
    bytes.splice(from..from + len, other.bytes());
}
