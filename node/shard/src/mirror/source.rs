//! What this region gives to others.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_geo_mirror::{Cursor, Hello, Reader, Refusal, Source, Watermark};
use meridian_lineage::Role;
use meridian_types::{RegionEpoch, RegionNumber, ShardId};
use tokio::sync::watch;

use super::reader::LogReader;
use super::stream::Stream;
use crate::region::Inner;

/// The region, as a link reads it. Links must not keep it alive.
pub(super) struct GeoSource {
    pub(super) inner: Weak<Inner>,
    pub(super) card: watch::Receiver<Bytes>,
    /// What is said while the region is gone.
    pub(super) last_hello: Hello,
}

impl Source for GeoSource {
    fn hello(&self) -> Hello {
        self.inner
            .upgrade()
            .map_or_else(|| self.last_hello.clone(), |inner| hello(&inner))
    }

    fn admit(&self, peer: &Hello) -> Result<(), String> {
        let Some(inner) = self.inner.upgrade() else {
            return Err("this node is stopping".to_owned());
        };
        if RegionNumber::of(peer.node) != Some(peer.number) {
            return Err(format!(
                "node {} does not lie in the range of region {}: its node ids begin at {}",
                peer.node,
                peer.number,
                peer.number.node_ids().start
            ));
        }
        let controller = inner.control.controller();
        match controller.region(peer.number) {
            Some(known) if known.name != peer.region => Err(format!(
                "region {} is registered as '{}', not as '{}': give every region a number of its own (region.number)",
                peer.number, known.name, peer.region
            )),
            _ => Ok(()),
        }
    }

    fn card(&self) -> watch::Receiver<Bytes> {
        self.card.clone()
    }

    fn open(&self, shard: ShardId, cursor: Cursor) -> BoxFuture<'_, Result<Box<dyn Reader>, Refusal>> {
        let inner = self.inner.upgrade();
        async move {
            let inner: Arc<Inner> = inner.ok_or(Refusal::NotHosted)?;
            let reader = LogReader::open(&inner, shard, cursor).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        }
        .boxed()
    }

    fn watermark(&self, shard: ShardId) -> Option<Watermark> {
        let inner = self.inner.upgrade()?;
        let stream = Stream::new(&inner, shard)?;
        stream.led()?;
        // Before the count: whatever was acknowledged by then is in it.
        let closed_at = (inner.clock)();
        let stand = stream.stand();
        let gives = matches!(stand.progress.role, Role::Owner | Role::Fenced);
        (stand.is_counted && gives).then_some(Watermark {
            sequence: stand.progress.sequence,
            closed_at,
        })
    }

    fn answer(&self, shard: ShardId, question: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        let inner = self.inner.upgrade();
        async move {
            let inner = inner.ok_or(Refusal::NotHosted)?;
            super::checkpoints::answer(&inner, shard, &question).await
        }
        .boxed()
    }

    fn acknowledged(&self, from: RegionNumber, shard: ShardId, sequence: u64) {
        if let Some(inner) = self.inner.upgrade()
            && let Some(mirror) = inner.mirror()
        {
            mirror.acks.note(from, shard, sequence);
        }
    }
}

/// Who this node is, to other regions.
pub(super) fn hello(inner: &Inner) -> Hello {
    let controller = inner.control.controller();
    let founding = controller.founding();
    let standing = controller.standing();
    Hello {
        cluster_id: founding
            .map(|founding| founding.cluster_id.clone())
            .unwrap_or_default(),
        region: founding.map_or_else(
            || inner.settings.peer.region.clone(),
            |founding| founding.region.clone(),
        ),
        number: inner.number(),
        node: inner.node(),
        shards: founding.map_or(inner.settings.shards, |founding| founding.shards),
        region_epoch: match standing.is_counted() {
            true => standing.region_epoch(),
            false => RegionEpoch(0),
        },
        feature_level: controller.feature_level(),
    }
}
