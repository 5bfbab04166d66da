//! Reading and writing the protocol's primitive types.

mod decoder;
mod encoder;
mod error;
mod records;
mod str;
pub mod varint;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use records::Records;
pub use str::Str;
