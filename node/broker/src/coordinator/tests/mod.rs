//! Transcripts, properties, the format and the driver.

mod driver;
mod format;
mod properties;
mod transcript;
mod world;
