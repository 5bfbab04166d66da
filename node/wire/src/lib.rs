//! The Kafka protocol and RecordBatch v2, sans-IO.
