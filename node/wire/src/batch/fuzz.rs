//! What must hold for any bytes whatever. Called by the fuzz target and by the property tests.

use bytes::Bytes;
use meridian_types::{LeaderEpoch, Offset, TimestampMs};

use super::layout;
use super::record_parser::SliceInput;
use super::stamp::{put, renew_crc};
use super::*;

const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;

/// Feeds `data` to everything that reads batches, as it is and dressed up to get past the first checks.
///
/// Panics when a reader does, or when two readers disagree.
pub fn fuzz_batch(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for batch in batches(&bytes).flatten() {
        walk(&batch.bytes);
    }
    walk(&bytes);
    if data.len() >= HEADER_BYTES {
        walk(&repaired(data.to_vec()));
    }
    for codec in Compression::ALL {
        // As what the codec shall decompress, and as what it has decompressed.
        let count = record_count(data);
        walk(&batch_of_block(codec, data, count));
        let mut block = Vec::new();
        compress(codec, Some(1), data, &mut block).expect("memory compresses");
        assert_eq!(decompress(codec, &block, data.len()).as_deref(), Ok(data));
        let plain = batch_of_block(Compression::None, data, count);
        assert_eq!(verdict(&batch_of_block(codec, &block, count)), verdict(&plain));
    }
}

fn walk(batch: &Bytes) {
    let header = BatchHeader::parse(batch);
    let intact = verify_crc(batch);
    let validated = validate_produce(batch, &rules());
    let read = records(batch, DECOMPRESSED_BYTES_MAX)
        .and_then(|records| records.collect::<Result<Vec<Record>, RecordsError>>());
    if let Ok(header) = header {
        assert!(header.size() >= HEADER_BYTES);
        let _ = (header.next_offset(), header.last_sequence());
    }
    for record in read.iter().flatten() {
        assert_eq!(record.headers.iter().count(), record.headers.len());
        let _ = ControlRecord::parse(record);
    }
    if let Err(error) = &validated {
        let _ = (error.to_string(), error.error_code());
        return;
    }
    let validated = validated.expect("checked above");
    assert_eq!((header, intact), (Ok(validated.header), Ok(())));
    let read = read.expect("a validated batch can be read");
    let offsets = read.iter().map(|record| record.offset.0);
    assert!(offsets.eq(0..validated.header.record_count.into()));
    let latest = read
        .iter()
        .map(|record| record.timestamp)
        .max()
        .expect("a validated batch has records");
    assert_eq!(validated.max_timestamp, latest.max(TimestampMs(-1)));
    let mut stored = batch.to_vec();
    stamp(&mut stored, Offset(5), LeaderEpoch(6)).expect("it has a header");
    set_log_append_time(&mut stored, TimestampMs(9)).expect("it is whole");
    assert_eq!(verify_crc(&stored), Ok(()));
}

/// What validation says of the records, without the words, which depend on where the bytes end.
fn verdict(batch: &Bytes) -> Result<(TimestampMs, u32), std::mem::Discriminant<ProduceBatchError>> {
    validate_produce(batch, &rules())
        .map(|validated| (validated.max_timestamp, validated.max_timestamp_offset_delta))
        .map_err(|error| std::mem::discriminant(&error))
}

fn rules() -> ProduceRules {
    ProduceRules {
        message_bytes_max: usize::MAX,
        decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
        now: TimestampMs(0),
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        is_compacted: false,
        is_zstd_allowed: true,
    }
}

/// `batch` with the fields in front of the CRC made good.
fn repaired(mut batch: Vec<u8>) -> Bytes {
    let length = (batch.len() - layout::LOG_OVERHEAD) as i32;
    put(&mut batch, layout::BASE_OFFSET, 0_i64.to_be_bytes());
    put(&mut batch, layout::BATCH_LENGTH, length.to_be_bytes());
    put(&mut batch, layout::MAGIC, [2]);
    renew_crc(&mut batch);
    batch.into()
}

/// How many records `block` can be cut into, one at least.
fn record_count(block: &[u8]) -> i32 {
    let mut rest = SliceInput::new(block);
    let mut count = 0;
    while !rest.rest().is_empty() && rest.record().is_ok() {
        count += 1;
    }
    count.max(1)
}

/// A batch whose header announces `count` records and whose records are `block`.
fn batch_of_block(codec: Compression, block: &[u8], count: i32) -> Bytes {
    let mut batch = vec![0; HEADER_BYTES];
    batch.extend_from_slice(block);
    put(&mut batch, layout::ATTRIBUTES, [0, codec.code()]);
    put(&mut batch, layout::LAST_OFFSET_DELTA, (count - 1).to_be_bytes());
    put(&mut batch, layout::PRODUCER_ID, (-1_i64).to_be_bytes());
    put(&mut batch, layout::RECORD_COUNT, count.to_be_bytes());
    repaired(batch)
}
