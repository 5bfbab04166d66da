//! Every setting of a node: name, type, default and meaning, in one table.
//!
//! The name in the file is `section.key`, in the environment `MERIDIAN_SECTION__KEY`. Units come
//! last in the names; values in bytes may be written `"256MiB"`.

use std::collections::BTreeMap;
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
        /// Number of this node in its region, from 1. It never changes. Clients see it as the broker id, in region N with N times 100,000 added.
        id: u32 = 1;
        /// Directory of the journal and the checkpoints. Made when it does not exist.
        data: PathBuf = PathBuf::from("meridian-data");
        /// Rack or availability zone, told to clients that read close by (KIP-392).
        rack: Option<Text> = None;
        /// Let listeners be reached from other machines without TLS.
        insecure: bool = false;
        /// The newest feature level that this node says it understands. A node that says less than its version understands keeps the region at that level, and with it the way back to the version before open.
        feature_level_max: u16 = meridian_controller::FEATURE_LEVEL_MAX;
    }
    /// What all nodes of the region share. Fixed when the region is founded.
    region: RegionSection {
        /// Name of the region.
        name: Text = Text("local".to_owned());
        /// Number of the region, 0 to 999, unique among the regions of one cluster.
        number: u16 = 0;
        /// Data shards: a power of two.
        shards: u32 = 16;
        /// Kafka cluster id; made up when the region is founded, unless it is given.
        cluster_id: Option<Text> = None;
        /// Copies of each shard that are wanted; a region of fewer nodes has as many as it has nodes.
        replicas: usize = 3;
        /// A node that was not heard of for so long, in seconds, is given up: its replicas are made anew on other nodes.
        dead_after_seconds: u64 = 600;
        /// Peer addresses HOST:PORT of nodes of the region, with commas between them. The first nodes are all started with the same seeds and find one another; a later node names any. Without seeds an empty node founds a region of its own.
        seeds: Seeds = Seeds(Vec::new());
    }
    /// The listener for the other nodes of the region.
    peer: PeerSection {
        /// Address to listen on. Unless it is given: 127.0.0.1:9190, or a free port of 127.0.0.1 when kafka.listen takes a free one.
        listen: Option<SocketAddr> = None;
        /// HOST:PORT that the other nodes are told to connect to; the listening address unless it is given.
        advertise: Option<Text> = None;
        /// This node's certificate (PEM, with its chain). With it and the next two, nodes speak mutual TLS only.
        tls_cert: Option<PathBuf> = None;
        /// The key of that certificate (PEM).
        tls_key: Option<PathBuf> = None;
        /// Certificates of the authorities that other nodes' certificates must come from (PEM).
        tls_ca: Option<PathBuf> = None;
    }
    /// The mirror between regions. Without geo.listen the region is alone; all nodes of a region have one, or none has.
    geo: GeoSection {
        /// Address to listen on for nodes of other regions, over UDP and TCP. Decided when the region is founded.
        listen: Option<SocketAddr> = None;
        /// HOST:PORT that nodes of other regions are told to connect to; the listening address unless it is given.
        advertise: Option<Text> = None;
        /// Addresses HOST:PORT of nodes of other regions, with commas between them. A region that is founded with some mirrors the cluster that it finds there; without, it owns a new one.
        seeds: Seeds = Seeds(Vec::new());
        /// Buckets of other regions, in the form of `tier.url` and with commas between them, that this node can read: a mirror that catches up copies history from there, and spares the owner's nodes and the link.
        buckets: BucketUrls = BucketUrls(Vec::new());
        /// What the clients of these stores call their configuration keys; those of `tier.options` unless it is given.
        bucket_options: Option<StoreOptions> = None;
        /// This node's certificate (PEM, with its chain), which names node-BROKERID.REGION.meridian. With it and the next two, regions speak mutual TLS; the files are looked at again while the node runs.
        tls_cert: Option<PathBuf> = None;
        /// The key of that certificate (PEM).
        tls_key: Option<PathBuf> = None;
        /// Certificates of the authorities that other regions' certificates must come from (PEM).
        tls_ca: Option<PathBuf> = None;
        /// Connections of one link, each over a socket of its own.
        connections: usize = 4;
        /// `bbr`, which keeps its rate under loss, `cubic` or `new_reno`.
        congestion: Congestion = Congestion::Bbr;
        /// `auto`: QUIC, and TCP where UDP does not pass. `quic` or `tcp`: only that.
        transport: GeoTransport = GeoTransport::Auto;
        /// `adaptive`: as hard as pays. `lz4`, `zstd` or `off`.
        compression: GeoCompression = GeoCompression::Adaptive;
        /// What this node sends to each other region is no faster than this, in bytes per second; 0 for no limit.
        send_bytes_per_second_max: ByteCount = ByteCount(0);
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
        /// Bytes of journal files to aim at, or nine tenths of what the disk has if that is less; files go, oldest first, once nothing in them is needed.
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
    /// The region's bucket: where everything goes that local disks need not keep.
    tier: TierSection {
        /// Where it is: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, `file:///DIRECTORY` or the path of a directory; `none` for no bucket. The same for all nodes of a region. Unless it is given, nothing is tiered.
        url: Option<Text> = None;
        /// What the store's client calls its configuration keys, such as `endpoint`, `region`, `access_key_id` and `secret_access_key`; the usual environment variables of the clouds are read too.
        options: StoreOptions = StoreOptions(BTreeMap::new());
        /// Bytes that wait in a shard before they go to the bucket.
        round_bytes: ByteCount = ByteCount(32 << 20);
        /// What waits goes to the bucket after so long in any case, in milliseconds.
        round_interval_ms: u64 = 10_000;
        /// Bytes of records in one object at most (soft by one entry); so much is in memory for each round under way.
        bundle_bytes: ByteCount = ByteCount(64 << 20);
        /// Rounds to the bucket at once, all shards of the node together.
        rounds_in_flight_max: usize = 2;
        /// `whole`: every byte is read back and checked before local data may go. `footer`: only the length and the directory.
        read_back: ReadBack = ReadBack::Whole;
        /// Changed manifests and topics are told in the bucket after so long, in milliseconds, for readers without brokers (`meridian tier`, `meridian replay`).
        copy_interval_ms: u64 = 60_000;
        /// What nothing refers to any more stays in the bucket this long, in seconds, so that whoever reads it can end.
        delete_grace_seconds: u64 = 3_600;
        /// The bucket is searched for objects that nothing ever referred to this often, in seconds.
        sweep_interval_seconds: u64 = 3_600;
        /// So many neighbouring small pieces of a partition are merged into one in the background, at least 2; 0 for never.
        merge_extents_min: usize = 8;
        /// Bytes of an object that a merge or a compaction makes, at most; so much is read and written at once.
        merge_object_bytes: ByteCount = ByteCount(64 << 20);
        /// Objects of which less than a quarter is still needed are rewritten when so many bytes come free by it.
        merge_freed_bytes: ByteCount = ByteCount(64 << 20);
        /// Memory for the keys of the partition that is being compacted, one at a time; what does not fit waits for the next pass.
        compaction_keys_bytes: ByteCount = ByteCount(128 << 20);
        /// Pause between two passes of compaction over the same partition, at least, in milliseconds.
        compaction_interval_ms: u64 = 60_000;
        /// For tests: the process aborts when it comes to this step of the tier. See `cluster tier-kills --help`.
        abort_at: Option<Text> = None;
        /// Memory for what was read from the bucket.
        cache_memory_bytes: ByteCount = ByteCount(128 << 20);
        /// Disk in the data directory for what was read from the bucket, at least 128MiB; 0 for none.
        cache_disk_bytes: ByteCount = ByteCount(0);
        /// Bytes on their way from the bucket at most.
        read_in_flight_bytes_max: ByteCount = ByteCount(128 << 20);
        /// How long one request may take besides the time that its bytes need, in milliseconds.
        request_timeout_ms: u64 = 10_000;
        /// Requests under way at once.
        requests_in_flight_max: usize = 64;
        /// Uploads are no faster than this, in bytes per second; 0 for no limit.
        upload_bytes_per_second_max: ByteCount = ByteCount(0);
        /// Reads are no faster than this, in bytes per second; 0 for no limit.
        read_bytes_per_second_max: ByteCount = ByteCount(0);
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

impl Settings {
    /// Where this node listens for the others, the default worked out.
    pub fn peer_listen(&self) -> SocketAddr {
        let port = if self.kafka.listen.port() == 0 { 0 } else { 9190 };
        self.peer
            .listen
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
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

/// How links share the path with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Congestion {
    /// By rate and delay.
    Bbr,
    /// By loss, as most of TCP does.
    Cubic,
    /// By loss, as TCP once did.
    NewReno,
}

/// What links run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeoTransport {
    /// QUIC, and TCP where UDP does not pass.
    Auto,
    /// QUIC only.
    Quic,
    /// TCP only.
    Tcp,
}

/// How links compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeoCompression {
    /// As hard as pays.
    Adaptive,
    /// LZ4 where it pays.
    Lz4,
    /// Zstandard where it pays.
    Zstd,
    /// Never.
    Off,
}

/// How much of an object is read back before anything relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadBack {
    /// Every byte.
    Whole,
    /// Length and directory.
    Footer,
}

