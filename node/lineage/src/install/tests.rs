use super::*;

fn part(checkpoint: u64, total_bytes: u64, at: u64, bytes: &'static [u8]) -> StagePart {
    StagePart {
        checkpoint,
        total_bytes,
        at,
        bytes: Bytes::from_static(bytes),
    }
}

#[test]
fn parts_come_in_order_and_the_first_begins_anew() {
    let mut staged = None;
    let out_of_step = |at, expected| Err(StageRejected::OutOfStep { at, expected });
    assert_eq!(
        Staging::take(&mut staged, &part(1, 5, 2, b"cd")),
        out_of_step(2, 0)
    );
    Staging::take(&mut staged, &part(1, 5, 0, b"ab")).expect("it begins");
    assert_eq!(
        Staging::take(&mut staged, &part(1, 5, 3, b"de")),
        out_of_step(3, 2)
    );
    assert_eq!(
        Staging::take(&mut staged, &part(2, 5, 2, b"cd")),
        out_of_step(2, 0)
    );
    assert_eq!(staged.as_ref().and_then(Staging::whole), None);
    Staging::take(&mut staged, &part(1, 5, 2, b"cde")).expect("it goes on");
    assert_eq!(staged.as_ref().and_then(Staging::whole), Some(&b"abcde"[..]));
    // The same part comes twice: a proposal that was repeated.
    assert_eq!(
        Staging::take(&mut staged, &part(1, 5, 2, b"cde")),
        out_of_step(2, 5)
    );
    Staging::take(&mut staged, &part(2, 9, 0, b"x")).expect("another begins");
    assert_eq!(staged.map(|staging| staging.checkpoint()), Some(2));
}

#[test]
fn no_part_and_no_checkpoint_is_larger_than_the_bounds() {
    let mut staged = None;
    let wrong = [
        part(1, STAGED_BYTES_MAX + 1, 0, b"a"),
        part(1, 1, 0, b"ab"),
        part(1, 5, u64::MAX, b"a"),
        StagePart {
            bytes: vec![0; STAGE_PART_BYTES_MAX + 1].into(),
            ..part(1, STAGED_BYTES_MAX, 0, b"")
        },
    ];
    for part in wrong {
        let taken = Staging::take(&mut staged, &part);
        assert!(matches!(taken, Err(StageRejected::TooLarge { .. })), "{taken:?}");
    }
    assert_eq!(staged, None);
}

#[test]
fn a_part_is_read_as_it_was_written() {
    let part = part(7, 100, 9, b"bytes");
    let mut bytes = Vec::new();
    part.encode(&mut bytes);
    assert_eq!(StagePart::decode(&mut &bytes[..]), Ok(part));
    assert_eq!(StagePart::decode(&mut &bytes[..23]), Err(Fault::Short));
}
