//! Probes a bucket: says what is wrong with it, or that nothing is.
//!
//! ```sh
//! cargo run -p meridian-tiered-storage --example probe -- s3://BUCKET/PREFIX endpoint=http://127.0.0.1:9000 access_key_id=..
//! ```

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use meridian_tiered_storage::store::{Store, StoreSettings};
use meridian_types::{TimestampMs, Uuid};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(url) = arguments.next() else {
        eprintln!("usage: probe URL [OPTION=VALUE ..]");
        return ExitCode::from(2);
    };
    let mut settings = StoreSettings::new(url);
    for argument in arguments {
        let Some((key, value)) = argument.split_once('=') else {
            eprintln!("`{argument}` is not OPTION=VALUE");
            return ExitCode::from(2);
        };
        settings.options.insert(key.to_owned(), value.to_owned());
    }
    let store = match Store::open(&settings) {
        Ok(store) => store,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    #[expect(clippy::disallowed_methods, reason = "a program of its own")]
    let (nonce, now) = (Uuid::new_v4(), SystemTime::now());
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = TimestampMs(i64::try_from(since_1970.as_millis()).unwrap_or_default());
    match store.probe(nonce, now).await {
        Ok(probe) => {
            println!(
                "{} works; a small object takes {:?}, its clock is ahead by {} ms",
                store.place(),
                probe.put_time,
                probe.clock_ahead_ms
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::from(3)
        }
    }
}
