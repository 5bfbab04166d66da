//! Two places with a WAN between them: what is written at the near one arrives at the far one.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use clap::ValueEnum;
use meridian_cluster::Wan;
use meridian_compat::kafka::KafkaOptions;
use meridian_compat::raw::RawClient;
use meridian_compat::server::ServerOptions;
use meridian_compat::{Process, Server, workspace};
use serde::Serialize;

use super::{Weather, mirror_maker, wait_for};
use crate::machine;

/// Topics and their partitions. Records of the last ones carry the time of their sending.
pub(super) const SIXTEEN: (&str, i32) = ("wan-16", 16);
/// One partition.
pub(super) const ONE: (&str, i32) = ("wan-1", 1);
/// For the lag.
pub(super) const TIMED: (&str, i32) = ("wan-timed", 4);
/// Acknowledged when another region has it; Meridian's alone.
pub(super) const AWAITED: (&str, i32) = ("wan-awaited", 4);

/// How long the far place may take to have all that the near one has, over a good link.
const DRAIN: Duration = Duration::from_secs(180);
/// And over one as long as the next that is measured.
const NEARLY: Duration = Duration::from_secs(20);
/// What the link carries meanwhile, in MB/s.
const WIDE: f64 = 100.0;
/// Until a path of another length is known: twice ten seconds.
const SETTLE: Duration = Duration::from_secs(21);

/// Who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Two regions of Meridian, one node each.
    Meridian,
    /// Two Kafka brokers, and MirrorMaker 2 as it is shipped.
    #[value(name = "mm2")]
    Shipped,
    /// Two Kafka brokers, and MirrorMaker 2 as its documentation advises for a WAN.
    #[value(name = "mm2-tuned")]
    Tuned,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meridian => "meridian",
            Self::Shipped => "mm2",
            Self::Tuned => "mm2-tuned",
        })
    }
}

/// CPU seconds so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Cpu {
    pub(super) near_s: f64,
    pub(super) far_s: f64,
    /// Of the process that copies, where that is one of its own.
    pub(super) copier_s: f64,
}

/// Two places and who copies between them. Dropping it ends all processes, and removes the far place.
pub(super) struct Pair {
    pub(super) system: System,
    near: Server,
    far: Server,
    copier: Option<Process>,
    addresses: [SocketAddr; 2],
    pub(super) directory: PathBuf,
    pub(super) wan: Wan,
}

impl Pair {
    /// Starts it, with the topics. Errors: what does not start, and why.
    pub(super) fn start(system: System) -> Result<Self, String> {
        let wan = Wan::create()?;
        let name = format!("bench-wan-{system}");
        let directory = workspace::run_directory(&name);
        let near_at = SocketAddr::new(wan.near(), 9092);
        let far_at = SocketAddr::new(wan.far_watched(), 9092);
        let enter = wan.enter();
        let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
        let (near, far) = match system {
            System::Meridian => (
                meridian(0, &[], SocketAddr::new(wan.near(), 9290), near_at),
                meridian(
                    1,
                    &[SocketAddr::new(wan.near(), 9290)],
                    SocketAddr::new(wan.far(), 9290),
                    far_at,
                ),
            ),
            System::Shipped | System::Tuned => {
                let is_tuned = system == System::Tuned;
                (kafka(near_at, is_tuned), kafka(far_at, is_tuned))
            }
        };
        let near = Server::try_start(&format!("{name}-near"), near)?;
        let far = Server::try_start(&format!("{name}-far"), far.wrapper(&enter))?;
        let mut pair = Self {
            system,
            near,
            far,
            copier: None,
            addresses: [near_at, far_at],
            directory,
            wan,
        };
        pair.create_topics()?;
        Ok(pair)
    }

    fn create_topics(&mut self) -> Result<(), String> {
        let forever = ("retention.ms", "-1");
        let topics = self.topics();
        let places = match self.system {
            System::Meridian => &self.addresses[..1],
            System::Shipped | System::Tuned => &self.addresses[..],
        };
        for place in places {
            for (topic, partitions) in &topics {
                let awaited = ("geo.acks", "1");
                let configs = match *topic == AWAITED.0 {
                    true => vec![forever, awaited],
                    false => vec![forever],
                };
                let created = connect(*place)?.create_topic(topic, *partitions, &configs);
                match created.map_err(|e| format!("cannot create {topic}: {e}"))? {
                    0 => {}
                    error => return Err(format!("error {error} to the creation of {topic}")),
                }
            }
        }
        if self.system != System::Meridian {
            let names: Vec<&str> = topics.iter().map(|(topic, _)| *topic).collect();
            let [near, far] = self.addresses.map(|address| address.to_string());
            let is_tuned = self.system == System::Tuned;
            let enter = self.wan.enter();
            let copier = mirror_maker::start(&self.directory, &enter, (&near, &far), &names, is_tuned)?;
            self.copier = Some(copier);
        }
        for topic in topics {
            // The first record also shows that copying has begun.
            self.nudge(topic)?;
        }
        self.drain(DRAIN)
    }

    /// A record into each partition.
    fn nudge(&self, (topic, partitions): (&str, i32)) -> Result<(), String> {
        wait_for(&format!("a leader of {topic}"), DRAIN, || {
            let mut client = self.near()?;
            for partition in 0..partitions {
                let batch = meridian_compat::raw::plain_batch(&[&[0; 8]]);
                let produced = client.produce(topic, partition, &batch);
                match produced.map_err(|e| e.to_string())? {
                    (0, _) => {}
                    (error, _) => return Err(format!("error {error}")),
                }
            }
            Ok(Some(()))
        })
    }

