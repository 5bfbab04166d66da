//! Certificates for tests.

use meridian_geo_mirror::GeoTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key of a node, as PEM.
    pub(crate) fn issue(&self, node: &str) -> (String, String) {
        let names = vec!["127.0.0.1".to_owned(), format!("{node}.meridian")];
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// For a node such as `node-1.region-0`.
    pub(crate) fn tls(&self, node: &str) -> GeoTls {
        let (certificate, key) = self.issue(node);
        GeoTls::from_pem(certificate.as_bytes(), key.as_bytes(), self.pem().as_bytes()).expect("TLS")
    }

    /// Both sides' configuration for a program that is no node.
    pub(crate) fn raw(&self, node: &str) -> (rustls::ClientConfig, rustls::ServerConfig) {
        let (certificate, key) = self.issue(node);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<_, _>>()
            .expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .expect("a pair");
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        client.alpn_protocols = vec![b"meridian-geo".to_vec()];
        server.alpn_protocols = vec![b"meridian-geo".to_vec()];
        (client, server)
    }
}
