//! No bytes whatever make a reader panic, and readers agree with one another.

use proptest::prelude::*;

use super::super::fuzz::fuzz_batch;
use super::*;

fn codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_are_no_danger(data in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_batch(&data);
    }

    #[test]
    fn damaged_batches_are_no_danger(
        codec in codec(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in prop::bool::weighted(0.2),
    ) {
        let mut batch = three_records(BatchBuilder::new(codec)).to_vec();
        for (at, byte) in damage {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        if is_cut {
            batch.truncate(cut.index(batch.len()));
        }
        fuzz_batch(&batch);
    }

    #[test]
    fn damaged_record_blocks_are_no_danger(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut block = three_records(BatchBuilder::new(Compression::None))[HEADER_BYTES..].to_vec();
        for (at, byte) in damage {
            let at = at.index(block.len());
            block[at] = byte;
        }
        fuzz_batch(&block);
    }

    #[test]
    fn pushed_records_come_back(
        codec in codec(),
        parts in prop::collection::vec(
            (any::<i32>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
             prop::collection::vec((prop::collection::vec(any::<u8>(), 0..5), prop::option::of(Just(b"v"))), 0..5)),
            1..50,
        ),
    ) {
        let mut builder = BatchBuilder::new(codec);
        for (time, value, headers) in &parts {
            let headers: Vec<(&[u8], Option<&[u8]>)> =
                headers.iter().map(|(key, value)| (&key[..], value.map(|value| &value[..]))).collect();
            builder.push(TimestampMs((*time).into()), None, value.as_deref(), &headers).unwrap();
        }
        let batch = builder.build().unwrap();
        let got = read(&batch);
        prop_assert_eq!(got.len(), parts.len());
        for (record, (time, value, headers)) in got.iter().zip(&parts) {
            prop_assert_eq!(record.timestamp, TimestampMs((*time).into()));
            prop_assert_eq!(record.value.as_deref(), value.as_deref());
            let expected: Vec<_> = headers.iter().map(|(key, _)| key.clone()).collect();
            prop_assert_eq!(record.headers.iter().map(|header| header.key.to_vec()).collect::<Vec<_>>(), expected);
        }
    }
}