/// Configuration keys of a store. Their values are secrets more often than not, so they are never shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions(pub BTreeMap<String, String>);

impl Serialize for StoreOptions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.keys().map(|key| (key, "(not shown)")))
    }
}

impl<'de> Deserialize<'de> for StoreOptions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let options = BTreeMap::<String, Text>::deserialize(deserializer)?;
        Ok(Self(
            options.into_iter().map(|(key, value)| (key, value.0)).collect(),
        ))
    }
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

/// Addresses HOST:PORT, with commas between them, or as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Seeds(pub Vec<String>);

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Words("addresses HOST:PORT, with commas between them");
        deserializer.deserialize_any(words).map(Self)
    }
}

/// URLs of buckets, with commas between them, or as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BucketUrls(pub Vec<String>);

impl<'de> Deserialize<'de> for BucketUrls {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Words("URLs of buckets, with commas between them");
        deserializer.deserialize_any(words).map(Self)
    }
}

/// Reads words with commas between them, or a list; says what was expected.
struct Words(&'static str);

impl<'de> serde::de::Visitor<'de> for Words {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Vec<String>, E> {
        let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
        Ok(words.map(str::to_owned).collect())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        Ok(words)
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
    use super::{Seeds, parse_bytes};

    #[test]
    fn seeds_are_read_from_a_text_with_commas_and_from_a_list() {
        let expected = Seeds(vec!["a:1".to_owned(), "[::1]:2".to_owned()]);
        for json in [r#""a:1, [::1]:2,""#, r#"["a:1", "[::1]:2"]"#] {
            assert_eq!(
                serde_json::from_str::<Seeds>(json).expect("seeds"),
                expected,
                "{json}"
            );
        }
        assert!(serde_json::from_str::<Seeds>("7").is_err());
    }

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
