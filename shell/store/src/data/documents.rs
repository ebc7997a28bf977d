//! The text of the files, document by document and piece by piece, in bounded memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use suanli_engine::Cancel;
use suanli_engine::tokenizer::split_point;

use super::error::{DataError, io};
use super::parquet::{ParquetFault, TextColumn};
use super::sources::{Source, SourceKind};

/// A text file is read in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;
/// A piece grows to this while no good place to cut it is found.
const PIECE_BYTES_MAX: usize = 2 << 20;
/// The longest line of a `.jsonl` file.
const LINE_BYTES_MAX: usize = 32 << 20;

/// How documents are read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// The field of a `.jsonl` line, or the column of a Parquet file, with the text.
    pub(super) field: &'a str,
    /// Whether text must be UTF-8.
    pub(super) text: Text,
    /// Stop after this many bytes of text.
    pub(super) max_bytes: u64,
}

/// What bytes a document may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// Characters.
    Utf8,
    /// Any.
    Bytes,
}

/// What is done with the text.
pub(super) trait Visit {
    /// Takes the next piece of the current document.
    fn piece(&mut self, text: &[u8]) -> Result<(), DataError>;
    /// Learns that the current document, which was not empty, is over.
    fn end(&mut self) -> Result<(), DataError>;
}

/// Hands all documents of `sources` to `visit`, in order. A document that does not end its last
/// line gets a line feed, so that no two run together.
pub(super) fn read(
    sources: &[Source],
    reading: Reading<'_>,
    cancel: &Cancel,
    visit: &mut dyn Visit,
) -> Result<(), DataError> {
    let mut reader =
        Reader { reading, cancel, visit, left: reading.max_bytes, document: 0, last: 0 };
    for source in sources {
        if reader.left == 0 {
            break;
        }
        match source.kind {
            SourceKind::Text => reader.text_file(&source.path)?,
            SourceKind::Jsonl => reader.jsonl_file(&source.path)?,
            SourceKind::Parquet => reader.parquet_file(&source.path)?,
        }
    }
    Ok(())
}

struct Reader<'a> {
    reading: Reading<'a>,
    cancel: &'a Cancel,
    visit: &'a mut dyn Visit,
    /// Bytes that may still be taken.
    left: u64,
    /// Bytes of the current document so far.
    document: u64,
    /// Its last byte.
    last: u8,
}

