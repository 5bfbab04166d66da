//! Stores that speak S3, for tests of the tier: a real one, one that lies, and one whose every answer can go wrong.
//!
//! - [`Gateway`]: a real S3 server as a process: versitygw, or MinIO.
//! - [`LyingStore`]: a server in this process that takes conditional puts as some servers do.
//! - [`FaultProxy`]: stands in front of either, and fails as networks and clouds do.

mod gateway;
mod http;
mod lying;
mod proxy;

pub use gateway::{Gateway, missing};
pub use lying::{Conditions, LyingStore};
pub use proxy::{FaultProxy, ProxyFault, ProxyFigures};

/// How a node, or a command without brokers, reaches a bucket.
#[derive(Clone, Debug)]
pub struct BucketAddress {
    /// What `--bucket` is told.
    pub url: String,
    /// Options of the store, by name.
    pub options: Vec<(String, String)>,
}

impl BucketAddress {
    /// A directory.
    pub fn directory(path: &std::path::Path) -> Self {
        Self {
            url: path.display().to_string(),
            options: Vec::new(),
        }
    }

    /// A bucket of a server on this machine that takes these keys.
    pub fn s3(bucket: &str, prefix: &str, port: u16, access_key: &str, secret_key: &str) -> Self {
        let options = [
            ("endpoint", format!("http://127.0.0.1:{port}")),
            ("region", "us-east-1".to_owned()),
            ("access_key_id", access_key.to_owned()),
            ("secret_access_key", secret_key.to_owned()),
        ];
        Self {
            url: format!("s3://{bucket}/{prefix}"),
            options: options.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    /// The same bucket by another way, such as through a proxy.
    #[must_use]
    pub fn through(mut self, port: u16) -> Self {
        for (name, value) in &mut self.options {
            if name == "endpoint" {
                *value = format!("http://127.0.0.1:{port}");
            }
        }
        self
    }

    /// Settings of a node, `SECTION.KEY=VALUE`.
    pub fn settings(&self) -> Vec<String> {
        let options = self
            .options
            .iter()
            .map(|(name, value)| format!("tier.options.{name}={value}"));
        std::iter::once(format!("tier.url={}", self.url))
            .chain(options)
            .collect()
    }

    /// Arguments of `meridian tier`, `replay` and `region restore`.
    pub fn arguments(&self) -> Vec<String> {
        let options = self
            .options
            .iter()
            .flat_map(|(name, value)| ["--bucket-option".to_owned(), format!("{name}={value}")]);
        ["--bucket".to_owned(), self.url.clone()]
            .into_iter()
            .chain(options)
            .collect()
    }
}
