//! A Kafka client of a few hundred lines that shares no code with the server: looks at what lies on the wire, and
//! sends what no real client would. Versions before the flexible ones only, so that frames are easy to read.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

mod batch;

pub(crate) use self::batch::crc32;
pub use self::batch::{
    BATCH_HEADER_BYTES, BatchHeader, PlainRecord, batch, batches, keyed_batch, of_producer, plain_batch,
    plain_records,
};

/// API keys this client speaks.
pub mod api {
    /// Produce.
    pub const PRODUCE: i16 = 0;
    /// Fetch.
    pub const FETCH: i16 = 1;
    /// ListOffsets.
    pub const LIST_OFFSETS: i16 = 2;
    /// Metadata.
    pub const METADATA: i16 = 3;
    /// ApiVersions.
    pub const API_VERSIONS: i16 = 18;
    /// CreateTopics.
    pub const CREATE_TOPICS: i16 = 19;
    /// InitProducerId.
    pub const INIT_PRODUCER_ID: i16 = 22;
}

/// Writes the primitive types of the protocol, before the flexible versions.
#[derive(Clone, Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// int8.
    #[must_use]
    pub fn i8(mut self, value: i8) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// int16.
    #[must_use]
    pub fn i16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// int32.
    #[must_use]
    pub fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// int64.
    #[must_use]
    pub fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A string below 32 KiB.
    #[must_use]
    pub fn string(self, value: &str) -> Self {
        let length = i16::try_from(value.len()).expect("a short string");
        self.i16(length).raw(value.as_bytes())
    }

    /// Bytes with an int32 length.
    #[must_use]
    pub fn bytes(self, value: &[u8]) -> Self {
        let length = i32::try_from(value.len()).expect("below 2 GiB");
        self.i32(length).raw(value)
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }
}

