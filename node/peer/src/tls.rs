//! Mutual TLS between nodes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// This node's certificate, and whom it trusts. TLS 1.3 only.
///
/// Every node of a region has a certificate of the region's own authority, good for both a server and a client,
/// and naming the host under which others reach the node. A certificate of that authority is a node: which one
/// it is, it says in the handshake, and must be one of those that its certificate names, if that names any.
#[derive(Clone)]
pub struct PeerTls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) connector: TlsConnector,
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

pub(crate) const CERTIFICATE: &str = "the certificate for other nodes (peer.tls_cert)";
pub(crate) const KEY: &str = "the key of the certificate for other nodes (peer.tls_key)";
pub(crate) const CA: &str = "the authority of other nodes' certificates (peer.tls_ca)";

impl PeerTls {
    /// Takes the content of three PEM files: this node's certificate with its chain, its private key, and the
    /// certificates of the authority that every node's certificate must come from.
    ///
    /// Errors: one that is not PEM or has nothing of its kind, or a key that is not the certificate's.
    pub fn from_pem(certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(CERTIFICATE, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Content {
            what: KEY,
            problem: format!("expected a private key in PEM, as PKCS #8, PKCS #1 or SEC 1: {error}"),
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates(CA, ca)? {
            roots.add(root).map_err(|error| TlsError::Content {
                what: CA,
                problem: format!("a certificate cannot be used as an authority: {error}"),
            })?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(default_provider());
        let versions = &[&rustls::version::TLS13];
        let pair = |error: rustls::Error| TlsError::Content {
            what: CERTIFICATE,
            problem: format!("it cannot be used together with its key: {error}"),
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| TlsError::Content {
                what: CA,
                problem: error.to_string(),
            })?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        // Connections are few and long: tickets to resume them are never used.
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(pair)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").finish_non_exhaustive()
    }
}

/// The name that a dialled host's certificate must hold.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("`{host}` is neither an IP address nor a name that a certificate can hold"))
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

/// What an error of I/O says about TLS, when that is what it is about.
pub(crate) fn trouble(error: &std::io::Error) -> Option<String> {
    use rustls::{AlertDescription, CertificateError, Error};
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let hint = match error {
        Error::InvalidMessage(_) => {
            "the other side does not use TLS, this node does: set peer.tls_cert, peer.tls_key and peer.tls_ca there too"
        }
        Error::NoCertificatesPresented => "the other side presented no certificate",
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the other side's certificate does not come from the authority in peer.tls_ca"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the other side's certificate does not name the host that was dialled",
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "the other side's certificate is not valid now",
        Error::InvalidCertificate(_) => "the other side's certificate cannot be used",
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "the other side does not know the authority of this node's certificate"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the other side wants a certificate from this node"
        }
        Error::AlertReceived(_) => "the other side broke off",
        _ => return Some(error.to_string()),
    };
    Some(format!("{hint} ({error})"))
}
