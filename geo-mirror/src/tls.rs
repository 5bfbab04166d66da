//! Mutual TLS between regions.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use thiserror::Error;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What both sides say they speak, so that a connection of anything else ends at once.
const ALPN: &[u8] = b"meridian-geo";

/// Where the certificate, its key and the authority lie, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This node's certificate with its chain. Must name the host under which others reach the node, and
    /// `node-BROKERID.REGION.meridian`.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that the certificates of all regions come from.
    pub ca: PathBuf,
}

/// This node's certificate, and whom it trusts. TLS 1.3 only. Clones share what is loaded.
#[derive(Clone)]
pub struct GeoTls {
    pub(crate) current: Arc<ArcSwap<Configs>>,
    pub(crate) files: Option<Arc<TlsFiles>>,
    pub(crate) is_watched: Arc<AtomicBool>,
}

/// The certificate, key or authority cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read: correct the setting, or the file's rights.
    #[error("{what} {}: {source}", .path.display())]
    Read {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The content is not what was expected.
    #[error("{what}: {problem}")]
    Content {
        /// Which of the three.
        what: &'static str,
        /// What was wrong and what was expected.
        problem: String,
    },
}

pub(crate) const CERTIFICATE: &str = "the certificate for other regions (geo.tls_cert)";
pub(crate) const KEY: &str = "the key of the certificate for other regions (geo.tls_key)";
pub(crate) const CA: &str = "the authority of other regions' certificates (geo.tls_ca)";

/// What connections are made with, until the next reload.
pub(crate) struct Configs {
    /// The three files' content.
    pub(crate) pem: [Vec<u8>; 3],
    pub(crate) quic_server: Arc<QuicServerConfig>,
    pub(crate) quic_client: Arc<QuicClientConfig>,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) connector: TlsConnector,
}

impl GeoTls {
    /// Takes the content of three PEM files, see [`TlsFiles`]. They are not looked at again.
    ///
    /// Errors: one that is not PEM or has nothing of its kind, or a key that is not the certificate's.
    pub fn from_pem(certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<Self, TlsError> {
        let configs = authenticated([certificate.to_vec(), key.to_vec(), ca.to_vec()])?;
        Ok(Self::holding(configs, None))
    }

    /// A certificate made on the spot that nobody can check: encrypted, and not authenticated. For loopback.
    ///
    /// Errors: none that can be expected.
    pub fn ephemeral() -> Result<Self, TlsError> {
        Ok(Self::holding(unauthenticated()?, None))
    }

    /// Whether the other side's certificate is checked.
    pub fn is_authenticated(&self) -> bool {
        !self.current.load().pem[2].is_empty()
    }

    pub(crate) fn holding(configs: Configs, files: Option<TlsFiles>) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(configs)),
            files: files.map(Arc::new),
            is_watched: Arc::default(),
        }
    }
}

impl fmt::Debug for GeoTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeoTls").finish_non_exhaustive()
    }
}

/// Both sides show certificates of the authority.
pub(crate) fn authenticated(pem: [Vec<u8>; 3]) -> Result<Configs, TlsError> {
    let chain = certificates(CERTIFICATE, &pem[0])?;
    let key = PrivateKeyDer::from_pem_slice(&pem[1]).map_err(|error| TlsError::Content {
        what: KEY,
        problem: format!("expected a private key in PEM, as PKCS #8, PKCS #1 or SEC 1: {error}"),
    })?;
    let mut roots = RootCertStore::empty();
    for root in certificates(CA, &pem[2])? {
        roots.add(root).map_err(|error| TlsError::Content {
            what: CA,
            problem: format!("a certificate cannot be used as an authority: {error}"),
        })?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| TlsError::Content {
            what: CA,
            problem: error.to_string(),
        })?;
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|error| unusable(&error))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable(&error))?;
    configs(pem, server, client)
}

/// Neither side can check the other.
fn unauthenticated() -> Result<Configs, TlsError> {
    let problem = |error: String| TlsError::Content {
        what: "a certificate made on the spot",
        problem: error,
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
        .map_err(|error| problem(error.to_string()))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| problem(error.to_owned()))?;
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(|error| unusable(&error))?;
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    configs([Vec::new(), Vec::new(), Vec::new()], server, client)
}

fn configs(
    pem: [Vec<u8>; 3],
    mut server: ServerConfig,
    mut client: ClientConfig,
) -> Result<Configs, TlsError> {
    server.alpn_protocols = vec![ALPN.to_vec()];
    client.alpn_protocols = vec![ALPN.to_vec()];
    // Links are few and long: tickets to resume them are never used.
    server.send_tls13_tickets = 0;
    let (server, client) = (Arc::new(server), Arc::new(client));
    let suite = |_| TlsError::Content {
        what: CERTIFICATE,
        problem: "the cryptography lacks the cipher suite that QUIC begins with".to_owned(),
    };
    Ok(Configs {
        pem,
        quic_server: Arc::new(QuicServerConfig::try_from(server.clone()).map_err(suite)?),
        quic_client: Arc::new(QuicClientConfig::try_from(client.clone()).map_err(suite)?),
        acceptor: TlsAcceptor::from(server),
        connector: TlsConnector::from(client),
    })
}

fn unusable(error: &rustls::Error) -> TlsError {
    TlsError::Content {
        what: CERTIFICATE,
        problem: format!("it cannot be used together with its key: {error}"),
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Content {
            what,
            problem: format!("expected certificates in PEM: {error}"),
        })?;
    if found.is_empty() {
        return Err(TlsError::Content {
            what,
            problem: "expected certificates in PEM, found none".to_owned(),
        });
    }
    Ok(found)
}

/// Believes whoever can sign with the certificate that it shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
