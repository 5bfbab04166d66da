//! `meridian cert`, and nodes that know one another by what it makes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real processes waits in real time"
)]

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a node may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn meridian(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(arguments)
        .env_remove("MERIDIAN_SERVER")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs a command that must succeed; gives its document.
fn json(arguments: &[&str]) -> Value {
    let output = meridian(&[arguments, &["--output", "json"]].concat());
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_for_their_owner_only_and_nothing_is_replaced_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, node) = (directory.path().join("ca"), directory.path().join("node"));
    let made = json(&["cert", "ca", "--out", text(&ca)]);
    assert_eq!(made["schema"], "meridian.cert.ca/1");
    let make_node = [
        "cert",
        "node",
        "--ca",
        text(&ca),
        "--region",
        "us",
        "--node",
        "2",
        "--region-number",
        "1",
        "--host",
        "node-2.example",
        "--out",
        text(&node),
    ];
    let made = json(&make_node);
    assert_eq!(
        made["names"],
        serde_json::json!(["node-100002.us.meridian", "node-2.example"])
    );
    assert_eq!(
        (mode(&ca.join("ca-key.pem")), mode(&ca.join("ca.pem"))),
        (0o600, 0o644)
    );
    assert_eq!(
        (mode(&node.join("node-key.pem")), mode(&node.join("node.pem"))),
        (0o600, 0o644)
    );
    let same = |one: &Path, other: &Path| std::fs::read(one).unwrap() == std::fs::read(other).unwrap();
    assert!(same(&ca.join("ca.pem"), &node.join("ca.pem")));

    let before = std::fs::read(node.join("node.pem")).unwrap();
    let again: [&[&str]; 3] = [
        &["cert", "ca", "--out", text(&ca)],
        &make_node,
        &["cert", "renew", "--ca", text(&ca), "--cert", text(&node)],
    ];
    for arguments in again {
        let refused = meridian(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    }
    assert_eq!(std::fs::read(node.join("node.pem")).unwrap(), before);
    let key = std::fs::read(node.join("node-key.pem")).unwrap();
    let renewed = json(&[
        "cert",
        "renew",
        "--ca",
        text(&ca),
        "--cert",
        text(&node),
        "--days",
        "700",
        "--yes",
    ]);
    assert_eq!(renewed["names"], made["names"]);
    assert!(renewed["expires_ms"].as_i64() > made["expires_ms"].as_i64());
    assert_ne!(std::fs::read(node.join("node.pem")).unwrap(), before);
    assert_eq!(std::fs::read(node.join("node-key.pem")).unwrap(), key);
}

#[test]
fn what_cannot_be_made_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("nothing");
    let out = directory.path().join("out");
    let make = |region: &str, ca: &Path| {
        meridian(&[
            "cert",
            "node",
            "--ca",
            text(ca),
            "--region",
            region,
            "--node",
            "1",
            "--out",
            text(&out),
        ])
    };
    let missing = make("us", &nothing);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("meridian cert ca"));
    let ca = directory.path().join("ca");
    json(&["cert", "ca", "--out", text(&ca)]);
    let misnamed = make("my region", &ca);
    assert_eq!(misnamed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&misnamed.stderr).contains("letters, digits"));
    std::fs::write(ca.join("ca.pem"), "no certificate").unwrap();
    let damaged = make("us", &ca);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(!out.exists(), "nothing is left behind");
}

/// Nodes of one region that speak TLS with one another. Killed when dropped.
struct Nodes(Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }
}

/// Addresses that nodes listen on later. Their ports are below those that the system gives to whoever asks for any, which
/// other nodes do meanwhile.
fn free_ports<const N: usize>() -> [String; N] {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    std::array::from_fn(|_| {
        loop {
            let given = GIVEN.fetch_add(1, Ordering::Relaxed);
            let port = 10_000 + std::process::id().wrapping_mul(101).wrapping_add(given) % 22_000;
            let address = format!("127.0.0.1:{port}");
            if TcpListener::bind(&address).is_ok() && UdpSocket::bind(&address).is_ok() {
                return address;
            }
        }
    })
}

/// Starts a node; its lines come through the channel.
fn serve(
    nodes: &mut Nodes,
    data: &Path,
    id: usize,
    peers: &[String; 2],
    files: &Path,
) -> mpsc::Receiver<Value> {
    let mut node = Command::new(env!("CARGO_BIN_EXE_meridian"));
    node.args([
        "serve",
        "--output",
        "json",
        "--region",
        "us",
        "--kafka",
        "127.0.0.1:0",
    ])
    .args([
        "--admin",
        "127.0.0.1:0",
        "--seeds",
        &peers.join(","),
        "--peer",
        &peers[id - 1],
    ])
    .args(["--node-id", &id.to_string(), "--set", "journal.file_bytes=8MiB"])
    .args(["--set", "region.shards=2"]);
    start(nodes, &mut node, data, "peer", files)
}

