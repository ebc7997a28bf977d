//! The encodings of values inside a page: plain, by dictionary, and two with differences.
//!
//! The decoders hold places in the page's bytes, which they are handed at each call, and unpack
//! one value at a time: what they allocate does not depend on the numbers they read.

use std::ops::Range;

use super::Fault;
use super::thrift::Reader;

/// Parquet's numbers for encodings.
pub(super) mod encoding {
    pub(in super::super) const PLAIN: i64 = 0;
    pub(in super::super) const PLAIN_DICTIONARY: i64 = 2;
    pub(in super::super) const RLE: i64 = 3;
    pub(in super::super) const DELTA_LENGTH: i64 = 6;
    pub(in super::super) const DELTA_BYTES: i64 = 7;
    pub(in super::super) const RLE_DICTIONARY: i64 = 8;
}

/// Most values of a block of differences; the usual is 128.
const BLOCK_VALUES_MAX: u64 = 1 << 16;

const FEW_VALUES: Fault = Fault::Damaged("a page with fewer values than it announces");

/// The values that a chunk's pages refer to.
#[derive(Default)]
pub(super) struct Dictionary {
    bytes: Vec<u8>,
    /// Where each value lies. A page has at most 256 MiB.
    values: Vec<Range<u32>>,
}

impl Dictionary {
    /// Takes a dictionary page of so many values.
    pub(super) fn new(bytes: Vec<u8>, count: u64, encoded: i64) -> Result<Self, Fault> {
        if !matches!(encoded, encoding::PLAIN | encoding::PLAIN_DICTIONARY) {
            return Err(Fault::Unsupported("a dictionary in an encoding that is not known"));
        }
        // Each value takes its length at least.
        if count > bytes.len() as u64 / 4 {
            return Err(FEW_VALUES);
        }
        let (mut values, mut at) = (Vec::new(), 0);
        for _ in 0..count {
            let Range { start, end } = plain(&bytes, &mut at)?;
            let place = |at| u32::try_from(at).map_err(|_| FEW_VALUES);
            values.push(place(start)?..place(end)?);
        }
        Ok(Self { bytes, values })
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    fn value(&self, index: u32) -> Result<Range<usize>, Fault> {
        let missing = Fault::Damaged("a value that is not in the dictionary");
        let range = self.values.get(index as usize).ok_or(missing)?;
        Ok(range.start as usize..range.end as usize)
    }
}

/// Where a value is.
pub(super) enum Slice {
    /// In the page.
    Page(Range<usize>),
    /// In the dictionary.
    Dictionary(Range<usize>),
    /// Put together by [`Values::joined`].
    Joined,
}

/// The values of a page that are not null, in order.
pub(super) enum Values {
    Plain { at: usize },
    Dictionary { indices: Hybrid },
    DeltaLength { lengths: Delta, at: usize },
    DeltaBytes { prefixes: Delta, lengths: Delta, at: usize, last: Vec<u8> },
}

impl Values {
    /// The values that begin at `start` of a page, at most `max` of them.
    pub(super) fn new(page: &[u8], start: usize, encoded: i64, max: u64) -> Result<Self, Fault> {
        Ok(match encoded {
            encoding::PLAIN => Self::Plain { at: start },
            encoding::PLAIN_DICTIONARY | encoding::RLE_DICTIONARY => {
                // A page of nulls only may leave the width out.
                let width = page.get(start).copied().unwrap_or(0);
                if width > 32 {
                    return Err(Fault::Damaged("a dictionary's index of more than 32 bits"));
                }
                let range = page.len().min(start + 1)..page.len();
                Self::Dictionary { indices: Hybrid::new(range, u32::from(width)) }
            }
            encoding::DELTA_LENGTH => {
                let (lengths, at) = Delta::new(page, start, max)?;
                Self::DeltaLength { lengths, at }
            }
            encoding::DELTA_BYTES => {
                let (prefixes, at) = Delta::new(page, start, max)?;
                let (lengths, at) = Delta::new(page, at, max)?;
                Self::DeltaBytes { prefixes, lengths, at, last: Vec::new() }
            }
            _ => return Err(Fault::Unsupported("an encoding of text that is not known")),
        })
    }

    pub(super) fn next(&mut self, page: &[u8], dictionary: &Dictionary) -> Result<Slice, Fault> {
        Ok(match self {
            Self::Plain { at } => Slice::Page(plain(page, at)?),
            Self::Dictionary { indices } => {
                Slice::Dictionary(dictionary.value(indices.next(page)?)?)
            }
            Self::DeltaLength { lengths, at } => {
                Slice::Page(stretch(page, at, lengths.next(page)?)?)
            }
            Self::DeltaBytes { prefixes, lengths, at, last } => {
                let prefix = usize::try_from(prefixes.next(page)?).ok();
                let prefix = prefix.filter(|&prefix| prefix <= last.len());
                last.truncate(prefix.ok_or(Fault::Damaged("a prefix longer than its value"))?);
                let suffix = stretch(page, at, lengths.next(page)?)?;
                last.extend_from_slice(&page[suffix]);
                Slice::Joined
            }
        })
    }

