//! What has to survive a restart, or revocations and budgets would not; and its bytes in a file.

use serde::{Deserialize, Serialize};
use suanli_base::{Hash, Time};
use suanli_identity::Prefix;

const HEAD: &[u8] = b"suanli grants 1\n";

/// What a gate must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateBooks {
    /// The epochs in force.
    pub epochs: Vec<(Prefix, u64)>,
    /// What was used of budgets.
    pub used: Vec<UsedBytes>,
}

/// What was used of one link's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedBytes {
    /// The owner's link that the chain begins with.
    pub first: Hash,
    /// The link.
    pub link: Hash,
    /// Bytes.
    pub bytes: u64,
    /// When the link is over, and this can be forgotten.
    pub not_after: Time,
}

impl GateBooks {
    /// A file's bytes: a line that names the format, the BLAKE3 of what follows, and that in
    /// postcard 1.
    ///
    /// # Panics
    /// Never: our own types always encode.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("our own types always encode");
        [HEAD, &Hash::of(&body).0, &body].concat()
    }

    /// Reads what [`GateBooks::to_bytes`] wrote; nothing for anything else. A holder must not begin
    /// with empty books then: that would undo revocations.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (hash, body) = bytes.strip_prefix(HEAD)?.split_first_chunk::<32>()?;
        let (books, rest) = postcard::take_from_bytes(body).ok()?;
        (Hash::of(body).0 == *hash && rest.is_empty()).then_some(books)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_come_back_and_a_flipped_bit_or_a_cut_is_told() {
        let used =
            UsedBytes { first: Hash([1; 32]), link: Hash([2; 32]), bytes: 7, not_after: Time(9) };
        let epochs = vec![(Prefix::new("job/1/").unwrap(), 3)];
        let books = GateBooks { epochs, used: vec![used] };
        let bytes = books.to_bytes();
        assert_eq!(GateBooks::from_bytes(&bytes), Some(books));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(GateBooks::from_bytes(&flipped), None, "bit of byte {at}");
            assert_eq!(GateBooks::from_bytes(&bytes[..at]), None, "cut at {at}");
        }
    }
}
