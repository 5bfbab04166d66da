//! From a URL and options to a store.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use thiserror::Error;
use url::Url;

use super::StoreLimits;
use super::chain;
use super::disk::make_directory;

/// Which store, and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///directory`, `memory:///`, or the
    /// path of a local directory.
    pub url: String,
    /// What `object_store` calls configuration keys, such as `endpoint`, `access_key_id`, `secret_access_key`,
    /// `region`, `virtual_hosted_style_request`, `allow_http`. The cloud's usual environment variables are read too,
    /// options win.
    pub options: BTreeMap<String, String>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How patient to be.
    pub limits: StoreLimits,
}

impl StoreSettings {
    /// A URL or directory, everything else as usual.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            options: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            limits: StoreLimits::default(),
        }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of options are secrets more often than not.
        f.debug_struct("StoreSettings")
            .field("url", &self.url)
            .field("options", &self.options.keys())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Settings that name no store. Put them right.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The URL cannot be read, or is of a kind we do not speak.
    #[error(
        "`{url}` is not the address of a bucket: {reason}; expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///DIRECTORY or the path of a directory"
    )]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No such option.
    #[error(
        "bucket option `{key}` is not known for {url}; examples are `endpoint`, `region`, `access_key_id`"
    )]
    Option {
        /// The option.
        key: String,
        /// The URL.
        url: String,
    },
    /// Credentials and data would travel in the clear.
    #[error(
        "the endpoint {endpoint} is not encrypted and not on this machine; use https://, or set the bucket option `allow_http` to `true`"
    )]
    Plaintext {
        /// The endpoint.
        endpoint: String,
    },
    /// The directory cannot be made.
    #[error("cannot make the directory {directory} of the bucket: {reason}")]
    Directory {
        /// The directory.
        directory: String,
        /// What the system said.
        reason: String,
    },
    /// The store's client refuses the settings.
    #[error("cannot open the bucket {url}: {reason}")]
    Client {
        /// The URL.
        url: String,
        /// What it said.
        reason: String,
    },
}

pub(super) fn open(settings: &StoreSettings) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    if !settings.url.contains("://") {
        return Ok((
            open_directory(std::path::Path::new(&settings.url))?,
            Path::default(),
        ));
    }
    let bad_url = |reason: String| OpenError::Url {
        url: settings.url.clone(),
        reason,
    };
    let url = Url::parse(&settings.url).map_err(|error| bad_url(error.to_string()))?;
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|error| bad_url(error.to_string()))?;
    install_crypto();
    let objects: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Memory => Arc::new(InMemory::new()),
        ObjectStoreScheme::Local => {
            let directory = url
                .to_file_path()
                .map_err(|()| bad_url("it is not the path of a directory here".into()))?;
            return Ok((open_directory(&directory)?, Path::default()));
        }
        ObjectStoreScheme::AmazonS3 => open_s3(settings)?,
        ObjectStoreScheme::GoogleCloudStorage => open_gcs(settings)?,
        ObjectStoreScheme::MicrosoftAzure => open_azure(settings)?,
        _ => return Err(bad_url(format!("{} is not supported", url.scheme()))),
    };
    Ok((objects, prefix))
}

fn open_directory(directory: &std::path::Path) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let failed = |reason: String| OpenError::Directory {
        directory: directory.display().to_string(),
        reason,
    };
    make_directory(directory).map_err(|error| failed(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(directory).map_err(|error| failed(chain(&error)))?;
    // An object that was put survives a power cut, like every acknowledged record.
    Ok(Arc::new(store.with_fsync(true)))
}

fn open_s3(settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_url(&settings.url)
        .with_client_options(client_options(settings)?)
        .with_retry(no_retries());
    for (key, value) in &settings.options {
        builder = builder.with_config(option::<AmazonS3ConfigKey>(settings, key)?, value);
    }
    let store = builder.build().map_err(|error| client_error(settings, &error))?;
    Ok(Arc::new(store))
}

fn open_gcs(settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_url(&settings.url)
        .with_client_options(client_options(settings)?)
        .with_retry(no_retries());
    for (key, value) in &settings.options {
        builder = builder.with_config(option::<GoogleConfigKey>(settings, key)?, value);
    }
    let store = builder.build().map_err(|error| client_error(settings, &error))?;
    Ok(Arc::new(store))
}

fn open_azure(settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_url(&settings.url)
        .with_client_options(client_options(settings)?)
        .with_retry(no_retries());
    for (key, value) in &settings.options {
        builder = builder.with_config(option::<AzureConfigKey>(settings, key)?, value);
    }
    let store = builder.build().map_err(|error| client_error(settings, &error))?;
    Ok(Arc::new(store))
}

fn option<K: std::str::FromStr>(settings: &StoreSettings, key: &str) -> Result<K, OpenError> {
    key.to_ascii_lowercase().parse().map_err(|_| OpenError::Option {
        key: key.to_owned(),
        url: settings.url.clone(),
    })
}

fn client_error(settings: &StoreSettings, error: &object_store::Error) -> OpenError {
    OpenError::Client {
        url: settings.url.clone(),
        reason: chain(error),
    }
}

/// The store retries by itself (`Store::attempts`), by one clock and one rule for all kinds.
fn no_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::ZERO,
    }
}

