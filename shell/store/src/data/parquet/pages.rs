//! Pages: their headers, their bytes, and what undoes their compression.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::Fault;
use super::footer::{Chunk, Codec};
use super::thrift::{Field, Kind, Reader, Taken};
use super::values::{Dictionary, Hybrid, Slice, Values, encoding};

/// Largest page, as it is and compressed: writers count a thousand rows between two looks at a
/// page's size, so pages of long texts grow well beyond the usual megabyte.
const PAGE_BYTES_MAX: u64 = 256 << 20;
/// A page may unpack to this much whatever its compressed size,
const UNPACKED_FREE: u64 = 8 << 20;
/// or to so many times that: deflate's own limit, beyond any text's.
const UNPACKED_TIMES_MAX: u64 = 1024;
/// A header is looked for in so many bytes first.
const HEADER_BYTES: u64 = 4 << 10;
/// Largest header: statistics in it may quote two whole values.
const HEADER_BYTES_MAX: u64 = 16 << 20;

const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
const DATA_PAGE_V2: i64 = 3;

/// A data page, unpacked.
pub(super) struct Page {
    bytes: Vec<u8>,
    /// Which of its rows are null; none of a column that must be there.
    levels: Option<Hybrid>,
    values: Values,
    /// Rows that were not read.
    left: u64,
}

impl Page {
    /// Whether no row is left.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Passes over rows that are null, and says how many. Then the page is over or the next row
    /// has a value.
    pub(super) fn skip_nulls(&mut self) -> Result<u64, Fault> {
        let Some(levels) = &mut self.levels else { return Ok(0) };
        let nulls = levels.skip_zeros(&self.bytes, self.left)?;
        self.left -= nulls;
        Ok(nulls)
    }

    /// The next row's value.
    pub(super) fn next<'a>(&'a mut self, dictionary: &'a Dictionary) -> Result<&'a [u8], Fault> {
        self.left -= 1;
        if let Some(levels) = &mut self.levels {
            levels.next(&self.bytes)?;
        }
        Ok(match self.values.next(&self.bytes, dictionary)? {
            Slice::Page(range) => &self.bytes[range],
            Slice::Dictionary(range) => dictionary.bytes(range),
            Slice::Joined => self.values.joined(),
        })
    }
}

/// Reads pages of one chunk after another.
pub(super) struct Pages {
    file: File,
    /// Where the footer begins: no page goes beyond.
    end: u64,
    at: u64,
    codec: Codec,
    /// Rows of the chunk whose pages were not read.
    left: u64,
    dictionary: Dictionary,
    zstd: Option<Box<ruzstd::decoding::FrameDecoder>>,
}

impl Pages {
    /// No chunk yet.
    pub(super) fn new(file: File, end: u64) -> Self {
        let dictionary = Dictionary::default();
        Self { file, end, at: 0, codec: Codec::None, left: 0, dictionary, zstd: None }
    }

    /// Goes to a chunk's first page.
    pub(super) fn open(&mut self, chunk: Chunk) -> Result<(), Fault> {
        (self.at, self.codec, self.left) = (chunk.start, chunk.codec, chunk.rows);
        self.dictionary = Dictionary::default();
        if chunk.start < super::MAGIC.len() as u64 || chunk.start > self.end {
            return Err(Fault::Damaged("a page outside the file"));
        }
        Ok(())
    }

    /// The dictionary of the chunk that is open.
    pub(super) fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// The chunk's next data page; none when all its rows were seen.
    pub(super) fn next(&mut self, optional: bool) -> Result<Option<Page>, Fault> {
        while self.left > 0 {
            let header = self.header()?;
            let packed = self.body(&header)?;
            match header.kind {
                DATA_PAGE | DATA_PAGE_V2 => {
                    let v2 = header.kind == DATA_PAGE_V2;
                    if header.values > self.left {
                        return Err(Fault::Damaged("pages with more values than their column"));
                    }
                    self.left -= header.values;
                    return self.data_page(&header, packed, optional, v2).map(Some);
                }
                DICTIONARY_PAGE => {
                    let bytes = self.unpack(packed, header.unpacked)?;
                    self.dictionary = Dictionary::new(bytes, header.values, header.encoding)?;
                }
                // Index pages, and whatever comes later.
                _ => {}
            }
        }
        Ok(None)
    }

