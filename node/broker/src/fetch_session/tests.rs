use std::sync::Arc;

use meridian_wire::ErrorCode;

use super::*;

const MINUTE_MS: i64 = 60_000;

fn sessions(sessions_max: usize, partitions_max: usize) -> FetchSessions {
    FetchSessions::new(
        SessionLimits {
            sessions_max,
            partitions_max,
            eviction_ms: 2 * MINUTE_MS,
        },
        7,
    )
}

fn topic() -> TopicKey {
    TopicKey::Name(Arc::from("t"))
}

fn partition(index: i32) -> SessionPartition {
    SessionPartition {
        topic: topic(),
        index,
        fetch_offset: 0,
        bytes_max: 1000,
        current_leader_epoch: None,
        last_fetched_epoch: None,
    }
}

fn partitions(count: i32) -> Vec<SessionPartition> {
    (0..count).map(partition).collect()
}

fn request(session_id: i32, session_epoch: i32, partitions: Vec<SessionPartition>) -> SessionRequest {
    SessionRequest {
        session_id,
        session_epoch,
        uses_topic_ids: false,
        partitions,
        forgotten: Vec::new(),
    }
}

fn answer(index: i32, high_watermark: i64) -> PartitionAnswer {
    let reported = Reported {
        high_watermark,
        last_stable_offset: high_watermark,
        log_start_offset: 0,
    };
    PartitionAnswer {
        topic: topic(),
        index,
        reported,
        has_data: false,
        must: false,
    }
}

fn create(cache: &mut FetchSessions, now_ms: i64, count: i32) -> i32 {
    let begin = cache
        .handle_request(now_ms, request(0, 0, partitions(count)))
        .unwrap();
    assert_eq!(
        begin.kind,
        BeginKind::Full {
            uses_topic_ids: false
        }
    );
    let id = cache.create(
        now_ms,
        false,
        begin.partitions,
        (0..count).map(|index| answer(index, 0)),
    );
    cache.check();
    id
}

fn indexes(begin: &Begin) -> Vec<i32> {
    begin.partitions.iter().map(|partition| partition.index).collect()
}

#[test]
fn a_session_remembers_adds_changes_and_forgets_partitions() {
    let mut cache = sessions(10, 100);
    let id = create(&mut cache, 0, 3);
    assert_ne!(id, 0);
    let mut second = request(
        id,
        1,
        vec![
            SessionPartition {
                fetch_offset: 9,
                ..partition(1)
            },
            partition(7),
        ],
    );
    second.forgotten = vec![(topic(), 0)];
    let begin = cache.handle_request(1, second).unwrap();
    cache.check();
    assert_eq!(begin.kind, BeginKind::Incremental { session_id: id });
    assert_eq!(indexes(&begin), [1, 2, 7]);
    assert_eq!(begin.partitions[0].fetch_offset, 9);
    assert_eq!(
        indexes(&cache.handle_request(2, request(id, 2, vec![])).unwrap()),
        [1, 2, 7]
    );
}

#[test]
fn wrong_id_epoch_and_kind_of_topic_name_have_their_own_errors() {
    let mut cache = sessions(10, 100);
    let id = create(&mut cache, 0, 1);
    let other = if id == 1 { 2 } else { 1 };
    let error = |cache: &mut FetchSessions, request| cache.handle_request(0, request).unwrap_err();
    assert_eq!(
        error(&mut cache, request(other, 1, vec![])),
        ErrorCode::FetchSessionIdNotFound
    );
    assert_eq!(
        error(&mut cache, request(id, 2, vec![])),
        ErrorCode::InvalidFetchSessionEpoch
    );
    let by_id = SessionRequest {
        uses_topic_ids: true,
        ..request(id, 1, vec![])
    };
    assert_eq!(error(&mut cache, by_id), ErrorCode::FetchSessionTopicIdError);
    assert!(cache.handle_request(0, request(id, 1, vec![])).is_ok());
}

