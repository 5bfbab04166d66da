//! Producers and consumers of the sample topics, one pair in each region.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_client::admin::NewTopic;
use meridian_client::consumer::OutOfRange;
use meridian_client::driver::now_ms;
use meridian_client::{
    Admin, Cluster, ClusterSettings, ConsumerSettings, Endpoint, GroupConsumer, GroupEvent, GroupSettings,
    NewRecord, Producer, ProducerSettings,
};
use meridian_wire::ErrorCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The topics: name, partitions, and what they are for.
pub(super) const TOPICS: [(&str, u32); 2] = [("orders", 4), ("clicks", 2)];

/// Records that one region writes per second into each topic.
const RECORDS_PER_SECOND: u32 = 20;

/// After what goes wrong, before the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// What the producer and the consumer of a region have done. Also tells when the first record came through.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) produced: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) consumed: AtomicU64,
    /// From the producers' clocks to the consumer, in milliseconds, over [`Load::consumed`].
    pub(super) delay_ms: AtomicU64,
    /// The last thing that went wrong, for people.
    trouble: Mutex<Option<String>>,
    first: Mutex<Option<Instant>>,
    came: Notify,
}

impl Load {
    /// What went wrong since the last call.
    pub(super) fn take_trouble(&self) -> Option<String> {
        self.trouble.lock().take()
    }

    fn has_trouble(&self, what: impl Into<String>) {
        *self.trouble.lock() = Some(what.into());
    }

    fn has_consumed(&self, delay_ms: u64) {
        self.delay_ms.fetch_add(delay_ms, Ordering::Relaxed);
        if self.consumed.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.first.lock() = Some(Instant::now());
            self.came.notify_waiters();
        }
    }

    /// Waits until the consumer has its first record, and tells when that was.
    pub(super) async fn first_record(&self) -> Instant {
        loop {
            let mut came = std::pin::pin!(self.came.notified());
            // Registered before looking, so that nothing is missed in between.
            came.as_mut().enable();
            if let Some(first) = *self.first.lock() {
                return first;
            }
            came.await;
        }
    }
}

/// Makes the sample topics. Tries until they are there.
pub(super) async fn create_topics(servers: Vec<Endpoint>, load: &Load) {
    loop {
        match try_create_topics(&servers).await {
            Ok(()) => return,
            Err(reason) => load.has_trouble(reason),
        }
        sleep(PAUSE / 4).await;
    }
}

/// Waits until the sample topics are known in a region that follows another.
pub(super) async fn find_topics(servers: Vec<Endpoint>, load: &Load) {
    loop {
        match try_find_topics(&servers).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(reason) => load.has_trouble(reason),
        }
        sleep(PAUSE / 10).await;
    }
}

async fn try_find_topics(servers: &[Endpoint]) -> Result<bool, String> {
    let cluster = connect(servers).await?;
    let topics = Admin::new(&cluster)
        .list_topics()
        .await
        .map_err(|error| error.to_string())?;
    let is_known = |name: &str| topics.iter().any(|topic| topic.name == name);
    Ok(TOPICS.iter().all(|(name, _)| is_known(name)))
}

async fn try_create_topics(servers: &[Endpoint]) -> Result<(), String> {
    let cluster = connect(servers).await?;
    let admin = Admin::new(&cluster);
    for (name, partitions) in TOPICS {
        let new = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            configs: vec![("retention.ms".to_owned(), "3600000".to_owned())],
            ..NewTopic::default()
        };
        match admin.create_topic(&new, false).await {
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {}
            created => drop(created.map_err(|error| error.to_string())?),
        }
    }
    Ok(())
}

/// Writes and reads in a region until it is aborted.
pub(super) async fn run(region: &'static str, servers: Vec<Endpoint>, load: Arc<Load>) {
    let (writing, reading) = (produce(region, &servers, &load), consume(region, &servers, &load));
    tokio::join!(writing, reading);
}

async fn connect(servers: &[Endpoint]) -> Result<Cluster, String> {
    let settings = ClusterSettings {
        request_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(10),
        retry_wait_max: Duration::from_millis(250),
        ..ClusterSettings::new(servers.to_vec())
    };
    Cluster::connect(settings)
        .await
        .map_err(|error| error.to_string())
}

