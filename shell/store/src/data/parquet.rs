//! The text column of a Parquet file, row by row, a page at a time.
//!
//! Written here instead of taken from a library because a file is a stranger's: every length in it
//! is checked against what is there, and against a named maximum, before anything is allocated. It
//! reads one column of bytes and nothing else: not lists, not groups, no encryption, no index. The
//! layout is that of the Apache Parquet format (`parquet.thrift`, `Encodings.md`).
//!
//! Invariants: at most a page, its compressed form and a dictionary are in memory; any bytes give
//! text or a [`ParquetFault`], never a panic; a row that is null is an empty text.

mod footer;
mod pages;
mod thrift;
mod values;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use footer::Column;
use pages::{Page, Pages};

/// What a file begins and ends with.
const MAGIC: &[u8; 4] = b"PAR1";
/// What an encrypted one ends with.
const MAGIC_ENCRYPTED: &[u8; 4] = b"PARE";
/// The footer's length and the magic after it.
const TAIL_BYTES: u64 = 8;
/// Largest footer. A table of a thousand columns in a thousand groups of rows takes some 100 MB;
/// what holds text has a few columns.
const FOOTER_BYTES_MAX: u64 = 64 << 20;
/// Columns that an error lists.
const COLUMNS_LISTED: usize = 16;

/// Why a Parquet file gives no text. Whoever made the file, or named the column.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetFault {
    /// The system refused to read on.
    #[error("cannot read on: {0}")]
    Io(#[from] io::Error),
    /// The magic numbers are missing.
    #[error("expected a Parquet file, found another: give it the ending of what it is")]
    NotParquet,
    /// It ends before what it announces.
    #[error("the file is cut short or damaged: copy or download it again")]
    CutShort,
    /// It contradicts itself.
    #[error("the file is damaged: found {0}; copy or download it again")]
    Damaged(&'static str),
    /// Parquet, but more of it than is read here.
    #[error(
        "found {0}, which is not read here: write the file again with Snappy, gzip, LZ4, Zstandard \
             or no compression, unencrypted"
    )]
    Unsupported(&'static str),
    /// A part of it is larger than we take.
    #[error("expected at most {max} {what}, found more: write it again in smaller parts")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// No column of that name.
    #[error(
        "found no such column, only: {}; set `field` under [data] to the one with the text. \
             Columns inside others (a.b) cannot be named",
        listed(found)
    )]
    NoColumn {
        /// The columns that are there.
        found: Vec<String>,
    },
    /// The column holds something else.
    #[error("expected a column of text, found one of {0}: set `field` under [data] to another")]
    NotText(&'static str),
    /// A row's text is none.
    #[error(
        "expected UTF-8 text, found a byte that is none in row {row} at offset {offset}: mend or \
             remove that row"
    )]
    NotUtf8 {
        /// The row, from 0.
        row: u64,
        /// Where in its text.
        offset: usize,
    },
}

use ParquetFault as Fault;

fn listed(columns: &[String]) -> String {
    let printable = |name: &String| name.chars().filter(|c| !c.is_control()).take(64).collect();
    let names: Vec<String> = columns.iter().take(COLUMNS_LISTED).map(printable).collect();
    let more = if columns.len() > names.len() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// The text column of an open file.
pub(super) struct TextColumn {
    column: Column,
    pages: Pages,
    /// The next chunk to open.
    next_chunk: usize,
    page: Option<Page>,
    /// Rows before the next one.
    row: u64,
}

impl TextColumn {
    /// Opens the column `field`.
    pub(super) fn open(path: &Path, field: &str) -> Result<Self, Fault> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let footer = read_footer(&mut file, len)?;
        let column = footer::column(&footer, field)?;
        let end = len - TAIL_BYTES - footer.len() as u64;
        Ok(Self { column, pages: Pages::new(file, end), next_chunk: 0, page: None, row: 0 })
    }

    /// The text of the next row that is not null; nothing after the last.
    pub(super) fn next_text(&mut self) -> Result<Option<&str>, Fault> {
        loop {
            if self.page.is_none() {
                self.page = self.next_page()?;
            }
            let Some(page) = &mut self.page else { return Ok(None) };
            self.row += page.skip_nulls()?;
            if !page.is_over() {
                break;
            }
            self.page = None;
        }
        let row = self.row;
        self.row += 1;
        let page = self.page.as_mut().expect("the loop ends with a page");
        let bytes = page.next(self.pages.dictionary())?;
        let text = std::str::from_utf8(bytes);
        text.map(Some).map_err(|error| Fault::NotUtf8 { row, offset: error.valid_up_to() })
    }

    fn next_page(&mut self) -> Result<Option<Page>, Fault> {
        loop {
            if let Some(page) = self.pages.next(self.column.optional)? {
                return Ok(Some(page));
            }
            let Some(&chunk) = self.column.chunks.get(self.next_chunk) else { return Ok(None) };
            self.next_chunk += 1;
            self.pages.open(chunk)?;
        }
    }
}

fn read_footer(file: &mut File, len: u64) -> Result<Vec<u8>, Fault> {
    let mut magic = [0; 4];
    if len < MAGIC.len() as u64 + TAIL_BYTES {
        return Err(Fault::NotParquet);
    }
    file.read_exact(&mut magic)?;
    let mut tail = [0; TAIL_BYTES as usize];
    file.seek(SeekFrom::Start(len - TAIL_BYTES))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, ending @ ..] = tail;
    if ending == *MAGIC_ENCRYPTED || magic == *MAGIC_ENCRYPTED {
        return Err(Fault::Unsupported("an encrypted file"));
    }
    if magic != *MAGIC {
        return Err(Fault::NotParquet);
    }
    if ending != *MAGIC {
        return Err(Fault::CutShort);
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if footer > FOOTER_BYTES_MAX {
        return Err(Fault::TooMuch { what: "bytes of footer", max: FOOTER_BYTES_MAX });
    }
    let start = (len - TAIL_BYTES - MAGIC.len() as u64).checked_sub(footer);
    let start = start.ok_or(Fault::CutShort)? + MAGIC.len() as u64;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; usize::try_from(footer).map_err(|_| Fault::CutShort)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "parquet/tests.rs"]
pub(super) mod tests;