#[test]
fn only_news_is_told_and_told_once() {
    let mut cache = sessions(10, 100);
    let id = create(&mut cache, 0, 2);
    assert_eq!(cache.report(id, [answer(0, 0), answer(1, 0)]), [false, false]);
    assert_eq!(cache.report(id, [answer(0, 5), answer(1, 0)]), [true, false]);
    assert_eq!(cache.report(id, [answer(0, 5), answer(1, 0)]), [false, false]);
    let data = PartitionAnswer {
        has_data: true,
        ..answer(0, 5)
    };
    let error = PartitionAnswer {
        must: true,
        ..answer(1, 0)
    };
    assert_eq!(cache.report(id, [data, error.clone()]), [true, true]);
    assert_eq!(cache.report(id, [error]), [true]);
    assert_eq!(
        cache.report(id, [answer(1, 0)]),
        [true],
        "the end of an error is news"
    );
}

#[test]
fn partitions_that_had_data_wait_for_the_others() {
    let mut cache = sessions(10, 100);
    let id = create(&mut cache, 0, 3);
    cache.report(
        id,
        [PartitionAnswer {
            has_data: true,
            ..answer(0, 5)
        }],
    );
    assert_eq!(
        indexes(&cache.handle_request(0, request(id, 1, vec![])).unwrap()),
        [1, 2, 0]
    );
}

#[test]
fn a_full_cache_keeps_young_sessions_and_gives_up_stale_ones() {
    let mut cache = sessions(2, 100);
    let first = create(&mut cache, 0, 1);
    let second = create(&mut cache, MINUTE_MS, 1);
    assert_eq!(
        create(&mut cache, MINUTE_MS, 50),
        0,
        "nobody is stale, nobody is old"
    );
    let third = create(&mut cache, 2 * MINUTE_MS + 1, 1);
    assert_ne!(third, 0);
    assert_eq!(cache.evictions(), 1);
    let error = cache.handle_request(0, request(first, 1, vec![])).unwrap_err();
    assert_eq!(error, ErrorCode::FetchSessionIdNotFound);
    assert!(cache.handle_request(0, request(second, 1, vec![])).is_ok());
}

#[test]
fn an_old_session_in_use_gives_way_to_a_larger_one_only() {
    let mut cache = sessions(1, 100);
    let used = create(&mut cache, 0, 5);
    let now_ms = 3 * MINUTE_MS;
    cache.handle_request(now_ms, request(used, 1, vec![])).unwrap();
    assert_eq!(create(&mut cache, now_ms, 5), 0);
    assert_ne!(create(&mut cache, now_ms, 6), 0);
    assert_eq!(cache.len(), 1);
}

#[test]
fn partitions_are_bounded_over_all_sessions() {
    let mut cache = sessions(100, 10);
    assert_eq!(create(&mut cache, 0, 11), 0);
    let id = create(&mut cache, 0, 6);
    assert_eq!(create(&mut cache, 0, 5), 0);
    let grown = cache.handle_request(0, request(id, 1, (0..11).map(partition).collect()));
    assert_eq!(grown.unwrap_err(), ErrorCode::FetchSessionIdNotFound);
    cache.check();
    assert_eq!(cache.partitions(), 0);
}

#[test]
fn a_session_ends_by_request_by_a_new_one_and_when_it_is_empty() {
    let mut cache = sessions(10, 100);
    let id = create(&mut cache, 0, 1);
    cache.handle_request(0, request(id, -1, vec![])).unwrap();
    assert_eq!(cache.len(), 0);
    let id = create(&mut cache, 0, 1);
    cache.handle_request(0, request(id, 0, partitions(1))).unwrap();
    assert_eq!(cache.len(), 0);
    let id = create(&mut cache, 0, 1);
    let mut last = request(id, 1, vec![]);
    last.forgotten = vec![(topic(), 0)];
    assert_eq!(
        cache.handle_request(0, last).unwrap().kind,
        BeginKind::Sessionless
    );
    assert_eq!(cache.len(), 0);
    cache.check();
}

#[test]
fn epochs_wrap_past_the_two_that_mean_something_else() {
    let mut cache = sessions(10, 100);
    let id = create(&mut cache, 0, 1);
    for epoch in 1..1000 {
        cache.handle_request(0, request(id, epoch, vec![])).unwrap();
    }
    assert_eq!(cache::next_epoch(i32::MAX), 1);
    assert_eq!(cache::next_epoch(1), 2);
}
