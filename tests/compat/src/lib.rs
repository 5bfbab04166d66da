//! Real Kafka clients against a real process.
