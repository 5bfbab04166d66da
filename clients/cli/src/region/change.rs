//! `meridian region add` and `meridian region remove`.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;

/// A region that is started with `geo.seeds` registers itself: this names one beforehand.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Number of the region: 0 to 999, unique in the cluster
    #[arg(value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(..1000))]
    number: u16,
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Where its nodes listen for other regions; may be repeated
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<String>,
}

impl AddArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        admin.add_region(self.number, &self.name, &self.addresses).await?;
        let fields = json!({ "number": self.number, "name": self.name, "addresses": self.addresses });
        context.output.document("region.add", fields, || {
            format!("region {} ({}) is registered", self.name, self.number)
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Name or number of the region
    #[arg(value_name = "REGION")]
    region: String,
}

impl RemoveArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let mirror = admin.describe_mirror(false).await?;
        let region = mirror.region(&self.region).ok_or_else(|| {
            CliError::failed(format!("there is no region {}", self.region))
                .advise("`meridian region list` lists the regions")
        })?;
        if region.number == mirror.owner {
            return Err(
                CliError::failed(format!("region {} owns the topics", region.name))
                    .advise("move ownership to another one first: meridian failover switchover --to REGION"),
            );
        }
        if region.has_answered {
            return Err(CliError::failed(format!("region {} is running", region.name))
                .advise("stop its nodes first: a region that is heard registers itself again"));
        }
        context.confirm(&format!("remove region {}", region.name))?;
        admin.remove_region(region.number).await?;
        let fields = json!({ "number": region.number, "name": region.name });
        context.output.document("region.remove", fields, || {
            format!("region {} ({}) is removed", region.name, region.number)
        })
    }
}
