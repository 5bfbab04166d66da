//! How a producer works.

use std::time::Duration;

use meridian_wire::batch::Compression;

/// Who must have a record before it counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// Nobody: the server does not answer, and losses go unnoticed.
    None,
    /// The partition's leader.
    Leader,
    /// Every replica in sync.
    #[default]
    All,
}

impl Acks {
    /// The protocol's number for it.
    pub fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// How a producer works. The defaults lose nothing and repeat nothing.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// Who must have a record.
    pub acks: Acks,
    /// Whether retries are recognised by the server, so that each record is written once and in order.
    /// Needs `acks` all.
    pub is_idempotent: bool,
    /// Compression of batches.
    pub compression: Compression,
    /// Level of the codec's own scale; `None` for its default.
    pub compression_level: Option<i32>,
    /// A batch is sent when it has this many bytes before compression.
    pub batch_bytes: usize,
    /// A batch is sent after this time, even if it is not full.
    pub linger: Duration,
    /// Most bytes of a record, and of the batches of one request.
    pub request_bytes_max: usize,
    /// Requests on their way to one broker; at most 5 if idempotent.
    pub in_flight_max: usize,
    /// Most bytes of records that are not acknowledged; beyond it, `send` waits.
    pub buffer_bytes: usize,
    /// How long `send` waits for room.
    pub buffer_timeout: Duration,
    /// How long a record is tried.
    pub delivery_timeout: Duration,
    /// How long one request is waited for.
    pub request_timeout: Duration,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            is_idempotent: true,
            compression: Compression::None,
            compression_level: None,
            batch_bytes: 64 << 10,
            linger: Duration::from_millis(2),
            request_bytes_max: 1 << 20,
            in_flight_max: 5,
            buffer_bytes: 64 << 20,
            buffer_timeout: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
        }
    }
}
