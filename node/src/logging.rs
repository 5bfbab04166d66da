//! Log lines on standard error.

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{LogFormat, LogSection};

/// Why logging cannot start.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// `log.filter` cannot be read; the text shows where.
    #[error(
        "log.filter {filter:?}: {reason}; expected the syntax of RUST_LOG, such as info,meridian_broker=debug"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process logs already.
    #[error("logging was started before")]
    Started,
}

/// Starts logging for the whole process.
pub fn start_logging(settings: &LogSection) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&settings.filter.0).map_err(|error| LoggingError::Filter {
        filter: settings.filter.0.clone(),
        reason: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().finish().try_init(),
    };
    started.map_err(|_| LoggingError::Started)
}
