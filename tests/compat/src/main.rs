//! Pieces of the harness for work by hand: `compat kafka` runs a real Apache Kafka until its input ends,
//! `compat relay HOST:PORT EVERY` runs a relay that loses every EVERYth response to Produce.

use std::io::Read;
use std::process::ExitCode;

use meridian_compat::kafka::KafkaOptions;
use meridian_compat::{Fault, Relay, Server, ServerOptions};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["kafka"] => {
            let server = Server::start("kafka", ServerOptions::kafka(KafkaOptions::default()));
            println!("{}", server.bootstrap());
            wait_for_end_of_input();
            ExitCode::SUCCESS
        }
        ["relay", upstream, every] => {
            let (Ok(upstream), Ok(every)) = (upstream.parse(), every.parse()) else {
                return usage();
            };
            match Relay::start(&[upstream], Fault::LoseProduceResponse { every }) {
                Ok(relay) => {
                    println!("{}", relay.address());
                    wait_for_end_of_input();
                    println!("cuts: {}", relay.cuts());
                    ExitCode::SUCCESS
                }
                Err(e) => {
                    eprintln!("cannot listen: {e}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: compat kafka | compat relay HOST:PORT EVERY   (ends with its standard input)");
    ExitCode::from(2)
}

fn wait_for_end_of_input() {
    // Ending on a read error is as good as on the end.
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
}
