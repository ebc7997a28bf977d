//! Top-k at 2 bits: of each block of 4096 elements the 64 largest travel, as a sign and one of two
//! magnitudes (`docs/spec/params.md`).
//!
//! A block of n elements keeps k = ceil(n / 64) of them, so every length has a known size. Positions
//! are in Elias-Fano form (Elias 1974): the high parts, position / 64, as k buckets in unary (for
//! each bucket a 1 an element, then a 0: 2 k bits), the low parts in 6 bits each: together 8 bits a
//! position, where plain ones take 12 and the bound is 7.36. Then 2 bits an element. Bits are packed
//! from the lowest up; each of the three parts ends at a byte, and its last bits are 0.
//!
//! The two magnitudes are those of a quantiser with two levels (Lloyd 1982): the mean of what lies
//! above a threshold and of what does not. It starts at the mean of all and twice moves to the
//! middle of the two. An element of a level that is 0 has no sign.
//!
//! Of equal magnitudes the earlier one goes. Sums run in the order of positions.
//!
//! Source: research B2 (SparseLoCo: top-64 of 4096, 2 bits, error feedback).

use crate::absmax::{block_scale, largest_magnitude};
use crate::codec::{BLOCK, CodecError};
use crate::float::{F16_MAX, f16_code, f16_value};
use crate::tile::{GROUPS, TILE};
use core::cmp::{Ordering, Reverse};

/// The largest magnitude that top-k can say: the largest f16.
pub const TOPK_LARGEST: f32 = 65_504.0;

/// How often the threshold moves.
const MOVES: usize = 2;
const LEVELS_BYTES: usize = 4;
const LOW_BITS: usize = 6;
const SIGN: u32 = 1 << 31;

/// Elements that a block of so many keeps.
const fn kept(elements: usize) -> usize {
    elements.div_ceil(BLOCK)
}

const fn block_len(elements: usize) -> usize {
    let pairs = (2 * kept(elements)).div_ceil(8);
    LEVELS_BYTES + 2 * pairs + (LOW_BITS * kept(elements)).div_ceil(8)
}

pub(crate) const fn encoded_len(elements: usize) -> usize {
    let rest = elements % TILE;
    elements / TILE * block_len(TILE) + if rest == 0 { 0 } else { block_len(rest) }
}

/// Up to 64 of something, in the order of positions.
type Kept<T> = [T; GROUPS];

/// Appends the encoding of finite `values` by sorting them: the judge of [`encode_tile`].
pub(crate) fn encode(values: &[f32], out: &mut Vec<u8>) {
    for block in values.chunks(TILE) {
        let magnitude = |at: u16| block[usize::from(at)].to_bits() & !SIGN;
        let mut order = [0_u16; TILE];
        let order = &mut order[..block.len()];
        for (at, place) in order.iter_mut().enumerate() {
            *place = at as u16;
        }
        order.sort_unstable_by_key(|at| (Reverse(magnitude(*at)), *at));
        let positions = &mut order[..kept(block.len())];
        positions.sort_unstable();
        let mut chosen: Kept<f32> = [0.0; GROUPS];
        for (chosen, at) in chosen.iter_mut().zip(&*positions) {
            *chosen = block[usize::from(*at)];
        }
        let start = out.len();
        out.resize(start + block_len(block.len()), 0);
        write_block(positions, &chosen[..positions.len()], &mut out[start..]);
    }
}

/// Encodes a tile and leaves in it what the bytes lose; `largest` are the magnitudes of its groups
/// of 64.
#[inline(always)]
pub(crate) fn encode_tile(rest: &mut [f32; TILE], largest: &[f32; GROUPS], out: &mut [u8]) {
    let marks = select(rest, largest);
    let (mut positions, mut chosen): (Kept<u16>, Kept<f32>) = ([0; GROUPS], [0.0; GROUPS]);
    let mut places = positions.iter_mut().zip(&mut chosen);
    for (group, marks) in marks.into_iter().enumerate() {
        let mut marks = marks;
        while marks != 0
            && let Some((position, value)) = places.next()
        {
            let at = group * BLOCK + marks.trailing_zeros() as usize;
            marks &= marks - 1;
            (*position, *value) = (at as u16, rest[at % TILE]);
        }
    }
    let sent = write_block(&positions, &chosen, out);
    for (at, sent) in positions.iter().zip(sent) {
        rest[usize::from(*at) % TILE] -= sent;
    }
}

