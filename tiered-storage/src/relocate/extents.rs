//! Reads extents from the bucket, with few requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{Partition, ShardId};

use super::RelocateError;
use crate::bundle::{self, Footer, FooterPlace, Frame};
use crate::manifest::{Extent, Manifest, Object, ObjectId};
use crate::store::Store;

/// So much is read with one request; a longer frame is read alone.
const REQUEST_BYTES_MAX: u64 = 8 << 20;

/// Bytes between two frames that are read along, because another request costs more.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Reads extents of one shard, as its manifest was at one moment.
#[derive(Debug)]
pub struct ExtentReader<'a> {
    store: &'a Store,
    cluster: &'a str,
    shard: ShardId,
    objects: BTreeMap<ObjectId, Object>,
    footers: BTreeMap<ObjectId, Footer>,
    read_bytes: u64,
}

/// Frames as they lie in their objects, by object and place.
pub(super) struct Fetched(BTreeMap<(ObjectId, u64), Bytes>);

impl Fetched {
    fn of(&self, extent: &Extent, frame: &Frame) -> Result<&Bytes, RelocateError> {
        let stored = self.0.get(&(extent.object, frame.at));
        stored.ok_or(RelocateError::UnknownObject {
            object: extent.object,
        })
    }
}

impl<'a> ExtentReader<'a> {
    /// Of `shard` in the bucket of `cluster`.
    pub fn new(store: &'a Store, cluster: &'a str, shard: ShardId, manifest: &Manifest) -> Self {
        Self {
            store,
            cluster,
            shard,
            objects: manifest.objects().map(|(id, object)| (id, *object)).collect(),
            footers: BTreeMap::new(),
            read_bytes: 0,
        }
    }

    /// Bytes that were read from the bucket so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The frames of an extent, un-framed: each one or more whole batches.
    pub async fn read(&mut self, partition: Partition, extent: &Extent) -> Result<Vec<Bytes>, RelocateError> {
        let fetched = self.fetch(&[(partition, *extent)]).await?;
        let frames = self.frames(partition, extent)?;
        frames
            .iter()
            .map(|frame| self.unframe(&fetched, extent, frame))
            .collect()
    }

    /// Fetches the frames of some extents; neighbours in one object come together. They are in memory as long as the
    /// answer is.
    pub(super) async fn fetch(&mut self, wanted: &[(Partition, Extent)]) -> Result<Fetched, RelocateError> {
        let mut by_object: BTreeMap<ObjectId, Vec<Frame>> = BTreeMap::new();
        for (partition, extent) in wanted {
            self.read_footer(extent.object).await?;
            let frames = self.frames(*partition, extent)?;
            by_object.entry(extent.object).or_default().extend(frames);
        }
        let mut fetched = BTreeMap::new();
        for (id, mut frames) in by_object {
            let key = self.key(id)?;
            frames.sort_unstable_by_key(|frame| frame.at);
            for run in runs(&frames) {
                let (start, end) = (run[0].at, run[run.len() - 1].range().end);
                let bytes = self.store.get_range(&key, start..end).await?;
                self.read_bytes += end - start;
                fetched.extend(run.iter().map(|frame| {
                    let range = frame.range();
                    let stored = bytes.slice((range.start - start) as usize..(range.end - start) as usize);
                    ((id, frame.at), stored)
                }));
            }
        }
        Ok(Fetched(fetched))
    }

    /// The frames of an extent whose footer was read.
    pub(super) fn frames(&self, partition: Partition, extent: &Extent) -> Result<&[Frame], RelocateError> {
        let footer = self.footers.get(&extent.object);
        let footer = footer.ok_or(RelocateError::UnknownObject {
            object: extent.object,
        })?;
        footer
            .frames_of_extent(partition, extent.frame, extent.offsets())
            .map_err(|error| self.damaged(extent.object, error))
    }

    /// The batches of a frame that was fetched.
    pub(super) fn unframe(
        &self,
        fetched: &Fetched,
        extent: &Extent,
        frame: &Frame,
    ) -> Result<Bytes, RelocateError> {
        let stored = fetched.of(extent, frame)?;
        bundle::unframe(frame, stored).map_err(|error| self.damaged(extent.object, error))
    }

    /// A frame that was fetched, as it lies in its object; its checksum holds.
    pub(super) fn stored(
        &self,
        fetched: &Fetched,
        extent: &Extent,
        frame: &Frame,
    ) -> Result<Bytes, RelocateError> {
        let stored = fetched.of(extent, frame)?;
        bundle::check_stored(frame, stored).map_err(|error| self.damaged(extent.object, error))?;
        Ok(stored.clone())
    }

    async fn read_footer(&mut self, id: ObjectId) -> Result<(), RelocateError> {
        if self.footers.contains_key(&id) {
            return Ok(());
        }
        let key = self.key(id)?;
        let object = self.objects[&id];
        let tail = self.store.get_range(&key, object.footer_at..object.bytes).await?;
        self.read_bytes += tail.len() as u64;
        let place = FooterPlace {
            footer_at: object.footer_at,
            footer_crc: object.footer_crc,
        };
        let footer = Footer::decode(&tail, place).map_err(|error| self.damaged(id, error))?;
        self.footers.insert(id, footer);
        Ok(())
    }

    fn key(&self, id: ObjectId) -> Result<String, RelocateError> {
        let object = self.objects.get(&id);
        let object = object.ok_or(RelocateError::UnknownObject { object: id })?;
        Ok(object.name.key(self.cluster, self.shard))
    }

    fn damaged(&self, object: ObjectId, error: bundle::BundleError) -> RelocateError {
        RelocateError::Damaged {
            object,
            key: self.key(object).unwrap_or_default(),
            error,
        }
    }
}

/// Runs of frames, ordered by place, that are read with one request each.
fn runs(frames: &[Frame]) -> impl Iterator<Item = &[Frame]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut end = first.at;
        let count = rest
            .iter()
            .take_while(|frame| {
                let fits = frame.range().end - first.at <= REQUEST_BYTES_MAX;
                let is_near = frame.at <= end + GAP_BYTES_MAX;
                end = frame.range().end;
                fits && is_near
            })
            .count();
        let (run, others) = rest.split_at(count.max(1));
        rest = others;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use meridian_types::{Offset, TimestampMs};

    use super::*;
    use crate::bundle::Codec;

    fn frame(at: u64, stored_len: u32) -> Frame {
        Frame {
            at,
            stored_len,
            raw_len: stored_len,
            codec: Codec::Raw,
            crc: 0,
            base_offset: Offset(0),
            end_offset: Offset(1),
            max_timestamp: TimestampMs(0),
            records: 1,
        }
    }

    #[test]
    fn neighbours_are_read_together_up_to_a_limit_and_long_gaps_are_not_read() {
        let mib = 1 << 20;
        let mut frames: Vec<Frame> = (0..10).map(|n| frame(8 + n * mib, 1 << 20)).collect();
        frames.push(frame(8 + 10 * mib + GAP_BYTES_MAX, 10));
        frames.push(frame(8 + 11 * mib, 20 << 20));
        frames.push(frame(8 + 31 * mib, 10));
        let counts: Vec<usize> = runs(&frames).map(<[Frame]>::len).collect();
        assert_eq!(counts, [8, 3, 1, 1]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
