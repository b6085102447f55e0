//! Mutual TLS 1.3 between agents. Each side proves an Ed25519 key, sent raw (RFC 7250): there are no
//! certificates and no authority that could be stolen. A caller knows the key that it expects; who is
//! called accepts any key, and looks it up in the cluster's roll.
//!
//! The application protocol (ALPN) says what a connection is for.

use std::sync::Arc;

use anyhow::Context;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use worknode::key::{Key, SecretKey};

/// DER of an Ed25519 key before its 32 bytes: public (RFC 8410, section 4) …
const PUBLIC_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// … and secret (section 7).
const SECRET_PREFIX: [u8; 16] =
    *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// What a connection is for: the application protocols of this version, the preferred one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A link between members.
    Link,
    /// A member's bytes to and from the cluster's Redis.
    Broker,
    /// A new node's request to be admitted.
    Join,
}

impl Use {
    const ALL: [Self; 3] = [Self::Link, Self::Broker, Self::Join];

    /// Returns its name on the wire.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Link => b"oswalk-link",
            Self::Broker => b"oswalk-broker",
            Self::Join => b"oswalk-join/1",
        }
    }

    /// Returns what the name stands for.
    #[must_use]
    pub fn of(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.alpn() == alpn)
    }
}

/// This agent's key, prepared for TLS.
#[derive(Debug, Clone)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Prepares a key.
    ///
    /// # Errors
    /// The TLS library refuses the key.
    pub fn new(secret: &SecretKey) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let der = [&SECRET_PREFIX[..], secret.seed()].concat();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
        let signing = provider.key_provider.load_private_key(der);
        let signing = signing.context("failed to use this node's key for TLS")?;
        let public = [&PUBLIC_PREFIX[..], &secret.key().0].concat();
        let certified = Arc::new(CertifiedKey::new(vec![public.into()], signing));
        Ok(Self { provider, certified })
    }

    /// Returns the configuration for calling the agent with this key.
    #[must_use]
    pub fn caller(&self, expected: Key, purpose: Use) -> Arc<ClientConfig> {
        let verifier = Verifier { provider: Arc::clone(&self.provider), expected: Some(expected) };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&TLS13]).expect("ring has its ciphers");
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.certified));
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![purpose.alpn().to_vec()];
        // A resumed session would not prove its key again.
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Arc::new(config)
    }

    /// Returns the configuration for answering calls.
    #[must_use]
    pub fn answerer(&self) -> Arc<ServerConfig> {
        let verifier = Verifier { provider: Arc::clone(&self.provider), expected: None };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&TLS13]).expect("ring has its ciphers");
        let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.certified));
        let mut config = builder
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = Use::ALL.iter().map(|it| it.alpn().to_vec()).collect();
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }
}

/// Returns a placeholder for the server name, which TLS requires: peers are identified by their keys.
#[must_use]
pub fn nameless() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into())
}

/// Returns the key that the other side has proved.
#[must_use]
pub fn proved(certificates: Option<&[CertificateDer<'_>]>) -> Option<Key> {
    certificates?.first().and_then(key)
}

fn key(certificate: &CertificateDer<'_>) -> Option<Key> {
    let key = certificate.strip_prefix(&PUBLIC_PREFIX[..])?;
    key.try_into().ok().map(Key)
}

/// Checks the other side's key.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// The only accepted key; any if absent.
    expected: Option<Key>,
}

