//! How links behave.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::compression::CompressionSetting;
use crate::feeds::FeedsSettings;
use crate::link::LinkSettings;

/// How QUIC shares the path with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// By a model of the path: keeps its rate under loss, and queues on the path short.
    #[default]
    Bbr,
    /// Polite; collapses under loss on long paths.
    Cubic,
    /// The textbook's.
    NewReno,
}

/// Which transports a link may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportSetting {
    /// QUIC; TCP where QUIC does not come up, until QUIC does.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// TCP only.
    Tcp,
}

/// Settings of [`crate::GeoListener`] and [`crate::Links`]. The defaults are for regions up to 150 ms apart.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Outgoing sockets are bound to this address; unspecified lets the system choose.
    pub bind: IpAddr,
    /// Whence names of links and the spread of waits come. Must be secret and never the same twice.
    pub seed: [u8; 32],
    /// Connections, each over a socket of its own, of a link that carries content.
    pub connections: usize,
    /// How QUIC shares the path.
    pub congestion: CongestionControl,
    /// Which transports may be used.
    pub transport: TransportSetting,
    /// Largest UDP payload that is probed for; at most [`Settings::MTU_MAX`] is used.
    pub mtu_bytes_max: u16,
    /// How frames are compressed.
    pub compression: CompressionSetting,
    /// Bytes of one frame before compression; one command may be larger.
    pub frame_bytes_max: usize,
    /// Bytes of one shard that are sent and not applied.
    pub shard_window_bytes: usize,
    /// Bytes of one link that are sent and not applied.
    pub link_window_bytes: usize,
    /// Time for a connection to be opened and greeted.
    pub handshake_timeout: Duration,
    /// Time for QUIC to come up before TCP is tried.
    pub quic_timeout: Duration,
    /// How often QUIC is tried again while TCP is used.
    pub quic_retry_interval: Duration,
    /// A connection on which nothing arrives for so long ends. At least one second.
    pub idle_timeout: Duration,
    /// How often a source says how far it is; at most 200 ms.
    pub watermark_interval: Duration,
    /// How often a region's card is sent though it has not changed.
    pub card_interval: Duration,
    /// Wait after the first failure; doubles with each further one.
    pub backoff_min: Duration,
    /// Longest wait: short, because a region that is dialled in vain costs little, and one that is back is waited for.
    pub backoff_max: Duration,
    /// Links that are let in.
    pub sessions_max: usize,
    /// Whether links beyond loopback may go without certificates.
    pub is_insecure_allowed: bool,
    /// How often the files of TLS are looked at.
    pub tls_reload_interval: Duration,
}

impl Settings {
    /// Larger packets than this are lost: ten of them do not fit a send of the system.
    pub const MTU_MAX: u16 = 6500;

    /// The defaults. `seed` comes from the node's source of randomness.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            seed,
            connections: 4,
            congestion: CongestionControl::default(),
            transport: TransportSetting::default(),
            mtu_bytes_max: 1452,
            compression: CompressionSetting::default(),
            frame_bytes_max: 1 << 20,
            shard_window_bytes: 32 << 20,
            link_window_bytes: 64 << 20,
            handshake_timeout: Duration::from_secs(5),
            quic_timeout: Duration::from_secs(3),
            quic_retry_interval: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(10),
            watermark_interval: Duration::from_millis(100),
            card_interval: Duration::from_secs(1),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            sessions_max: 256,
            is_insecure_allowed: false,
            tls_reload_interval: Duration::from_secs(5),
        }
    }

    pub(crate) fn feeds(&self) -> FeedsSettings {
        FeedsSettings {
            frame_bytes_max: self.frame_bytes_max,
            window_bytes: self.link_window_bytes,
            writes_max: 16,
            frames_in_flight_max: 4096,
            compression: self.compression,
        }
    }

    pub(crate) fn link(&self, weight: u8) -> LinkSettings {
        LinkSettings {
            window_bytes: self.shard_window_bytes,
            apply_bytes_max: self.frame_bytes_max,
            weight,
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
            silence_max: self.idle_timeout.max(Duration::from_secs(1)),
        }
    }

    /// How often each side says that it is there.
    pub(crate) fn ping_interval(&self) -> Duration {
        self.idle_timeout / 5
    }
}
