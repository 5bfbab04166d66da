use super::*;

fn value(producer: u32, partition: u32, sequence: u64) -> Value {
    Value {
        producer,
        partition,
        sequence,
    }
}

fn placed(offset: u64, value: Value) -> Placed {
    Placed {
        value,
        partition: value.partition,
        offset,
    }
}

/// Two producers take turns in one partition: six records, all acknowledged, all seen, all there.
fn sound() -> History {
    let log: Vec<Placed> = (0..6)
        .map(|i| placed(i, value((i % 2) as u32, 0, i / 2)))
        .collect();
    History {
        acknowledged: log.clone(),
        sent: BTreeMap::from([((0, 0), 3), ((1, 0), 3)]),
        observed: log.clone(),
        committed: vec![(0, 2), (0, 5)],
        committed_afterwards: BTreeMap::from([(0, 5)]),
        log,
    }
}

#[test]
fn a_sound_history_has_no_violation() {
    assert_eq!(check(&sound()), []);
}

#[test]
fn a_record_that_was_never_acknowledged_may_be_there_or_not() {
    let mut history = sound();
    history.acknowledged.remove(5);
    assert_eq!(check(&history), []);
    history.log.remove(5);
    history.observed.remove(5);
    assert_eq!(check(&history), []);
}

#[test]
fn a_lost_record_is_detected() {
    let mut history = sound();
    let acknowledged = history.log.remove(2);
    history.observed.remove(2);
    assert_eq!(check(&history), [Violation::Lost { acknowledged }]);
}

#[test]
fn a_duplicated_record_is_detected() {
    let mut history = sound();
    let value = value(1, 0, 2);
    history.log.push(placed(6, value));
    assert_eq!(
        check(&history),
        [Violation::Duplicated {
            value,
            offsets: vec![5, 6]
        }]
    );
}

#[test]
fn a_reordered_record_is_detected() {
    let mut history = sound();
    // Producer 0 wrote 0, 1, 2; the log has 1, 0, 2.
    history.log[0].value.sequence = 1;
    history.log[2].value.sequence = 0;
    history.acknowledged = history.log.clone();
    history.observed.clear();
    assert_eq!(
        check(&history),
        [Violation::Reordered {
            found: placed(2, value(0, 0, 0)),
            after_sequence: 1
        }]
    );
}

#[test]
fn a_record_at_another_offset_than_acknowledged_is_detected() {
    let mut history = sound();
    history.acknowledged[5].offset = 7;
    assert_eq!(
        check(&history),
        [Violation::Moved {
            acknowledged: placed(7, value(1, 0, 2)),
            found: placed(5, value(1, 0, 2))
        }]
    );
}

#[test]
fn a_record_that_nobody_sent_is_detected() {
    let mut history = sound();
    let found = placed(6, value(1, 0, 3));
    history.log.push(found);
    assert_eq!(check(&history), [Violation::Phantom { found }]);
}

#[test]
fn a_record_in_the_wrong_partition_is_detected() {
    let mut history = sound();
    history.acknowledged.pop();
    history.observed.pop();
    history.log[5].partition = 1;
    let found = history.log[5];
    assert_eq!(check(&history), [Violation::Misplaced { found }]);
}

#[test]
fn a_record_that_was_seen_and_is_gone_is_detected() {
    let mut history = sound();
    history.acknowledged.pop();
    history.log.pop();
    let observed = history.observed[5];
    assert_eq!(check(&history), [Violation::Retracted { observed, now: None }]);
}

#[test]
fn another_record_at_an_offset_that_was_seen_is_detected() {
    let mut history = sound();
    history.acknowledged.truncate(4);
    history.observed.truncate(5);
    history.log.swap(4, 5);
    history.log[4].offset = 4;
    history.log[5].offset = 5;
    let observed = history.observed[4];
    let now = Some(history.log[4].value);
    assert_eq!(check(&history), [Violation::Retracted { observed, now }]);
}

#[test]
fn an_offset_that_was_read_twice_is_detected() {
    let mut history = sound();
    let observed = history.observed[3];
    history.observed.insert(4, observed);
    let violations = check(&history);
    assert!(
        violations.contains(&Violation::Reread {
            observed,
            last_offset: 3
        }),
        "{violations:?}"
    );
}

#[test]
fn offsets_that_do_not_rise_are_detected() {
    let mut history = sound();
    history.log.swap(0, 1);
    let found = history.log[1];
    let violations = check(&history);
    assert!(
        violations.contains(&Violation::Disordered {
            found,
            last_offset: 1
        }),
        "{violations:?}"
    );
}

#[test]
fn a_committed_offset_that_is_gone_or_older_is_detected() {
    let mut history = sound();
    for now in [None, Some(2)] {
        history.committed_afterwards = now.map(|offset| (0, offset)).into_iter().collect();
        let lost = Violation::CommitLost {
            partition: 0,
            committed: 5,
            now,
        };
        assert_eq!(check(&history), [lost]);
    }
    // A commit whose answer was lost.
    history.committed_afterwards = BTreeMap::from([(0, 6)]);
    assert_eq!(check(&history), []);
}
