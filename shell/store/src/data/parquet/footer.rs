//! What a file's footer says: its columns, and where the text's values lie.

use super::Fault;
use super::thrift::{Field, Kind, Reader, Taken};

/// Most columns of a file, nested ones counted.
const COLUMNS_MAX: usize = 1 << 16;
/// Longest name of a column.
const NAME_BYTES_MAX: usize = 1 << 10;
/// Parquet's number for values that are bytes with a length.
const BYTE_ARRAY: i64 = 6;
/// What a file without a row has to say about a column: it has none of it.
const NO_CHUNK: &str = "a row group without the column's data";

/// How pages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Snappy,
    Gzip,
    /// LZ4 in the frames of Hadoop, or bare: what was written under the old number.
    Lz4Hadoop,
    Zstd,
    Lz4Raw,
}

impl Codec {
    fn of(code: i64) -> Result<Self, Fault> {
        Ok(match code {
            0 => Self::None,
            1 => Self::Snappy,
            2 => Self::Gzip,
            5 => Self::Lz4Hadoop,
            6 => Self::Zstd,
            7 => Self::Lz4Raw,
            3 => return Err(Fault::Unsupported("LZO compression")),
            4 => return Err(Fault::Unsupported("Brotli compression")),
            _ => return Err(Fault::Unsupported("a compression that is not known")),
        })
    }
}

/// The values of one column in one group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) codec: Codec,
    /// Where its first page begins.
    pub(super) start: u64,
    /// Its values, nulls counted: as many as the group has rows.
    pub(super) rows: u64,
}

/// Where the text is.
#[derive(Debug)]
pub(super) struct Column {
    /// Whether a row may lack it.
    pub(super) optional: bool,
    pub(super) chunks: Vec<Chunk>,
}

/// Reads a footer, and finds the column `field` in it.
pub(super) fn column(footer: &[u8], field: &str) -> Result<Column, Fault> {
    let (mut found, mut rows, mut chunks) = (None, 0, Vec::new());
    Reader::new(footer).fields(|reader, entry| {
        match (entry.id, entry.kind) {
            (2, Kind::List) => found = Some(schema(reader, field)?),
            (3, Kind::Int) => rows = reader.size()?,
            (4, Kind::List) => {
                // The schema comes first; Parquet's writers keep the order of the numbers.
                let leaf = found.ok_or(Fault::Damaged("a footer without a schema"))?;
                reader.list(Kind::Struct, |reader| {
                    chunks.extend(row_group(reader, &leaf)?);
                    Ok(())
                })?;
            }
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    })?;
    let leaf = found.ok_or(Fault::Damaged("a footer without a schema"))?;
    let total = chunks.iter().try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.rows));
    if total != Some(rows) {
        return Err(Fault::Damaged("row groups that do not add up to the file's rows"));
    }
    Ok(Column { optional: leaf.optional, chunks })
}

/// The column that was asked for, by its number among those that have values.
#[derive(Clone, Copy)]
struct Leaf {
    index: usize,
    optional: bool,
}

/// One entry of the schema, which lists a tree from its root on.
#[derive(Default)]
struct Element {
    name: String,
    kind: Option<i64>,
    repetition: i64,
    children: u64,
    converted: Option<i64>,
    logical: Option<i16>,
}

fn schema(reader: &mut Reader<'_>, field: &str) -> Result<Leaf, Fault> {
    let (mut names, mut found, mut leaves, mut count) = (Vec::new(), None, 0, 0);
    // Children still to come, of the root's child that is being read and of those below it.
    let mut open: Vec<u64> = Vec::new();
    reader.list(Kind::Struct, |reader| {
        let element = element(reader)?;
        count += 1;
        if count > COLUMNS_MAX {
            return Err(Fault::TooMuch { what: "columns", max: COLUMNS_MAX as u64 });
        }
        let is_root = count == 1;
        let top = !is_root && open.len() == 1;
        if !is_root {
            let left = open.last_mut().filter(|left| **left > 0);
            *left.ok_or(Fault::Damaged("a schema with more columns than it counts"))? -= 1;
        }
        if top && element.name == field && found.is_none() {
            found = Some(leaf(&element, leaves)?);
        }
        leaves += usize::from(element.kind.is_some());
        if element.children > 0 || is_root {
            open.push(element.children);
        }
        if top {
            names.push(element.name);
        }
        while open.len() > 1 && open.last() == Some(&0) {
            open.pop();
        }
        Ok(())
    })?;
    found.ok_or(Fault::NoColumn { found: names })
}

