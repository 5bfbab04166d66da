use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::config::{Entry, EntryPayload, Membership, Proposal};

fn id(term: u64, index: u64) -> LogId {
    log_id(LogPosition {
        term: Term(term),
        index: RaftIndex(index),
    })
}

fn entry(term: u64, index: u64, payload: EntryPayload) -> Entry {
    Entry {
        log_id: id(term, index),
        payload,
    }
}

fn command(parts: &[&'static [u8]]) -> EntryPayload {
    let parts: Vec<Bytes> = parts.iter().map(|part| Bytes::from_static(part)).collect();
    EntryPayload::Normal(Proposal(Payload::from(parts)))
}

fn append() -> AppendEntriesRequest<Types> {
    let members = Membership::new_with_defaults(vec![BTreeSet::from([1, 2, 3])], [1, 2, 3, 4]);
    AppendEntriesRequest {
        vote: Vote::new_committed(7, 2),
        prev_log_id: Some(id(5, 41)),
        leader_commit: Some(id(5, 40)),
        entries: vec![
            entry(5, 42, command(&[b"head", b"batch"])),
            entry(7, 43, EntryPayload::Blank),
            entry(7, 44, EntryPayload::Membership(members)),
        ],
    }
}

fn vote_request() -> VoteRequest<Types> {
    VoteRequest {
        vote: Vote::new(8, 3),
        last_log_id: Some(id(7, 44)),
        leadership_transfer: true,
    }
}

fn chunk() -> Chunk {
    Chunk {
        vote: Vote::new_committed(7, 2),
        transfer: 5,
        at: 4,
        file_bytes: 10,
        bytes: Bytes::from_static(b"middle"),
    }
}

/// Every message, by the name of its fixture.
fn messages() -> Vec<(&'static str, Bytes)> {
    let higher = Err(StreamAppendError::HigherVote(Vote::new(9, 1)));
    let not_flushed = Err(TransferLeaderError::LogNotFlushed {
        expected: Some(id(7, 44)),
        actual: None,
    });
    vec![
        ("vote-request", encode_vote_request(&vote_request())),
        (
            "vote-response",
            encode_vote_response(&VoteResponse::new(
                Vote::new_committed(8, 3),
                Some(id(7, 44)),
                true,
            )),
        ),
        ("append", encode_append(6, append()).0.concat().into()),
        ("append-response", encode_append_response(&higher)),
        ("snapshot", encode_chunk(chunk()).concat().into()),
        (
            "snapshot-response",
            encode_snapshot_response(&SnapshotResponse::new(Vote::new_committed(7, 2))),
        ),
        (
            "transfer",
            encode_transfer(&TransferLeaderRequest::new(
                Vote::new_committed(7, 2),
                3,
                Some(id(7, 44)),
            )),
        ),
        ("transfer-response", encode_transfer_response(&not_flushed)),
    ]
}

/// What a message says, as text; an error when it cannot be read.
fn read(name: &str, bytes: Bytes) -> Result<String, CodecError> {
    let request = |kind, bytes| Request::decode(kind, bytes).map(|request| format!("{request:?}"));
    match name {
        "vote-request" => request(kind::VOTE, bytes),
        "append" => request(kind::APPEND, bytes),
        "snapshot" => request(kind::SNAPSHOT, bytes),
        "transfer" => request(kind::TRANSFER, bytes),
        "vote-response" => decode_vote_response(bytes).map(|response| format!("{response:?}")),
        "append-response" => decode_append_response(bytes, Some(id(5, 41)), Some(id(7, 44)))
            .map(|result| format!("{result:?}")),
        "snapshot-response" => decode_snapshot_response(bytes).map(|response| format!("{response:?}")),
        "transfer-response" => decode_transfer_response(bytes).map(|response| format!("{response:?}")),
        other => panic!("{other} has no reader"),
    }
}

#[test]
fn the_stored_messages_of_version_1_are_written_and_read() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/rpc-v1");
    for (name, message) in messages() {
        let stored = fixtures.join(name).with_extension("bin");
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(&fixtures).expect("made");
            std::fs::write(&stored, &message).expect("written");
        }
        let content =
            std::fs::read(&stored).expect("the fixture is there; BLESS=1 makes it for a new version");
        assert_eq!(message, content, "{name}");
        assert!(read(name, content.into()).is_ok(), "{name}");
    }
}

