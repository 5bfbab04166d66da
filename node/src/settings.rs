//! Every setting of a node: name, type, default and meaning, in one table.
//!
//! The name in the file is `section.key`, in the environment `MERIDIAN_SECTION__KEY`. Units come
//! last in the names; values in bytes may be written `"256MiB"`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One setting, as `config explain` shows it.
#[derive(Clone, Copy, Debug)]
pub struct SettingDoc {
    /// `section.key`.
    pub key: &'static str,
    /// What it means, in which unit.
    pub doc: &'static str,
}

macro_rules! settings {
    ($($(#[doc = $section_doc:literal])+ $section:ident: $name:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr;)+
    })+) => {
        /// The settings of a node, by section.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $($(#[doc = $section_doc])+ pub $section: $name,)+
        }

        $($(#[doc = $section_doc])+
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        })+

        /// Every setting, in the order of the sections.
        pub const SETTINGS: &[SettingDoc] = &[
            $($(SettingDoc {
                key: concat!(stringify!($section), ".", stringify!($key)),
                doc: concat!($($doc),+),
            },)+)+
        ];
    };
}

settings! {
    /// Who this node is.
    node: NodeSection {
        /// Number of this node in the whole deployment, from 1; the broker id that clients see. It never changes.
        id: u32 = 1;
        /// Directory of the journal and the checkpoints. Made when it does not exist.
        data: PathBuf = PathBuf::from("meridian-data");
        /// Rack or availability zone, told to clients that read close by (KIP-392).
        rack: Option<Text> = None;
        /// Let listeners be reached from other machines without TLS.
        insecure: bool = false;
    }
    /// What all nodes of the region share. Fixed when the region is founded.
    region: RegionSection {
        /// Name of the region.
        name: Text = Text("local".to_owned());
        /// Data shards: a power of two.
        shards: u32 = 16;
        /// Kafka cluster id; made up when the region is founded, unless it is given.
        cluster_id: Option<Text> = None;
    }
    /// The listener for Kafka clients.
    kafka: KafkaSection {
        /// Address to listen on; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9092));
        /// HOST:PORT that clients are told to connect to; the listening address unless it is given.
        advertise: Option<Text> = None;
        /// Connections at most; one more is closed at once.
        connections_max: usize = 20_000;
        /// Connections at most from one address.
        connections_per_ip_max: usize = 20_000;
        /// Bytes of one request at most.
        request_bytes_max: ByteCount = ByteCount(100 << 20);
        /// Bytes of requests in work at most, for one connection; then its socket is not read.
        connection_in_flight_bytes_max: ByteCount = ByteCount(64 << 20);
        /// Bytes of requests in work at most, for all connections together.
        in_flight_bytes_max: ByteCount = ByteCount(512 << 20);
        /// Bytes of responses under way at most, for all connections together.
        response_bytes_max: ByteCount = ByteCount(512 << 20);
        /// A connection without a request for so long is closed, in milliseconds.
        idle_timeout_ms: u64 = 600_000;
        /// Create a topic when a client asks for one that does not exist.
        auto_create_topics: bool = true;
        /// Partitions of a topic that is created without saying how many.
        partitions_default: u32 = 1;
    }
    /// The HTTP listener for health and metrics.
    admin: AdminSection {
        /// Address to listen on; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9644));
    }
    /// The log on this node's disk.
    journal: JournalSection {
        /// Bytes of one journal file.
        file_bytes: ByteCount = ByteCount(256 << 20);
        /// Bytes of journal files to aim at; files go, oldest first, once nothing in them is needed.
        bytes_max: ByteCount = ByteCount(50 << 30);
        /// `fsync`: acknowledge what a quorum has on disk. `memory`: acknowledge what a quorum has in memory, and lose it in a power cut; for comparisons only.
        durability: Durability = Durability::Fsync;
        /// Bytes of recent entries kept in memory for consumers at the tail.
        cache_bytes: ByteCount = ByteCount(512 << 20);
        /// Bytes that may wait for the disk.
        queue_bytes_max: ByteCount = ByteCount(256 << 20);
    }
    /// Consensus inside the region.
    raft: RaftSection {
        /// Leaders beat this often, in milliseconds.
        heartbeat_interval_ms: u64 = 1_000;
        /// Followers wait at least this long without a beat before they call an election, in milliseconds.
        election_timeout_ms: u64 = 3_000;
    }
    /// One shard.
    shard: ShardSection {
        /// Bytes of batches that may wait to be sequenced; beyond it producers are told to retry.
        queue_bytes_max: ByteCount = ByteCount(64 << 20);
        /// Bytes of batches in one entry of the log.
        command_bytes_max: ByteCount = ByteCount(4 << 20);
        /// Entries proposed and not yet committed, at most.
        proposals_in_flight_max: usize = 4;
        /// Bytes proposed and not yet committed, at most.
        bytes_in_flight_max: ByteCount = ByteCount(16 << 20);
        /// Entries applied since the last checkpoint that call for the next.
        checkpoint_entries: u64 = 20_000;
        /// Bytes of entries applied since the last checkpoint that call for the next; a restart reads them again.
        checkpoint_bytes: ByteCount = ByteCount(64 << 20);
        /// Pause between rounds of retention and checkpoints, in milliseconds.
        maintenance_interval_ms: u64 = 3_000;
    }
    /// Consumer groups.
    group: GroupSection {
        /// An empty group waits this long for more members before its first rebalance, in milliseconds.
        initial_rebalance_delay_ms: u64 = 3_000;
        /// Committed offsets of an empty group are kept this long, in minutes.
        offsets_retention_minutes: u64 = 10_080;
    }
    /// What the node writes to standard error.
    log: LogSection {
        /// `text` or `json`.
        format: LogFormat = LogFormat::Text;
        /// Filter in the syntax of `RUST_LOG`, for example `info,meridian_broker=debug`.
        filter: Text = Text("info,openraft=error".to_owned());
    }
}

/// How a write is made safe before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Synced on a quorum.
    Fsync,
    /// In the memory of a quorum.
    Memory,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A text that may look like a number: the environment has no types, and `5` is a good rack name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar("a text")).map(Self)
    }
}

/// A number of bytes: `1048576` or `"1MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// As a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(Scalar("a number of bytes, such as 1048576 or \"1MiB\""))?;
        parse_bytes(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is no number of bytes: write 1048576, \"1024KiB\" or \"1MiB\""
            ))
        })
    }
}

/// Parses `1048576`, `64KiB`, `1.5 GiB`, `10MB`. A unit without `i` is decimal.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            // Half a byte of rounding is no matter; a number beyond 2^63 is a mistake.
            (bytes.is_finite() && (0.0..9e18).contains(&bytes)).then_some(bytes as u64)
        }
    }
}

/// Takes any scalar as text.
struct Scalar(&'static str);

impl serde::de::Visitor<'_> for Scalar {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn bytes_are_read_with_binary_and_decimal_units() {
        assert_eq!(parse_bytes("1048576"), Some(1 << 20));
        assert_eq!(parse_bytes("256MiB"), Some(256 << 20));
        assert_eq!(parse_bytes("1.5 GiB"), Some(3 << 29));
        assert_eq!(parse_bytes("10MB"), Some(10_000_000));
        for wrong in ["", "MiB", "1 parsec", "-1", "99999999999TiB", "1e400"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }
}
