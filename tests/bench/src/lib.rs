//! Meridian beside Apache Kafka on the same machine.
