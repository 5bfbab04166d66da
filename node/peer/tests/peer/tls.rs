//! Mutual TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use meridian_net::TcpNet;
use meridian_peer::{AddressError, DialError, Lane, LinkState, PeerSettings, PeerTls, TlsError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::harness::{ECHO, SHARD, TestNode, settings};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Certificate and key for a host.
    fn issue(&self, host: &str) -> (String, String) {
        self.issue_for(&[host])
    }

    fn issue_for(&self, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn tls(&self, host: &str) -> PeerTls {
        self.tls_for(&[host])
    }

    fn tls_for(&self, names: &[&str]) -> PeerTls {
        let (certificate, key) = self.issue_for(names);
        PeerTls::from_pem(certificate.as_bytes(), key.as_bytes(), self.0.pem().as_bytes()).expect("TLS")
    }
}

/// The host that certificates here name.
fn named() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn start(node: u32, tls: Option<PeerTls>) -> TestNode {
    let settings = PeerSettings {
        tls,
        ..settings(node)
    };
    TestNode::start_with(settings, Arc::new(TcpNet), named()).await
}

/// Why node `from` cannot ask node `to`.
async fn trouble(from: &TestNode, to: &TestNode) -> String {
    match from.peers.call_address(&to.host_port(), ECHO, Vec::new()).await {
        Err(AddressError::Dial(DialError::Tls(text))) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nodes_of_one_authority_talk() {
    let authority = Authority::new("ours");
    let one = start(1, Some(authority.tls("127.0.0.1"))).await;
    let two = start(2, Some(authority.tls("127.0.0.1"))).await;
    one.connect(&two).await;
    let parts = vec![Bytes::from_static(b"secret "), Bytes::from(vec![7; 3 << 20])];
    let answer = one
        .peers
        .call(two.id, Lane::Bulk, ECHO, SHARD, parts)
        .await
        .expect("an answer");
    assert_eq!((answer.len(), &answer[..7]), ((3 << 20) + 7, &b"secret "[..]));
}

#[test]
fn a_connection_under_tls_moves_to_the_runtime_of_its_lane() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
    };
    let (main, urgent) = (runtime().expect("a runtime"), runtime().expect("a runtime"));
    let authority = Authority::new("ours");
    let settings = |node| PeerSettings {
        tls: Some(authority.tls("127.0.0.1")),
        urgent: Some(urgent.handle().clone()),
        ..settings(node)
    };
    main.block_on(async {
        let one = TestNode::start_with(settings(1), Arc::new(TcpNet), named()).await;
        let two = TestNode::start_with(settings(2), Arc::new(TcpNet), named()).await;
        one.connect(&two).await;
        for lane in Lane::ALL {
            let part = vec![Bytes::from(vec![7; 1 << 20])];
            let answer = one.peers.call(two.id, lane, ECHO, SHARD, part).await;
            assert_eq!(answer.map(|answer| answer.len()), Ok(1 << 20));
        }
    });
}

#[tokio::test]
async fn tls_on_one_side_only_is_named_on_both() {
    let authority = Authority::new("ours");
    let plain = start(1, None).await;
    let secure = start(2, Some(authority.tls("127.0.0.1"))).await;
    let text = trouble(&plain, &secure).await;
    assert!(text.contains("the other side wants TLS"), "{text}");
    let text = trouble(&secure, &plain).await;
    assert!(text.contains("does not use TLS"), "{text}");
    plain.learn(&secure);
    plain
        .until_link(secure.id, |state| state == LinkState::Down)
        .await;
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_from_either_side() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let one = start(1, Some(authority.tls("127.0.0.1"))).await;
    let stranger = start(2, Some(other.tls("127.0.0.1"))).await;
    let text = trouble(&one, &stranger).await;
    assert!(text.contains("peer.tls_ca"), "{text}");
    // One that trusts us, and presents a certificate of its own.
    let (certificate, key) = other.issue("127.0.0.1");
    let trusting = PeerTls::from_pem(
        certificate.as_bytes(),
        key.as_bytes(),
        authority.0.pem().as_bytes(),
    );
    let trusting = start(3, Some(trusting.expect("TLS"))).await;
    let text = trouble(&trusting, &one).await;
    assert!(text.contains("does not know the authority"), "{text}");
    assert!(one.answers.heard.lock().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new("ours");
    let one = start(1, Some(authority.tls("127.0.0.1"))).await;
    let two = start(2, Some(authority.tls("node-2.example"))).await;
    let text = trouble(&one, &two).await;
    assert!(
        text.contains("does not name the host") && text.contains("node-2.example"),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_that_names_a_node_is_good_for_no_other() {
    let authority = Authority::new("ours");
    let region = settings(1).region;
    let named = |node| authority.tls_for(&["127.0.0.1", &format!("node-{node}.{region}.meridian")]);
    let one = start(1, Some(named(1))).await;
    let two = start(2, Some(named(2))).await;
    one.connect(&two).await;
    // The key of node 2 does not make a node 3.
    let thief = start(3, Some(named(2))).await;
    let text = trouble(&one, &thief).await;
    assert!(text.contains("node-2") && text.contains("is node 3"), "{text}");
    let turned_away = thief.peers.call_address(&one.host_port(), ECHO, Vec::new()).await;
    let Err(AddressError::Dial(DialError::Rejected(text))) = turned_away else {
        panic!("{turned_away:?}")
    };
    assert!(text.contains("node-2"), "{text}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_setting() {
    let authority = Authority::new("ours");
    let (certificate, key) = authority.issue("127.0.0.1");
    let (_, other_key) = authority.issue("127.0.0.1");
    let ca = authority.0.pem();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    };
    let (cert_path, key_path) = (write("node.crt", &certificate), write("node.key", &key));
    let (ca_path, empty) = (write("ca.crt", &ca), write("empty", "nothing here"));
    assert!(PeerTls::load(&cert_path, &key_path, &ca_path).is_ok());

    let missing = folder.path().join("missing.crt");
    let error = PeerTls::load(&missing, &key_path, &ca_path).expect_err("no file");
    assert!(matches!(error, TlsError::Read { .. }));
    let text = error.to_string();
    assert!(
        text.contains("peer.tls_cert") && text.contains("missing.crt"),
        "{text}"
    );

    let wrong = [
        (PeerTls::load(&empty, &key_path, &ca_path), "peer.tls_cert"),
        (PeerTls::load(&cert_path, &cert_path, &ca_path), "peer.tls_key"),
        (PeerTls::load(&cert_path, &key_path, &empty), "peer.tls_ca"),
        (
            PeerTls::from_pem(certificate.as_bytes(), other_key.as_bytes(), ca.as_bytes()),
            "together with its key",
        ),
    ];
    for (outcome, expected) in wrong {
        let text = outcome.expect_err(expected).to_string();
        assert!(text.contains(expected), "{text}");
    }
}
