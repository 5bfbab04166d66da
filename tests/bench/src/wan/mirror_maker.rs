//! Kafka's MirrorMaker 2, at the far place, as its documentation advises.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use meridian_compat::{Process, program, workspace};

/// Where the jars are from.
const POM: &str = "tests/bench/mirror-maker/pom.xml";

/// The first time, Maven fetches some 60 MB.
const FETCH: Duration = Duration::from_secs(600);

/// What its documentation names for a WAN: the kernel sizes the buffers, fetches are large, writing is in batches, several
/// tasks share the partitions, and its own topics are at the far place.
const TUNING: &str = "\
    tasks.max = 4\n\
    near.consumer.receive.buffer.bytes = -1\n\
    near.consumer.send.buffer.bytes = -1\n\
    near.consumer.fetch.max.bytes = 104857600\n\
    near.consumer.max.partition.fetch.bytes = 16777216\n\
    near.consumer.max.poll.records = 10000\n\
    far.producer.batch.size = 524288\n\
    far.producer.linger.ms = 5\n\
    far.producer.buffer.memory = 134217728\n\
    far.producer.max.request.size = 16777216\n\
    near->far.offset-syncs.topic.location = target\n";

/// Starts it at a place that the words of `enter` lead to; it copies `topics`.
///
/// Errors: Maven is missing or cannot fetch it.
pub(super) fn start(
    directory: &Path,
    enter: &[String],
    (near, far): (&str, &str),
    topics: &[&str],
    is_tuned: bool,
) -> Result<Process, String> {
    let jars = jars()?;
    let properties = directory.join("mm2.properties");
    let mut text = format!(
        "clusters = near, far\n\
         near.bootstrap.servers = {near}\n\
         far.bootstrap.servers = {far}\n\
         near->far.enabled = true\n\
         far->near.enabled = false\n\
         near->far.topics = {}\n\
         replication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy\n\
         replication.factor = 1\n\
         checkpoints.topic.replication.factor = 1\n\
         heartbeats.topic.replication.factor = 1\n\
         offset-syncs.topic.replication.factor = 1\n\
         offset.storage.replication.factor = 1\n\
         status.storage.replication.factor = 1\n\
         config.storage.replication.factor = 1\n\
         sync.topic.acls.enabled = false\n\
         refresh.topics.interval.seconds = 5\n",
        topics.join(",")
    );
    if is_tuned {
        text.push_str(TUNING);
    }
    std::fs::write(&properties, text).map_err(|e| format!("cannot write {}: {e}", properties.display()))?;
    let mut command = Command::new(&enter[0]);
    command
        .args(&enter[1..])
        .args(["java", "-Xmx1500m", "-XX:+UseG1GC"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(format!("{}/*", jars.display()))
        .arg("org.apache.kafka.connect.mirror.MirrorMaker")
        .arg(&properties);
    let (out, log) = (directory.join("mm2.out"), directory.join("mm2.log"));
    Ok(Process::start("mirror-maker", command, &out, &log))
}

fn jars() -> Result<PathBuf, String> {
    let jars = workspace::clients().join("mirror-maker");
    if jars.join("fetched").exists() {
        return Ok(jars);
    }
    if workspace::on_path("mvn").is_none() {
        return Err("mvn (Maven) is not installed".to_owned());
    }
    std::fs::create_dir_all(&jars).map_err(|e| format!("cannot make {}: {e}", jars.display()))?;
    let mut command = Command::new("mvn");
    command
        .args(["-q", "-B", "-f"])
        .arg(workspace::root().join(POM))
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", jars.display()));
    program::run("mvn", command, &jars, None, FETCH)?;
    std::fs::write(jars.join("fetched"), "").map_err(|e| e.to_string())?;
    Ok(jars)
}
