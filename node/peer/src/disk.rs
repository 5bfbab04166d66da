//! Reads the files of TLS.

use std::path::Path;

use crate::tls::{CA, CERTIFICATE, KEY, PeerTls, TlsError};

impl PeerTls {
    /// Reads three PEM files, see [`PeerTls::from_pem`].
    ///
    /// Errors name the file and the setting it comes from.
    pub fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<Self, TlsError> {
        Self::from_pem(&read(CERTIFICATE, certificate)?, &read(KEY, key)?, &read(CA, ca)?)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}
