use bytes::BytesMut;
use meridian_types::{LeaderEpoch, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression};
use proptest::prelude::*;

use super::*;

fn partition(topic: u64, index: u32) -> Partition {
    Partition {
        topic: TopicId(Uuid::from_u64_pair(topic, 1)),
        index,
    }
}

/// `count` records of `bytes` each, at `base`; what they hold differs from record to record.
fn batch(base: u64, count: u64, bytes: usize, compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression).stored_at(Offset(base), LeaderEpoch(3));
    for n in base..base + count {
        let value: Vec<u8> = (0..bytes as u64)
            .map(|at| (n.wrapping_mul(0x9e37_79b9).wrapping_add(at * at) >> 3) as u8)
            .collect();
        let timestamp = TimestampMs(1_700_000_000_000 + n as i64);
        builder.push(timestamp, None, Some(&value), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn joined(bundle: &Bundle) -> Bytes {
    let mut whole = BytesMut::new();
    bundle.parts.iter().for_each(|part| whole.extend_from_slice(part));
    assert_eq!(whole.len() as u64, bundle.bytes);
    whole.freeze()
}

/// All batches of a partition, un-framed.
fn contents(whole: &Bytes, footer: &Footer, partition: Partition) -> Vec<u8> {
    let mut raw = Vec::new();
    for frame in footer.frames_of(partition) {
        let range = frame.range();
        let stored = whole.slice(range.start as usize..range.end as usize);
        raw.extend_from_slice(&unframe(frame, &stored).unwrap());
    }
    raw
}

fn small() -> Bundle {
    let mut writer = BundleWriter::new(BundleLimits {
        frame_bytes: 400,
        zstd_level: 3,
    });
    // In a mixture, as commands carry them.
    writer
        .push(partition(2, 1), &[batch(70, 3, 40, Compression::None)])
        .unwrap();
    writer
        .push(partition(1, 0), &[batch(0, 2, 30, Compression::Lz4)])
        .unwrap();
    writer
        .push(
            partition(2, 1),
            &[
                batch(73, 2, 10, Compression::None),
                batch(75, 9, 50, Compression::None),
            ],
        )
        .unwrap();
    writer.finish().unwrap()
}

#[test]
fn batches_come_out_bit_by_bit_in_the_order_of_their_partition() {
    let bundle = small();
    let whole = joined(&bundle);
    let footer = check_bundle(&whole).unwrap();
    let partitions: Vec<_> = footer.partitions().iter().map(|entry| entry.partition).collect();
    assert_eq!(partitions, [partition(1, 0), partition(2, 1)]);
    let expected: Vec<u8> = [(70, 3, 40), (73, 2, 10), (75, 9, 50)]
        .into_iter()
        .flat_map(|(base, count, bytes)| batch(base, count, bytes, Compression::None))
        .collect();
    assert_eq!(contents(&whole, &footer, partition(2, 1)), expected);
    assert_eq!(
        contents(&whole, &footer, partition(1, 0)),
        batch(0, 2, 30, Compression::Lz4)
    );
    assert!(footer.frames_of(partition(3, 0)).is_empty());
    let codecs: Vec<_> = footer.frames().iter().map(|frame| frame.codec).collect();
    assert_eq!(
        codecs[0],
        Codec::Raw,
        "compressed batches are not compressed again"
    );
    assert!(codecs[1..].contains(&Codec::Zstd));
    let (_, extent) = bundle.extents[1];
    assert_eq!(
        (extent.base_offset, extent.end_offset, extent.records),
        (Offset(70), Offset(84), 14)
    );
    assert_eq!(extent.max_timestamp, TimestampMs(1_700_000_000_083));
    let frames = footer
        .frames_of_extent(partition(2, 1), extent.frame, Offset(70)..Offset(84))
        .unwrap();
    assert_eq!(frames.len(), footer.frames().len() - 1);
    for (frame, offsets) in [
        (0, 70..84),
        (extent.frame, 70..83),
        (extent.frame, 71..84),
        (99, 70..84),
    ] {
        let offsets = Offset(offsets.start)..Offset(offsets.end);
        assert!(footer.frames_of_extent(partition(2, 1), frame, offsets).is_err());
    }
}

#[test]
fn bundle_of_version_1_is_still_read() {
    let path = format!("{}/fixtures/bundle-v1.bin", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, joined(&small())).unwrap();
    }
    // The bytes of zstd may change with its version; what comes out may not.
    let stored = Bytes::from(std::fs::read(&path).unwrap());
    let footer = check_bundle(&stored).unwrap();
    let now = joined(&small());
    let footer_now = check_bundle(&now).unwrap();
    for entry in footer_now.partitions() {
        assert_eq!(
            contents(&stored, &footer, entry.partition),
            contents(&now, &footer_now, entry.partition)
        );
    }
    assert_eq!(footer.partitions(), footer_now.partitions());
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    let whole = joined(&small());
    for cut in 0..whole.len() {
        assert!(check_bundle(&whole.slice(..cut)).is_err(), "cut at {cut}");
    }
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(check_bundle(&bad.into()).is_err(), "bit {bit}");
    }
}

#[test]
fn reader_that_knows_the_place_of_the_footer_notices_a_flipped_bit_in_it() {
    let bundle = small();
    let whole = joined(&bundle);
    let place = bundle.footer_place();
    let tail = &whole[place.footer_at as usize..];
    assert!(Footer::decode(tail, place).is_ok());
    for bit in 0..tail.len() * 8 {
        let mut bad = tail.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Footer::decode(&bad, place).is_err(), "bit {bit}");
    }
    assert!(
        Footer::decode(
            tail,
            FooterPlace {
                footer_at: place.footer_at + 1,
                ..place
            }
        )
        .is_err()
    );
}

