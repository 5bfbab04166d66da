//! A Kafka client of a few hundred lines that shares no code with the server: looks at what lies on the wire, and
//! sends what no real client would. Versions before the flexible ones only, so that frames are easy to read.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// API keys this client speaks.
pub mod api {
    /// Produce.
    pub const PRODUCE: i16 = 0;
    /// Fetch.
    pub const FETCH: i16 = 1;
    /// Metadata.
    pub const METADATA: i16 = 3;
    /// ApiVersions.
    pub const API_VERSIONS: i16 = 18;
    /// CreateTopics.
    pub const CREATE_TOPICS: i16 = 19;
}

/// Bytes of a record batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;

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
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
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
        let mut body = Body::default()
            .i32(1)
            .string(topic)
            .i32(partitions)
            .i16(1)
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

/// What the header of a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Bits 0-2: codec; 3: log append time; 4: transactional; 5: control.
    pub attributes: i16,
    /// Records in it.
    pub record_count: i32,
    /// Whether the CRC-32C holds.
    pub crc_holds: bool,
}

impl BatchHeader {
    /// The codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec(&self) -> i16 {
        self.attributes & 7
    }
}

/// The headers of a sequence of batches; a last batch cut off by the limit of the fetch is left out.
pub fn batches(mut records: &[u8]) -> Vec<BatchHeader> {
    let mut headers = Vec::new();
    while records.len() >= BATCH_HEADER_BYTES {
        let mut reader = Reader(records);
        let mut parse = || -> io::Result<(BatchHeader, usize)> {
            let base_offset = reader.i64()?;
            let length = usize::try_from(reader.i32()?).map_err(|_| invalid("length".into()))?;
            let mut rest = Reader(reader.take(length)?);
            rest.take(5)?;
            let crc = rest.i32()?.cast_unsigned();
            let crc_holds = crc32c(rest.0) == crc;
            let attributes = rest.i16()?;
            rest.take(34)?;
            let header = BatchHeader {
                base_offset,
                attributes,
                record_count: rest.i32()?,
                crc_holds,
            };
            Ok((header, 12 + length))
        };
        let Ok((header, size)) = parse() else { break };
        headers.push(header);
        records = &records[size..];
    }
    headers
}

/// A batch of `values` without keys, uncompressed, timestamps 0.
pub fn plain_batch(values: &[&[u8]]) -> Vec<u8> {
    let mut records = Vec::new();
    for (delta, value) in values.iter().enumerate() {
        let mut record = vec![0, 0];
        varint(&mut record, i64::try_from(delta).expect("few records"));
        varint(&mut record, -1);
        varint(&mut record, i64::try_from(value.len()).expect("small values"));
        record.extend_from_slice(value);
        record.push(0);
        varint(&mut records, i64::try_from(record.len()).expect("small records"));
        records.extend(record);
    }
    batch(0, i32::try_from(values.len()).expect("few records"), &records)
}

/// A batch with a true CRC around any `records` bytes. `codec` as in [`BatchHeader::codec`].
pub fn batch(codec: i16, record_count: i32, records: &[u8]) -> Vec<u8> {
    let covered = Body::default()
        .i16(codec)
        .i32(record_count - 1)
        .i64(0)
        .i64(0)
        .i64(-1)
        .i16(-1)
        .i32(-1)
        .i32(record_count)
        .raw(records);
    let crc = crc32c(&covered.0);
    let content = Body::default()
        .i32(-1)
        .i8(2)
        .i32(crc.cast_signed())
        .raw(&covered.0);
    Body::default().i64(0).bytes(&content.0).0
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// CRC-32 as the client programs print it.
pub(crate) fn crc32(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, data) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_batches_are_read_back_and_a_cut_batch_is_left_out() {
        let mut records = plain_batch(&[b"one", b"two"]);
        records.extend(batch(3, 7, b"xyz"));
        let third = plain_batch(&[b"three"]);
        records.extend(&third[..third.len() - 1]);
        let got = batches(&records);
        let counts: Vec<_> = got.iter().map(|h| (h.codec(), h.record_count)).collect();
        assert_eq!(counts, [(0, 2), (3, 7)]);
        assert!(got.iter().all(|h| h.crc_holds));
    }

    #[test]
    fn a_flipped_bit_breaks_the_crc() {
        let mut records = plain_batch(&[b"one"]);
        *records.last_mut().unwrap() ^= 1;
        assert!(!batches(&records)[0].crc_holds);
    }
}