/// Columns of a tile seen as rows of so many elements.
const COLUMNS: usize = 512;

/// Marks the 64 largest magnitudes: bit j of word i is element 64 i + j.
///
/// Of the largest of each column the 64th is a floor: 64 elements are no smaller. So only columns
/// that reach it are looked into (of normal numbers 64 of 512), and what there lies above it, some
/// seventy, is where the 64th largest of all is found, bit by bit.
#[inline(always)]
fn select(values: &[f32; TILE], largest: &[f32; GROUPS]) -> [u64; GROUPS] {
    let ceiling = largest.iter().map(|largest| largest.to_bits() as i32).fold(0, i32::max);
    let mut tops = [0_i32; COLUMNS];
    for row in values.as_chunks::<COLUMNS>().0 {
        for (top, value) in tops.iter_mut().zip(row) {
            *top = (*top).max(key(*value));
        }
    }
    let floor = sixty_fourth(&tops, 0, ceiling);
    let (mut columns, mut count) = ([0_u16; COLUMNS], 0);
    for (column, top) in tops.iter().enumerate() {
        columns[count % COLUMNS] = column as u16;
        count += usize::from(*top >= floor);
    }
    let (mut keys, mut places, mut found) = ([0_i32; TILE], [0_u16; TILE], 0);
    for column in &columns[..count] {
        for row in 0..TILE / COLUMNS {
            let at = row * COLUMNS + usize::from(*column) % COLUMNS;
            let key = key(values[at]);
            keys[found % TILE] = key;
            places[found % TILE] = at as u16;
            found += usize::from(key >= floor);
        }
    }
    let (keys, places) = (&keys[..found], &places[..found]);
    mark(keys, places, sixty_fourth(keys, floor, ceiling))
}

#[inline(always)]
fn key(value: f32) -> i32 {
    (value.to_bits() & !SIGN) as i32
}

/// The 64th largest of keys between `low` and `high`, of which at least 64 are >= `low`; or, found in
/// a third of the time, something between the 65th and it, which 64 keys reach as well.
#[inline(always)]
fn sixty_fourth(keys: &[i32], mut low: i32, high: i32) -> i32 {
    let mut beyond = high + 1;
    while beyond - low > 1 {
        let middle = low + (beyond - low) / 2;
        let above = keys.iter().map(|key| i32::from(*key >= middle)).sum::<i32>();
        match above.cmp(&(GROUPS as i32)) {
            Ordering::Less => beyond = middle,
            Ordering::Equal => return middle,
            Ordering::Greater => low = middle,
        }
    }
    low
}

/// Marks what is above `last`, and of what equals it the first that there is room for.
#[inline(always)]
fn mark(keys: &[i32], places: &[u16], last: i32) -> [u64; GROUPS] {
    let (mut marks, mut ties, mut room) = ([0_u64; GROUPS], [0_u64; GROUPS], GROUPS as u32);
    for (key, place) in keys.iter().zip(places) {
        let (group, bit) = (usize::from(*place) / BLOCK % GROUPS, place % BLOCK as u16);
        marks[group] |= u64::from(*key > last) << bit;
        ties[group] |= u64::from(*key == last) << bit;
        room -= u32::from(*key > last);
    }
    for (marks, mut ties) in marks.iter_mut().zip(ties) {
        while room > 0 && ties != 0 {
            *marks |= ties & ties.wrapping_neg();
            ties &= ties - 1;
            room -= 1;
        }
    }
    marks
}

/// Writes a block and gives what its elements decode to.
#[inline(always)]
fn write_block(positions: &[u16], chosen: &[f32], out: &mut [u8]) -> Kept<f32> {
    let levels = Levels::of(chosen);
    let (head, high, low, codes) = parts_mut(positions.len(), out);
    head[..2].copy_from_slice(&(levels.codes[0] as u16).to_le_bytes());
    head[2..].copy_from_slice(&(levels.codes[1] as u16).to_le_bytes());
    let mut ones = 0_u128;
    let mut low_bits = Bits { bytes: low.iter_mut(), held: 0, count: 0 };
    for (index, at) in positions.iter().enumerate() {
        ones |= 1 << (usize::from(at >> LOW_BITS) + index);
        low_bits.put(u32::from(at % (1 << LOW_BITS)), LOW_BITS);
    }
    low_bits.end();
    let bytes = high.len();
    high.copy_from_slice(&ones.to_le_bytes()[..bytes]);
    let mut sent: Kept<f32> = [0.0; GROUPS];
    let mut code_bits = Bits { bytes: codes.iter_mut(), held: 0, count: 0 };
    for (value, sent) in chosen.iter().zip(&mut sent) {
        let large = magnitude(*value) > levels.threshold;
        let level = f16_value(levels.codes[usize::from(large)]);
        let negative = value.is_sign_negative() && level != 0.0;
        *sent = if negative { -level } else { level };
        code_bits.put(u32::from(large) | u32::from(negative) << 1, 2);
    }
    code_bits.end();
    sent
}

