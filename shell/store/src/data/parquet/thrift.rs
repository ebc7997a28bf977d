//! Thrift's compact protocol, as far as Parquet's footers and page headers use it.
//!
//! A [`Reader`] walks bytes that are at hand and allocates nothing but the names it is asked for.
//! Structs are read field by field; what a caller does not know it skips.

use super::Fault;

/// How deep structs and lists may nest: a footer needs six.
const DEPTH_MAX: usize = 32;

/// The type of a field or of a list's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A boolean whose value stands in the type itself.
    Bool(bool),
    Byte,
    /// Of 16, 32 or 64 bits: all are written alike.
    Int,
    Double,
    Bytes,
    List,
    Map,
    Struct,
    Uuid,
}

impl Kind {
    fn of(code: u8) -> Result<Self, Fault> {
        Ok(match code {
            1 => Self::Bool(true),
            2 => Self::Bool(false),
            3 => Self::Byte,
            4..=6 => Self::Int,
            7 => Self::Double,
            8 => Self::Bytes,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return Err(Fault::Damaged("a header with a field of no known type")),
        })
    }
}

/// A place in some bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// A field of a struct: what it is called and how it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) id: i16,
    pub(super) kind: Kind,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// How far it has come.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Reads a struct: `each` is shown every field and reads its value, or says it did not.
    pub(super) fn fields(
        &mut self,
        mut each: impl FnMut(&mut Self, Field) -> Result<Taken, Fault>,
    ) -> Result<(), Fault> {
        self.deeper()?;
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                self.depth -= 1;
                return Ok(());
            }
            let kind = Kind::of(head & 15)?;
            id = match head >> 4 {
                0 => i16::try_from(self.int()?).ok(),
                step => id.checked_add(i16::from(step)),
            }
            .ok_or(Fault::Damaged("a header with a field of no known number"))?;
            if each(self, Field { id, kind })? == Taken::No {
                self.skip(kind)?;
            }
        }
    }

    /// Reads a list of structs, integers or bytes; `each` reads an element.
    pub(super) fn list(
        &mut self,
        expected: Kind,
        mut each: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (kind, len) = self.list_head()?;
        if len > 0 && kind != expected {
            return Err(Fault::Damaged("a header with a list of the wrong type"));
        }
        self.deeper()?;
        for _ in 0..len {
            each(self)?;
        }
        self.depth -= 1;
        Ok(())
    }

    pub(super) fn int(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// An integer that counts or measures something.
    pub(super) fn size(&mut self) -> Result<u64, Fault> {
        u64::try_from(self.int()?).map_err(|_| Fault::Damaged("a header with a negative size"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(self.varint()?).map_err(|_| Fault::CutShort)?;
        self.take(len)
    }

    /// An unsigned integer of 7 bits a byte.
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Damaged("a number of more than 64 bits"))
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(Fault::CutShort)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn list_head(&mut self) -> Result<(Kind, u64), Fault> {
        let head = self.byte()?;
        let len = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        // An element takes a byte at least: a list that lies about its length ends here.
        if len > (self.bytes.len() - self.at) as u64 {
            return Err(Fault::CutShort);
        }
        Ok((Kind::of(head & 15)?, len))
    }

    fn skip(&mut self, kind: Kind) -> Result<(), Fault> {
        match kind {
            Kind::Bool(_) => {}
            Kind::Byte => drop(self.take(1)?),
            Kind::Int => drop(self.varint()?),
            Kind::Double => drop(self.take(8)?),
            Kind::Uuid => drop(self.take(16)?),
            Kind::Bytes => drop(self.bytes()?),
            Kind::Struct => self.fields(|_, _| Ok(Taken::No))?,
            Kind::List => {
                let (kind, len) = self.list_head()?;
                self.skip_elements(kind, len)?;
            }
            Kind::Map => {
                let len = self.varint()?;
                if len > 0 {
                    let kinds = self.byte()?;
                    let (key, value) = (Kind::of(kinds >> 4)?, Kind::of(kinds & 15)?);
                    for _ in 0..len {
                        self.skip_elements(key, 1)?;
                        self.skip_elements(value, 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn skip_elements(&mut self, kind: Kind, len: u64) -> Result<(), Fault> {
        self.deeper()?;
        for _ in 0..len {
            match kind {
                // In a list a boolean is a byte of its own.
                Kind::Bool(_) => drop(self.take(1)?),
                other => self.skip(other)?,
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::Damaged("a header that nests too deep"));
        }
        Ok(())
    }
}

/// Whether a field's value was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}
