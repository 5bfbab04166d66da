//! `meridian tier cost`.

use clap::Args;
use futures::TryStreamExt;
use meridian_client::driver::now_ms;
use meridian_tiered_storage::inventory::{Cost, Prices, cost};
use serde_json::{Map, Value, json};

use crate::bucket::BucketArgs;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text};

/// Show what the bucket holds, and what storage and requests cost
#[derive(Debug, Args)]
#[command(after_help = "\
Requests of the last day are counted from the objects that are there: an object that was written and deleted within the \
day is not seen, and what consumers read is not known to the bucket. The prices are those of Amazon S3 Standard in its \
cheapest regions, in US dollars; give your own.")]
pub(crate) struct CostArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// Price of a TiB for a month
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    price_tib_month: Option<f64>,
    /// Price of a thousand requests that write or list
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    price_thousand_puts: Option<f64>,
    /// Price of a thousand requests that read
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    price_thousand_gets: Option<f64>,
}

fn parse_price(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|price: &f64| price.is_finite() && *price >= 0.0)
        .ok_or_else(|| "expected a price, such as 23 or 0.005".to_owned())
}

impl CostArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = self.bucket.open()?;
        let catalog = self.bucket.catalog(&store).await?;
        let listing: Vec<_> = store.list(&catalog.cluster).try_collect().await?;
        let standard = Prices::default();
        let prices = Prices {
            tib_month: self.price_tib_month.unwrap_or(standard.tib_month),
            thousand_puts: self.price_thousand_puts.unwrap_or(standard.thousand_puts),
            thousand_gets: self.price_thousand_gets.unwrap_or(standard.thousand_gets),
        };
        let cost = cost(&catalog, &listing, &prices, now_ms());
        context
            .output
            .document("tier.cost", json_of(&catalog.cluster, &cost, &prices), || {
                text_of(&catalog.cluster, &cost)
            })
    }
}

fn json_of(cluster: &str, cost: &Cost, prices: &Prices) -> Value {
    let kinds: Map<String, Value> = cost
        .kinds
        .iter()
        .map(|(kind, usage)| {
            let usage = json!({
                "objects": usage.objects,
                "bytes": usage.bytes,
                "objects_of_day": usage.objects_of_day,
                "bytes_of_day": usage.bytes_of_day,
            });
            (kind.name().to_owned(), usage)
        })
        .collect();
    json!({
        "cluster": cluster,
        "kinds": kinds,
        "dead_bytes": cost.dead_bytes,
        "raw_bytes": cost.raw_bytes,
        "puts_of_day": cost.puts_of_day,
        "gets_of_day": cost.gets_of_day,
        "gets_to_read_all": cost.gets_to_read_all,
        "storage_month": cost.storage_month,
        "requests_day": cost.requests_day,
        "read_all": cost.read_all,
        "prices": {
            "tib_month": prices.tib_month,
            "thousand_puts": prices.thousand_puts,
            "thousand_gets": prices.thousand_gets,
        },
    })
}

fn text_of(cluster: &str, cost: &Cost) -> String {
    let mut rows = Rows::new(&["KIND", "OBJECTS", "BYTES", "LAST DAY", "BYTES OF LAST DAY"]);
    for (kind, usage) in &cost.kinds {
        rows.push([
            kind.name().to_owned(),
            usage.objects.to_string(),
            bytes_text(usage.bytes),
            usage.objects_of_day.to_string(),
            bytes_text(usage.bytes_of_day),
        ]);
    }
    format!(
        "cluster {cluster}\n\n{}\n\n\
         batches in the bucket   {} before bundles compressed them; {} that nobody needs wait for a merge\n\
         storage                 {:.4} a month\n\
         requests                {:.4} for the last day: {} that write, {} that read back\n\
         reading everything      {:.4} for {} requests, and what the store asks for traffic",
        rows.render(),
        bytes_text(cost.raw_bytes),
        bytes_text(cost.dead_bytes),
        cost.storage_month,
        cost.requests_day,
        cost.puts_of_day,
        cost.gets_of_day,
        cost.read_all,
        cost.gets_to_read_all,
    )
}