impl Verifier {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = key(certificate).ok_or(CertificateError::BadEncoding)?;
        match self.expected {
            Some(expected) if expected != key => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(certificate.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }
}

fn old_tls() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A P-256 key in PKCS #8, which protects nothing.
    #[rustfmt::skip]
    const P256_KEY: [u8; 138] = [
        0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
        0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
        0x01, 0x01, 0x04, 0x20, 0x89, 0x92, 0x2a, 0xaf, 0xf8, 0x4b, 0xf2, 0x6a, 0x6b, 0x9b, 0xb9, 0xdb,
        0xff, 0xe6, 0x4d, 0xfe, 0x6a, 0x5b, 0x8a, 0xea, 0xb2, 0xe1, 0x2c, 0x81, 0x03, 0xad, 0x8a, 0xd9,
        0x82, 0x2f, 0xd9, 0xd4, 0xa1, 0x44, 0x03, 0x42, 0x00, 0x04, 0x17, 0x14, 0x07, 0x00, 0x2a, 0xec,
        0x87, 0x46, 0x1f, 0x05, 0x32, 0x0e, 0x16, 0xad, 0x01, 0xfc, 0x77, 0x3e, 0x97, 0x7b, 0xed, 0x64,
        0x28, 0xa7, 0x2d, 0x5b, 0x87, 0x27, 0x31, 0x0e, 0x51, 0x5e, 0xb5, 0xdf, 0x6a, 0x6f, 0xb6, 0x50,
        0x96, 0x61, 0x05, 0xa0, 0x0a, 0xe2, 0x45, 0x3f, 0xe1, 0x14, 0x82, 0xe6, 0xb0, 0xb1, 0x25, 0xe6,
        0xc5, 0x3a, 0x69, 0xe3, 0xd5, 0xf2, 0x18, 0xa5, 0x00, 0x3f,
    ];