    /// A connection to the near place.
    pub(super) fn near(&self) -> Result<RawClient, String> {
        connect(self.addresses[0])
    }

    /// A connection to the far place, beside the WAN.
    pub(super) fn far(&self) -> Result<RawClient, String> {
        connect(self.addresses[1])
    }

    /// CPU seconds so far. Errors: a process has ended.
    pub(super) fn cpu(&self) -> Result<Cpu, String> {
        let of = |pid: Option<u32>, name: &str| {
            pid.and_then(machine::process_cpu_s)
                .ok_or_else(|| format!("the {name} process has ended"))
        };
        Ok(Cpu {
            near_s: of(self.near.pid(), "near")?,
            far_s: of(self.far.pid(), "far")?,
            copier_s: match &self.copier {
                Some(copier) => of(Some(copier.pid()), "copying")?,
                None => 0.0,
            },
        })
    }

    /// Waits until the far place has all of every topic, and then makes `weather`. What was left of another measurement would
    /// stand in the way of this one.
    ///
    /// Errors: it does not get it.
    pub(super) fn prepare(&self, weather: Weather) -> Result<(), String> {
        let clear = Weather {
            loss_percent: 0.0,
            ..weather
        };
        let has_changed = self.wan.link().round_trip() != Duration::from_millis(weather.rtt_ms);
        let is_behind = self.behind()? > 0;
        let wide = Weather {
            rate_mb: WIDE,
            ..clear
        };
        wide.set(self.wan.link())?;
        let is_slow = is_behind && self.drain(NEARLY).is_err();
        if is_slow {
            // A long way holds up those who wait for answers.
            Weather { rtt_ms: 1, ..wide }.set(self.wan.link())?;
            self.drain(DRAIN)?;
        }
        clear.set(self.wan.link())?;
        if has_changed || is_slow {
            // Congestion control, the kernel's too, takes the shortest round trip of the last ten seconds for that of the path.
            sleep(SETTLE);
        }
        weather.set(self.wan.link())
    }

    fn drain(&self, timeout: Duration) -> Result<(), String> {
        wait_for("everything at the far place", timeout, || {
            Ok((self.behind()? <= 0).then_some(()))
        })
        .map_err(|reason| format!("{reason}\n{}{}", self.near.log_tail(5), self.far.log_tail(5)))
    }

    /// Records that the far place does not have yet.
    fn behind(&self) -> Result<i64, String> {
        let mut behind = 0;
        let (mut near, mut far) = (self.near()?, self.far()?);
        for topic in self.topics() {
            let near: i64 = ends(&mut near, topic)?.iter().sum();
            let far: i64 = ends(&mut far, topic)?.iter().sum();
            behind += (near - far).max(0);
        }
        Ok(behind)
    }

    fn topics(&self) -> Vec<(&'static str, i32)> {
        let mut topics = vec![SIXTEEN, ONE, TIMED];
        if self.system == System::Meridian {
            topics.push(AWAITED);
        }
        topics
    }
}

/// The ends of the partitions, as consumers see them there.
pub(super) fn ends(client: &mut RawClient, (topic, partitions): (&str, i32)) -> Result<Vec<i64>, String> {
    (0..partitions)
        .map(|partition| {
            let answer = client.fetch_from_any(topic, partition, 0, 1);
            let answer = answer.map_err(|e| format!("no answer: {e}"))?;
            match answer.error {
                0 => Ok(answer.high_watermark),
                error => Err(format!("error {error} for partition {partition} of {topic}")),
            }
        })
        .collect()
}

fn connect(address: SocketAddr) -> Result<RawClient, String> {
    RawClient::connect(address).map_err(|e| format!("cannot connect to {address}: {e}"))
}

fn meridian(number: u16, seeds: &[SocketAddr], geo: SocketAddr, kafka: SocketAddr) -> ServerOptions {
    let name = if number == 0 { "near" } else { "far" };
    let seeds: Vec<String> = seeds.iter().map(SocketAddr::to_string).collect();
    ServerOptions::meridian()
        .env("NO_COLOR", "1")
        .args(&["--node-id", "1", "--insecure"])
        .args(&["--region", name, "--rack", name])
        .args(&["--region-number", &number.to_string()])
        .args(&["--geo", &geo.to_string()])
        .args(&["--set", &format!("geo.seeds={}", seeds.join(","))])
        .kafka_address(kafka)
        .admin_address(SocketAddr::new(kafka.ip(), 9644))
}

fn kafka(address: SocketAddr, is_tuned: bool) -> ServerOptions {
    let mut options = KafkaOptions {
        jvm: ["-Xmx1g", "-Xms1g", "-XX:+UseG1GC"].map(str::to_owned).to_vec(),
        properties: Vec::new(),
    };
    if is_tuned {
        // The kernel sizes the buffers; 100 KiB is what Kafka ships with.
        for key in ["socket.send.buffer.bytes", "socket.receive.buffer.bytes"] {
            options.properties.push((key.to_owned(), "-1".to_owned()));
        }
    }
    ServerOptions::kafka(options).kafka_address(address)
}