async fn produce(region: &'static str, servers: &[Endpoint], load: &Arc<Load>) {
    let mut is_first = true;
    loop {
        let Err(reason) = try_produce(region, servers, load).await;
        // Right after the start, a node of another region may be asked that has not heard of the topics yet.
        if !std::mem::take(&mut is_first) || load.produced.load(Ordering::Relaxed) > 0 {
            load.has_trouble(format!("producer in {region}: {reason}"));
        }
        sleep(PAUSE).await;
    }
}

/// Ends only with an error.
async fn try_produce(
    region: &'static str,
    servers: &[Endpoint],
    load: &Arc<Load>,
) -> Result<std::convert::Infallible, String> {
    let cluster = connect(servers).await?;
    let settings = ProducerSettings {
        delivery_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(5),
        ..ProducerSettings::default()
    };
    let producer = Producer::start(&cluster, settings)
        .await
        .map_err(|error| error.to_string())?;
    let mut ticks = interval(Duration::from_secs(1) / RECORDS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0_u64.. {
        ticks.tick().await;
        for (topic, _) in TOPICS {
            let key = format!("{region}-{}", number % 50);
            let value = value(topic, region, number);
            let record = NewRecord::new(topic, value.as_bytes()).with_key(key.as_bytes());
            let delivery = producer.send(&record).await.map_err(|error| error.to_string())?;
            let load = load.clone();
            tokio::spawn(async move {
                match delivery.wait().await {
                    Ok(_) => drop(load.produced.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        load.failed.fetch_add(1, Ordering::Relaxed);
                        load.has_trouble(format!("a record of {region} was not written: {error}"));
                    }
                }
            });
        }
    }
    Err("all numbers are used up".to_owned())
}

/// A record as an application might write it. It is made up from its number.
fn value(topic: &str, region: &str, number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match topic {
        "orders" => format!(
            r#"{{"order":"{region}-{number}","item":"item-{}","amount":{}.{:02},"region":"{region}"}}"#,
            mixed % 97,
            mixed % 400,
            mixed % 100
        ),
        _ => format!(
            r#"{{"page":"/item/{}","visitor":"{region}-{}","n":{number}}}"#,
            mixed % 97,
            mixed % 1000
        ),
    }
}

async fn consume(region: &'static str, servers: &[Endpoint], load: &Load) {
    let mut is_first = true;
    loop {
        let Err(reason) = try_consume(region, servers, load).await;
        // As in `produce`.
        if !std::mem::take(&mut is_first) || load.consumed.load(Ordering::Relaxed) > 0 {
            load.has_trouble(format!("consumer in {region}: {reason}"));
        }
        sleep(PAUSE).await;
    }
}

/// Ends only with an error.
async fn try_consume(
    region: &'static str,
    servers: &[Endpoint],
    load: &Load,
) -> Result<std::convert::Infallible, String> {
    let cluster = connect(servers).await?;
    let settings = GroupSettings {
        // One that begins late has nothing to catch up with.
        start: OutOfRange::Earliest,
        session_timeout: Duration::from_secs(10),
        consumer: ConsumerSettings {
            rack: Some(region.to_owned()),
            buffer_bytes: 4 << 20,
            ..ConsumerSettings::default()
        },
        ..GroupSettings::new(
            format!("demo-{region}"),
            TOPICS.map(|(name, _)| name.to_owned()).to_vec(),
        )
    };
    let mut member = GroupConsumer::join(&cluster, settings)
        .await
        .map_err(|error| error.to_string())?;
    loop {
        let event = member.next().await.map_err(|error| error.to_string())?;
        let GroupEvent::Records(fetched) = event else {
            continue;
        };
        let now = now_ms();
        for record in fetched.records() {
            let record = record.map_err(|error| error.to_string())?;
            load.has_consumed(u64::try_from(now.0 - record.timestamp.0).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_records_are_json() {
        for (topic, _) in TOPICS {
            for number in [0, 1, 77, u64::MAX] {
                let text = value(topic, "us", number);
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            }
        }
    }
}