/// The two magnitudes of a block.
struct Levels {
    /// Their f16 codes, the lower first.
    codes: [u32; 2],
    /// What is above it has the higher one.
    threshold: f32,
}

impl Levels {
    #[inline(always)]
    fn of(chosen: &[f32]) -> Self {
        let [all, _] = means(chosen, f32::INFINITY);
        let (mut threshold, mut both) = (all, [all; 2]);
        for round in 0..=MOVES {
            if round > 0 {
                threshold = (both[0] + both[1]) / 2.0;
            }
            both = means(chosen, threshold);
            // No number: a mean of none.
            if both[0].is_nan() || both[1].is_nan() {
                return Self::one(all);
            }
        }
        let codes = both.map(|mean| f16_code(mean).min(F16_MAX));
        if codes[0] >= codes[1] { Self::one(all) } else { Self { codes, threshold } }
    }

    /// All elements in one level.
    fn one(mean: f32) -> Self {
        Self { codes: [f16_code(mean).min(F16_MAX); 2], threshold: f32::INFINITY }
    }
}

/// Of an element, as far as f16 goes.
#[inline(always)]
fn magnitude(value: f32) -> f32 {
    f32::from_bits(value.to_bits() & !SIGN).min(TOPK_LARGEST)
}

/// The mean of the magnitudes that are not above the threshold, and of those that are. Those of the
/// other side count as +0, which changes no sum: so there is nothing to branch on.
#[inline(always)]
fn means(chosen: &[f32], threshold: f32) -> [f32; 2] {
    let (mut sums, mut large) = ([0.0_f32; 2], 0_u8);
    for magnitude in chosen.iter().map(|value| magnitude(*value)) {
        let above = magnitude > threshold;
        sums[0] += if above { 0.0 } else { magnitude };
        sums[1] += if above { magnitude } else { 0.0 };
        large += u8::from(above);
    }
    [sums[0] / (chosen.len() as f32 - f32::from(large)), sums[1] / f32::from(large)]
}

/// Bits on their way into bytes, lowest first.
struct Bits<'a> {
    bytes: core::slice::IterMut<'a, u8>,
    held: u32,
    count: usize,
}

impl Bits<'_> {
    #[inline(always)]
    fn put(&mut self, bits: u32, count: usize) {
        self.held |= bits << self.count;
        self.count += count;
        if self.count >= 8 {
            self.next();
        }
    }

    #[inline(always)]
    fn next(&mut self) {
        if let Some(byte) = self.bytes.next() {
            *byte = self.held as u8;
        }
        self.held >>= 8;
        self.count = self.count.saturating_sub(8);
    }

    fn end(mut self) {
        if self.count > 0 {
            self.next();
        }
    }
}

/// The levels, high parts, low parts and codes of a block that keeps `k`.
#[inline(always)]
fn parts_mut(k: usize, block: &mut [u8]) -> (&mut [u8], &mut [u8], &mut [u8], &mut [u8]) {
    let (levels, rest) = block.split_at_mut(LEVELS_BYTES);
    let (high, rest) = rest.split_at_mut((2 * k).div_ceil(8));
    let (low, codes) = rest.split_at_mut((LOW_BITS * k).div_ceil(8));
    (levels, high, low, codes)
}

/// A block as it came.
struct Block<'a> {
    levels: [u32; 2],
    /// 1 for each element of a bucket, 0 at its end.
    high: u128,
    low: &'a [u8],
    codes: u128,
    elements: usize,
}

impl<'a> Block<'a> {
    #[inline(always)]
    fn of(bytes: &'a [u8], elements: usize) -> Self {
        let k = kept(elements);
        let (levels, rest) = bytes.split_at(LEVELS_BYTES);
        let (high, rest) = rest.split_at((2 * k).div_ceil(8));
        let (low, codes) = rest.split_at((LOW_BITS * k).div_ceil(8));
        let levels = [block_scale(levels), block_scale(&levels[2..])];
        Self { levels, high: wide(high), low, codes: wide(codes), elements }
    }

