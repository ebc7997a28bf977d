//! ed25519 keys (RFC 8032) and signatures under a domain tag.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use suanli_base::{CityId, Hash, NodeId, Time};
use zeroize::Zeroizing;

/// What a signature is for. The numbers are part of what is signed and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// A grant, tickets among them.
    Grant = 1,
    /// A committed round in a city's chain.
    Round = 2,
    /// A replica's contribution to a round.
    Contribution = 3,
    /// A job handed in by a trainer.
    Job = 4,
    /// An introduction at the start of a link that is not encrypted.
    Link = 5,
    /// A link of a grant to regions.
    Access = 6,
}

/// The tag every signature is under (DESIGN 5.10): kind, version, city, expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// What is signed.
    pub kind: Kind,
    /// Version of the format of what is signed.
    pub version: u16,
    /// The city it is meant for.
    pub city: CityId,
    /// When the signature stops to count; [`Time`] of all ones for "never".
    pub expiry: Time,
}

impl Domain {
    /// A domain without expiry.
    #[must_use]
    pub const fn lasting(kind: Kind, version: u16, city: CityId) -> Self {
        Self { kind, version, city, expiry: Time(u64::MAX) }
    }

    fn message(&self, bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(52 + bytes.len());
        message.extend_from_slice(b"suanli/1\0");
        message.push(self.kind as u8);
        message.extend_from_slice(&self.version.to_le_bytes());
        message.extend_from_slice(self.city.as_bytes());
        message.extend_from_slice(&self.expiry.0.to_le_bytes());
        message.extend_from_slice(bytes);
        message
    }
}

/// A signature did not match its key, domain and bytes: the signer's or the carrier's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match node {}, purpose {kind:?} and the bytes received", signer.short())]
pub struct BadSignature {
    /// The key it was checked against.
    pub signer: NodeId,
    /// The purpose it was checked for.
    pub kind: Kind,
}

/// 64 bytes of ed25519.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl core::fmt::Debug for Signature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Signature({}..)", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (low, high): (&[u8; 32], &[u8; 32]) = (
            self.0[..32].try_into().expect("half of 64 bytes"),
            self.0[32..].try_into().expect("half of 64 bytes"),
        );
        (low, high).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&low);
        bytes[32..].copy_from_slice(&high);
        Ok(Self(bytes))
    }
}

impl Signature {
    /// Checks this signature.
    ///
    /// # Errors
    /// [`BadSignature`] when it does not match, or when `signer` is no valid key.
    pub fn verify(
        &self,
        signer: NodeId,
        domain: &Domain,
        bytes: &[u8],
    ) -> Result<(), BadSignature> {
        let bad = BadSignature { signer, kind: domain.kind };
        let key = VerifyingKey::from_bytes(signer.as_bytes()).map_err(|_| bad)?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        key.verify_strict(&domain.message(bytes), &signature).map_err(|_| bad)
    }
}

/// A secret key. It is cleared from memory when dropped and never prints.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl core::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SecretKey(of {})", self.node().short())
    }
}

impl SecretKey {
    /// The key of 32 bytes of entropy that the caller drew.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32 bytes, for the one file that keeps them.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` under `domain`.
    #[must_use]
    pub fn sign(&self, domain: &Domain, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&domain.message(bytes)).to_bytes())
    }
}

/// Something signed, with the exact bytes that were signed. Encoding: postcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Who signed.
    pub signer: NodeId,
    /// The signature over `bytes`.
    pub signature: Signature,
    /// The bytes as they were signed.
    pub bytes: Vec<u8>,
}

/// Signed bytes were refused: the fault of whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// The signature does not match.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The signature is good, the bytes are not what they should be.
    #[error("node {} signed {found} bytes that do not decode as {kind:?}", signer.short())]
    Malformed {
        /// Who signed them.
        signer: NodeId,
        /// What was expected.
        kind: Kind,
        /// How many bytes came.
        found: usize,
    },
}

impl Signed {
    /// Encodes and signs `value`.
    ///
    /// # Panics
    /// When `value` cannot be encoded, which only a map with an unknown length cannot.
    #[must_use]
    pub fn seal<T: Serialize>(key: &SecretKey, domain: &Domain, value: &T) -> Self {
        let bytes = postcard::to_stdvec(value).expect("our own types always encode");
        Self { signer: key.node(), signature: key.sign(domain, &bytes), bytes }
    }

    /// Checks the signature, then decodes: the only way to the value.
    ///
    /// # Errors
    /// [`SignedError`] for a bad signature, undecodable or left-over bytes.
    pub fn open<T: DeserializeOwned>(&self, domain: &Domain) -> Result<T, SignedError> {
        self.signature.verify(self.signer, domain, &self.bytes)?;
        let malformed = SignedError::Malformed {
            signer: self.signer,
            kind: domain.kind,
            found: self.bytes.len(),
        };
        match postcard::take_from_bytes(&self.bytes) {
            Ok((value, [])) => Ok(value),
            _ => Err(malformed),
        }
    }

    /// The hash that names these signed bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of_parts(
            "suanli 2026 signed",
            &[self.signer.as_bytes(), &self.signature.0, &self.bytes],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    #[test]
    fn bytes_signed_for_one_purpose_mean_nothing_for_another() {
        let city = CityId::from(key(1).node());
        let round = Domain::lasting(Kind::Round, 1, city);
        let grant = Domain::lasting(Kind::Grant, 1, city);
        let signed = Signed::seal(&key(2), &round, &7_u32);
        assert_eq!(signed.open::<u32>(&round), Ok(7));
        assert!(signed.open::<u32>(&grant).is_err());
    }

    #[test]
    fn a_changed_byte_or_signer_is_refused() {
        let domain = Domain::lasting(Kind::Round, 1, CityId::from(key(1).node()));
        let signed = Signed::seal(&key(2), &domain, &7_u32);
        let mut changed = signed.clone();
        changed.bytes[0] ^= 1;
        assert!(changed.open::<u32>(&domain).is_err());
        let stolen = Signed { signer: key(3).node(), ..signed };
        assert!(stolen.open::<u32>(&domain).is_err());
    }

    #[test]
    fn a_secret_key_does_not_print_itself() {
        let text = format!("{:?}", key(9));
        assert!(!text.contains("0909"), "{text}");
    }
}
