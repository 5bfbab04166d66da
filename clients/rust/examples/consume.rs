//! Reads a topic from its start, until nothing comes for two seconds:
//! `cargo run -p meridian-client --example consume -- 127.0.0.1:9092 greetings`

use std::error::Error;
use std::time::Duration;

use meridian_client::{Cluster, ClusterSettings, Consumer, ConsumerSettings, Endpoint, StartAt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());

    let cluster = Cluster::connect(ClusterSettings::new(Endpoint::parse_list(&server)?)).await?;
    let partitions = cluster.topic(&topic).await?.partitions.len() as u32;
    let mut consumer = Consumer::start(&cluster, ConsumerSettings::default());
    let assignment: Vec<_> = (0..partitions)
        .map(|index| (topic.clone(), index, StartAt::Earliest))
        .collect();
    consumer.assign(&assignment).await?;
    while let Ok(fetched) = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await {
        let fetched = fetched?;
        for record in fetched.records() {
            let record = record?;
            let text =
                |part: Option<bytes::Bytes>| part.map(|part| String::from_utf8_lossy(&part).into_owned());
            println!(
                "{}@{} {:?} = {:?}",
                fetched.partition(),
                record.offset,
                text(record.key),
                text(record.value)
            );
        }
    }
    Ok(())
}
