//! Writes ten records: `cargo run -p meridian-client --example produce -- 127.0.0.1:9092 greetings`

use std::error::Error;

use meridian_client::admin::NewTopic;
use meridian_client::{Admin, Cluster, ClusterSettings, Endpoint, NewRecord, Producer, ProducerSettings};
use meridian_wire::ErrorCode;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());

    let cluster = Cluster::connect(ClusterSettings::new(Endpoint::parse_list(&server)?)).await?;
    let new = NewTopic {
        name: topic.clone(),
        partitions: Some(3),
        ..NewTopic::default()
    };
    match Admin::new(&cluster).create_topic(&new, false).await {
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {}
        result => drop(result?),
    }

    let producer = Producer::start(&cluster, ProducerSettings::default()).await?;
    let mut deliveries = Vec::new();
    for number in 0..10 {
        let (key, value) = (format!("key-{}", number % 3), format!("hello {number}"));
        let record = NewRecord::new(&topic, value.as_bytes()).with_key(key.as_bytes());
        deliveries.push(producer.send(&record).await?);
    }
    for delivery in deliveries {
        let written = delivery.wait().await?;
        println!("partition {} offset {:?}", written.partition, written.offset);
    }
    Ok(())
}
