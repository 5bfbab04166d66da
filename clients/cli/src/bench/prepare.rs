//! Produce requests built beforehand: sending one costs a correlation id and a write. Pure.

use bytes::{Bytes, BytesMut};
use meridian_types::TimestampMs;
use meridian_wire::batch::{BatchBuilder, BuildError, Compression};
use meridian_wire::frame::encode_request;
use meridian_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use meridian_wire::{EncodeError, ProduceRequest, Records};

use super::content::{Content, Mark};

/// Where the correlation id stands in a frame: behind length, API and version.
const CORRELATION_ID_AT: usize = 8;

/// A batch that is sent again and again.
#[derive(Clone, Debug)]
pub(super) struct PreparedBatch {
    pub(super) bytes: Bytes,
    pub(super) records: u32,
}

/// A whole frame in pieces; batches are shared between the frames that carry them.
#[derive(Clone, Debug)]
pub(super) struct PreparedRequest {
    /// The first piece, which holds the correlation id.
    head: Bytes,
    rest: Vec<Bytes>,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// What a prepared batch is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchPlan {
    pub(super) batch_bytes: usize,
    pub(super) compression: Compression,
    pub(super) run: u64,
    pub(super) now: TimestampMs,
}

/// Builds a batch of records of `number`, as many as fit `batch_bytes` uncompressed, one at least.
pub(super) fn prepare_batch(
    plan: &BatchPlan,
    content: &Content,
    number: u32,
) -> Result<PreparedBatch, BuildError> {
    let mut builder = BatchBuilder::new(plan.compression).with_capacity(plan.batch_bytes);
    let mut value = Vec::new();
    loop {
        let mark = Mark {
            run: plan.run,
            producer: number,
            sequence: builder.record_count().into(),
        };
        content.write(&mut value, mark);
        builder.push(plan.now, None, Some(&value), &[])?;
        let record_bytes = BatchBuilder::record_size_max(None, Some(&value), &[]);
        if builder.uncompressed_size() + record_bytes > plan.batch_bytes {
            break;
        }
    }
    let records = builder.record_count();
    Ok(PreparedBatch {
        bytes: builder.build()?,
        records,
    })
}

/// Builds a request that writes a batch to each of `partitions`.
pub(super) fn prepare_request(
    version: i16,
    acks: i16,
    timeout_ms: i32,
    topic: &str,
    partitions: &[(u32, &PreparedBatch)],
) -> Result<PreparedRequest, EncodeError> {
    let request = ProduceRequest {
        acks,
        timeout_ms,
        topic_data: vec![TopicProduceData {
            name: topic.to_owned().into(),
            partition_data: partitions
                .iter()
                .map(|(index, batch)| PartitionProduceData {
                    index: i32::try_from(*index).unwrap_or(i32::MAX),
                    records: Some(BytesMut::from(&batch.bytes[..])),
                })
                .collect(),
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    };
    let segments = encode_request(&request, version, 0, Some("meridian-bench".into()))?;
    let frame = segments.into_iter().collect::<Records>().into_bytes();
    let mut pieces = Vec::new();
    let mut at = 0;
    for (_, batch) in partitions {
        let start = at
            + find(&frame[at..], &batch.bytes).expect("a request holds the batches it was made of, in order");
        pieces.push(Bytes::copy_from_slice(&frame[at..start]));
        pieces.push(batch.bytes.clone());
        at = start + batch.bytes.len();
    }
    if at < frame.len() {
        pieces.push(Bytes::copy_from_slice(&frame[at..]));
    }
    Ok(PreparedRequest {
        head: pieces.remove(0),
        rest: pieces,
        records: partitions.iter().map(|(_, batch)| u64::from(batch.records)).sum(),
        bytes: partitions.iter().map(|(_, batch)| batch.bytes.len() as u64).sum(),
    })
}

impl PreparedRequest {
    /// The frame's pieces under this correlation id.
    pub(super) fn pieces(&self, correlation_id: i32) -> impl Iterator<Item = Bytes> + '_ {
        let mut head = BytesMut::from(&self.head[..]);
        head[CORRELATION_ID_AT..CORRELATION_ID_AT + 4].copy_from_slice(&correlation_id.to_be_bytes());
        std::iter::once(head.freeze()).chain(self.rest.iter().cloned())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // The needle is long and begins late in no case: a plain search ends within the frame's few leading bytes.
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_wire::RequestBody;
    use meridian_wire::batch::{records, verify_crc};
    use meridian_wire::frame::{PREFIX_BYTES, decode_request};

    #[test]
    fn a_prepared_request_is_a_produce_request_under_any_correlation_id() {
        let plan = BatchPlan {
            batch_bytes: 4096,
            compression: Compression::None,
            run: 5,
            now: TimestampMs(1),
        };
        let content = Content::new(100);
        let batches = [0, 1].map(|number| prepare_batch(&plan, &content, number).unwrap());
        assert!(batches[0].records > 20 && batches[0].bytes.len() <= 4096);
        for version in [3, 9, 12] {
            let request =
                prepare_request(version, -1, 1000, "t", &[(7, &batches[0]), (8, &batches[1])]).unwrap();
            let frame: Vec<u8> = request.pieces(77).flatten().collect();
            let (length, frame) = frame.split_at(PREFIX_BYTES);
            assert_eq!(length, (frame.len() as i32).to_be_bytes());
            let (header, body) = decode_request(frame.into()).unwrap();
            assert_eq!((header.correlation_id, header.version), (77, version));
            let RequestBody::Produce(body) = body else {
                panic!("not a Produce request");
            };
            let sent = &body.topic_data[0].partition_data;
            assert_eq!((sent[0].index, sent[1].index), (7, 8));
            for (sent, batch) in sent.iter().zip(&batches) {
                let bytes = Bytes::copy_from_slice(sent.records.as_ref().unwrap());
                assert_eq!(bytes, batch.bytes);
                verify_crc(&bytes).unwrap();
                for record in records(&bytes, 1 << 20).unwrap() {
                    let value = record.unwrap().value.unwrap();
                    assert!(super::super::content::read_mark(&value).is_some());
                }
            }
        }
    }
}
