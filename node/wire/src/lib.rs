//! The Kafka protocol and RecordBatch v2, sans-IO.
//!
//! Each API is a table of fields that reads like Kafka's specification ([`messages`]); the macro in
//! `table.rs` makes structs, decoder, encoder and [`schema`] out of it, for requests and responses
//! alike, so the broker and the Rust client share one codec. To add an API, write its table in
//! `src/messages/` and add its line to the list in `api.rs`.
//!
//! Bytes that come from a peer never panic and never cost more memory than their own length allows:
//! every length is held against what is left of the frame before anything is allocated
//! ([`codec::Decoder`]). Record batches pass through unread and uncopied: a Produce request hands them out
//! as `BytesMut`, to be stamped in place, and a Fetch response takes them as [`codec::Records`] segments.

#[macro_use]
mod table;

pub mod api;
pub mod batch;
pub mod codec;
pub mod embedded;
pub mod error_code;
pub mod field;
pub mod frame;
pub mod header;
pub mod message;
pub mod messages;
pub mod schema;

pub use api::{ApiKey, RequestBody, ResponseBody};
pub use codec::{DecodeError, DecodeErrorKind, Decoder, EncodeError, Encoder, Records, Str};
pub use error_code::ErrorCode;
pub use header::{RequestHeader, ResponseHeader};
pub use message::{Message, Request};
pub use messages::*;
pub use schema::Versions;