    fn secret(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    /// Lets two agents meet; returns what each knows of the other, or why they do not come together.
    fn meet(expected: Key) -> (Result<Key, String>, Result<(Key, Use), String>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let [caller, callee] = [1, 2].map(|it| Identity::new(&secret(it)).expect("a key"));
            let call = async {
                let connector = TlsConnector::from(caller.caller(expected, Use::Broker));
                let mut stream =
                    connector.connect(nameless(), near).await.map_err(|e| e.to_string())?;
                stream.write_all(b"x").await.expect("heard");
                stream.flush().await.expect("heard");
                Ok(proved(stream.get_ref().1.peer_certificates()).expect("a key"))
            };
            let answer = async {
                let stream = TlsAcceptor::from(callee.answerer()).accept(far).await;
                let mut stream = stream.map_err(|error| error.to_string())?;
                assert_eq!(stream.read_u8().await.expect("said"), b'x');
                let tls = stream.get_ref().1;
                let purpose = tls.alpn_protocol().and_then(Use::of).expect("a use");
                Ok((proved(tls.peer_certificates()).expect("a key"), purpose))
            };
            tokio::join!(call, answer)
        })
    }

    #[test]
    fn both_sides_know_whom_they_talk_to() {
        let (caller, callee) = meet(secret(2).key());
        assert_eq!(caller, Ok(secret(2).key()));
        assert_eq!(callee, Ok((secret(1).key(), Use::Broker)));
    }

    /// Lets a client with this configuration call an agent; returns why the agent refuses it, or whether it may talk.
    fn answered(config: ClientConfig) -> Result<Option<Use>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let callee = Identity::new(&secret(2)).expect("a key");
            let call = async {
                let stream = TlsConnector::from(Arc::new(config)).connect(nameless(), near).await;
                // The agent may refuse after the client has finished its part.
                if let Ok(mut stream) = stream {
                    let _ = stream.read_u8().await;
                }
            };
            let answer = async {
                let stream = TlsAcceptor::from(callee.answerer()).accept(far).await;
                let stream = stream.map_err(|error| error.to_string())?;
                Ok(stream.get_ref().1.alpn_protocol().and_then(Use::of))
            };
            tokio::join!(call, answer).1
        })
    }

    fn sound() -> ClientConfig {
        let caller = Identity::new(&secret(1)).expect("a key");
        ClientConfig::clone(&caller.caller(secret(2).key(), Use::Link))
    }

    /// Returns a client that begins like [`sound`] and chooses its key itself.
    fn client() -> Client {
        let provider = Arc::new(ring::default_provider());
        let verifier = Anybody(Arc::clone(&provider));
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&TLS13]).expect("ring has its ciphers");
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    }

    type Client = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

    #[test]
    fn a_sound_caller_is_answered() {
        assert_eq!(answered(sound()), Ok(Some(Use::Link)));
    }

    #[test]
    fn an_unknown_application_protocol_is_refused() {
        for protocol in [&b"h2"[..], b"oswalk-link/2"] {
            let mut config = sound();
            config.alpn_protocols = vec![protocol.to_vec()];
            let said = answered(config).expect_err("refused");
            assert!(said.contains("protocol"), "{said}");
        }
        let mut config = sound();
        config.alpn_protocols.clear();
        assert_eq!(answered(config), Ok(None), "which the caller's task refuses");
    }

    #[test]
    fn a_caller_without_a_key_is_refused() {
        let mut config = client().with_no_client_auth();
        config.alpn_protocols = vec![Use::Link.alpn().to_vec()];
        assert!(answered(config).is_err());
    }

    /// Returns a ClientHello that offers TLS 1.2 and no later version: two ciphers, signatures with ECDSA or Ed25519.
    fn hello_of_tls_1_2() -> Vec<u8> {
        let ciphers = [0, 4, 0xc0, 0x2b, 0xc0, 0x2f];
        let extensions = [0, 10, 0, 13, 0, 6, 0, 4, 4, 3, 8, 7];
        let body = [&[3, 3][..], &[7; 32], &[0], &ciphers, &[1, 0], &extensions].concat();
        let length = u8::try_from(body.len()).expect("it is short");
        [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
    }

    #[test]
    fn older_tls_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let said = runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(1024);
            near.write_all(&hello_of_tls_1_2()).await.expect("there is room");
            let callee = Identity::new(&secret(2)).expect("a key");
            TlsAcceptor::from(callee.answerer()).accept(far).await.expect_err("refused").to_string()
        });
        assert!(said.contains("incompatible"), "{said}");
    }

    /// A key of another kind, with a valid signature of its own.
    #[test]
    fn a_key_of_another_kind_is_refused() {
        let provider = ring::default_provider();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&P256_KEY[..]));
        let signing = provider.key_provider.load_private_key(der).expect("a P-256 key");
        let public = signing.public_key().expect("it has one").to_vec();
        let certified = Arc::new(CertifiedKey::new(vec![public.into()], signing));
        let resolver = AlwaysResolvesClientRawPublicKeys::new(certified);
        let mut config = client().with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![Use::Link.alpn().to_vec()];
        assert!(answered(config).is_err());
    }

    /// Another's key, without the secret that belongs to it.
    #[test]
    fn a_key_without_its_secret_is_refused() {
        let mine = Identity::new(&secret(1)).expect("a key");
        let public = [&PUBLIC_PREFIX[..], &secret(3).key().0].concat();
        let stolen = CertifiedKey::new(vec![public.into()], Arc::clone(&mine.certified.key));
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::new(stolen));
        let mut config = client().with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![Use::Link.alpn().to_vec()];
        assert!(answered(config).is_err());
    }

    /// Only Ed25519 keys in their one encoding are keys.
    #[test]
    fn other_encodings_are_no_keys() {
        let public = [&PUBLIC_PREFIX[..], &secret(1).key().0].concat();
        let read = |bytes: Vec<u8>| key(&CertificateDer::from(bytes));
        assert_eq!(read(public.clone()), Some(secret(1).key()));
        for end in 0..public.len() {
            assert_eq!(read(public[..end].to_vec()), None);
        }
        assert_eq!(read([&public[..], &[0]].concat()), None);
        assert_eq!(proved(None), None);
        assert_eq!(proved(Some(&[])), None);
    }

    /// Accepts every server, so that only the agent's checks are tested.
    #[derive(Debug)]
    struct Anybody(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    }

    #[test]
    fn another_key_than_the_expected_one_is_refused() {
        let (caller, callee) = meet(secret(3).key());
        assert!(caller.is_err() && callee.is_err());
    }
}
