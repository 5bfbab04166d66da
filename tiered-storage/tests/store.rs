//! What every store must do, over memory, a local directory, a real S3 server and an emulator of Azure; and what a store that
//! fails may do. `MERIDIAN_TEST_S3=minio` takes another S3 server, see `tests/setup.sh`.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use meridian_compat::s3::Gateway;
use meridian_compat::workspace::skips;
use meridian_tiered_storage::bundle::BundleError;
use meridian_tiered_storage::probe::ProbeError;
use meridian_tiered_storage::store::{Created, Operation, Store, StoreError, StoreLimits, StoreSettings};
use meridian_tiered_storage::testing::{Conditions, Fault, Faults, FaultyStore};
use meridian_tiered_storage::upload::{ReadBack, UploadError, upload};
use meridian_types::{TimestampMs, Uuid};
use object_store::memory::InMemory;
use support::azurite::Azurite;
use support::large_bundle;

const NONCE: Uuid = Uuid::from_u128(1);
const NOW: TimestampMs = TimestampMs(0);

async fn keys(store: &Store, prefix: &str) -> BTreeSet<String> {
    let listed: Vec<_> = store.list(prefix).try_collect().await.unwrap();
    listed.into_iter().map(|listed| listed.key).collect()
}

/// Everything the tier asks of a store.
async fn behaves(store: &Store) {
    let not_found = |error| matches!(error, StoreError::NotFound { .. });
    assert!(not_found(store.get("c/0/absent").await.unwrap_err()));
    assert!(not_found(store.get_range("c/0/absent", 0..3).await.unwrap_err()));
    assert!(not_found(store.head("c/0/absent").await.unwrap_err()));
    store.delete("c/0/absent").await.unwrap();
    assert_eq!(keys(store, "c").await, BTreeSet::new());

    let parts = vec![
        Bytes::from_static(b"01234"),
        Bytes::new(),
        Bytes::from_static(b"56789"),
    ];
    store.put("c/0/object", parts.clone()).await.unwrap();
    store.put("c/0/object", parts).await.unwrap();
    assert_eq!(store.head("c/0/object").await, Ok(10));
    assert_eq!(store.get("c/0/object").await.unwrap(), "0123456789");
    assert_eq!(store.get_range("c/0/object", 3..7).await.unwrap(), "3456");
    assert_eq!(store.get_range("c/0/object", 9..10).await.unwrap(), "9");
    assert_eq!(store.get_range("c/0/object", 4..4).await.unwrap(), "");
    for range in [3..11, 10..11, 50..60] {
        let error = store.get_range("c/0/object", range).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Short { .. } | StoreError::Unavailable { .. }),
            "{error}"
        );
    }

    store
        .put("c/0/state/one", vec![Bytes::from_static(b"x")])
        .await
        .unwrap();
    store.put("c/00/other", vec![Bytes::new()]).await.unwrap();
    let of_shard = ["c/0/object", "c/0/state/one"].map(String::from);
    assert_eq!(keys(store, "c/0").await, of_shard.into());
    assert_eq!(keys(store, "").await.len(), 3);
    let listed: Vec<_> = store.list("c/0/state").try_collect().await.unwrap();
    assert_eq!(listed[0].bytes, 1);

    let mine = Bytes::from_static(b"mine");
    assert_eq!(store.create("c/OWNER", mine.clone()).await, Ok(Created::Ours));
    // Asked again, as after a restart, it is still ours.
    assert_eq!(store.create("c/OWNER", mine.clone()).await, Ok(Created::Ours));
    let theirs = store.create("c/OWNER", Bytes::from_static(b"yours")).await;
    assert_eq!(theirs, Ok(Created::Theirs(mine)));

    for key in ["c/0/object", "c/0/state/one", "c/00/other", "c/OWNER"] {
        store.delete(key).await.unwrap();
    }
    assert_eq!(keys(store, "").await, BTreeSet::new());

    let probe = store.probe(NONCE, NOW).await.unwrap();
    assert!(probe.put_time < Duration::from_secs(60));
    assert_eq!(
        keys(store, "").await,
        BTreeSet::new(),
        "the probe leaves nothing behind"
    );

    let bundle = large_bundle();
    for read_back in [ReadBack::Footer, ReadBack::Whole] {
        upload(store, "c/0/bundle", &bundle, read_back).await.unwrap();
    }
    assert_eq!(store.head("c/0/bundle").await, Ok(bundle.bytes));
    store.delete("c/0/bundle").await.unwrap();

    let stats = store.stats();
    assert!(stats.of(Operation::Put).bytes > 2 * bundle.bytes);
    assert!(stats.of(Operation::Get).done > 10);
    assert!(stats.of(Operation::Get).failed > 0);
}

#[tokio::test]
async fn memory_behaves() {
    behaves(&Store::over(Arc::new(InMemory::new()), "below/here")).await;
    behaves(&Store::over(Arc::new(InMemory::new()), "")).await;
}

