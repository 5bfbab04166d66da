//! QUIC: how endpoints and connections are set up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig,
    VarInt,
};
use rustls::pki_types::CertificateDer;

use crate::bbr::BbrFactory;
use crate::head::FIELDS_BYTES_MAX;
use crate::lane::Lane;
use crate::network::Network;
use crate::settings::{CongestionControl, Settings};
use crate::status::Transport;

/// A stream's window: a whole frame of the usual size. Far larger ones have killed connections on paths that lose much,
/// because the gaps in one stream are limited.
const STREAM_WINDOW_BYTES: u32 = (1 << 20) + (64 << 10) + FIELDS_BYTES_MAX as u32;
/// Bytes that one connection keeps until they are acknowledged.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Bytes that one connection takes before they are read.
const RECEIVE_WINDOW_BYTES: u32 = 32 << 20;
/// Frames of entries on their way at once over one connection.
const STREAMS: u32 = 128;
/// Watermarks are small, and old ones worth nothing.
const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Parameters of connections. `takes_entries`: of the side that entries come to.
pub(crate) fn transport(settings: &Settings, takes_entries: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match settings.congestion {
        CongestionControl::Bbr => Arc::new(BbrFactory::default()),
        CongestionControl::Cubic => Arc::new(CubicConfig::default()),
        CongestionControl::NewReno => Arc::new(NewRenoConfig::default()),
    };
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(settings.mtu_bytes_max.min(Settings::MTU_MAX));
    let idle = u32::try_from(settings.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    config
        .congestion_controller_factory(controller)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(Some(settings.ping_interval()))
        .initial_rtt(INITIAL_RTT)
        // One for the greeting and what keeps its order; entries have one-way streams.
        .max_concurrent_bidi_streams(VarInt::from_u32(u32::from(!takes_entries)))
        .max_concurrent_uni_streams(VarInt::from_u32(if takes_entries { STREAMS } else { 0 }))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(if takes_entries {
            RECEIVE_WINDOW_BYTES
        } else {
            4 * STREAM_WINDOW_BYTES
        }))
        .send_window(SEND_WINDOW_BYTES)
        // A frame counts when it is whole: in turn, all of them would be whole at the end.
        .send_fairness(false)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES);
    Arc::new(config)
}

/// A socket of QUIC.
pub(crate) fn endpoint(
    network: &dyn Network,
    at: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> io::Result<Endpoint> {
    let socket = network.udp(at)?;
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))
}

/// A connection whose first stream is there.
pub(crate) fn lane(
    connection: Connection,
    writer: quinn::SendStream,
    reader: quinn::RecvStream,
    is_authenticated: bool,
) -> Lane {
    // What keeps its order is small and must not wait behind entries. It fails only when the stream is closed.
    let _ = writer.set_priority(1);
    let certificate = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| chain.first().cloned());
    Lane {
        transport: Transport::Quic,
        peer: connection.remote_address(),
        reader: Box::new(reader),
        writer: Box::new(writer),
        certificate,
        is_authenticated,
        quic: Some(connection),
    }
}
