//! What this region takes from others.

use std::sync::Weak;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_geo_mirror::{Cursor, Entries, Refusal, Sink, SinkError, Watermark};
use meridian_lineage::Role;
use meridian_types::{RegionNumber, ShardId};

use super::apply::Applier;
use super::stream::Stream;
use crate::region::Inner;

/// The region, as a link writes it. Links must not keep it alive.
pub(super) struct GeoSink {
    pub(super) inner: Weak<Inner>,
    pub(super) applier: Applier,
}

impl Sink for GeoSink {
    fn cursor(&self, shard: ShardId) -> BoxFuture<'_, Result<Cursor, SinkError>> {
        let cursor = self
            .inner
            .upgrade()
            .ok_or(SinkError::NotLeader)
            .and_then(|inner| {
                let stream = Stream::new(&inner, shard).ok_or(SinkError::NotLeader)?;
                stream.led().ok_or(SinkError::NotLeader)?;
                let stand = stream.stand();
                if stand.is_counted && stand.progress.role != Role::Mirror {
                    return Err(SinkError::NotLeader);
                }
                Ok(Cursor {
                    sequence: stand.progress.sequence,
                    digest: stand.progress.digest.0,
                    lineage: stand.lineage.spans().to_vec(),
                })
            });
        futures::future::ready(cursor).boxed()
    }

    fn apply(&self, shard: ShardId, entries: Entries) -> BoxFuture<'_, Result<u64, SinkError>> {
        self.applier.apply(shard, entries).boxed()
    }

    fn watermark(&self, shard: ShardId, watermark: Watermark) {
        if let Some(inner) = self.inner.upgrade()
            && let Some(mirror) = inner.mirror()
        {
            mirror.follows.note_watermark(shard, watermark);
        }
    }

    fn card(&self, from: RegionNumber, card: Bytes) {
        if let Some(inner) = self.inner.upgrade() {
            super::cards::take(&inner, from, &card);
        }
    }

    fn refused(&self, shard: ShardId, refusal: Refusal) {
        if let Some(inner) = self.inner.upgrade()
            && let Some(mirror) = inner.mirror()
        {
            mirror.follows.note_refusal(shard, refusal);
        }
    }
}