/// Reads the primitive types of the protocol.
#[derive(Clone, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes. Errors: fewer are left.
    pub fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| invalid(format!("{count} bytes wanted, {} left", self.0.len())))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    /// int16.
    pub fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// int32.
    pub fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// int64.
    pub fn i64(&mut self) -> io::Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A string, null as empty.
    pub fn string(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// One connection.
pub struct RawClient {
    /// The socket, for those who send what is no request.
    pub stream: TcpStream,
    correlation: i32,
}

impl RawClient {
    /// Connects; reads and writes end after 30 s. Errors: those of the socket.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_within(address, Duration::from_secs(30))
    }

    /// Connects; connecting and every read and write end after `patience`. Errors: those of the socket.
    pub fn connect_within(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience.min(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream,
            correlation: 0,
        })
    }

    /// A whole request frame with header version 1, as sent by [`RawClient::request`].
    pub fn frame(api_key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
        let content = Body::default()
            .i16(api_key)
            .i16(version)
            .i32(correlation)
            .string("raw")
            .raw(body);
        Body::default().bytes(&content.0).0
    }

    /// Sends a request without waiting. Errors: those of the socket.
    pub fn send(&mut self, api_key: i16, version: i16, body: &[u8]) -> io::Result<()> {
        self.correlation += 1;
        let frame = Self::frame(api_key, version, self.correlation, body);
        self.stream.write_all(&frame)
    }

    /// The next response without its header (version 0). Errors: those of the socket; a response out of order.
    pub fn receive(&mut self, correlation: i32) -> io::Result<Vec<u8>> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size))
            .map_err(|_| invalid("a negative frame length".into()))?;
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        let got = Reader(&frame).i32()?;
        if got != correlation {
            return Err(invalid(format!(
                "the response to request {got}, expected {correlation}"
            )));
        }
        Ok(frame.split_off(4))
    }

    /// Sends a request and gives the body of its response. Errors: those of the socket.
    pub fn request(&mut self, api_key: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(api_key, version, body)?;
        self.receive(self.correlation)
    }

    /// The APIs the server advertises: key, lowest and highest version.
    pub fn api_versions(&mut self) -> io::Result<Vec<(i16, i16, i16)>> {
        let response = self.request(api::API_VERSIONS, 0, &[])?;
        let mut reader = Reader(&response);
        let error = reader.i16()?;
        if error != 0 {
            return Err(invalid(format!("ApiVersions: error {error}")));
        }
        (0..reader.i32()?)
            .map(|_| Ok((reader.i16()?, reader.i16()?, reader.i16()?)))
            .collect()
    }

    /// Creates a topic with one replica (CreateTopics v2). Gives the error code.
    pub fn create_topic(
        &mut self,
        topic: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> io::Result<i16> {
        self.create_replicated_topic(topic, partitions, 1, configs)
    }

    /// As [`RawClient::create_topic`], with any number of replicas.
    pub fn create_replicated_topic(
        &mut self,
        topic: &str,
        partitions: i32,
        replicas: i16,
        configs: &[(&str, &str)],
    ) -> io::Result<i16> {
        let mut body = Body::default()
            .i32(1)
            .string(topic)
            .i32(partitions)
            .i16(replicas)
            .i32(0)
            .i32(i32::try_from(configs.len()).expect("few settings"));
        for (name, value) in configs {
            body = body.string(name).string(value);
        }
        let response = self.request(api::CREATE_TOPICS, 2, &body.i32(20_000).i8(0).0)?;
        let mut reader = Reader(&response);
        reader.take(8)?;
        reader.string()?;
        reader.i16()
    }

    /// Asks for the brokers and the partitions of a topic (Metadata v7), without creating it.
    pub fn metadata(&mut self, topic: &str) -> io::Result<Metadata> {
        let body = Body::default().i32(1).string(topic).i8(0);
        let response = self.request(api::METADATA, 7, &body.0)?;
        Metadata::read(&mut Reader(&response))
    }

    /// Produces one batch with acks=all (Produce v7, the first that takes zstd). Gives error code and base offset.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> io::Result<(i16, i64)> {
        let body = produce_body(topic, partition, -1, batch);
        let response = self.request(api::PRODUCE, 7, &body)?;
        let mut reader = Reader(&response);
        reader.take(4)?;
        reader.string()?;
        reader.take(8)?;
        Ok((reader.i16()?, reader.i64()?))
    }

    /// A producer id of its own (InitProducerId v0). Gives error code, id and epoch.
    pub fn init_producer(&mut self) -> io::Result<(i16, i64, i16)> {
        let body = Body::default().i16(-1).i32(60_000);
        let response = self.request(api::INIT_PRODUCER_ID, 0, &body.0)?;
        let mut reader = Reader(&response);
        reader.take(4)?;
        Ok((reader.i16()?, reader.i64()?, reader.i16()?))
    }

    /// The offset for a timestamp, or for one of the names below 0 (ListOffsets v9, the first that knows -5: KIP-1005). Gives error
    /// code, timestamp and offset, both -1 where there is none.
    pub fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> io::Result<(i16, i64, i64)> {
        let name = u8::try_from(topic.len() + 1).expect("a short name");
        // A flexible version: tagged fields end the header and every structure, lengths are one more than they are.
        let body = Body::default()
            .raw(&[0])
            .i32(-1)
            .i8(0)
            .raw(&[2, name])
            .raw(topic.as_bytes())
            .raw(&[2])
            .i32(partition)
            .i32(-1)
            .i64(timestamp)
            .raw(&[0, 0, 0]);
        let response = self.request(api::LIST_OFFSETS, 9, &body.0)?;
        let mut reader = Reader(&response);
        // Tagged fields of the header, throttle time, one topic and its name, one partition and its number.
        reader.take(1 + 4 + 1 + 1 + topic.len() + 1 + 4)?;
        Ok((reader.i16()?, reader.i64()?, reader.i64()?))
    }

    /// Fetches at once what there is (Fetch v4). Gives error code, high watermark and record batches.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        bytes_max: i32,
    ) -> io::Result<(i16, i64, Vec<u8>)> {
        let body = fetch_body(topic, partition, offset, bytes_max, 0);
        let response = self.request(api::FETCH, 4, &body)?;
        let mut reader = Reader(&response);
        // Throttle time, one topic, its name, one partition and its number.
        reader.take(8)?;
        reader.string()?;
        reader.take(8)?;
        let (error, high_watermark) = (reader.i16()?, reader.i64()?);
        reader.i64()?;
        let aborted = usize::try_from(reader.i32()?).unwrap_or(0);
        reader.take(aborted * 16)?;
        let length =
            usize::try_from(reader.i32()?).map_err(|_| invalid("null records in a fetch response".into()))?;
        Ok((error, high_watermark, reader.take(length)?.to_vec()))
    }

    /// Fetches at once what there is from this replica, leader or not (Fetch v11, KIP-392).
    pub fn fetch_from_any(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        bytes_max: i32,
    ) -> io::Result<ReplicaAnswer> {
        let body = fetch_body_from_any(topic, partition, offset, bytes_max);
        let response = self.request(api::FETCH, 11, &body)?;
        let mut reader = Reader(&response);
        reader.i32()?;
        let error = reader.i16()?;
        if error != 0 {
            return Ok(ReplicaAnswer {
                error,
                ..ReplicaAnswer::default()
            });
        }
        // Session, one topic, its name, one partition and its number.
        reader.take(8)?;
        reader.string()?;
        reader.take(8)?;
        let error = reader.i16()?;
        let high_watermark = reader.i64()?;
        reader.i64()?;
        let log_start = reader.i64()?;
        let aborted = usize::try_from(reader.i32()?).unwrap_or(0);
        reader.take(aborted * 16)?;
        let preferred_replica = reader.i32()?;
        let length = usize::try_from(reader.i32()?).unwrap_or(0);
        Ok(ReplicaAnswer {
            error,
            high_watermark,
            log_start,
            preferred_replica,
            records: reader.take(length)?.to_vec(),
        })
    }
}