    /// The value that [`next`](Self::next) just put together.
    pub(super) fn joined(&self) -> &[u8] {
        if let Self::DeltaBytes { last, .. } = self { last } else { &[] }
    }
}

/// A value after its length of four bytes.
fn plain(bytes: &[u8], at: &mut usize) -> Result<Range<usize>, Fault> {
    let head = bytes.get(*at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(FEW_VALUES)?;
    *at += 4;
    stretch(bytes, at, i64::from(u32::from_le_bytes(*head)))
}

/// The next so many bytes.
fn stretch(bytes: &[u8], at: &mut usize, len: i64) -> Result<Range<usize>, Fault> {
    let end = usize::try_from(len).ok().and_then(|len| at.checked_add(len));
    let end = end.filter(|&end| end <= bytes.len());
    let range = *at..end.ok_or(Fault::Damaged("a value longer than its page"))?;
    *at = range.end;
    Ok(range)
}

/// Small numbers of a fixed width, in runs of one number and in packed groups of eight.
pub(super) struct Hybrid {
    range: Range<usize>,
    width: u32,
    run: Run,
}

enum Run {
    Repeated {
        value: u32,
        left: u64,
    },
    /// Bits from a place on; the last group may be cut off after the last number in use.
    Packed {
        start: usize,
        index: u64,
        count: u64,
    },
}

impl Hybrid {
    pub(super) fn new(range: Range<usize>, width: u32) -> Self {
        Self { range, width, run: Run::Repeated { value: 0, left: 0 } }
    }

    pub(super) fn next(&mut self, page: &[u8]) -> Result<u32, Fault> {
        let value = self.peek(page)?;
        self.pass(1);
        Ok(value)
    }

    /// Passes over zeros, at most `max`, and says how many.
    pub(super) fn skip_zeros(&mut self, page: &[u8], max: u64) -> Result<u64, Fault> {
        let mut zeros = 0;
        while zeros < max && self.peek(page)? == 0 {
            let count = match self.run {
                Run::Repeated { left, .. } => left.min(max - zeros),
                Run::Packed { .. } => 1,
            };
            self.pass(count);
            zeros += count;
        }
        Ok(zeros)
    }

    fn peek(&mut self, page: &[u8]) -> Result<u32, Fault> {
        loop {
            match self.run {
                Run::Repeated { value, left: 1.. } => return Ok(value),
                Run::Packed { start, index, count } if index < count => {
                    return bits(&page[start..self.range.end], index, self.width);
                }
                _ => self.next_run(page)?,
            }
        }
    }

    fn pass(&mut self, numbers: u64) {
        match &mut self.run {
            Run::Repeated { left, .. } => *left -= numbers,
            Run::Packed { index, .. } => *index += numbers,
        }
    }

    fn next_run(&mut self, page: &[u8]) -> Result<(), Fault> {
        if self.range.is_empty() {
            return Err(FEW_VALUES);
        }
        let mut reader = Reader::new(&page[self.range.clone()]);
        let head = reader.varint()?;
        let from = self.range.start;
        if head & 1 == 1 {
            let start = from + reader.at();
            let count = (head >> 1).checked_mul(8).ok_or(FEW_VALUES)?;
            let bytes = (head >> 1).saturating_mul(u64::from(self.width));
            let end = (start as u64).saturating_add(bytes).min(self.range.end as u64);
            self.run = Run::Packed { start, index: 0, count };
            self.range.start = usize::try_from(end).expect("inside the page");
        } else {
            let mut value = [0; 4];
            let len = self.width.div_ceil(8) as usize;
            value[..len].copy_from_slice(reader.take(len)?);
            self.run = Run::Repeated { value: u32::from_le_bytes(value), left: head >> 1 };
            self.range.start = from + reader.at();
        }
        Ok(())
    }
}

/// Number `index` of those packed from the lowest bit on.
fn bits(bytes: &[u8], index: u64, width: u32) -> Result<u32, Fault> {
    Ok(wide_bits(bytes, index, width)? as u32)
}

/// The same, of up to 64 bits.
fn wide_bits(bytes: &[u8], index: u64, width: u32) -> Result<u64, Fault> {
    let first = index.checked_mul(u64::from(width)).ok_or(FEW_VALUES)?;
    let end = first.saturating_add(u64::from(width)).div_ceil(8);
    let range = usize::try_from(first / 8).ok().zip(usize::try_from(end).ok());
    let found = range.and_then(|(start, end)| bytes.get(start..end)).ok_or(FEW_VALUES)?;
    let mut word = [0; 16];
    word[..found.len()].copy_from_slice(found);
    let shifted = u128::from_le_bytes(word) >> (first % 8);
    Ok((shifted & ((1_u128 << width) - 1)) as u64)
}

/// Whole numbers as differences, in blocks of smaller blocks that each have a width.
pub(super) struct Delta {
    /// Numbers that were not read.
    left: u64,
    /// The next number's predecessor, and whether that is still to be given out itself.
    value: i64,
    is_first: bool,
    /// Where the next block begins.
    at: usize,
    block_values: u64,
    parts: usize,
    /// The block that is being read: its least difference, its widths, its numbers.
    least: i64,
    widths: usize,
    data: usize,
    index: u64,
}

impl Delta {
    /// The numbers that begin at `start`, and where they end.
    fn new(page: &[u8], start: usize, max: u64) -> Result<(Self, usize), Fault> {
        let mut reader = Reader::new(page.get(start..).ok_or(Fault::CutShort)?);
        let (block_values, parts) = (reader.varint()?, reader.varint()?);
        let (total, first) = (reader.varint()?, reader.int()?);
        let sound = (1..=BLOCK_VALUES_MAX).contains(&block_values)
            && (1..=block_values).contains(&parts)
            && block_values.is_multiple_of(parts)
            && (block_values / parts).is_multiple_of(8);
        if !sound || total > max {
            return Err(Fault::Damaged("lengths in blocks of an impossible size"));
        }
        let delta = Self {
            left: total,
            value: first,
            is_first: true,
            at: start + reader.at(),
            block_values,
            parts: usize::try_from(parts).map_err(|_| Fault::CutShort)?,
            least: 0,
            widths: 0,
            data: 0,
            // As if a block had just ended.
            index: block_values,
        };
        let end = delta.end(page)?;
        Ok((delta, end))
    }

    /// Where the last block ends, found by its widths.
    fn end(&self, page: &[u8]) -> Result<usize, Fault> {
        let (mut at, mut left) = (self.at, self.left.saturating_sub(1));
        while left > 0 {
            let mut reader = Reader::new(&page[at..]);
            reader.int()?;
            let widths = reader.take(self.parts)?;
            // A last block stops after the last part in use.
            let used = usize::try_from(left.div_ceil(self.part_values())).unwrap_or(usize::MAX);
            let bytes = self.part_bytes(widths.get(..used).unwrap_or(widths))?;
            at += reader.at();
            at = at.checked_add(bytes).filter(|&at| at <= page.len()).ok_or(FEW_VALUES)?;
            left = left.saturating_sub(self.block_values);
        }
        Ok(at)
    }

    fn part_values(&self) -> u64 {
        self.block_values / self.parts as u64
    }

    /// Bytes of parts of these widths.
    fn part_bytes(&self, widths: &[u8]) -> Result<usize, Fault> {
        if widths.iter().any(|&width| width > 64) {
            return Err(Fault::Damaged("a number of more than 64 bits"));
        }
        let bits: u64 = widths.iter().map(|&width| u64::from(width) * self.part_values()).sum();
        usize::try_from(bits / 8).map_err(|_| FEW_VALUES)
    }

    fn next(&mut self, page: &[u8]) -> Result<i64, Fault> {
        self.left = self.left.checked_sub(1).ok_or(FEW_VALUES)?;
        if std::mem::take(&mut self.is_first) {
            return Ok(self.value);
        }
        if self.index == self.block_values {
            let mut reader = Reader::new(page.get(self.at..).ok_or(FEW_VALUES)?);
            self.least = reader.int()?;
            self.widths = self.at + reader.at();
            self.data = self.widths + self.parts;
            self.index = 0;
        }
        let widths = page.get(self.widths..self.widths + self.parts).ok_or(FEW_VALUES)?;
        let part = usize::try_from(self.index / self.part_values()).map_err(|_| FEW_VALUES)?;
        let width = widths[part];
        let within = self.index % self.part_values();
        let data = page.get(self.data..).ok_or(FEW_VALUES)?;
        let difference = wide_bits(data, within, u32::from(width.min(64)))?;
        self.value = self.value.wrapping_add(self.least).wrapping_add(difference as i64);
        self.index += 1;
        if self.index.is_multiple_of(self.part_values()) {
            self.data += self.part_bytes(&[width])?;
        }
        if self.index == self.block_values {
            self.at = self.data;
        }
        Ok(self.value)
    }
}
