//! This node's part in the mirror between regions, from its settings.

use std::sync::Arc;

use meridian_shard::{
    CompressionSetting, CongestionControl, GeoSettings, GeoTls, LinkSettings, OsNetwork, Random, TlsFiles,
    TransportSetting,
};
use meridian_types::{NodeId, RegionNumber};

use crate::bucket;
use crate::server::ServerError;
use crate::settings::{Congestion, GeoCompression, GeoTransport, Settings};

/// Level of Zstandard where the operator asks for it: a middle one, which a core carries at some hundred MB/s.
const ZSTD_LEVEL: i32 = 3;

/// The id under which everybody knows this node. [`crate::Config`] has checked the numbers.
pub(crate) fn broker_id(settings: &Settings) -> NodeId {
    let local = settings.node.id;
    RegionNumber(settings.region.number)
        .node(local)
        .unwrap_or(NodeId(local))
}

/// `None` where the region is alone.
pub(crate) fn settings(settings: &Settings, random: &Random) -> Result<Option<GeoSettings>, ServerError> {
    let geo = &settings.geo;
    let Some(listen) = geo.listen else {
        return Ok(None);
    };
    let tls = match (&geo.tls_cert, &geo.tls_key, &geo.tls_ca) {
        (Some(certificate), Some(key), Some(ca)) => GeoTls::load(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            ca: ca.clone(),
        })?,
        _ => GeoTls::ephemeral()?,
    };
    let mut seed = [0; 32];
    let (first, second) = seed.split_at_mut(16);
    first.copy_from_slice(&random().to_le_bytes());
    second.copy_from_slice(&random().to_le_bytes());
    let transport = LinkSettings {
        bind: listen.ip(),
        connections: geo.connections,
        congestion: match geo.congestion {
            Congestion::Bbr => CongestionControl::Bbr,
            Congestion::Cubic => CongestionControl::Cubic,
            Congestion::NewReno => CongestionControl::NewReno,
        },
        transport: match geo.transport {
            GeoTransport::Auto => TransportSetting::Auto,
            GeoTransport::Quic => TransportSetting::Quic,
            GeoTransport::Tcp => TransportSetting::Tcp,
        },
        compression: match geo.compression {
            GeoCompression::Adaptive => CompressionSetting::Adaptive,
            GeoCompression::Lz4 => CompressionSetting::Lz4,
            GeoCompression::Zstd => CompressionSetting::Zstd(ZSTD_LEVEL),
            GeoCompression::Off => CompressionSetting::Off,
        },
        is_insecure_allowed: settings.node.insecure,
        ..LinkSettings::new(seed)
    };
    let limit = geo.send_bytes_per_second_max.0;
    Ok(Some(GeoSettings {
        number: RegionNumber(settings.region.number),
        listen,
        advertise: geo.advertise.as_ref().map(|text| text.0.clone()),
        seeds: geo.seeds.0.clone(),
        buckets: bucket::others(settings)?,
        send_bytes_per_second_max: (limit > 0).then_some(limit),
        transport,
        tls,
        network: Arc::new(OsNetwork),
    }))
}
