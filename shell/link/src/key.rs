//! TLS 1.3 with raw ed25519 public keys on both sides (RFC 7250, RFC 8410), no certificates, no
//! resumption, no 0-RTT. The key is the identity: the connecting side pins the one it expects, the
//! accepting side takes any and reports it.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;
use suanli_base::NodeId;
use suanli_identity::SecretKey;

/// SubjectPublicKeyInfo of an ed25519 key (RFC 8410 section 4), up to the 32 bytes of the key.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// PKCS#8 of an ed25519 secret (RFC 8410 section 7), up to its 32 bytes.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// So that another service that speaks TLS is told apart at once.
pub(crate) const ALPN: &[u8] = b"suanli-rdpa/1";

/// The peer holds another key than the one expected; travels through rustls to the caller.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected key {}, found {}", expected.short(), found.short())]
pub(crate) struct PinMismatch {
    pub(crate) expected: NodeId,
    pub(crate) found: NodeId,
}

/// The node whose key this is, if it is the raw public key of ed25519 and nothing else.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let key = certificate.strip_prefix(&SPKI_PREFIX)?;
    Some(NodeId(key.try_into().ok()?))
}

fn spki_of(node: NodeId) -> Vec<u8> {
    [&SPKI_PREFIX[..], node.as_bytes()].concat()
}

/// AES-128 first: 0.85 of plain TCP against 0.46 with ChaCha20 (research/rdpa.md 2a). The accepting
/// side follows the order of the connecting one.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_256_GCM_SHA384];
    Arc::new(CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() })
}

fn certified(key: &SecretKey, provider: &CryptoProvider) -> Arc<CertifiedKey> {
    let mut pkcs8 = zeroize::Zeroizing::new(PKCS8_PREFIX.to_vec());
    pkcs8.extend_from_slice(&*key.seed());
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    let signer = provider
        .key_provider
        .load_private_key(secret)
        .expect("ring takes the PKCS#8 of any ed25519 secret");
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki_of(key.node()))], signer))
}

/// What a link's accepting side brings to TLS: any peer that proves an ed25519 key, and no more.
#[must_use]
pub fn accepting(key: &SecretKey) -> Arc<ServerConfig> {
    let provider = provider();
    let own = AlwaysResolvesServerRawPublicKeys::new(certified(key, &provider));
    let judge = Arc::new(Judge { expected: None, provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the suites above are of TLS 1.3")
        .with_client_cert_verifier(judge)
        .with_cert_resolver(Arc::new(own));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// What a link's connecting side brings to TLS: the node `expected` and no other.
#[must_use]
pub fn connecting(key: &SecretKey, expected: NodeId) -> Arc<ClientConfig> {
    let provider = provider();
    let own = AlwaysResolvesClientRawPublicKeys::new(certified(key, &provider));
    let judge = Arc::new(Judge { expected: Some(expected), provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the suites above are of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_client_cert_resolver(Arc::new(own));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// For a service that strangers may ask, as long as it proves its key.
#[cfg(feature = "relay")]
pub(crate) fn answering(key: &SecretKey) -> ServerConfig {
    let provider = provider();
    let own = AlwaysResolvesServerRawPublicKeys::new(certified(key, &provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the suites above are of TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(own));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Takes only a server that proves the key of `expected`.
#[cfg(feature = "iroh")]
pub(crate) fn only(expected: NodeId, provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Judge { expected: Some(expected), provider })
}

/// A name that TLS wants and nobody looks at.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("suanli").expect("a valid name")
}

/// Accepts raw ed25519 keys only; the expected one if there is one. That the peer holds the secret is
/// proven by its signature over the handshake.
#[derive(Debug)]
struct Judge {
    expected: Option<NodeId>,
    provider: Arc<CryptoProvider>,
}

impl Judge {
    fn look(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let found = node_of(end_entity).filter(|_| others.is_empty());
        let found = found.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.expected {
            Some(expected) if expected != found => {
                let mismatch = OtherError(Arc::new(PinMismatch { expected, found }));
                Err(Error::InvalidCertificate(CertificateError::Other(mismatch)))
            }
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("only TLS 1.3 is spoken".to_owned()))
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.look(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.look(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    /// A handshake in memory.
    fn shake(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let mut client = ClientConnection::new(Arc::clone(client), server_name())?;
        let mut server = ServerConnection::new(Arc::clone(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets()?;
        }
        Ok((client, server))
    }

    #[test]
    fn both_sides_prove_their_keys_and_nothing_is_resumed() {
        let (city, family) = (key(1), key(2));
        let (client, server) = (connecting(&family, city.node()), accepting(&city));
        for _ in 0..2 {
            let (client, server) = shake(&client, &server).unwrap();
            let found = |keys: Option<&[CertificateDer<'_>]>| node_of(&keys.unwrap()[0]).unwrap();
            assert_eq!(found(client.peer_certificates()), city.node());
            assert_eq!(found(server.peer_certificates()), family.node());
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            let suite = client.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, TLS13_AES_128_GCM_SHA256.suite());
        }
    }

    #[test]
    fn a_client_that_shows_no_key_or_another_protocol_is_refused() {
        let city = key(1);
        let provider = provider();
        let judge = Arc::new(Judge { expected: None, provider: Arc::clone(&provider) });
        let mut keyless = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_no_client_auth();
        keyless.alpn_protocols = vec![ALPN.to_vec()];
        assert!(shake(&Arc::new(keyless), &accepting(&city)).is_err());
        let mut other = (*connecting(&key(2), city.node())).clone();
        other.alpn_protocols = vec![b"h2".to_vec()];
        assert!(shake(&Arc::new(other), &accepting(&city)).is_err());
    }

    #[test]
    fn a_copied_public_key_without_its_secret_is_refused() {
        // The thief shows the city's public key and signs with its own.
        let (city, thief) = (key(1), key(3));
        let provider = provider();
        let stolen = CertificateDer::from(spki_of(city.node()));
        let own = Arc::clone(&certified(&thief, &provider).key);
        let shown = Arc::new(CertifiedKey::new(vec![stolen], own));
        let mut server = (*accepting(&thief)).clone();
        server.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(shown));
        let refused = shake(&connecting(&key(2), city.node()), &Arc::new(server)).unwrap_err();
        let bad = Error::InvalidCertificate(CertificateError::BadSignature);
        assert_eq!(refused, bad);
    }

    #[test]
    fn only_the_raw_public_key_of_ed25519_names_a_node() {
        let node = SecretKey::from_seed(&[3; 32]).node();
        let good = spki_of(node);
        assert_eq!(node_of(&CertificateDer::from(good.clone())), Some(node));
        let mut other_algorithm = good.clone();
        other_algorithm[8] = 0x6e;
        assert_eq!(node_of(&CertificateDer::from(other_algorithm)), None);
        assert_eq!(node_of(&CertificateDer::from(good[..43].to_vec())), None);
        let longer = [good, vec![0]].concat();
        assert_eq!(node_of(&CertificateDer::from(longer)), None);
    }
}