    fn data_page(
        &mut self,
        header: &Header,
        mut packed: Vec<u8>,
        optional: bool,
        v2: bool,
    ) -> Result<Page, Fault> {
        let (bytes, levels, start) = if v2 {
            // The levels stand before the values and are not compressed with them.
            let short = Fault::Damaged("a page with more levels than bytes");
            let (repetition, definition) = (header.repetition_len, header.definition_len);
            let levels_len = repetition.checked_add(definition);
            let levels_len = levels_len
                .filter(|&len| len <= packed.len() as u64 && len <= header.unpacked)
                .ok_or(short)?;
            let split = size(levels_len)?;
            let values = packed.split_off(split);
            let mut bytes = packed;
            let unpacked = header.unpacked - levels_len;
            if header.is_compressed {
                bytes.append(&mut self.unpack(values, unpacked)?);
            } else {
                bytes.extend_from_slice(&values);
            }
            (bytes, size(repetition)?..split, split)
        } else {
            let bytes = self.unpack(packed, header.unpacked)?;
            let levels = if optional { levels_v1(&bytes, header)? } else { 0..0 };
            let start = levels.end;
            (bytes, levels, start)
        };
        let levels = optional.then(|| Hybrid::new(levels, 1));
        let values = Values::new(&bytes, start, header.encoding, header.values)?;
        Ok(Page { bytes, levels, values, left: header.values })
    }

