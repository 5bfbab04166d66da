//! The mirror between regions: carries the content of shards from the region that owns it to the regions that
//! mirror it, in order, at equal sequences, byte for byte.
//!
//! The owner's side is a [`Source`], read by [`GeoListener`]; the mirror's side is a [`Sink`], written by [`Links`].
//! This crate knows neither Raft nor the state machine: commands are bytes with a place in a shard's content order,
//! the *sequence*. Frames: `docs/formats/geo-frame.md`. Why the transport is as it is: `docs/decisions`.
//!
//! Pure: [`Feeds`] (what is sent next), [`Link`] (what is applied next), [`Reorder`], [`TokenBucket`], [`Compression`],
//! [`Staleness`], [`Backoff`]. Around them the drivers: sessions over QUIC, or over TCP where UDP does not pass.

mod hello;
mod refusal;
mod sink;
mod source;

mod body;
mod frame;
mod head;

mod backoff;
mod bbr;
mod compression;
mod feeds;
mod link;
mod reorder;
mod staleness;
mod token_bucket;

mod counters;
mod settings;
mod status;

mod disk;
mod named_region;
mod tls;

mod blocking;
mod budget;
mod dial;
mod follows;
mod greet;
mod lane;
mod limits;
mod links;
mod listener;
mod load;
mod mirror_session;
mod network;
mod questions;
mod quic;
mod session;
mod source_session;
mod tcp;
#[cfg(test)]
mod transcript;

pub use backoff::Backoff;
pub use body::BodyError;
pub use compression::{Choice, Codec, Compression, CompressionSetting};
pub use counters::Counters;
pub use dial::{DialError, ask};
pub use feeds::{FeedAction, FeedError, FeedProgress, Feeds, FeedsSettings, Written};
pub use frame::{Applied, EntriesFrame, Follow, Frame, Greeting, Intent, Reject, Subscription, WatermarkOf};
pub use head::{ENTRIES_BYTES_MAX, FrameError, HEAD_BYTES};
pub use hello::Hello;
pub use link::{Link, LinkAction, LinkError, LinkPhase, LinkSettings};
pub use links::{Links, PeerRegion};
pub use listener::{GeoListener, StartError};
pub use network::{ByteStream, Network, OsNetwork, StreamAcceptor};
pub use questions::{AskError, QUESTION_BYTES_MAX};
pub use refusal::Refusal;
pub use reorder::{Reorder, ReorderError};
pub use settings::{CongestionControl, Settings, TransportSetting};
pub use sink::{Sink, SinkError};
pub use source::{Cursor, Entries, Reader, Source, Watermark};
pub use staleness::Staleness;
pub use status::{
    FeedStatus, FollowState, FollowStatus, LinkStatus, SessionStatus, Transport, TransportStatus,
};
pub use tls::{GeoTls, TlsError, TlsFiles};
pub use token_bucket::TokenBucket;
