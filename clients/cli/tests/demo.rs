//! `meridian demo` as its users see it: from scripts, from another terminal, and on a real terminal.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says where it stopped, and it waits for real processes"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `done` gives something. Panics with `what` when it does not in time.
fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn meridian(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Whether a process runs; one that has ended and was not waited for does not.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// A demo without a screen, and what it says. Ended when dropped; its nodes end with it.
struct Demo {
    process: Child,
    events: mpsc::Receiver<Value>,
    ready: Value,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_meridian"))
            .args([
                "demo",
                "--headless",
                "--output",
                "json",
                "--kafka-port",
                "0",
                "--control",
                "127.0.0.1:0",
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (said, events) = mpsc::channel();
        std::thread::Builder::new()
            .spawn(move || {
                for line in out.lines().map_while(Result::ok) {
                    let event: Value = serde_json::from_str(&line).unwrap();
                    assert_eq!(event["schema"], "meridian.demo/1");
                    if said.send(event).is_err() {
                        return;
                    }
                }
            })
            .unwrap();
        let mut demo = Self {
            process,
            events,
            ready: Value::Null,
        };
        demo.ready = demo.wait_event("ready", |_| true);
        demo
    }

    /// The next event of this name that is as wanted.
    fn wait_event(&self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut news = Vec::new();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let event = self.events.recv_timeout(left).unwrap_or_else(|_| {
                panic!("no event {name} as wanted; the news: {news:#?}");
            });
            if event["event"] == name && is_wanted(&event) {
                return event;
            }
            if event["event"] == "news" {
                news.push(event["text"].clone());
            }
        }
    }

    fn nodes(event: &Value) -> Vec<Value> {
        let regions = event["regions"].as_array().unwrap();
        regions
            .iter()
            .flat_map(|region| region["nodes"].as_array().unwrap().clone())
            .collect()
    }

    fn pids(&self) -> Vec<u64> {
        Self::nodes(&self.ready)
            .iter()
            .map(|node| node["pid"].as_u64().unwrap())
            .collect()
    }

    /// A command to the running demo that must be done.
    fn act(&self, arguments: &[&str]) -> Value {
        let output = self.try_act(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn try_act(&self, arguments: &[&str]) -> Output {
        let control = self.ready["control"].as_str().unwrap();
        let to = ["--control", control, "--output", "json"];
        meridian(&[&["demo"], arguments, &to].concat())
    }

    fn wait_ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        wait_for("the end of the demo", || process.try_wait().unwrap())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Without an error where it has ended already.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn state_of<'a>(event: &'a Value, name: &str) -> Option<(&'a str, Option<u64>)> {
    let regions = event["regions"].as_array()?;
    let mut nodes = regions
        .iter()
        .flat_map(|region| region["nodes"].as_array().unwrap());
    let node = nodes.find(|node| node["node"] == name)?;
    Some((node["state"].as_str()?, node["pid"].as_u64()))
}

#[test]
fn a_region_of_three_serves_clients_loses_a_node_gets_it_back_and_leaves_nothing() {
    let mut demo = Demo::start(&["--regions", "1", "--nodes", "3"]);
    let ready = demo.ready.clone();
    let first_ms = ready["first_record_ms"].as_f64().unwrap();
    println!("first record through after {first_ms} ms");
    assert!(first_ms < 30_000.0, "{first_ms}");
    let region = &ready["regions"][0];
    assert_eq!((&region["name"], &region["owner"]), (&"us".into(), &true.into()));
    let nodes = Demo::nodes(&ready);
    assert_eq!(nodes.len(), 3);
    assert!(demo.pids().into_iter().all(runs));
    assert!(
        nodes
            .iter()
            .all(|node| Path::new(node["data"].as_str().unwrap()).is_dir())
    );

    // It is a region as any other.
    let server = nodes[1]["kafka"].as_str().unwrap();
    let read = meridian(&[
        "consume", "orders", "-n", "5", "--from", "earliest", "--follow", "--server", server,
    ]);
    assert_eq!(
        String::from_utf8_lossy(&read.stdout).lines().count(),
        5,
        "{read:?}"
    );
    let tier = demo.wait_event("status", |event| {
        event["regions"][0]["tier"]["objects"].as_u64() > Some(0)
    });
    assert!(tier["regions"][0]["tier"]["object_bytes"].as_u64() > Some(0));

    let killed = demo.pids()[1];
    let said = demo.act(&["kill", "us/2"]);
    assert_eq!(
        (&said["schema"], &said["do"]),
        (&"meridian.demo.action/1".into(), &"kill".into())
    );
    let down = demo.wait_event("status", |event| state_of(event, "us/2") == Some(("down", None)));
    assert!(!runs(killed));
    let refused = demo.try_act(&["kill", "us/2"]);
    assert!(
        refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("does not run")
    );
    // Producers and consumers go on with two of three.
    let load = |event: &Value, what: &str| event["regions"][0]["load"][what].as_u64().unwrap();
    let (produced, consumed) = (load(&down, "produced"), load(&down, "consumed"));
    demo.wait_event("status", |event| {
        load(event, "produced") > produced + 100 && load(event, "consumed") > consumed + 100
    });
    demo.act(&["start", "us/2"]);
    let up = demo.wait_event(
        "status",
        |event| matches!(state_of(event, "us/2"), Some(("up", Some(pid))) if pid != killed),
    );
    assert_eq!(load(&up, "failed"), 0);
    let refused = demo.try_act(&["cut", "us-eu"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("--regions 2"),
        "{refused:?}"
    );
    let status = demo.act(&["status"]);
    assert_eq!(status["schema"], "meridian.demo.status/1");

    let pids: Vec<u64> = Demo::nodes(&up)
        .iter()
        .map(|node| node["pid"].as_u64().unwrap())
        .collect();
    let data = PathBuf::from(ready["data"].as_str().unwrap());
    signal(demo.process.id(), "-TERM");
    demo.wait_event("ended", |_| true);
    assert!(demo.wait_ended().success());
    assert!(!pids.into_iter().any(runs));
    assert!(!data.exists());
}

#[test]
fn its_nodes_end_with_a_demo_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("demo");
    let mut demo = Demo::start(&["--regions", "1", "--nodes", "1", "--data", data.to_str().unwrap()]);
    let pids = demo.pids();
    assert!(pids.iter().copied().all(runs));
    signal(demo.process.id(), "-KILL");
    assert!(!demo.wait_ended().success());
    wait_for("the end of the nodes", || {
        (!pids.iter().copied().any(runs)).then_some(())
    });
    assert!(data.join("us/node-1").is_dir(), "what was named is kept");
    let again = meridian(&[
        "demo",
        "--headless",
        "--regions",
        "1",
        "--kafka-port",
        "0",
        "--control",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
    ]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"));
}

/// A directory with Kafka's console consumer, as its distribution has it, from the classes that `tests/run.sh` has
/// fetched; `None` where they are not there.
fn kafka_tools() -> Option<tempfile::TempDir> {
    let classes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients/java/lib");
    let has_java = Command::new("java").arg("-version").output().is_ok();
    if !has_java || !classes.is_dir() {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("kafka-console-consumer.sh");
    let text = format!(
        "#!/bin/sh\nexec java -cp '{}/*' org.apache.kafka.tools.consumer.ConsoleConsumer \"$@\"\n",
        classes.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(directory)
}

/// A line for a shell, run as it is printed. `meridian` is the one under test.
fn shell(line: &str, tools: Option<&Path>) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_meridian"));
    let path = format!(
        "{}:{}:{}",
        binary.parent().unwrap().display(),
        tools.unwrap_or(Path::new("/nowhere")).display(),
        std::env::var("PATH").unwrap_or_default()
    );
    Command::new("timeout")
        .args(["120", "sh", "-c", line])
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn three_regions_are_one_cluster_to_stock_clients_through_a_switchover_and_a_cut() {
    let mut demo = Demo::start(&["--regions", "3", "--latency", "40ms"]);
    let ready = demo.ready.clone();
    println!("first record through after {} ms", ready["first_record_ms"]);
    assert!(ready["first_record_ms"].as_f64().unwrap() < 30_000.0);
    let names: Vec<_> = ready["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(names, ["us", "eu", "ap"]);
    assert_eq!(ready["owner"], "us");
    let brokers: Vec<_> = Demo::nodes(&ready)
        .iter()
        .map(|node| node["broker"].clone())
        .collect();
    assert_eq!(brokers, [1, 100_001, 200_001]);
    for link in ready["links"].as_array().unwrap() {
        let measured = link["measured_ms"].as_f64().unwrap();
        println!("{}: a round trip takes {measured} ms", link["link"]);
        assert!((40.0..4000.0).contains(&measured), "{link}");
    }

    // Every line that it prints works as it stands, but for those of which something is missing here.
    let has_kcat = Command::new("kcat").arg("-V").output().is_ok();
    let tools = kafka_tools();
    let tools = tools.as_ref().map(tempfile::TempDir::path);
    for line in ready["try"].as_array().unwrap() {
        let line = line.as_str().unwrap();
        let is_missing =
            (line.contains("kcat") && !has_kcat) || (line.contains("kafka-console") && tools.is_none());
        let changes_things = ["demo kill", "demo cut", "demo switchover"]
            .iter()
            .any(|it| line.contains(it));
        if is_missing || changes_things {
            println!("not run: {line}");
            continue;
        }
        let ran = shell(line, tools);
        assert!(ran.status.success(), "{line}: {ran:?}");
        if line.contains(" orders ") {
            let read = String::from_utf8_lossy(&ran.stdout);
            assert!(
                read.lines().any(|record| record.contains("\"order\":")),
                "{line}: {ran:?}"
            );
        }
    }

    let load =
        |event: &Value, region: usize, what: &str| event["regions"][region]["load"][what].as_u64().unwrap();
    let goes_on = |before: &Value, event: &Value| {
        (0..3).all(|region| {
            ["produced", "consumed"]
                .iter()
                .all(|what| load(event, region, what) > load(before, region, what) + 100)
        })
    };
    // One that takes too long on a busy machine is taken back.
    let said = wait_for("the switchover", || {
        let said = demo.try_act(&["switchover", "--to", "eu"]);
        said.status.success().then_some(said)
    });
    println!("{said:?}");
    let moved = demo.wait_event("status", |event| event["owner"] == "eu");
    demo.wait_event("status", |event| goes_on(&moved, event));
    let refused = demo.try_act(&["switchover", "--to", "mars"]);
    assert!(
        refused.status.code() == Some(1)
            && String::from_utf8_lossy(&refused.stderr).contains("no region mars"),
        "{refused:?}"
    );

    let behind = |event: &Value, link: &str| {
        let links = event["links"].as_array().unwrap();
        let found = links.iter().find(|it| it["link"] == link).unwrap();
        (found["is_cut"] == true, found["staleness_ms"].as_f64())
    };
    demo.act(&["cut", "us-eu"]);
    demo.wait_event(
        "status",
        |event| matches!(behind(event, "us-eu"), (true, Some(ms)) if ms > 3000.0),
    );
    demo.act(&["heal"]);
    let healed = demo.wait_event(
        "status",
        |event| matches!(behind(event, "us-eu"), (false, Some(ms)) if ms < 1500.0),
    );
    let last = demo.wait_event("status", |event| goes_on(&healed, event));
    let failed: u64 = (0..3).map(|region| load(&last, region, "failed")).sum();
    assert_eq!(failed, 0, "no record was lost");

    let (pids, data) = (demo.pids(), PathBuf::from(ready["data"].as_str().unwrap()));
    signal(demo.process.id(), "-INT");
    assert!(demo.wait_ended().success());
    assert!(!pids.into_iter().any(runs));
    assert!(!data.exists());
}

#[test]
fn debug_relay_puts_a_distance_between_two_addresses() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = echo.local_addr().unwrap().to_string();
    std::thread::Builder::new()
        .spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut back = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut back).unwrap();
        })
        .unwrap();
    let mut relay = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(["debug", "relay", "--output", "json", "--listen", "127.0.0.1:0"])
        .args(["--target", &target, "--delay", "30ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(relay.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let ready = next();
    assert_eq!(
        (&ready["schema"], &ready["event"], &ready["round_trip_us"]),
        (&"meridian.debug.relay/1".into(), &"ready".into(), &60_000.into())
    );
    assert!(ready["measured_us"].as_u64() >= Some(60_000), "{ready}");
    let mut stream = TcpStream::connect(ready["listen"].as_str().unwrap()).unwrap();
    let begun = Instant::now();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    assert!(
        begun.elapsed() >= Duration::from_millis(60),
        "{:?}",
        begun.elapsed()
    );
    let counted = std::iter::repeat_with(&mut next)
        .find(|event| event["forward"]["delivered_bytes"].as_u64() >= Some(5));
    assert_eq!(counted.unwrap()["event"], "counters");
    signal(relay.id(), "-INT");
    assert!(wait_for("the end of the relay", || relay.try_wait().unwrap()).success());
}

/// A terminal of its own.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("tmux")
            .args(["-u", "-L", &self.socket, "-f", "/dev/null"])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn screen(&self) -> String {
        let shown = self.run(&["capture-pane", "-p", "-t", "demo"]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// Waits until the screen shows all of this.
    fn wait_screen(&self, expected: &[&str]) -> String {
        let mut last = String::new();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            last = self.screen();
            if expected.iter().all(|text| last.contains(text)) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the screen does not show {expected:?}:\n{last}");
    }

    fn press(&self, key: &str) {
        assert!(self.run(&["send-keys", "-t", "demo", key]).status.success());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn on_a_terminal_keys_kill_and_start_a_node_cut_and_heal_a_link_switch_over_and_quit() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is not installed, and this test needs a real terminal");
        return;
    }
    let tmux = Tmux {
        socket: format!("meridian-demo-{}", std::process::id()),
    };
    let demo = format!(
        "{} demo --regions 2 --latency 40ms --kafka-port 0 --control 127.0.0.1:0; echo status $?; sleep 100",
        env!("CARGO_BIN_EXE_meridian")
    );
    let started = tmux.run(&["new-session", "-d", "-s", "demo", "-x", "120", "-y", "45", &demo]);
    assert!(started.status.success(), "{started:?}");
    let screen = tmux.wait_screen(&[
        "Meridian demo",
        "first record through",
        "us-eu: a round trip",
        "eu/1 is up",
        "mirror",
        "q quit",
    ]);
    let row = screen
        .lines()
        .find(|line| line.contains("eu/1") && line.contains("127.0.0.1"))
        .unwrap();
    let pid: u64 = row.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(runs(pid), "{row}");
    tmux.press("Down");
    tmux.press("k");
    tmux.wait_screen(&["kill -9 of eu/1", "killed"]);
    wait_for("the end of the node", || (!runs(pid)).then_some(()));
    tmux.press("s");
    tmux.wait_screen(&["eu/1 is started"]);
    wait_for("the node to be up again", || {
        let screen = tmux.screen();
        let row = screen
            .lines()
            .find(|line| line.contains("eu/1") && line.contains("127.0.0.1"))?;
        row.contains(" up ").then_some(())
    });
    tmux.press("o");
    tmux.wait_screen(&["region eu owns, after"]);
    tmux.press("Down");
    tmux.press("c");
    tmux.wait_screen(&["us-eu is cut", " cut "]);
    tmux.press("h");
    tmux.wait_screen(&["us-eu is whole again", " whole "]);
    tmux.press("q");
    // The terminal is as it was, and the shell goes on.
    let screen = tmux.wait_screen(&["The demo has ended", "status 0"]);
    assert!(!screen.contains("regions"), "{screen}");
}
