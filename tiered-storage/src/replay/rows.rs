//! From batches to Arrow. The schema is described in `docs/formats/replay.md`.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, Int8Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMillisecondArray,
};
use arrow_buffer::{Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use meridian_types::Offset;
use meridian_wire::batch::{HeaderRefs, RecordRef, RecordsError, TimestampType, record_refs};

use super::DECOMPRESSED_BYTES_MAX;

/// The schema of every Arrow and Parquet output.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new_dictionary("topic", DataType::Int32, DataType::Utf8, false),
            Field::new("partition", DataType::Int32, false),
            Field::new("offset", DataType::Int64, false),
            Field::new(
                "timestamp",
                DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
                true,
            ),
            Field::new("timestamp_type", DataType::Int8, false),
            Field::new("leader_epoch", DataType::Int32, true),
            Field::new("key", DataType::Binary, true),
            Field::new("value", DataType::Binary, true),
            Field::new("headers", DataType::List(header_field()), false),
            Field::new("producer_id", DataType::Int64, true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

fn header_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ])
}

fn header_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(header_fields()), false))
}

/// Collects records and makes Arrow record batches of them.
///
/// Keys, values and headers are counted in 32 bits by Arrow: call [`Self::finish`] once [`Self::bytes`] passes some
/// ten MiB. One batch adds 256 MiB at most, so that they never overflow.
pub struct RowBuilder {
    /// The topics' names, shared by all record batches: a dictionary must not change within a file.
    topics: Arc<StringArray>,
    topic: Vec<i32>,
    partition: Vec<i32>,
    offset: Vec<i64>,
    timestamp: Vec<i64>,
    timestamp_is_there: NullBufferBuilder,
    timestamp_type: Vec<i8>,
    leader_epoch: Vec<i32>,
    leader_epoch_is_there: NullBufferBuilder,
    key: BinaryColumn,
    value: BinaryColumn,
    header_ends: Vec<i32>,
    header_key: BinaryColumn,
    header_value: BinaryColumn,
    producer_id: Vec<i64>,
    producer_id_is_there: NullBufferBuilder,
    /// What batches decompress to.
    scratch: Vec<u8>,
}