#[test]
fn frames_are_cut_between_batches_near_their_size() {
    let mut writer = BundleWriter::new(BundleLimits::default());
    let mut base = 0;
    for _ in 0..40 {
        writer
            .push(partition(1, 0), &[batch(base, 10, 10_000, Compression::None)])
            .unwrap();
        base += 10;
    }
    // Larger than a frame: it gets one of its own.
    writer
        .push(partition(1, 0), &[batch(base, 1, 3 << 20, Compression::None)])
        .unwrap();
    writer
        .push(partition(1, 0), &[batch(base + 1, 1, 10, Compression::None)])
        .unwrap();
    assert!(writer.raw_bytes() > 7_000_000);
    let bundle = writer.finish().unwrap();
    let footer = check_bundle(&joined(&bundle)).unwrap();
    let frames = footer.frames();
    assert_eq!(frames.len(), 6);
    for frame in &frames[..3] {
        assert!((900_000..=1 << 20).contains(&frame.raw_len), "{frame:?}");
    }
    assert_eq!(frames[4].end_offset.0 - frames[4].base_offset.0, 1);
    assert_eq!(frames[5].base_offset, Offset(base + 1));
}

#[test]
fn damaged_batches_and_gaps_are_refused_and_harm_nothing() {
    let p = partition(1, 0);
    let mut writer = BundleWriter::new(BundleLimits::default());
    writer.push(p, &[batch(5, 5, 10, Compression::None)]).unwrap();
    let good = batch(10, 2, 10, Compression::None);
    let mut damaged = good.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    for (part, base) in [
        (Bytes::from(damaged), "damaged"),
        (good.slice(..good.len() - 1), "cut"),
        (good.slice(..20), "cut in the header"),
        (batch(11, 1, 10, Compression::None), "gap"),
        (batch(9, 1, 10, Compression::None), "overlap"),
    ] {
        assert!(writer.push(p, &[part]).is_err(), "{base}");
    }
    writer.push(p, &[good]).unwrap();
    let bundle = writer.finish().unwrap();
    let footer = check_bundle(&joined(&bundle)).unwrap();
    assert_eq!(footer.frames()[0].end_offset, Offset(12));
    assert!(BundleWriter::new(BundleLimits::default()).finish().is_none());
}

#[test]
fn compacted_batches_may_leave_offsets_out() {
    let p = partition(1, 0);
    let mut writer = BundleWriter::new(BundleLimits::default());
    writer
        .push_compacted(
            p,
            Offset(3),
            &[
                batch(10, 2, 10, Compression::None),
                batch(40, 1, 10, Compression::None),
            ],
        )
        .unwrap();
    assert!(
        writer
            .push_compacted(p, Offset(3), &[batch(20, 1, 10, Compression::None)])
            .is_err()
    );
    let bundle = writer.finish().unwrap();
    let (_, extent) = bundle.extents[0];
    assert_eq!(
        (extent.base_offset, extent.end_offset, extent.records),
        (Offset(3), Offset(41), 3)
    );
    let footer = check_bundle(&joined(&bundle)).unwrap();
    assert_eq!(footer.frames()[0].records, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_goes_in_comes_out(
        pushes in proptest::collection::vec((0..5_u32, 1..6_u64, 0..300_usize, 0..5_usize), 1..40),
        frame_bytes in 100..4000_u32,
    ) {
        let mut writer = BundleWriter::new(BundleLimits { frame_bytes, zstd_level: 1 });
        let mut expected: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new()); 5];
        for (index, count, bytes, codec) in pushes {
            let (end, all) = &mut expected[index as usize];
            let batch = batch(*end, count, bytes, Compression::ALL[codec]);
            writer.push(partition(1, index), std::slice::from_ref(&batch)).unwrap();
            all.extend_from_slice(&batch);
            *end += count;
        }
        let bundle = writer.finish().unwrap();
        let whole = joined(&bundle);
        let footer = check_bundle(&whole).unwrap();
        prop_assert_eq!(FooterPlace::of_object(&whole).unwrap(), bundle.footer_place());
        let mut stored_bytes = 0;
        for (index, (end, all)) in (0..).zip(&expected) {
            prop_assert_eq!(&contents(&whole, &footer, partition(1, index)), all);
            let extent = bundle.extents.iter().find(|(p, _)| *p == partition(1, index));
            prop_assert_eq!(extent.map(|(_, extent)| extent.end_offset.0).unwrap_or(0), *end);
            if let Some((p, extent)) = extent {
                prop_assert_eq!(extent.raw_bytes, all.len() as u64);
                stored_bytes += extent.stored_bytes;
                let offsets = extent.base_offset..extent.end_offset;
                let frames = footer.frames_of_extent(*p, extent.frame, offsets).unwrap();
                prop_assert_eq!(frames, footer.frames_of(*p));
            }
        }
        prop_assert_eq!(stored_bytes + HEAD_BYTES, bundle.footer_at);
    }

    #[test]
    fn no_bytes_make_a_footer_panic(body in proptest::collection::vec(any::<u8>(), 0..200), at in any::<u64>()) {
        let mut tail = vec![BUNDLE_VERSION];
        tail.extend(body);
        let place = FooterPlace { footer_at: at, footer_crc: crate::codec::crc32c(&tail) };
        tail.extend(place.footer_at.to_le_bytes());
        tail.extend(place.footer_crc.to_le_bytes());
        tail.extend(MAGIC);
        let _ = Footer::decode(&tail, place);
        let _ = check_bundle(&tail.into());
    }
}
