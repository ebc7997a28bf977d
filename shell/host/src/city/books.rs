//! `grants`: what the city's gate must not forget over a restart (epochs in force, used bytes).
//!
//! A line that names the format, the BLAKE3 of what follows, and that in postcard 1. Unlike a city's
//! other side books it is not begun anew when it is damaged: that would undo revocations.

use super::{Files, environment};
use crate::control::{Refusal, RefusalClass};
use suanli_base::Hash;
use suanli_rdpa::GateBooks;
use suanli_store::{Disk as _, write_atomic};

const FILE: &str = "grants";
const HEAD: &[u8] = b"suanli grants 1\n";

/// What the last run kept; nothing for a city that never gave a grant.
pub(super) fn load(files: &Files) -> Result<GateBooks, Refusal> {
    let path = files.folder.join(FILE);
    if !path.exists() {
        return Ok(GateBooks::default());
    }
    let bytes = files.disk.read(FILE).map_err(|error| environment(error.to_string()))?;
    decode(&bytes).ok_or_else(|| {
        let text = format!("{} does not hold what it should", path.display());
        let next = "restore it from a copy; without it, revoked grants would be good again, so \
                    remove it only if none was ever revoked";
        Refusal::new(RefusalClass::Corrupt, text, next)
    })
}

/// Keeps the books in place of those before, synced.
pub(super) fn keep(files: &Files, books: &GateBooks) -> Result<(), Refusal> {
    if *books == GateBooks::default() && !files.folder.join(FILE).exists() {
        return Ok(());
    }
    write_atomic(&*files.disk, "", FILE, &encode(books))
        .map_err(|error| environment(error.to_string()))
}

fn encode(books: &GateBooks) -> Vec<u8> {
    let body = postcard::to_stdvec(books).expect("our own types always encode");
    [HEAD, &Hash::of(&body).0, &body].concat()
}

fn decode(bytes: &[u8]) -> Option<GateBooks> {
    let (hash, body) = bytes.strip_prefix(HEAD)?.split_first_chunk::<32>()?;
    let (books, rest) = postcard::take_from_bytes(body).ok()?;
    (Hash::of(body).0 == *hash && rest.is_empty()).then_some(books)
}

#[cfg(test)]
mod tests {
    use super::*;
    use suanli_base::Time;
    use suanli_identity::Prefix;
    use suanli_rdpa::UsedBytes;

    #[test]
    fn books_come_back_and_a_flipped_bit_or_a_cut_is_told() {
        let used =
            UsedBytes { first: Hash([1; 32]), link: Hash([2; 32]), bytes: 7, not_after: Time(9) };
        let epochs = vec![(Prefix::new("job/1/").unwrap(), 3)];
        let books = GateBooks { epochs, used: vec![used] };
        let bytes = encode(&books);
        assert_eq!(decode(&bytes), Some(books));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None, "bit of byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