fn element(reader: &mut Reader<'_>) -> Result<Element, Fault> {
    let mut element = Element::default();
    reader.fields(|reader, entry| {
        match (entry.id, entry.kind) {
            (1, Kind::Int) => element.kind = Some(reader.int()?),
            (3, Kind::Int) => element.repetition = reader.int()?,
            (4, Kind::Bytes) => element.name = name(reader.bytes()?)?.to_owned(),
            (5, Kind::Int) => element.children = reader.size()?,
            (6, Kind::Int) => element.converted = Some(reader.int()?),
            // A union: the number of its one field is what the column is.
            (10, Kind::Struct) => reader.fields(|_, Field { id, .. }| {
                element.logical = Some(id);
                Ok(Taken::No)
            })?,
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    })?;
    Ok(element)
}

fn name(bytes: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= NAME_BYTES_MAX);
    text.ok_or(Fault::Damaged("a column whose name is no text, or too long"))
}

fn leaf(element: &Element, index: usize) -> Result<Leaf, Fault> {
    if element.children > 0 {
        return Err(Fault::NotText("columns inside it (a group or a list)"));
    }
    if element.repetition == 2 {
        return Err(Fault::NotText("lists"));
    }
    let found = match element.kind {
        // Text, an enumeration, JSON, or bytes that nobody said anything of.
        Some(BYTE_ARRAY) => match (element.converted, element.logical) {
            (None | Some(0 | 4 | 19), None | Some(1 | 4 | 12)) => None,
            _ => Some("bytes that are no text"),
        },
        Some(0) => Some("truth values"),
        Some(1..=3) => Some("whole numbers or times"),
        Some(4 | 5) => Some("numbers"),
        Some(7) => Some("bytes of a fixed length"),
        _ => return Err(Fault::Damaged("a column of no known type")),
    };
    match found {
        Some(found) => Err(Fault::NotText(found)),
        None => Ok(Leaf { index, optional: element.repetition == 1 }),
    }
}

/// The column's chunk in a row group; none when the group has no rows.
fn row_group(reader: &mut Reader<'_>, leaf: &Leaf) -> Result<Option<Chunk>, Fault> {
    let (mut chunk, mut rows) = (None, 0);
    reader.fields(|reader, entry| {
        match (entry.id, entry.kind) {
            (1, Kind::List) => {
                let mut index = 0;
                reader.list(Kind::Struct, |reader| {
                    if index == leaf.index {
                        chunk = Some(column_chunk(reader)?);
                    } else {
                        reader.fields(|_, _| Ok(Taken::No))?;
                    }
                    index += 1;
                    Ok(())
                })?;
            }
            (3, Kind::Int) => rows = reader.size()?,
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    })?;
    if rows == 0 {
        return Ok(None);
    }
    let chunk = chunk.ok_or(Fault::Damaged(NO_CHUNK))?;
    if chunk.rows != rows {
        return Err(Fault::Damaged("a column with more or fewer values than rows"));
    }
    Ok(Some(chunk))
}

fn column_chunk(reader: &mut Reader<'_>) -> Result<Chunk, Fault> {
    let mut chunk = None;
    reader.fields(|reader, entry| {
        match (entry.id, entry.kind) {
            (1, Kind::Bytes) => return Err(Fault::Unsupported("columns in another file")),
            (8, _) => return Err(Fault::Unsupported("encrypted columns")),
            (3, Kind::Struct) => chunk = Some(column_metadata(reader)?),
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    })?;
    chunk.ok_or(Fault::Damaged(NO_CHUNK))
}

fn column_metadata(reader: &mut Reader<'_>) -> Result<Chunk, Fault> {
    let (mut kind, mut codec, mut rows, mut data, mut dictionary) = (None, None, 0, None, None);
    reader.fields(|reader, entry| {
        match (entry.id, entry.kind) {
            (1, Kind::Int) => kind = Some(reader.int()?),
            (4, Kind::Int) => codec = Some(Codec::of(reader.int()?)?),
            (5, Kind::Int) => rows = reader.size()?,
            (9, Kind::Int) => data = Some(reader.size()?),
            (11, Kind::Int) => dictionary = Some(reader.size()?),
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    })?;
    if kind != Some(BYTE_ARRAY) {
        return Err(Fault::Damaged("a column of two types"));
    }
    let (Some(codec), Some(data)) = (codec, data) else { return Err(Fault::Damaged(NO_CHUNK)) };
    // Some writers say 0 where there is no dictionary.
    let start = dictionary.filter(|&at| at > 0).map_or(data, |dictionary| dictionary.min(data));
    Ok(Chunk { codec, start, rows })
}