    /// Calls `put` with each position and the bits of its element. Every bucket that is not there
    /// would be at the end: a position is below `kept(elements)` buckets when the ones are k and
    /// the bits above 2 k are 0.
    #[inline(always)]
    fn each(&self, mut put: impl FnMut(usize, u32)) {
        let (mut ones, mut codes) = (self.high, self.codes);
        for index in 0..kept(self.elements) {
            let place = ones.trailing_zeros() as usize;
            ones &= ones.wrapping_sub(1);
            let bit = LOW_BITS * index;
            let byte = |at: usize| u32::from(self.low.get(at).copied().unwrap_or(0));
            let low = (byte(bit / 8) | byte(bit / 8 + 1) << 8) >> (bit % 8);
            let low = low as usize % (1 << LOW_BITS);
            put((place.wrapping_sub(index) << LOW_BITS) + low, codes as u32 & 3);
            codes >>= 2;
        }
    }

    fn check(&self, block: usize) -> Result<(), CodecError> {
        for level in self.levels {
            if level > F16_MAX {
                return Err(CodecError::Scale { block, bits: level as u16 });
            }
        }
        let k = kept(self.elements);
        let beyond = |bits: u128| 2 * k < 128 && bits >> (2 * k) != 0;
        let low_end = LOW_BITS * k % 8;
        let low_beyond = self.low.last().is_some_and(|last| low_end > 0 && last >> low_end != 0);
        if beyond(self.high) || beyond(self.codes) || low_beyond {
            return Err(CodecError::NotCanonical { block });
        }
        if self.high.count_ones() as usize != k {
            return Err(CodecError::Positions { block });
        }
        self.check_elements(block)
    }

    #[inline(always)]
    fn check_elements(&self, block: usize) -> Result<(), CodecError> {
        let (mut next, mut rise) = (0, true);
        let (mut large, mut sign_of_zero) = (0, false);
        self.each(|at, code| {
            rise &= at >= next;
            next = at + 1;
            large += code & 1;
            sign_of_zero |= code == 2 && self.levels[0] == 0;
        });
        if !rise || next > self.elements {
            return Err(CodecError::Positions { block });
        }
        let levels = match self.levels[0].cmp(&self.levels[1]) {
            Ordering::Less => large > 0 && (large as usize) < kept(self.elements),
            Ordering::Equal => large == 0,
            Ordering::Greater => false,
        };
        if levels && !sign_of_zero { Ok(()) } else { Err(CodecError::NotCanonical { block }) }
    }
}

/// At most 16 bytes as one number.
#[inline(always)]
fn wide(bytes: &[u8]) -> u128 {
    match bytes.as_array::<16>() {
        Some(all) => u128::from_le_bytes(*all),
        None => bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u128::from(*byte)),
    }
}

/// Decodes bytes that [`validate`] has passed.
#[inline(always)]
pub(crate) fn decode(bytes: &[u8], values: &mut [f32]) {
    for (values, bytes) in values.chunks_mut(TILE).zip(bytes.chunks(block_len(TILE))) {
        values.fill(0.0);
        let block = Block::of(bytes, values.len());
        let levels = block.levels.map(f16_value);
        block.each(|at, code| {
            let level = levels[code as usize & 1].to_bits();
            values[at] = f32::from_bits(level | (code & 2) << 30);
        });
    }
}

/// Checks bytes whose length is already known to fit.
#[inline(always)]
pub(crate) fn validate(bytes: &[u8], elements: usize) -> Result<(), CodecError> {
    for (block, bytes) in bytes.chunks(block_len(TILE)).enumerate() {
        let elements = (elements - block * TILE).min(TILE);
        Block::of(bytes, elements).check(block)?;
    }
    Ok(())
}

/// The magnitudes of the groups of 64 of a tile.
#[inline(always)]
pub(crate) fn group_magnitudes(values: &[f32; TILE]) -> [f32; GROUPS] {
    let mut largest = [0.0; GROUPS];
    for (largest, group) in largest.iter_mut().zip(values.as_chunks::<BLOCK>().0) {
        *largest = largest_magnitude(group);
    }
    largest
}
