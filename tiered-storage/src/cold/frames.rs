//! Which frames of a bundle make up an extent, and whether the directory says what the manifest says. Pure.

use meridian_types::{Offset, Partition};

use crate::bundle::{BundleError, Footer, Frame};
use crate::manifest::Extent;

/// A frame with its number in the bundle's directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NumberedFrame {
    pub(crate) number: u32,
    pub(crate) frame: Frame,
}

/// The frames of `extent`, in order.
pub(crate) fn frames_of(
    footer: &Footer,
    partition: Partition,
    extent: &Extent,
) -> Result<Vec<NumberedFrame>, BundleError> {
    let frames = footer.frames_of_extent(partition, extent.frame, extent.offsets())?;
    Ok((extent.frame..)
        .zip(frames)
        .map(|(number, frame)| NumberedFrame {
            number,
            frame: *frame,
        })
        .collect())
}

/// Compares the sums over an extent's frames with what the manifest says of it; returns what differs, in words.
pub(crate) fn check_directory(extent: &Extent, frames: &[NumberedFrame]) -> Vec<String> {
    let sum = |of: fn(&Frame) -> u64| frames.iter().map(|it| of(&it.frame)).sum::<u64>();
    let max_timestamp = frames.iter().map(|it| it.frame.max_timestamp).max();
    let raw_bytes = sum(|frame| frame.raw_len.into());
    let stored_bytes = sum(|frame| frame.stored_len.into());
    let records = sum(|frame| frame.records);
    // Of batches without timestamps, the manifest knows when they were appended instead.
    let max_timestamp = max_timestamp
        .filter(|timestamp| timestamp.0 >= 0)
        .unwrap_or(extent.max_timestamp);
    [
        ("raw bytes", extent.raw_bytes.to_string(), raw_bytes.to_string()),
        (
            "stored bytes",
            extent.stored_bytes.to_string(),
            stored_bytes.to_string(),
        ),
        ("records", extent.records.to_string(), records.to_string()),
        (
            "as its greatest timestamp",
            extent.max_timestamp.to_string(),
            max_timestamp.to_string(),
        ),
    ]
    .into_iter()
    .filter(|(_, manifest, directory)| manifest != directory)
    .map(|(what, manifest, directory)| {
        format!(
            "the extent from offset {} has {manifest} {what} in the manifest, {directory} in the directory",
            extent.base_offset
        )
    })
    .collect()
}

/// Where in `frames` the one lies that holds `from`, or the first behind it.
pub(crate) fn position_of(frames: &[NumberedFrame], from: Offset) -> usize {
    frames.partition_point(|it| it.frame.end_offset <= from)
}