impl Reader<'_> {
    fn text_file(&mut self, path: &Path) -> Result<(), DataError> {
        let mut file = File::open(path).map_err(io("open", path))?;
        let mut buffer = Vec::with_capacity(2 * PIECE_BYTES);
        let mut offset = 0_u64;
        loop {
            let wanted = PIECE_BYTES as u64;
            let read = file.by_ref().take(wanted).read_to_end(&mut buffer);
            let ended = (read.map_err(io("read", path))? as u64) < wanted;
            let cut = if ended { buffer.len() } else { cut_of(&buffer) };
            if cut > 0 {
                self.check_utf8(&buffer[..cut], path, offset)?;
                self.piece(&buffer[..cut])?;
                buffer.drain(..cut);
                offset += cut as u64;
            }
            if ended || self.left == 0 {
                return self.end();
            }
        }
    }

    fn jsonl_file(&mut self, path: &Path) -> Result<(), DataError> {
        let mut file = BufReader::new(File::open(path).map_err(io("open", path))?);
        let mut buffer = Vec::new();
        for line in 1.. {
            buffer.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let read = file.by_ref().take(limit).read_until(b'\n', &mut buffer);
            if read.map_err(io("read", path))? == 0 || self.left == 0 {
                break;
            }
            if buffer.len() > LINE_BYTES_MAX {
                let message = format!("a line longer than {LINE_BYTES_MAX} bytes");
                return Err(DataError::BadLine { path: path.to_owned(), line, message });
            }
            if !buffer.trim_ascii().is_empty() {
                let text = field_of(&buffer, self.reading.field, path, line)?;
                self.piece(text.as_bytes())?;
                self.end()?;
            }
        }
        Ok(())
    }

    fn parquet_file(&mut self, path: &Path) -> Result<(), DataError> {
        let field = self.reading.field;
        let bad = |fault: ParquetFault| DataError::Parquet {
            path: path.to_owned(),
            field: field.to_owned(),
            fault,
        };
        let mut column = TextColumn::open(path, field).map_err(bad)?;
        while self.left > 0 {
            let Some(mut text) = column.next_text().map_err(bad)?.map(str::as_bytes) else { break };
            while text.len() > PIECE_BYTES_MAX {
                let cut = cut_of(&text[..PIECE_BYTES_MAX]);
                self.piece(&text[..cut])?;
                text = &text[cut..];
            }
            self.piece(text)?;
            self.end()?;
        }
        Ok(())
    }

    fn check_utf8(&self, text: &[u8], path: &Path, offset: u64) -> Result<(), DataError> {
        match (self.reading.text, std::str::from_utf8(text)) {
            (Text::Utf8, Err(error)) => Err(DataError::NotUtf8 {
                path: path.to_owned(),
                offset: offset + error.valid_up_to() as u64,
            }),
            _ => Ok(()),
        }
    }

    fn piece(&mut self, text: &[u8]) -> Result<(), DataError> {
        if self.cancel.is_raised() {
            return Err(DataError::Cancelled);
        }
        let mut taken = text.len();
        if taken as u64 > self.left {
            taken = usize::try_from(self.left).expect("less than a length in memory");
            taken = whole_characters(&text[..taken], &text[taken..]);
            self.left = 0;
        } else {
            self.left -= taken as u64;
        }
        let Some(&last) = text[..taken].last() else { return Ok(()) };
        self.last = last;
        self.document += taken as u64;
        self.visit.piece(&text[..taken])
    }

    fn end(&mut self) -> Result<(), DataError> {
        if std::mem::take(&mut self.document) == 0 {
            return Ok(());
        }
        if self.last != b'\n' {
            self.visit.piece(b"\n")?;
        }
        self.visit.end()
    }
}

/// How much of a buffer that goes on can be handed out: up to a good place, or when there is none
/// for long, all whole characters; else nothing yet.
fn cut_of(buffer: &[u8]) -> usize {
    match split_point(buffer, buffer.len()) {
        Some(cut) => cut,
        None if buffer.len() >= PIECE_BYTES_MAX => {
            // The last character may be unfinished: leave its bytes, at most four, for later.
            let tail = buffer.iter().rev().take(4);
            let back = tail.take_while(|&&byte| byte & 0xC0 == 0x80).count() + 1;
            if back <= 4 { buffer.len() - back } else { buffer.len() }
        }
        None => 0,
    }
}

/// The length of `text` without the character that goes on in `rest`.
fn whole_characters(text: &[u8], rest: &[u8]) -> usize {
    if rest.first().is_none_or(|&byte| byte & 0xC0 != 0x80) {
        return text.len();
    }
    let back = text.iter().rev().take(4).take_while(|&&byte| byte & 0xC0 == 0x80).count() + 1;
    if back <= 4 { text.len().saturating_sub(back) } else { text.len() }
}

fn field_of(bytes: &[u8], field: &str, path: &Path, line: u64) -> Result<String, DataError> {
    let bad = |message: String| DataError::BadLine { path: path.to_owned(), line, message };
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let serde_json::Value::Object(mut object) = value else {
        return Err(bad("another JSON value".to_owned()));
    };
    let found = match object.remove(field) {
        Some(serde_json::Value::String(text)) => return Ok(text),
        Some(_) => "a value that is no text".to_owned(),
        None => {
            let keys: Vec<&str> = object.keys().take(8).map(String::as_str).collect();
            let keys: String = keys.join(", ").chars().take(120).collect();
            format!("only the fields: {keys}")
        }
    };
    Err(DataError::NoField { path: path.to_owned(), line, field: field.to_owned(), found })
}
