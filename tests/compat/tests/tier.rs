//! Unchanged Kafka clients read from a bucket what the node has no more: a real S3 server, and a directory; and a node
//! refuses a bucket that cannot be trusted.

use std::process::Command;
use std::time::Duration;

use meridian_compat::process::output_within;
use meridian_compat::s3::{BucketAddress, Conditions, FaultProxy, Gateway, LyingStore};
use meridian_compat::workspace::{self, skips};
use meridian_compat::{Program, Server, ServerOptions, Site, suite};

fn on_bucket(name: &str, bucket: &BucketAddress, programs: &[Program]) {
    let settings = bucket.settings().into_iter().chain(suite::local_settings());
    let options = settings.fold(ServerOptions::meridian(), |options, setting| {
        options.arg("--set").arg(&setting)
    });
    let mut server = Server::start(&format!("tier-{name}"), options);
    suite::every_client_reads_what_only_the_bucket_has(&Site::of(&server), programs);
    server
        .stop(Duration::from_secs(90))
        .expect("it ends when it is told");
    let mut verify = Command::new(workspace::meridian_binary().expect("it was just run"));
    verify.args(["tier", "verify"]).args(bucket.arguments());
    let output = output_within(&mut verify, Duration::from_secs(180)).expect("it ends");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "the bucket is not whole: {said}");
}

#[test]
fn every_client_reads_from_an_s3_server_what_the_node_has_no_more() {
    if skips(Gateway::missing()) {
        return;
    }
    let directory = workspace::run_directory("tier-s3-store");
    let gateway = Gateway::start(&directory).unwrap_or_else(|error| panic!("{error}"));
    on_bucket("s3", &gateway.bucket("region"), &Program::ALL);
}

#[test]
fn clients_read_from_a_directory_what_the_node_has_no_more() {
    let directory = workspace::run_directory("tier-directory-store").join("bucket");
    on_bucket(
        "directory",
        &BucketAddress::directory(&directory),
        &[Program::Franz],
    );
}

/// Starts a node on a bucket that it must refuse; gives what it says.
fn refused(name: &str, bucket: &BucketAddress) -> String {
    let data = workspace::run_directory(&format!("tier-refused-{name}"));
    let mut serve = Command::new(workspace::meridian_binary().expect("it is built"));
    serve
        .args([
            "serve",
            "--kafka",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(data.join("data"));
    for setting in bucket.settings() {
        serve.args(["--set", &setting]);
    }
    let output = output_within(&mut serve, Duration::from_secs(180))
        .unwrap_or_else(|error| panic!("it serves on a store that cannot be trusted: {error}"));
    assert!(
        !output.status.success(),
        "it ends well on a store that cannot be trusted"
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn must_say(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "it does not say {word:?}:\n{said}");
    }
}

/// What every refusal must tell: the condition, and what to do.
const ADVICE: [&str; 2] = ["If-None-Match", "another store"];

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let store = LyingStore::start(Conditions::Ignored).expect("loopback has a port");
    let said = refused("ignored", &store.bucket());
    must_say(&said, &["does not honour conditional puts"]);
    must_say(&said, &ADVICE);
}

#[test]
fn a_store_that_loses_races_is_refused() {
    let store = LyingStore::start(Conditions::Raced).expect("loopback has a port");
    let said = refused("raced", &store.bucket());
    must_say(&said, &["does not honour conditional puts"]);
    must_say(&said, &ADVICE);
}

#[test]
fn a_store_that_refuses_and_overwrites_nevertheless_is_refused() {
    let store = LyingStore::start(Conditions::RefusedAndDone).expect("loopback has a port");
    let said = refused("done", &store.bucket());
    must_say(
        &said,
        &["does not honour conditional puts", "overwrote the object"],
    );
    must_say(&said, &ADVICE);
}

#[test]
fn a_store_without_conditions_is_refused() {
    let store = LyingStore::start(Conditions::Refused).expect("loopback has a port");
    let said = refused("without", &store.bucket());
    must_say(&said, &["has no conditional put"]);
    must_say(&said, &ADVICE);
}

#[test]
fn a_proxy_that_takes_conditions_out_is_noticed() {
    let store = LyingStore::start(Conditions::Honoured).expect("loopback has a port");
    let proxy = FaultProxy::start(store.port(), 1).expect("loopback has a port");
    proxy.strip_conditions();
    let said = refused("stripped", &store.bucket().through(proxy.port()));
    must_say(&said, &["does not honour conditional puts"]);
    assert!(proxy.figures().conditions_stripped > 0, "{}", proxy.figures());
}

#[test]
fn a_store_that_honours_conditions_is_taken() {
    let store = LyingStore::start(Conditions::Honoured).expect("loopback has a port");
    let settings = store.bucket().settings();
    let options = settings
        .iter()
        .fold(ServerOptions::meridian(), |options, setting| {
            options.arg("--set").arg(setting)
        });
    let server = Server::start("tier-honest", options);
    assert!(
        server.log_tail(200).contains("the bucket does what is needed"),
        "{}",
        server.log_tail(40)
    );
}
