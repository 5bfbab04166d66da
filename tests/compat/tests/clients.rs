//! Unchanged Kafka clients against one real process. Set up by `tests/compat/setup.sh`.
//!
//! Against Meridian by default; `MERIDIAN_TEST_SERVER=kafka` proves the tests themselves on a real Apache Kafka 4.3,
//! `MERIDIAN_TEST_BOOTSTRAP=HOST:PORT` takes a server that runs. A client that is not set up is skipped with its
//! reason, or fails the test when `MERIDIAN_TEST_REQUIRE_CLIENTS` is set.

use std::sync::{Mutex, MutexGuard, PoisonError};

use meridian_compat::{Program, Server, ServerOptions, Site, suite};

/// Two JVMs at once are more than a small machine takes.
fn one_jvm_at_a_time() -> MutexGuard<'static, ()> {
    static JVM: Mutex<()> = Mutex::new(());
    JVM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a part of the suite against a server of its own.
fn on_a_server(name: &str, run: impl FnOnce(&Site)) {
    let server = Server::start(&format!("clients-{name}"), ServerOptions::from_environment());
    run(&Site::of(&server));
}

fn passes_all_its_checks(program: Program) {
    on_a_server(program.name(), |site| {
        suite::a_client_passes_all_its_checks(site, program);
    });
}

#[test]
fn librdkafka_through_confluent_kafka_passes_all_its_checks() {
    passes_all_its_checks(Program::Confluent);
}

#[test]
fn kafka_python_passes_all_its_checks() {
    passes_all_its_checks(Program::KafkaPython);
}

#[test]
fn the_java_client_passes_all_its_checks() {
    let _jvm = one_jvm_at_a_time();
    passes_all_its_checks(Program::Java);
}

#[test]
fn franz_go_passes_all_its_checks() {
    passes_all_its_checks(Program::Franz);
}

#[test]
fn kcat_reads_with_every_codec_what_it_wrote() {
    on_a_server("kcat", suite::kcat_reads_with_every_codec_what_it_wrote);
}

#[test]
fn every_client_reads_what_every_other_client_wrote() {
    let _jvm = one_jvm_at_a_time();
    on_a_server("cross", suite::every_client_reads_what_every_other_client_wrote);
}

#[test]
fn a_new_topic_takes_records_at_once() {
    on_a_server("new-topic", suite::a_new_topic_takes_records_at_once);
}

#[test]
fn the_console_tools_of_kafka_work_as_on_kafka() {
    let _jvm = one_jvm_at_a_time();
    on_a_server("console", suite::the_console_tools_work_as_on_kafka);
}
