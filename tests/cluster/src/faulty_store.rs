//! An S3 server behind a proxy that fails as networks and clouds do.

use meridian_compat::s3::{BucketAddress, FaultProxy, Gateway};
use meridian_compat::suite::local_settings;
use meridian_compat::{Program, workspace};

use crate::rounds::RunError;

/// The server, the proxy, and a bucket.
pub(crate) struct FaultyStore {
    pub(crate) proxy: FaultProxy,
    /// Past the proxy.
    pub(crate) bucket: BucketAddress,
    _gateway: Gateway,
}

/// Why it cannot run here, or the clients of its tests cannot.
pub(crate) fn missing() -> Option<String> {
    let client = || {
        [Program::Franz, Program::Confluent]
            .into_iter()
            .find_map(Program::missing)
    };
    Gateway::missing().or_else(client)
}

impl FaultyStore {
    /// Starts it, without faults. `name` is that of the run directory.
    pub(crate) fn start(name: &str, seed: u64) -> Result<Self, RunError> {
        let directory = workspace::run_directory(&format!("{name}-store"));
        let gateway = Gateway::start(&directory).map_err(RunError::CannotRun)?;
        let proxy = FaultProxy::start(gateway.port(), seed)
            .map_err(|e| RunError::CannotRun(format!("the proxy cannot listen: {e}")))?;
        let bucket = gateway.bucket("region");
        Ok(Self {
            proxy,
            bucket,
            _gateway: gateway,
        })
    }

    /// Of nodes that reach the bucket through the proxy, keep little locally and do not wait long.
    pub(crate) fn settings(&self) -> impl Iterator<Item = String> {
        let more = [
            "tier.request_timeout_ms=2000",
            "tier.delete_grace_seconds=10",
            "tier.sweep_interval_seconds=5",
        ];
        let through = self.bucket.clone().through(self.proxy.port());
        through
            .settings()
            .into_iter()
            .chain(local_settings())
            .chain(more.map(str::to_owned))
    }
}