/// Deadlines are the store's too; only the connection's is left to the client.
fn client_options(settings: &StoreSettings) -> Result<ClientOptions, OpenError> {
    let options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(settings.connect_timeout)
        // Stores close idle connections after some 10 seconds; a request into a closed one waits for its timeout.
        .with_pool_idle_timeout(Duration::from_secs(8));
    // Google's is called `base_url`.
    let names_endpoint = |key: &str| {
        let key = key.to_ascii_lowercase();
        key.ends_with("endpoint") || key.ends_with("base_url")
    };
    let endpoint = settings
        .options
        .iter()
        .find(|(key, _)| names_endpoint(key))
        .map(|(_, endpoint)| endpoint);
    let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://")) else {
        return Ok(options);
    };
    let is_allowed = settings
        .options
        .iter()
        .any(|(key, value)| key.to_ascii_lowercase().ends_with("allow_http") && value == "true");
    if !is_allowed && !is_loopback(endpoint) {
        return Err(OpenError::Plaintext {
            endpoint: endpoint.clone(),
        });
    }
    Ok(options.with_allow_http(true))
}

fn is_loopback(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else {
        return false;
    };
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// The HTTP client takes its cryptography from the process's default, and it is built without one of its own, so
/// that there is only one in the program. Whoever was first stays.
fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(url: &str, options: &[(&str, &str)]) -> String {
        let mut settings = StoreSettings::new(url);
        for (key, value) in options {
            settings.options.insert((*key).into(), (*value).into());
        }
        match open(&settings) {
            Ok(_) => panic!("{url} opens"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        assert!(error_of("ftp://host/dir", &[]).contains("expected s3://BUCKET/PREFIX"));
        assert!(error_of("s3://", &[]).contains("s3://"));
        let unknown = error_of("s3://bucket", &[("acess_key", "x")]);
        assert!(unknown.contains("`acess_key` is not known"), "{unknown}");
        for (url, key) in [("s3://bucket", "endpoint"), ("gs://bucket", "google_base_url")] {
            let plain = error_of(url, &[(key, "http://store.example:9000")]);
            assert!(plain.contains("allow_http"), "{url}: {plain}");
        }
    }

    #[test]
    fn plaintext_is_allowed_on_this_machine_or_when_said() {
        for (endpoint, allow) in [
            ("http://127.0.0.1:9000", "false"),
            ("http://localhost:9000", "false"),
            ("http://[::1]:9000", "false"),
            ("http://store.example:9000", "true"),
            ("https://store.example:9000", "false"),
        ] {
            let mut settings = StoreSettings::new("s3://bucket/below/here");
            settings.options = [
                ("endpoint", endpoint),
                ("allow_http", allow),
                ("region", "here"),
                ("access_key_id", "key"),
                ("secret_access_key", "secret"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
            let (_, prefix) = open(&settings).unwrap_or_else(|error| panic!("{endpoint}: {error}"));
            assert_eq!(prefix.as_ref(), "below/here");
            assert!(
                !format!("{settings:?}").contains("\"secret\""),
                "secrets are not shown"
            );
        }
    }

    #[test]
    fn a_directory_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        open(&StoreSettings::new(inner.to_str().unwrap())).unwrap();
        assert!(inner.is_dir());
        let url = Url::from_directory_path(directory.path().join("c d")).unwrap();
        open(&StoreSettings::new(url.as_str())).unwrap();
        assert!(directory.path().join("c d").is_dir());
    }

    #[test]
    fn every_kind_of_cloud_opens_and_names_the_options_it_does_not_know() {
        let azure = [("account_name", "us"), ("access_key", "c2VjcmV0")];
        for (url, options) in [
            ("gs://bucket/below/here", &[("skip_signature", "true")][..]),
            ("az://container/below/here", &azure[..]),
        ] {
            let mut settings = StoreSettings::new(url);
            for (key, value) in options {
                settings.options.insert((*key).into(), (*value).into());
            }
            let (_, prefix) = open(&settings).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(prefix.as_ref(), "below/here");
            assert!(error_of(url, &[("wrong", "x")]).contains("`wrong` is not known"));
        }
    }
}
