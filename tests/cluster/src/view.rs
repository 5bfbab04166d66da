//! The cluster as a client sees it, asked in bounded time: a node that is stopped or cut off costs little.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use meridian_compat::raw::{Metadata, RawClient};

/// How long a question may take.
pub const PATIENCE: Duration = Duration::from_millis(1000);

/// How long a leader may take to answer: what it is asked for may lie in a bucket. So may an admin endpoint: its answer is
/// mostly asked for once, and the machine may stand still for seconds.
const ANSWER: Duration = Duration::from_secs(12);

/// What the first node that answers knows of a topic.
pub fn metadata(nodes: &[SocketAddr], topic: &str) -> Option<Metadata> {
    nodes.iter().find_map(|node| {
        RawClient::connect_within(*node, PATIENCE)
            .ok()?
            .metadata(topic)
            .ok()
    })
}

/// A connection to the leader of a partition, if one is known and takes it.
pub fn leader(nodes: &[SocketAddr], topic: &str, partition: i32) -> Option<RawClient> {
    let metadata = metadata(nodes, topic)?;
    let found = metadata.partitions.iter().find(|p| p.partition == partition)?;
    let address = metadata.address(found.leader)?.parse().ok()?;
    RawClient::connect_within(address, ANSWER).ok()
}

/// The status and body that a node's admin endpoint answers for a path.
pub fn admin(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The sum of a metric over its labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    labelled(text, name, "")
}

/// The sum of a metric over those of its lines that hold `label`, such as `api="Fetch"`.
pub fn labelled(text: &str, name: &str, label: &str) -> Option<f64> {
    let is_meant = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(label))
    };
    let values: Vec<f64> = text
        .lines()
        .filter(is_meant)
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# HELP a_total x\na_total{shard=\"1\"} 2\na_total{shard=\"2\"} 3\na_total_max 9\n";
        assert_eq!(metric(text, "a_total"), Some(5.0));
        assert_eq!(metric(text, "b_total"), None);
        assert_eq!(labelled(text, "a_total", "shard=\"2\""), Some(3.0));
        assert_eq!(labelled(text, "a_total", "shard=\"3\""), None);
    }
}