impl RowBuilder {
    /// Of nothing yet; `topics` are the names that [`Self::push`] refers to by position.
    pub fn new<'a>(topics: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            topics: Arc::new(StringArray::from_iter_values(topics)),
            topic: Vec::new(),
            partition: Vec::new(),
            offset: Vec::new(),
            timestamp: Vec::new(),
            timestamp_is_there: NullBufferBuilder::new(0),
            timestamp_type: Vec::new(),
            leader_epoch: Vec::new(),
            leader_epoch_is_there: NullBufferBuilder::new(0),
            key: BinaryColumn::new(),
            value: BinaryColumn::new(),
            header_ends: vec![0],
            header_key: BinaryColumn::new(),
            header_value: BinaryColumn::new(),
            producer_id: Vec::new(),
            producer_id_is_there: NullBufferBuilder::new(0),
            scratch: Vec::new(),
        }
    }

    /// Appends the records of `batch` that lie in `offsets`, in order; control records are left out. Returns the bytes of
    /// all of its records without compression.
    ///
    /// `topic` is a position in the names of [`Self::new`]. After an error some of the records are there.
    pub fn push(
        &mut self,
        topic: usize,
        partition: u32,
        batch: &[u8],
        offsets: &Range<Offset>,
    ) -> Result<usize, RecordsError> {
        debug_assert!(topic < self.topics.len());
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.push_records(topic as i32, partition as i32, batch, offsets, &mut scratch);
        self.scratch = scratch;
        result
    }

    fn push_records(
        &mut self,
        topic: i32,
        partition: i32,
        batch: &[u8],
        offsets: &Range<Offset>,
        scratch: &mut Vec<u8>,
    ) -> Result<usize, RecordsError> {
        let mut records = record_refs(batch, scratch, DECOMPRESSED_BYTES_MAX)?;
        let header = *records.header();
        let bytes = records.block_bytes();
        if header.is_control {
            return Ok(bytes);
        }
        let before = self.rows();
        let result = records.try_for_each(|record| {
            let record = record?;
            if offsets.contains(&record.offset) {
                self.push_record(&record);
            }
            Ok(())
        });
        // Whatever happened, columns stay of one length.
        let added = self.rows() - before;
        self.topic.resize(before + added, topic);
        self.partition.resize(before + added, partition);
        let is_append_time = header.timestamp_type == TimestampType::LogAppendTime;
        self.timestamp_type
            .resize(before + added, i8::from(is_append_time));
        self.leader_epoch.resize(
            before + added,
            header.leader_epoch.map_or(0, |epoch| epoch.0 as i32),
        );
        append_n(
            &mut self.leader_epoch_is_there,
            added,
            header.leader_epoch.is_some(),
        );
        self.producer_id
            .resize(before + added, header.producer_id.map_or(0, |id| id.0 as i64));
        append_n(
            &mut self.producer_id_is_there,
            added,
            header.producer_id.is_some(),
        );
        result.map(|()| bytes)
    }

    #[inline]
    fn push_record(&mut self, record: &RecordRef<'_>) {
        self.offset.push(record.offset.0 as i64);
        self.timestamp.push(record.timestamp.0);
        self.timestamp_is_there.append(record.timestamp.0 >= 0);
        self.key.push(record.key);
        self.value.push(record.value);
        if !record.headers.is_empty() {
            self.push_headers(record.headers);
        }
        self.header_ends.push(self.header_key.len() as i32);
    }

    fn push_headers(&mut self, headers: HeaderRefs<'_>) {
        for (key, value) in headers.iter() {
            match std::str::from_utf8(key) {
                Ok(_) => self.header_key.push(Some(key)),
                Err(_) => self
                    .header_key
                    .push(Some(String::from_utf8_lossy(key).as_bytes())),
            }
            self.header_value.push(value);
        }
    }

    /// Records so far.
    pub fn rows(&self) -> usize {
        self.offset.len()
    }

    /// Bytes of keys, values and headers so far.
    pub fn bytes(&self) -> usize {
        [&self.key, &self.value, &self.header_key, &self.header_value]
            .iter()
            .map(|column| column.data.len())
            .sum()
    }

    /// Makes a record batch of what was pushed, and begins anew. Empty when there is nothing.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = self.rows();
        let headers = StructArray::new(
            header_fields(),
            vec![
                Arc::new(self.header_key.finish_text()) as ArrayRef,
                Arc::new(self.header_value.finish()) as ArrayRef,
            ],
            None,
        );
        let header_ends = std::mem::replace(&mut self.header_ends, vec![0]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(DictionaryArray::<Int32Type>::new(
                Int32Array::from(take(&mut self.topic)),
                Arc::clone(&self.topics) as ArrayRef,
            )),
            Arc::new(Int32Array::from(take(&mut self.partition))),
            Arc::new(Int64Array::from(take(&mut self.offset))),
            Arc::new(
                TimestampMillisecondArray::new(
                    ScalarBuffer::from(take(&mut self.timestamp)),
                    self.timestamp_is_there.finish(),
                )
                .with_timezone("UTC"),
            ),
            Arc::new(Int8Array::from(take(&mut self.timestamp_type))),
            Arc::new(Int32Array::new(
                ScalarBuffer::from(take(&mut self.leader_epoch)),
                self.leader_epoch_is_there.finish(),
            )),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(ListArray::new(
                header_field(),
                OffsetBuffer::new(ScalarBuffer::from(header_ends)),
                Arc::new(headers),
                None,
            )),
            Arc::new(Int64Array::new(
                ScalarBuffer::from(take(&mut self.producer_id)),
                self.producer_id_is_there.finish(),
            )),
        ];
        debug_assert!(columns.iter().all(|column| column.len() == rows));
        RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema")
    }
}

/// The next record batch is likely to be as large.
fn take<T>(column: &mut Vec<T>) -> Vec<T> {
    let capacity = column.capacity();
    std::mem::replace(column, Vec::with_capacity(capacity))
}

fn append_n(nulls: &mut NullBufferBuilder, count: usize, is_there: bool) {
    if is_there {
        nulls.append_n_non_nulls(count);
    } else {
        nulls.append_n_nulls(count);
    }
}

/// Bytes with nulls, as Arrow lays them out.
struct BinaryColumn {
    ends: Vec<i32>,
    data: Vec<u8>,
    is_there: NullBufferBuilder,
}

impl BinaryColumn {
    fn new() -> Self {
        Self {
            ends: vec![0],
            data: Vec::new(),
            is_there: NullBufferBuilder::new(0),
        }
    }

    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    #[inline]
    fn push(&mut self, bytes: Option<&[u8]>) {
        self.is_there.append(bytes.is_some());
        self.data.extend_from_slice(bytes.unwrap_or_default());
        self.ends.push(self.data.len() as i32);
    }

    fn parts(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<arrow_buffer::NullBuffer>) {
        let capacity = self.ends.capacity();
        let mut fresh = Vec::with_capacity(capacity);
        fresh.push(0);
        let ends = std::mem::replace(&mut self.ends, fresh);
        (
            OffsetBuffer::new(ScalarBuffer::from(ends)),
            Buffer::from_vec(take(&mut self.data)),
            self.is_there.finish(),
        )
    }

    fn finish(&mut self) -> BinaryArray {
        let (ends, data, nulls) = self.parts();
        BinaryArray::new(ends, data, nulls)
    }

    /// Only where every value that was pushed is UTF-8.
    fn finish_text(&mut self) -> StringArray {
        let (ends, data, nulls) = self.parts();
        StringArray::new(ends, data, nulls)
    }
}