/// What a replica answers to a fetch of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaAnswer {
    /// Error code.
    pub error: i16,
    /// The end of what consumers may read, as this replica knows.
    pub high_watermark: i64,
    /// The start of the log.
    pub log_start: i64,
    /// Another replica that the consumer shall ask; -1 for none.
    pub preferred_replica: i32,
    /// Record batches.
    pub records: Vec<u8>,
}

/// The body of a Produce request, version 3 to 8, for one partition.
pub fn produce_body(topic: &str, partition: i32, acks: i16, batch: &[u8]) -> Vec<u8> {
    Body::default()
        .i16(-1)
        .i16(acks)
        .i32(10_000)
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(partition)
        .bytes(batch)
        .0
}

/// The body of a Fetch v11 request for one partition, without a session and without waiting.
fn fetch_body_from_any(topic: &str, partition: i32, offset: i64, bytes_max: i32) -> Vec<u8> {
    Body::default()
        .i32(-1)
        .i32(0)
        .i32(1)
        .i32(bytes_max)
        .i8(0)
        // No session.
        .i32(0)
        .i32(-1)
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(partition)
        // No leader epoch, and the log start that only followers tell.
        .i32(-1)
        .i64(offset)
        .i64(-1)
        .i32(bytes_max)
        // Nothing to forget, and no rack: this replica is meant.
        .i32(0)
        .string("")
        .0
}

/// The body of a Fetch v4 request for one partition.
pub fn fetch_body(topic: &str, partition: i32, offset: i64, bytes_max: i32, wait_ms: i32) -> Vec<u8> {
    Body::default()
        .i32(-1)
        .i32(wait_ms)
        .i32(1)
        .i32(bytes_max)
        .i8(0)
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(partition)
        .i64(offset)
        .i32(bytes_max)
        .0
}

/// What a broker knows of the cluster and of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Node id and address of each broker.
    pub brokers: Vec<(i32, String)>,
    /// Error code of the topic.
    pub error: i16,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionMetadata>,
}

/// What a broker knows of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Error code: LEADER_NOT_AVAILABLE (5) while it has none.
    pub error: i16,
    /// Its number.
    pub partition: i32,
    /// Node id; -1 for none.
    pub leader: i32,
    /// Rises with every election.
    pub leader_epoch: i32,
    /// Node ids.
    pub replicas: Vec<i32>,
    /// Node ids of those in sync.
    pub in_sync: Vec<i32>,
}

impl Metadata {
    /// The address of a broker.
    pub fn address(&self, broker: i32) -> Option<&str> {
        let (_, address) = self.brokers.iter().find(|(id, _)| *id == broker)?;
        Some(address)
    }

    /// Whether every one of `count` partitions has a leader.
    pub fn has_leaders(&self, count: usize) -> bool {
        let led = self.partitions.iter().filter(|p| p.error == 0 && p.leader >= 0);
        self.error == 0 && led.count() == count
    }

    /// Reads the body of a Metadata v7 response that names one topic.
    fn read(reader: &mut Reader) -> io::Result<Self> {
        let mut metadata = Self::default();
        reader.i32()?;
        for _ in 0..reader.i32()? {
            let id = reader.i32()?;
            let host = reader.string()?;
            let port = reader.i32()?;
            reader.string()?;
            metadata.brokers.push((id, format!("{host}:{port}")));
        }
        reader.string()?;
        reader.i32()?;
        if reader.i32()? != 1 {
            return Err(invalid("not one topic in the metadata".into()));
        }
        metadata.error = reader.i16()?;
        reader.string()?;
        reader.take(1)?;
        let nodes = |reader: &mut Reader| -> io::Result<Vec<i32>> {
            (0..reader.i32()?).map(|_| reader.i32()).collect()
        };
        for _ in 0..reader.i32()? {
            metadata.partitions.push(PartitionMetadata {
                error: reader.i16()?,
                partition: reader.i32()?,
                leader: reader.i32()?,
                leader_epoch: reader.i32()?,
                replicas: nodes(reader)?,
                in_sync: nodes(reader)?,
            });
            // Offline replicas.
            nodes(reader)?;
        }
        metadata.partitions.sort_by_key(|p| p.partition);
        Ok(metadata)
    }
}