/// Starts a node with the certificate in `files` for the settings of `section`; its lines come through the channel.
fn start(
    nodes: &mut Nodes,
    node: &mut Command,
    data: &Path,
    section: &str,
    files: &Path,
) -> mpsc::Receiver<Value> {
    for (name, file) in [
        ("tls_cert", "node.pem"),
        ("tls_key", "node-key.pem"),
        ("tls_ca", "ca.pem"),
    ] {
        let file = files.join(file);
        node.args(["--set", &format!("{section}.{name}={}", file.display())]);
    }
    let mut process = node
        .arg("--data")
        .arg(data)
        .env("MERIDIAN_LOG__FILTER", "error")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = said(&mut process);
    nodes.0.push(process);
    lines
}

/// What a node says, line by line.
fn said(process: &mut Child) -> mpsc::Receiver<Value> {
    let (said, lines) = mpsc::channel();
    let out = BufReader::new(process.stdout.take().unwrap());
    std::thread::Builder::new()
        .spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if said.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        })
        .unwrap();
    lines
}

/// Starts a region of one node that speaks TLS with other regions.
fn serve_region(
    nodes: &mut Nodes,
    data: &Path,
    (number, name): (u16, &str),
    geo: &str,
    seeds: &str,
    files: &Path,
) -> mpsc::Receiver<Value> {
    let mut node = Command::new(env!("CARGO_BIN_EXE_meridian"));
    node.args(["serve", "--output", "json", "--region", name])
        .args(["--region-number", &number.to_string()])
        .args(["--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--geo", geo])
        .args(["--set", &format!("geo.seeds={seeds}"), "--set", "region.shards=2"])
        .args(["--set", "journal.file_bytes=8MiB"]);
    start(nodes, &mut node, data, "geo", files)
}

#[test]
fn a_region_takes_new_certificates_and_another_authority_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let make = |ca: &str, region: &str, number: &str, out: &str| {
        json(&[
            "cert",
            "node",
            "--ca",
            text(&at(ca)),
            "--region",
            region,
            "--region-number",
            number,
            "--node",
            "1",
            "--out",
            text(&at(out)),
            "--yes",
        ]);
    };
    for ca in ["old", "new"] {
        json(&["cert", "ca", "--out", text(&at(ca))]);
    }
    make("old", "us", "0", "us");
    make("new", "eu", "1", "eu");
    let [us_geo, eu_geo] = free_ports::<2>();
    let mut nodes = Nodes(Vec::new());
    let us = serve_region(&mut nodes, &at("us-data"), (0, "us"), &us_geo, "", &at("us"));
    us.recv_timeout(PATIENCE).unwrap();
    let eu = serve_region(&mut nodes, &at("eu-data"), (1, "eu"), &eu_geo, &us_geo, &at("eu"));
    // A new region learns from the first what it is a part of, and neither trusts the other.
    assert!(eu.recv_timeout(Duration::from_secs(3)).is_err());
    make("new", "us", "0", "us");
    let ready = eu.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (&ready["event"], &ready["region"]),
        (&"ready".into(), &"eu".into())
    );
    assert!(
        nodes.0[0].try_wait().unwrap().is_none(),
        "the first was never restarted"
    );
}

#[test]
fn nodes_with_these_certificates_join_and_one_of_another_authority_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let make = |ca: &str, node: &str, out: &str| {
        json(&[
            "cert",
            "node",
            "--ca",
            text(&at(ca)),
            "--region",
            "us",
            "--node",
            node,
            "--out",
            text(&at(out)),
        ]);
    };
    for ca in ["ca", "other-ca"] {
        json(&["cert", "ca", "--out", text(&at(ca))]);
    }
    make("ca", "1", "cert-1");
    make("ca", "2", "cert-2");
    make("other-ca", "2", "stranger");
    let peers = free_ports::<2>();
    let mut nodes = Nodes(Vec::new());
    let first = serve(&mut nodes, &at("data-1"), 1, &peers, &at("cert-1"));
    let stranger = serve(&mut nodes, &at("data-stranger"), 2, &peers, &at("stranger"));
    // Two nodes found the region together; the stranger is none of them.
    assert!(first.recv_timeout(Duration::from_secs(3)).is_err());
    assert!(stranger.try_recv().is_err());
    let mut last = nodes.0.pop().unwrap();
    last.kill().unwrap();
    last.wait().unwrap();
    let second = serve(&mut nodes, &at("data-2"), 2, &peers, &at("cert-2"));
    let ready = first.recv_timeout(PATIENCE).unwrap();
    assert_eq!(ready["event"], "ready");
    assert_eq!(second.recv_timeout(PATIENCE).unwrap()["event"], "ready");
    // Each is ready for itself; the first hears of the second a moment later.
    let begun = Instant::now();
    loop {
        let status = json(&["cluster", "status", "--server", ready["kafka"].as_str().unwrap()]);
        if status["brokers"].as_array().unwrap().len() == 2 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
