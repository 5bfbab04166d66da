//! The bucket that a command works on, without brokers.

use std::collections::BTreeMap;

use clap::Args;
use meridian_tiered_storage::cold::{CacheSettings, ColdReader};
use meridian_tiered_storage::replay::{Catalog, CatalogError};
use meridian_tiered_storage::store::{Store, StoreError, StoreSettings};

use crate::error::CliError;
use crate::parse::parse_setting;

/// Where the bucket is, and whose part of it is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct BucketArgs {
    /// The bucket: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a directory
    #[arg(long, env = "MERIDIAN_BUCKET", value_name = "URL")]
    bucket: String,
    /// An option of the bucket, such as endpoint=http://127.0.0.1:9000 or region=eu-central-1; may be given several times
    #[arg(long = "bucket-option", value_name = "NAME=VALUE", value_parser = parse_setting)]
    options: Vec<(String, String)>,
    /// Id of the cluster, where the bucket holds several
    #[arg(long, value_name = "ID")]
    cluster: Option<String>,
}

impl BucketArgs {
    /// The bucket. Sends no request.
    pub(crate) fn open(&self) -> Result<Store, CliError> {
        open(&self.bucket, &self.options)
    }

    /// What the bucket says of the cluster.
    pub(crate) async fn catalog(&self, store: &Store) -> Result<Catalog, CliError> {
        Ok(Catalog::open(store, self.cluster.as_deref()).await?)
    }

    /// The cluster that was named.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }
}

/// Opens the bucket of a URL, which must be there if it is a directory. Sends no request.
pub(crate) fn open(url: &str, options: &[(String, String)]) -> Result<Store, CliError> {
    // A store of a directory would make one that is not there.
    let directory = url.strip_prefix("file://").unwrap_or(url);
    if !directory.contains("://") && !std::path::Path::new(directory).is_dir() {
        return Err(CliError::failed(format!("{directory} is not a directory"))
            .advise("name the bucket as `meridian serve --bucket` does"));
    }
    let settings = StoreSettings {
        options: options.iter().cloned().collect::<BTreeMap<_, _>>(),
        ..StoreSettings::new(url)
    };
    Store::open(&settings).map_err(|error| CliError::usage(error.to_string()))
}

/// A reader of the bucket that holds `memory_bytes` of it, and as much on its way.
pub(crate) async fn open_reader(store: Store, memory_bytes: usize) -> Result<ColdReader, CliError> {
    let settings = CacheSettings {
        memory_bytes,
        disk: None,
        in_flight_bytes_max: memory_bytes,
    };
    ColdReader::open(store, &settings)
        .await
        .map_err(|error| CliError::failed(error.to_string()))
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::failed(format!("the bucket cannot be read: {error}"))
            .advise("check --bucket, --bucket-option and the credentials in the environment")
    }
}

impl From<CatalogError> for CliError {
    fn from(error: CatalogError) -> Self {
        let advice = match &error {
            CatalogError::Store(error) => return error.clone().into(),
            CatalogError::Empty => {
                "check the URL; a region writes to its bucket some seconds after its first records"
            }
            CatalogError::Several { .. } | CatalogError::NoCluster { .. } => "name one with --cluster",
            // What is in the bucket does not hold.
            CatalogError::NoTopics { .. } | CatalogError::NoManifest { .. } => {
                return Self::check(error.to_string())
                    .advise("a running region writes it again within a minute or so");
            }
        };
        Self::failed(error.to_string()).advise(advice)
    }
}