#[tokio::test]
async fn local_directory_behaves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bucket");
    behaves(&Store::open(&StoreSettings::new(path.to_str().unwrap())).unwrap()).await;
}

/// A real S3 server, whose data goes with it.
struct S3 {
    gateway: Gateway,
    _directory: tempfile::TempDir,
}

impl S3 {
    /// `None`, and the reason on standard output, where none is installed.
    fn start() -> Option<Self> {
        if skips(Gateway::missing()) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        Some(Self {
            gateway: Gateway::start(directory.path()).unwrap(),
            _directory: directory,
        })
    }

    fn settings(&self, prefix: &str) -> StoreSettings {
        let bucket = self.gateway.bucket(prefix);
        let mut settings = StoreSettings::new(bucket.url);
        settings.options = bucket.options.into_iter().collect();
        settings
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_s3_server_behaves() {
    let Some(server) = S3::start() else { return };
    behaves(&Store::open(&server.settings("below/here")).unwrap()).await;
    virtual_style_behaves(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emulator_of_azure_behaves() {
    let Some(server) = Azurite::start() else { return };
    behaves(&Store::open(&server.settings()).unwrap()).await;
}

/// The bucket's name in the host's, where the machine finds such a name.
async fn virtual_style_behaves(server: &S3) {
    if tokio::net::lookup_host("cold.localhost:80").await.is_err() {
        eprintln!("skipped: virtual-hosted style: this machine does not resolve cold.localhost");
        return;
    }
    let mut settings = server.settings("style");
    let endpoint = settings.options["endpoint"].replace("127.0.0.1", "cold.localhost");
    settings.options.insert("endpoint".into(), endpoint);
    settings
        .options
        .insert("virtual_hosted_style_request".into(), "true".into());
    let store = Store::open(&settings).unwrap();
    store
        .put("c/0/object", vec![Bytes::from_static(b"x")])
        .await
        .unwrap();
    assert_eq!(store.get("c/0/object").await.unwrap(), "x");
}

#[tokio::test]
async fn probe_says_what_is_wrong_with_a_real_bucket() {
    let Some(server) = S3::start() else { return };
    let quick = |mut settings: StoreSettings, key: &str, value: &str| {
        settings.options.insert(key.into(), value.into());
        settings.limits.attempts_max = 2;
        settings.limits.request_timeout = Duration::from_secs(20);
        settings
    };
    let probe = async |settings: StoreSettings| {
        Store::open(&settings)
            .unwrap()
            .probe(NONCE, NOW)
            .await
            .unwrap_err()
    };
    let error = probe(quick(server.settings("p"), "secret_access_key", "wrong")).await;
    assert!(matches!(error, ProbeError::Credentials { .. }), "{error}");
    let error = probe(quick(server.settings("p"), "access_key_id", "nobody")).await;
    assert!(matches!(error, ProbeError::Credentials { .. }), "{error}");
    let mut elsewhere = quick(server.settings("p"), "region", "us-east-1");
    elsewhere.url = "s3://no-such-bucket/p".into();
    let error = probe(elsewhere).await;
    assert!(matches!(error, ProbeError::NoBucket { .. }), "{error}");
    let error = probe(quick(server.settings("p"), "endpoint", "http://127.0.0.1:9")).await;
    assert!(matches!(error, ProbeError::Unreachable { .. }), "{error}");
}

fn faulty(limits: StoreLimits) -> (Store, Faults) {
    let (objects, faults) = FaultyStore::new(Arc::new(InMemory::new()));
    (Store::with_limits(objects, "", limits), faults)
}

#[tokio::test(start_paused = true)]
async fn passing_faults_are_not_seen() {
    let (store, faults) = faulty(StoreLimits::default());
    for fault in [
        Fault::Fail,
        Fault::LoseAnswer,
        Fault::Hang,
        Fault::Delay(Duration::from_secs(5)),
    ] {
        faults.next(Operation::Put, fault);
        store
            .put("object", vec![Bytes::from_static(b"0123456789")])
            .await
            .unwrap();
        faults.next(Operation::Head, fault);
        assert_eq!(store.head("object").await, Ok(10));
        faults.next(Operation::Get, fault);
        assert_eq!(store.get_range("object", 2..5).await.unwrap(), "234");
        faults.next(Operation::Delete, fault);
        store.delete("object").await.unwrap();
    }
    store
        .put("object", vec![Bytes::from_static(b"0123456789")])
        .await
        .unwrap();
    faults.next(Operation::Get, Fault::Truncate);
    assert_eq!(store.get("object").await.unwrap(), "0123456789");
    faults.at_random(7, 300);
    for n in 0..200_u64 {
        let key = format!("n/{n}");
        store.put(&key, vec![key.clone().into()]).await.unwrap();
        assert_eq!(store.head(&key).await, Ok(key.len() as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn create_whose_answer_is_lost_is_still_ours() {
    let (store, faults) = faulty(StoreLimits::default());
    for (n, fault) in [Fault::LoseAnswer, Fault::Fail, Fault::Hang]
        .into_iter()
        .enumerate()
    {
        let key = format!("{n}/OWNER");
        faults.next(Operation::Create, fault);
        assert_eq!(
            store.create(&key, "us".into()).await,
            Ok(Created::Ours),
            "{fault:?}"
        );
        faults.next(Operation::Create, fault);
        assert_eq!(
            store.create(&key, "them".into()).await,
            Ok(Created::Theirs("us".into()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn outage_is_retriable_and_ends() {
    let (store, faults) = faulty(StoreLimits::default());
    faults.outage(true);
    let error = store.put("object", vec!["x".into()]).await.unwrap_err();
    assert!(error.is_retriable());
    assert!(
        matches!(error, StoreError::Unavailable { attempts: 4, .. }),
        "{error}"
    );
    assert_eq!(faults.count(Operation::Put), 4);
    assert!(store.list("").next().await.unwrap().unwrap_err().is_retriable());
    faults.outage(false);
    store.put("object", vec!["x".into()]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn denial_is_final_and_not_repeated() {
    let (store, faults) = faulty(StoreLimits::default());
    faults.next(Operation::Put, Fault::Deny);
    let error = store.put("object", vec!["x".into()]).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }) && !error.is_retriable());
    assert_eq!(faults.count(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn damaged_upload_is_noticed_before_anybody_relies_on_it() {
    let bundle = large_bundle();
    let (store, faults) = faulty(StoreLimits::default());
    faults.next(Operation::Put, Fault::FlipBit);
    let error = upload(&store, "b", &bundle, ReadBack::Whole).await.unwrap_err();
    let is_checksum = matches!(
        &error,
        UploadError::ReadBack {
            error: BundleError::Checksum { .. },
            ..
        }
    );
    assert!(is_checksum && !error.is_retriable(), "{error}");
    faults.next(Operation::Put, Fault::Truncate);
    let error = upload(&store, "b", &bundle, ReadBack::Footer).await.unwrap_err();
    assert!(matches!(error, UploadError::ReadBack { .. }), "{error}");
    // The same key again, with the bytes as they should be.
    upload(&store, "b", &bundle, ReadBack::Whole).await.unwrap();
    faults.outage(true);
    assert!(
        upload(&store, "b", &bundle, ReadBack::Whole)
            .await
            .unwrap_err()
            .is_retriable()
    );
}

#[tokio::test]
async fn probe_refuses_stores_whose_conditional_puts_lie() {
    for (conditions, is_missing) in [
        (Conditions::Missing, true),
        (Conditions::Ignored, false),
        (Conditions::Raced, false),
    ] {
        let (store, faults) = faulty(StoreLimits::default());
        faults.conditions(conditions);
        let error = store.probe(NONCE, NOW).await.unwrap_err();
        match error {
            ProbeError::NoConditionalPut { .. } => assert!(is_missing, "{conditions:?}: {error}"),
            ProbeError::LyingConditionalPut { .. } => assert!(!is_missing, "{conditions:?}: {error}"),
            _ => panic!("{conditions:?}: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn probe_explains_denials_and_outages() {
    for operation in [
        Operation::Put,
        Operation::Get,
        Operation::List,
        Operation::Delete,
        Operation::Head,
    ] {
        let (store, faults) = faulty(StoreLimits::default());
        faults.next(operation, Fault::Deny);
        let error = store.probe(NONCE, NOW).await.unwrap_err();
        assert!(
            matches!(&error, ProbeError::Permission { operation: denied, .. } if *denied == operation),
            "{operation}: {error}"
        );
    }
    let (store, faults) = faulty(StoreLimits::default());
    faults.outage(true);
    let error = store.probe(NONCE, NOW).await.unwrap_err();
    assert!(matches!(error, ProbeError::Unreachable { .. }), "{error}");
    let (store, faults) = faulty(StoreLimits::default());
    faults.next(Operation::Put, Fault::Truncate);
    let error = store.probe(NONCE, NOW).await.unwrap_err();
    assert!(matches!(error, ProbeError::Inconsistent { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_under_way_than_allowed() {
    let limits = StoreLimits {
        requests_in_flight_max: 2,
        ..StoreLimits::default()
    };
    let (store, faults) = faulty(limits);
    for _ in 0..6 {
        faults.next(Operation::Put, Fault::Delay(Duration::from_secs(1)));
    }
    let began = tokio::time::Instant::now();
    let puts = (0..6).map(|n| {
        let store = store.clone();
        async move { store.put(&format!("{n}"), vec!["x".into()]).await }
    });
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 3);
}
