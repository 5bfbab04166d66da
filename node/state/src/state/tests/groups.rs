//! Consumer groups and dropped topics.

use super::*;
use crate::command::CommittedOffset;

fn commit(group: &str, partitions: &[Partition], now: i64) -> Command {
    let committed = CommittedOffset {
        offset: Offset(3),
        leader_epoch: None,
        metadata: String::new(),
        committed_at: TimestampMs(now),
    };
    let offsets = partitions
        .iter()
        .map(|partition| (*partition, committed.clone()))
        .collect();
    Command::CommitOffsets {
        group: group.into(),
        now: TimestampMs(now),
        offsets,
    }
}

#[test]
fn a_dropped_topic_is_gone_and_stays_gone_for_a_day() {
    let (mut state, p) = filled(3);
    apply(&mut state, &commit("g", &[p, partition(2, 0)], 1));
    apply(&mut state, &commit("only", &[p], 1));
    apply(
        &mut state,
        &Command::DropTopic {
            topic: p.topic,
            now: NOW,
        },
    );
    assert!(state.partition(p).is_none() && state.is_dropped(p.topic));
    assert!(state.group("only").is_none());
    assert_eq!(state.group("g").unwrap().offsets.len(), 1);

    let late = vec![group(p, [BatchSpec::records(1).stamped(0, 1)])];
    assert_eq!(append(&mut state, late), [Err(Rejected::TopicDropped)]);
    apply(&mut state, &commit("g", &[p], 2));
    assert_eq!(state.group("g").unwrap().offsets.len(), 1);

    apply(
        &mut state,
        &Command::ExpireProducers {
            now: TimestampMs(NOW.0 + DROPPED_TOPIC_MEMORY_MS),
        },
    );
    assert!(state.is_dropped(p.topic));
    apply(
        &mut state,
        &Command::ExpireProducers {
            now: TimestampMs(NOW.0 + DROPPED_TOPIC_MEMORY_MS + 1),
        },
    );
    assert!(!state.is_dropped(p.topic));
}

#[test]
fn groups_live_as_long_as_they_hold_something() {
    let mut state = state();
    let (p, q) = (partition(1, 0), partition(1, 1));
    apply(&mut state, &commit("b", &[p, q], 1));
    apply(
        &mut state,
        &Command::SaveGroup {
            group: "a".into(),
            body: Bytes::from_static(b"x"),
            now: NOW,
        },
    );
    assert_eq!(
        state.groups().map(|(name, _)| name).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(
        state.group("a").unwrap().saved.as_ref().unwrap().body,
        Bytes::from_static(b"x")
    );
    apply(
        &mut state,
        &Command::DeleteOffsets {
            group: "b".into(),
            partitions: vec![p],
        },
    );
    assert_eq!(state.group("b").unwrap().offsets.keys().collect::<Vec<_>>(), [&q]);
    apply(
        &mut state,
        &Command::DeleteOffsets {
            group: "b".into(),
            partitions: vec![q, p],
        },
    );
    assert!(state.group("b").is_none());
    apply(
        &mut state,
        &Command::DeleteGroups {
            groups: vec!["a".into(), "missing".into()],
        },
    );
    assert_eq!(state.groups().len(), 0);
}

#[test]
fn offsets_expire_by_commit_and_by_the_groups_last_change() {
    let mut state = state();
    let (p, q) = (partition(1, 0), partition(1, 1));
    apply(&mut state, &commit("g", &[p], 100));
    apply(&mut state, &commit("g", &[q], 200));
    apply(&mut state, &commit("saved", &[p], 100));
    let save = Command::SaveGroup {
        group: "saved".into(),
        body: Bytes::new(),
        now: TimestampMs(300),
    };
    apply(&mut state, &save);
    let names = |state: &State, now, active: &str| -> Vec<(String, usize)> {
        let expired = state.expired_offsets(TimestampMs(now), 50, |name| name == active);
        expired
            .into_iter()
            .map(|group| (group.group, group.offsets.len()))
            .collect()
    };
    assert_eq!(names(&state, 149, ""), []);
    assert_eq!(names(&state, 150, ""), [("g".into(), 1)]);
    assert_eq!(names(&state, 350, ""), [("g".into(), 2), ("saved".into(), 1)]);
    assert_eq!(names(&state, 350, "g"), [("saved".into(), 1)]);

    // A commit that came between the leader's decision and the command stays.
    let expired = state.expired_offsets(TimestampMs(250), 50, |_| false);
    apply(&mut state, &commit("g", &[p], 240));
    apply(
        &mut state,
        &Command::ExpireOffsets {
            now: TimestampMs(250),
            expired,
        },
    );
    assert_eq!(state.group("g").unwrap().offsets.keys().collect::<Vec<_>>(), [&p]);
    assert!(state.group("saved").is_some());
}
