//! Where hot indexes may begin, because the bucket has what lies below.

use std::sync::Arc;

use meridian_controller::{Controller, TopicSettings};
use meridian_state::{PartitionState, State};
use meridian_types::{Offset, Partition, RaftIndex, TimestampMs, TopicId};

/// New starts of hot indexes: by the topics' local retention, and because this node's journal gave the entries up.
/// `first_held` is the oldest entry that the journal still has.
pub(super) fn starts(
    state: &State,
    controller: &Controller,
    first_held: Option<RaftIndex>,
    now: TimestampMs,
) -> Vec<(Partition, Offset)> {
    let mut starts = Vec::new();
    if state.manifest().is_empty() {
        return starts;
    }
    let mut last: Option<(TopicId, Arc<TopicSettings>)> = None;
    for (partition, held) in state.partitions() {
        let tiered = state.extents(partition);
        let Some(tiered_end) = tiered.last().map(|extent| extent.end_offset) else {
            continue;
        };
        if held.local_start_offset() >= tiered_end {
            continue;
        }
        if last.as_ref().is_none_or(|(topic, _)| *topic != partition.topic) {
            let Some(settings) = controller.topic_settings(partition.topic) else {
                continue;
            };
            last = Some((partition.topic, settings));
        }
        let Some((_, settings)) = &last else { continue };
        let by_retention = held.local_retention_start(
            settings.local_retention_ms(),
            settings.local_retention_bytes(),
            now,
            tiered,
        );
        let by_journal = given_up(held, tiered_end, first_held);
        if let Some(start) = by_retention.max(by_journal) {
            starts.push((partition, start));
        }
    }
    starts
}

/// Behind the last tiered chunk whose entry the journal has no more.
fn given_up(held: &PartitionState, tiered_end: Offset, first_held: Option<RaftIndex>) -> Option<Offset> {
    let first_held = first_held?;
    held.chunks()
        .take_while(|chunk| chunk.index < first_held && chunk.end_offset() <= tiered_end)
        .last()
        .map(|chunk| chunk.end_offset())
}
