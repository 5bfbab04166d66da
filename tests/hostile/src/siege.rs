//! One server under attack, with a well-behaved client beside the attackers.

use std::net::SocketAddr;
use std::time::Duration;

use meridian_compat::raw::RawClient;
use meridian_compat::{Server, ServerOptions};

use crate::memory::{BUDGET_MIB, KAFKA_BUDGET_MIB, resident_kib};
use crate::probe::{Latency, Probe};

/// The topic of the well-behaved client.
pub const PROBE_TOPIC: &str = "probe";
/// A topic for the attackers.
pub const TARGET_TOPIC: &str = "target";

/// A p99 beside the attack may be this many times the one before, and `SLACK` more: two cores are shared with the
/// attackers, which is no fault of the server's.
const SLOWDOWN: u32 = 5;
const SLACK: Duration = Duration::from_millis(500);
/// And no single round trip may take this long.
const LONGEST: Duration = Duration::from_millis(1500);
/// An attack that slows the well-behaved client down is repeated: where the server is to blame, each one does. A disk or a
/// machine that stands still for seconds does not come back with every attack.
const ATTEMPTS: u32 = 3;

/// A running server and what the well-behaved client measured before any attack.
pub struct Siege {
    server: Server,
    /// Where the server listens.
    pub address: SocketAddr,
    before: Latency,
}

impl Siege {
    /// Starts the server of the environment ([`ServerOptions::from_environment`]) and measures it in peace.
    ///
    /// # Panics
    /// When it does not start or does not serve.
    pub fn begin(name: &str) -> Self {
        raise_file_limit();
        let server = Server::start(name, ServerOptions::from_environment());
        let address = server.bootstrap().parse().expect("the address is IP:PORT");
        let mut client = RawClient::connect(address).expect("the server accepts connections");
        for topic in [PROBE_TOPIC, TARGET_TOPIC] {
            // 36: it is there already, on a server that runs for longer.
            // The records are as old as can be, and are not to go between a write and its read.
            let error = client
                .create_topic(topic, 1, &[("retention.ms", "-1")])
                .expect("CreateTopics is served");
            assert!(matches!(error, 0 | 36), "creating {topic}: error {error}");
        }
        // The first round trips pay for what is only set up once.
        let warm = Duration::from_millis(700);
        let ready = meridian_compat::process::wait_for(Duration::from_secs(20), || {
            Probe::alone(address, PROBE_TOPIC, warm).ok()
        });
        assert!(ready.is_some(), "the probe cannot work in peace");
        let before = Probe::alone(address, PROBE_TOPIC, Duration::from_millis(1500))
            .expect("the probe works in peace");
        Self {
            server,
            address,
            before,
        }
    }

    /// Runs an attack beside a fresh probe, and holds the server to its promises afterwards.
    ///
    /// # Panics
    /// When the process ended, took more memory than its budget, or the probe noticed.
    pub fn withstands<T>(&mut self, attack: impl Fn(SocketAddr) -> T) -> T {
        let mut attempt = 1;
        loop {
            let (result, during) = self.attacked(&attack);
            let Some(reason) = self.slowed(&during) else {
                return result;
            };
            println!("attempt {attempt}: {reason}");
            assert!(attempt < ATTEMPTS, "{reason}, {ATTEMPTS} times in a row");
            attempt += 1;
        }
    }

    fn attacked<T>(&mut self, attack: impl Fn(SocketAddr) -> T) -> (T, Latency) {
        let probe = Probe::start(self.address, PROBE_TOPIC);
        let result = attack(self.address);
        // The attackers may be gone in no time; the probe looks for a second at least.
        std::thread::sleep(Duration::from_secs(1));
        let during = probe.finish();
        assert!(
            self.server.is_external() || self.server.is_alive(),
            "the server ended:\n{}",
            self.server.log_tail(40)
        );
        let during = during.unwrap_or_else(|e| panic!("the well-behaved client was disturbed: {e}"));
        println!("before {:?}\nduring {during:?}", self.before);
        self.memory_holds();
        // And a new client is served as ever.
        Probe::alone(self.address, PROBE_TOPIC, Duration::from_millis(100))
            .unwrap_or_else(|e| panic!("a client after the attack is refused: {e}"));
        (result, during)
    }

    /// What is wrong with the latency beside an attack, if anything is.
    fn slowed(&self, during: &Latency) -> Option<String> {
        let before = &self.before;
        if during.p99 > before.p99 * SLOWDOWN + SLACK {
            return Some(format!(
                "the well-behaved client was slowed down: p99 {:?}, before {:?}",
                during.p99, before.p99
            ));
        }
        (during.longest > LONGEST.max(before.longest * SLOWDOWN))
            .then(|| format!("the well-behaved client stood still for {:?}", during.longest))
    }

    fn memory_holds(&self) {
        let Some(pid) = self.server.pid() else { return };
        let (now, highest) = resident_kib(pid).expect("the server runs");
        println!("resident {} MiB, at most {} MiB", now >> 10, highest >> 10);
        let budget = if self.server.is_kafka() {
            KAFKA_BUDGET_MIB
        } else {
            BUDGET_MIB
        };
        assert!(
            highest >> 10 <= budget,
            "the server took {} MiB, more than its budget of {budget} MiB",
            highest >> 10
        );
    }
}

/// As many file descriptors as we may have; the server inherits them.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        // The attack that needs them fails on its own.
        eprintln!("the limit of open files stays as it is: {e}");
    }
}
