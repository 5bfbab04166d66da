//! What every message of the protocol can do.

use crate::api::ApiKey;
use crate::codec::{DecodeError, Decoder, EncodeError, Encoder};
use crate::schema::{StructSchema, Versions};

/// A request or a response, without its header.
pub trait Message: Sized {
    /// Kafka's name of it.
    const NAME: &'static str;
    /// The versions this codec reads and writes.
    const VERSIONS: Versions;
    /// The versions with compact lengths and tagged fields (KIP-482).
    const FLEXIBLE: Versions;
    /// Its table.
    const SCHEMA: &'static StructSchema;

    /// Reads it. The rest of the frame is left to the caller: [`Decoder::finish`].
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, DecodeError>;

    /// Writes it. A field that `version` does not have is dropped if it is ignorable or holds its
    /// default; otherwise the error is `FieldNotInVersion`.
    fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError>;
}

/// A request.
pub trait Request: Message {
    /// The API it asks.
    const API: ApiKey;
    /// What answers it, in the same version.
    type Response: Message;
}
