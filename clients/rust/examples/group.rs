//! A member of a consumer group; start several and stop some:
//! `cargo run -p meridian-client --example group -- 127.0.0.1:9092 greetings readers`

use std::error::Error;

use meridian_client::consumer::OutOfRange;
use meridian_client::{Cluster, ClusterSettings, Endpoint, GroupConsumer, GroupEvent, GroupSettings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    let group = arguments.next().unwrap_or_else(|| "readers".to_owned());

    let cluster = Cluster::connect(ClusterSettings::new(Endpoint::parse_list(&server)?)).await?;
    let settings = GroupSettings {
        start: OutOfRange::Earliest,
        ..GroupSettings::new(group, vec![topic])
    };
    let mut member = GroupConsumer::join(&cluster, settings).await?;
    loop {
        let event = tokio::select! {
            event = member.next() => event?,
            _ = tokio::signal::ctrl_c() => break,
        };
        match event {
            GroupEvent::Assigned(partitions) => println!("reads {partitions:?}"),
            GroupEvent::Revoking(partitions) => println!("lets go of {partitions:?}"),
            GroupEvent::Lost(partitions) => println!("has lost {partitions:?}"),
            GroupEvent::Records(fetched) => {
                for record in fetched.records() {
                    let record = record?;
                    let value = record.value.unwrap_or_default();
                    println!(
                        "{}@{} {}",
                        fetched.partition(),
                        record.offset,
                        String::from_utf8_lossy(&value)
                    );
                }
            }
        }
    }
    member.leave().await;
    Ok(())
}
