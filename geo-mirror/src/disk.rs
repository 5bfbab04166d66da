//! Reads the files of TLS, and looks whether they have changed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{info, warn};

use crate::blocking::blocking;
use crate::counters::{Counters, add};
use crate::tls::{CA, CERTIFICATE, GeoTls, KEY, TlsError, TlsFiles, authenticated};

impl GeoTls {
    /// Reads three PEM files, which are looked at again while links run: new connections are made with what they then
    /// hold, those that exist go on.
    ///
    /// Errors name the file and the setting it comes from.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let configs = authenticated(read_all(&files)?)?;
        Ok(Self::holding(configs, Some(files)))
    }

    /// Takes the files anew if they have changed. Returns whether they have.
    ///
    /// Errors: they cannot be used; what was loaded before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        let pem = read_all(files)?;
        if self.current.load().pem == pem {
            return Ok(false);
        }
        self.current.store(Arc::new(authenticated(pem)?));
        Ok(true)
    }

    /// Reloads every now and then, until the last clone is gone. Only the first call does anything.
    pub(crate) fn watch(&self, interval: Duration, counters: Arc<Counters>) {
        if self.files.is_none() || self.is_watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let current = Arc::downgrade(&self.current);
        let (files, is_watched) = (self.files.clone(), self.is_watched.clone());
        tokio::spawn(async move {
            let mut trouble = None;
            loop {
                tokio::time::sleep(interval).await;
                let Some(current) = current.upgrade() else {
                    return;
                };
                let tls = Self {
                    current,
                    files: files.clone(),
                    is_watched: is_watched.clone(),
                };
                match blocking(move || tls.reload()).await {
                    Some(Ok(true)) => {
                        add(&counters.tls_reloads, 1);
                        trouble = None;
                        info!("the certificate for other regions was taken anew");
                    }
                    Some(Ok(false)) => trouble = None,
                    Some(Err(error)) => {
                        add(&counters.tls_reloads_failed, 1);
                        let text = error.to_string();
                        if trouble.as_ref() != Some(&text) {
                            warn!(%error, "the certificate for other regions stays as it was");
                        }
                        trouble = Some(text);
                    }
                    None => return,
                }
            }
        });
    }
}

fn read_all(files: &TlsFiles) -> Result<[Vec<u8>; 3], TlsError> {
    Ok([
        read(CERTIFICATE, &files.certificate)?,
        read(KEY, &files.key)?,
        read(CA, &files.ca)?,
    ])
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}