#[test]
fn requests_arrive_as_they_were_sent() {
    let (parts, bytes) = encode_append(6, append());
    assert_eq!(bytes, parts.iter().map(Bytes::len).sum::<usize>());
    let Ok(Request::Append(arrived)) = Request::decode(kind::APPEND, parts.concat().into()) else {
        panic!("an append");
    };
    assert_eq!(arrived.stream, 6);
    assert_eq!(format!("{:?}", arrived.request), format!("{:?}", append()));
    let payloads = append()
        .entries
        .into_iter()
        .map(|entry| codec::encode_entry(entry).payload.len());
    assert_eq!(arrived.payload_bytes, payloads.sum::<usize>());

    let Ok(Request::Vote(arrived)) = Request::decode(kind::VOTE, encode_vote_request(&vote_request())) else {
        panic!("a vote request");
    };
    assert_eq!(arrived, vote_request());

    let Ok(Request::Snapshot(arrived)) =
        Request::decode(kind::SNAPSHOT, encode_chunk(chunk()).concat().into())
    else {
        panic!("a chunk");
    };
    assert_eq!(format!("{arrived:?}"), format!("{:?}", chunk()));
}

#[test]
fn responses_arrive_as_they_were_sent() {
    let (prev, last) = (Some(id(5, 41)), Some(id(7, 44)));
    let results = [
        Ok(last),
        Err(StreamAppendError::Conflict(id(5, 41))),
        Err(StreamAppendError::HigherVote(Vote::new_committed(9, 1))),
    ];
    for result in results {
        let bytes = encode_append_response(&result);
        assert_eq!(
            decode_append_response(bytes, prev, last).expect("readable"),
            result
        );
    }
    let changed = Err(TransferLeaderError::VoteChanged {
        expected: Vote::new_committed(7, 2),
        actual: Vote::new(8, 1),
    });
    for response in [Ok(()), changed] {
        let bytes = encode_transfer_response(&response);
        assert_eq!(decode_transfer_response(bytes).expect("readable"), response);
    }
}

#[test]
fn an_entrys_bytes_are_not_copied() {
    let payload = Bytes::from(vec![7u8; 1000]);
    let request = AppendEntriesRequest {
        entries: vec![entry(
            7,
            42,
            EntryPayload::Normal(Proposal(Payload::from(vec![payload.clone()]))),
        )],
        ..append()
    };
    let (parts, _) = encode_append(1, request);
    assert!(
        parts.iter().any(|part| part.as_ptr() == payload.as_ptr()),
        "sent from where they were"
    );

    let frame = Bytes::from(parts.concat());
    let range = frame.as_ptr_range();
    let Ok(Request::Append(mut arrived)) = Request::decode(kind::APPEND, frame) else {
        panic!("an append");
    };
    let stored = codec::encode_entry(arrived.request.entries.remove(0));
    let body = stored.payload.parts().last().expect("a body");
    assert_eq!(body, &payload);
    assert!(range.contains(&body.as_ptr()), "stored where they arrived");
}

#[test]
fn what_openraft_would_stop_at_is_refused() {
    let refused = |request: AppendEntriesRequest<Types>| {
        let bytes = encode_append(1, request).0.concat().into();
        let refusal = Request::decode(kind::APPEND, bytes).expect_err("refused");
        refusal.to_string()
    };
    let not_elected = AppendEntriesRequest {
        vote: Vote::new(7, 2),
        ..append()
    };
    assert!(refused(not_elected).contains("not elected"));
    let from_the_future = AppendEntriesRequest {
        vote: Vote::new_committed(6, 2),
        ..append()
    };
    assert!(refused(from_the_future).contains("term 7"));
    let falling = AppendEntriesRequest {
        prev_log_id: Some(id(6, 41)),
        ..append()
    };
    assert!(refused(falling).contains("after term 6"));
    let beyond = AppendEntriesRequest {
        prev_log_id: Some(id(5, POSITION_MAX)),
        ..append()
    };
    assert!(refused(beyond).contains("log position"));
    let elected = VoteRequest {
        vote: Vote::new_committed(8, 3),
        ..vote_request()
    };
    let refusal = Request::decode(kind::VOTE, encode_vote_request(&elected)).expect_err("refused");
    assert!(refusal.to_string().contains("elected already"));
}

#[test]
fn an_unknown_version_or_kind_is_named() {
    for (name, message) in messages() {
        let mut newer = message.to_vec();
        newer[0] = 9;
        let error = read(name, newer.into()).expect_err("unknown");
        assert!(error.to_string().contains("version 9"), "{name}: {error}");
    }
    let error = Request::decode(0x01ff, Bytes::new()).expect_err("unknown");
    assert!(error.to_string().contains("0x01ff"), "{error}");
}

#[test]
fn every_cut_and_every_addition_is_an_error() {
    for (name, message) in messages() {
        for length in 0..message.len() {
            let cut = read(name, message.slice(..length));
            // A shorter piece of a file is a piece of a file too.
            if name != "snapshot" {
                assert!(cut.is_err(), "{name} cut to {length}");
            }
        }
        let longer = [&message[..], b"?"].concat();
        assert!(read(name, longer.into()).is_err(), "{name} with a byte more");
    }
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(
        which in 0..8usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (name, message) = messages().swap_remove(which);
        let mut bytes = message.to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(name, bytes.into());
    }

    #[test]
    fn random_bytes_are_read_or_refused(kind in 0x0100..0x0106u16, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(kind, bytes.into());
    }
}
