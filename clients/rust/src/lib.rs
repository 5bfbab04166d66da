//! Producer, consumer and admin client for Meridian and any Kafka-protocol server.