    fn header(&mut self) -> Result<Header, Fault> {
        let left = self.end - self.at;
        let mut window = HEADER_BYTES.min(left);
        loop {
            let bytes = self.read(self.at, window)?;
            let mut reader = Reader::new(&bytes);
            match Header::read(&mut reader) {
                Ok(header) => {
                    self.at += reader.at() as u64;
                    return Ok(header);
                }
                Err(Fault::CutShort) if window < left.min(HEADER_BYTES_MAX) => {
                    window = (window * 8).min(left).min(HEADER_BYTES_MAX);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// The bytes after a header, as they are in the file.
    fn body(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let Header { packed, unpacked, .. } = *header;
        if packed > self.end - self.at {
            return Err(Fault::CutShort);
        }
        if packed.max(unpacked) > PAGE_BYTES_MAX {
            return Err(Fault::TooMuch { what: "bytes of a page", max: PAGE_BYTES_MAX });
        }
        if unpacked > UNPACKED_FREE && unpacked / UNPACKED_TIMES_MAX > packed {
            return Err(Fault::Damaged("a page that unpacks to a thousand times its size"));
        }
        let bytes = self.read(self.at, packed)?;
        self.at += packed;
        Ok(bytes)
    }

    fn read(&mut self, at: u64, len: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; size(len)?];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Undoes the compression; the result has the length that was announced.
    fn unpack(&mut self, packed: Vec<u8>, unpacked: u64) -> Result<Vec<u8>, Fault> {
        let broken = || Fault::Damaged("compressed data that do not unpack to the announced size");
        let len = size(unpacked)?;
        if self.codec == Codec::None {
            return if packed.len() == len { Ok(packed) } else { Err(broken()) };
        }
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut out = vec![0; len];
        let done = match self.codec {
            Codec::None => None,
            Codec::Snappy => {
                let announced = snap::raw::decompress_len(&packed).ok();
                let announced = announced.filter(|&announced| announced == len);
                announced.and_then(|_| snap::raw::Decoder::new().decompress(&packed, &mut out).ok())
            }
            Codec::Gzip => {
                let mut decoder = flate2::bufread::MultiGzDecoder::new(&packed[..]);
                let whole = decoder.read_exact(&mut out).is_ok();
                // What is read past the end checks the sum that stands there.
                (whole && decoder.read(&mut [0]).is_ok_and(|more| more == 0)).then_some(len)
            }
            Codec::Lz4Raw => lz4_flex::block::decompress_into(&packed, &mut out).ok(),
            Codec::Lz4Hadoop => lz4_hadoop(&packed, &mut out)
                .or_else(|| lz4_flex::block::decompress_into(&packed, &mut out).ok()),
            Codec::Zstd => {
                let decoder = self.zstd.get_or_insert_default();
                decoder.set_max_window_size(unpacked.max(UNPACKED_FREE));
                decoder.decode_all(&packed, &mut out).ok()
            }
        };
        if done == Some(len) { Ok(out) } else { Err(broken()) }
    }
}

/// Blocks of LZ4, each after its two lengths.
fn lz4_hadoop(mut packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut done = 0_usize;
    while let Some((head, rest)) = packed.split_first_chunk::<8>() {
        let [a, b, c, d, e, f, g, h] = *head;
        let unpacked = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        let len = usize::try_from(u32::from_be_bytes([e, f, g, h])).ok()?;
        let (block, rest) = rest.split_at_checked(len)?;
        let place = out.get_mut(done..done.checked_add(unpacked)?)?;
        let found = lz4_flex::block::decompress_into(block, place).ok()?;
        if found != unpacked {
            return None;
        }
        done += found;
        packed = rest;
    }
    packed.is_empty().then_some(done)
}

/// Where the levels of a page of the first version lie: after their length.
fn levels_v1(bytes: &[u8], header: &Header) -> Result<Range<usize>, Fault> {
    if header.level_encoding != Some(encoding::RLE) {
        return Err(Fault::Unsupported("levels of a long outdated encoding"));
    }
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(Fault::CutShort)?;
    let len = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| Fault::CutShort)?;
    if len > rest.len() {
        return Err(Fault::CutShort);
    }
    Ok(4..4 + len)
}

/// What is said of a page before it.
#[derive(Default)]
struct Header {
    kind: i64,
    unpacked: u64,
    packed: u64,
    values: u64,
    encoding: i64,
    level_encoding: Option<i64>,
    repetition_len: u64,
    definition_len: u64,
    is_compressed: bool,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let mut header = Self { kind: -1, is_compressed: true, ..Self::default() };
        let mut described = None;
        reader.fields(|reader, entry| {
            match (entry.id, entry.kind) {
                (1, Kind::Int) => header.kind = reader.int()?,
                (2, Kind::Int) => header.unpacked = reader.size()?,
                (3, Kind::Int) => header.packed = reader.size()?,
                (5 | 7 | 8, Kind::Struct) => {
                    described = Some(entry.id);
                    reader.fields(|reader, field| header.detail(entry.id, reader, field))?;
                }
                _ => return Ok(Taken::No),
            }
            Ok(Taken::Yes)
        })?;
        let expected = match header.kind {
            DATA_PAGE => Some(5),
            DICTIONARY_PAGE => Some(7),
            DATA_PAGE_V2 => Some(8),
            _ => described,
        };
        if expected != described {
            return Err(Fault::Damaged("a page whose header describes another"));
        }
        Ok(header)
    }

    /// A field of the struct number `id` in a header: the three kinds of page have one each.
    fn detail(&mut self, id: i16, reader: &mut Reader<'_>, field: Field) -> Result<Taken, Fault> {
        match (id, field.id, field.kind) {
            (_, 1, Kind::Int) => self.values = reader.size()?,
            (5 | 7, 2, Kind::Int) | (8, 4, Kind::Int) => self.encoding = reader.int()?,
            (5, 3, Kind::Int) => self.level_encoding = Some(reader.int()?),
            (8, 5, Kind::Int) => self.definition_len = reader.size()?,
            (8, 6, Kind::Int) => self.repetition_len = reader.size()?,
            (8, 7, Kind::Bool(value)) => self.is_compressed = value,
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    }
}

fn size(bytes: u64) -> Result<usize, Fault> {
    usize::try_from(bytes).map_err(|_| Fault::CutShort)
}
