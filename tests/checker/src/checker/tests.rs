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

fn content(value: Value) -> String {
    format!("{} {} {}", value.producer, value.partition, value.sequence)
}

fn read(placed: Placed) -> Event {
    Event::Read {
        partition: placed.partition,
        offset: placed.offset,
        value: content(placed.value),
    }
}

fn ok(placed: Placed) -> Event {
    Event::Ok {
        value: placed.value,
        offset: placed.offset,
    }
}

/// A run in parts that a test can spoil.
#[derive(Clone, Debug)]
struct Run {
    acknowledged: Vec<Placed>,
    outcomes: Vec<Event>,
    sent: Vec<((u32, u32), u64)>,
    observed: Vec<Placed>,
    logs: Vec<Vec<Placed>>,
    /// For each log; the end of partition 0 is one past its last record unless given.
    start: u64,
    end: Option<u64>,
    commits: Vec<u64>,
    committed: Option<u64>,
}

impl Run {
    fn history(&self) -> History {
        let mut history = History::default();
        let mut producer: Vec<Event> = self.acknowledged.iter().copied().map(ok).collect();
        producer.extend(self.outcomes.clone());
        let sent = |&((producer, partition), count): &((u32, u32), u64)| Event::Sent {
            producer,
            partition,
            count,
        };
        producer.extend(self.sent.iter().map(sent));
        history.add("producer", producer);
        let mut follower = vec![Event::Position {
            partition: 0,
            offset: 0,
        }];
        follower.extend(self.observed.iter().copied().map(read));
        let commit = |offset: &u64| Event::Commit {
            partition: 0,
            offset: *offset,
        };
        follower.extend(self.commits.iter().map(commit));
        history.add("follower", follower);
        for (index, log) in self.logs.iter().enumerate() {
            let mut events: Vec<Event> = log.iter().copied().map(read).collect();
            let last = log.iter().map(|p| p.offset).max().map_or(0, |last| last + 1);
            events.push(Event::Complete {
                partition: 0,
                start: self.start,
                end: self.end.unwrap_or(last),
            });
            events.extend(
                self.committed
                    .map(|offset| Event::Committed { partition: 0, offset }),
            );
            history.add(&format!("log {index}"), events);
        }
        history
    }

    fn findings(&self) -> Vec<Finding> {
        check(&self.history()).findings
    }
}

/// Two producers take turns in one partition: six records, all acknowledged, all seen, all there, on two replicas.
fn sound() -> Run {
    let log: Vec<Placed> = (0..6)
        .map(|i| placed(i, value((i % 2) as u32, 0, i / 2)))
        .collect();
    Run {
        acknowledged: log.clone(),
        outcomes: Vec::new(),
        sent: vec![((0, 0), 3), ((1, 0), 3)],
        observed: log.clone(),
        logs: vec![log.clone(), log],
        start: 0,
        end: None,
        commits: vec![2, 5],
        committed: Some(5),
    }
}

#[test]
fn a_sound_history_has_no_finding() {
    let report = check(&sound().history());
    assert_eq!(report.findings, []);
    assert!(report.is_sound());
    assert_eq!((report.acknowledged, report.stored), (6, 6));
    assert_eq!((report.observed, report.commits), (6, 2));
}

#[test]
fn a_record_whose_send_is_unknown_may_be_there_or_not() {
    let mut run = sound();
    let last = run.acknowledged.pop().expect("six");
    run.outcomes.push(Event::Unknown { value: last.value });
    assert_eq!(run.findings(), []);
    run.logs.iter_mut().for_each(|log| log.truncate(5));
    run.observed.pop();
    assert_eq!(run.findings(), []);
    assert_eq!(check(&run.history()).unknown, 1);
}

#[test]
fn a_lost_record_is_found() {
    let mut run = sound();
    let acknowledged = *run.acknowledged.last().expect("six");
    run.logs.iter_mut().for_each(|log| log.truncate(5));
    run.observed.pop();
    assert_eq!(run.findings(), [Finding::Lost { acknowledged }]);
}

#[test]
fn a_lost_record_whose_offset_went_to_another_is_found() {
    let mut run = sound();
    let acknowledged = run.acknowledged[5];
    for log in &mut run.logs {
        log[5].value = value(0, 0, 3);
    }
    run.sent[0].1 = 4;
    run.observed.pop();
    assert_eq!(run.findings(), [Finding::Lost { acknowledged }]);
}

#[test]
fn a_record_acknowledged_without_an_offset_must_be_somewhere() {
    let mut run = sound();
    let placed = run.acknowledged.pop().expect("six records");
    let value = placed.value;
    run.outcomes.push(Event::Persisted { value });
    assert_eq!(run.findings(), []);
    run.logs.iter_mut().for_each(|log| {
        log.pop();
    });
    run.observed.pop();
    assert_eq!(run.findings(), [Finding::Missing { value }]);
    run.start = 1;
    run.logs.iter_mut().for_each(|log| {
        log.remove(0);
    });
    assert_eq!(run.findings(), [], "retention may have taken it");
}

#[test]
fn a_record_that_one_replica_lacks_is_a_gap_there() {
    let mut run = sound();
    run.logs[1].remove(3);
    let gap = Finding::Gap {
        reader: "log 1".to_owned(),
        partition: 0,
        offset: 3,
        next: 4,
    };
    assert_eq!(run.findings(), [gap]);
}

#[test]
fn offsets_without_records_before_the_end_are_a_gap() {
    let mut run = sound();
    run.logs.pop();
    run.end = Some(8);
    let gap = Finding::Gap {
        reader: "log 0".to_owned(),
        partition: 0,
        offset: 6,
        next: 8,
    };
    assert_eq!(run.findings(), [gap]);
}

#[test]
fn what_retention_took_is_not_lost() {
    let mut run = sound();
    run.start = 2;
    run.logs.iter_mut().for_each(|log| drop(log.drain(..2)));
    assert_eq!(run.findings(), []);
}

#[test]
fn a_duplicated_record_is_found() {
    let mut run = sound();
    let twice = value(1, 0, 2);
    run.logs.iter_mut().for_each(|log| log.push(placed(6, twice)));
    let duplicated = Finding::Duplicated {
        value: twice,
        at: [(0, 5), (0, 6)],
    };
    assert_eq!(run.findings(), [duplicated]);
}

#[test]
fn a_reordered_record_is_found() {
    let mut run = sound();
    // Producer 0 wrote 0, 1, 2; the log has 1, 0, 2.
    for log in &mut run.logs {
        log[0].value.sequence = 1;
        log[2].value.sequence = 0;
    }
    run.acknowledged = run.logs[0].clone();
    run.observed.clear();
    let reordered = Finding::Reordered {
        found: placed(2, value(0, 0, 0)),
        after_sequence: 1,
    };
    assert_eq!(run.findings(), [reordered]);
}

#[test]
fn producers_are_ordered_each_for_itself() {
    let mut run = sound();
    // Producer 1 writes all of its records after all of producer 0.
    let log: Vec<Placed> = (0..6)
        .map(|i| placed(i, value((i / 3) as u32, 0, i % 3)))
        .collect();
    run.acknowledged = log.clone();
    run.observed = log.clone();
    run.logs = vec![log];
    assert_eq!(run.findings(), []);
}

#[test]
fn a_record_at_another_offset_than_acknowledged_is_found() {
    let mut run = sound();
    run.acknowledged[5].offset = 7;
    let moved = Finding::Moved {
        acknowledged: placed(7, value(1, 0, 2)),
        found: placed(5, value(1, 0, 2)),
    };
    assert_eq!(run.findings(), [moved]);
}

#[test]
fn a_record_that_nobody_sent_is_found_once() {
    let mut run = sound();
    run.logs
        .iter_mut()
        .for_each(|log| log.push(placed(6, value(1, 0, 3))));
    let phantom = Finding::Phantom {
        reader: "log 0".to_owned(),
        partition: 0,
        offset: 6,
        content: "1 0 3".to_owned(),
    };
    assert_eq!(run.findings(), [phantom]);
}

#[test]
fn content_that_is_no_record_of_ours_is_found() {
    let mut run = sound();
    run.logs.pop();
    let mut history = run.history();
    let log = history.clients.last_mut().expect("a log");
    log.events.insert(
        6,
        Event::Read {
            partition: 0,
            offset: 6,
            value: "garbage".to_owned(),
        },
    );
    log.events[7] = Event::Complete {
        partition: 0,
        start: 0,
        end: 7,
    };
    let phantom = Finding::Phantom {
        reader: "log 0".to_owned(),
        partition: 0,
        offset: 6,
        content: "garbage".to_owned(),
    };
    assert_eq!(check(&history).findings, [phantom]);
}

#[test]
fn a_read_of_a_failed_send_is_found() {
    let mut run = sound();
    let failed = run.acknowledged.pop().expect("six");
    run.outcomes.push(Event::Fail { value: failed.value });
    let dirty = Finding::Dirty {
        reader: "follower".to_owned(),
        found: failed,
    };
    assert_eq!(run.findings(), [dirty]);
}

#[test]
fn a_failed_send_that_nobody_sees_is_fine() {
    let mut run = sound();
    let value = value(1, 0, 3);
    run.outcomes.push(Event::Fail { value });
    assert_eq!(run.findings(), []);
    assert_eq!(check(&run.history()).failed, 1);
}

#[test]
fn a_record_in_the_wrong_partition_is_found() {
    let mut run = sound();
    let strayed = value(1, 3, 0);
    run.sent.push(((1, 3), 1));
    let found = Placed {
        value: strayed,
        partition: 0,
        offset: 6,
    };
    run.logs.iter_mut().for_each(|log| log.push(found));
    assert_eq!(run.findings(), [Finding::Misplaced { found }]);
}

#[test]
fn replicas_that_disagree_are_found() {
    let mut run = sound();
    run.acknowledged.pop();
    run.observed.pop();
    run.logs[1][5].value = value(0, 0, 3);
    run.sent[0].1 = 4;
    let first = ("log 1".to_owned(), placed(5, value(0, 0, 3)));
    let second = ("log 0".to_owned(), placed(5, value(1, 0, 2)));
    assert_eq!(run.findings(), [Finding::Disagreement { first, second }]);
}

#[test]
fn clients_that_disagree_about_an_unread_partition_are_found() {
    let mut run = sound();
    run.logs.clear();
    run.commits.clear();
    run.observed[5].value = value(0, 0, 2);
    run.observed[4].value = value(1, 0, 2);
    let findings = run.findings();
    let kinds: Vec<Kind> = findings.iter().map(Finding::kind).collect();
    assert_eq!(kinds, [Kind::Unread, Kind::Disagreement, Kind::Disagreement]);
}

#[test]
fn acknowledged_records_of_an_unread_partition_are_no_success() {
    let mut run = sound();
    run.logs.clear();
    run.commits.clear();
    let unread = Finding::Unread {
        partition: 0,
        acknowledged: 6,
    };
    assert_eq!(run.findings(), [unread]);
}

#[test]
fn a_record_that_was_seen_and_is_gone_is_found() {
    let mut run = sound();
    run.acknowledged.pop();
    run.logs.iter_mut().for_each(|log| log.truncate(5));
    let retracted = Finding::Retracted {
        reader: "follower".to_owned(),
        observed: run.observed[5],
        now: None,
    };
    assert_eq!(run.findings(), [retracted]);
}

#[test]
fn another_record_at_an_offset_that_was_seen_is_found() {
    let mut run = sound();
    run.acknowledged.truncate(4);
    run.observed.truncate(5);
    for log in &mut run.logs {
        log.swap(4, 5);
        log[4].offset = 4;
        log[5].offset = 5;
    }
    let retracted = Finding::Retracted {
        reader: "follower".to_owned(),
        observed: run.observed[4],
        now: Some(run.logs[0][4].value),
    };
    assert_eq!(run.findings(), [retracted]);
}

#[test]
fn an_offset_that_was_read_twice_is_found() {
    let mut run = sound();
    let observed = run.observed[3];
    run.observed.insert(4, observed);
    let reread = Finding::Reread {
        reader: "follower".to_owned(),
        partition: 0,
        offset: 3,
        expected: 4,
    };
    assert_eq!(run.findings(), [reread]);
}

#[test]
fn a_reader_that_seeks_may_read_again() {
    let mut run = sound();
    run.logs.pop();
    let mut history = run.history();
    let follower = &mut history.clients[1].events;
    let reads: Vec<Event> = follower[3..7].to_vec();
    follower.push(Event::Position {
        partition: 0,
        offset: 2,
    });
    follower.extend(reads);
    assert_eq!(check(&history).findings, []);
}

#[test]
fn offsets_that_fall_in_the_log_are_found() {
    let mut run = sound();
    run.logs.pop();
    run.logs[0].swap(3, 4);
    let findings = run.findings();
    let reread = Finding::Reread {
        reader: "log 0".to_owned(),
        partition: 0,
        offset: 3,
        expected: 5,
    };
    assert!(findings.contains(&reread), "{findings:?}");
}

#[test]
fn a_reader_that_was_led_past_records_is_found() {
    let mut run = sound();
    let missed = run.observed.remove(3);
    let skipped = Finding::Skipped {
        reader: "follower".to_owned(),
        missed,
        given: 4,
    };
    assert_eq!(run.findings(), [skipped]);
}

#[test]
fn a_reader_that_begins_past_its_position_is_found() {
    let mut run = sound();
    let missed = run.observed.remove(0);
    let skipped = Finding::Skipped {
        reader: "follower".to_owned(),
        missed,
        given: 1,
    };
    assert_eq!(run.findings(), [skipped]);
}

#[test]
fn a_committed_offset_that_is_gone_or_older_is_found() {
    let mut run = sound();
    for now in [None, Some(2)] {
        run.committed = now;
        let lost = Finding::CommitLost {
            partition: 0,
            committed: 5,
            now,
        };
        assert_eq!(run.findings(), [lost]);
    }
    // A commit whose answer was lost.
    run.committed = Some(6);
    assert_eq!(run.findings(), []);
}

#[test]
fn all_findings_are_counted_and_few_are_kept() {
    let mut run = sound();
    run.observed.clear();
    run.logs = vec![Vec::new()];
    run.acknowledged = (0..1000).map(|i| placed(i, value(0, 0, i))).collect();
    let report = check(&run.history());
    assert_eq!(report.count(Kind::Lost), 1000);
    assert_eq!(report.findings.len(), FINDINGS_MAX);
    assert!(!report.is_sound());
    let mut sum = check(&sound().history());
    sum.add(report);
    assert_eq!((sum.count(Kind::Lost), sum.acknowledged), (1000, 1006));
    assert!(sum.to_string().contains("1000 lost"), "{sum}");
}

/// A log that a seed wrote: producers interleave, answers are lost, sends fail, readers come and go.
fn drawn(seed: u64) -> History {
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut history = History::default();
    let mut producer = Vec::new();
    let mut log: BTreeMap<u32, Vec<Placed>> = BTreeMap::new();
    let mut next: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for _ in 0..500 {
        let (who, partition) = (draw(4) as u32, draw(3) as u32);
        let sequence = next.entry((who, partition)).or_default();
        let sent = value(who, partition, *sequence);
        *sequence += 1;
        let fate = draw(10);
        if fate < 8 {
            let records = log.entry(partition).or_default();
            let at = placed(records.len() as u64, sent);
            records.push(at);
            producer.push(if fate < 7 {
                ok(at)
            } else {
                Event::Unknown { value: sent }
            });
        } else if fate == 8 {
            producer.push(Event::Fail { value: sent });
        } else {
            producer.push(Event::Unknown { value: sent });
        }
    }
    history.add("producers", producer);
    for reader in 0..3 {
        let mut events = Vec::new();
        for (&partition, records) in &log {
            let from = draw(records.len() as u64) as usize;
            let to = from + draw((records.len() - from) as u64) as usize;
            events.push(Event::Position {
                partition,
                offset: from as u64,
            });
            events.extend(records[from..to].iter().copied().map(read));
        }
        history.add(&format!("reader {reader}"), events);
    }
    let mut events: Vec<Event> = log.values().flatten().copied().map(read).collect();
    events.extend(log.iter().map(|(&partition, records)| Event::Complete {
        partition,
        start: 0,
        end: records.len() as u64,
    }));
    history.add("log", events);
    history
}

#[test]
fn no_drawn_sound_history_raises_an_alarm() {
    for seed in 0..200 {
        let report = check(&drawn(seed));
        assert!(report.is_sound(), "seed {seed}: {report}");
        assert!(report.acknowledged > 100, "seed {seed}: {report}");
    }
}

#[test]
fn a_record_taken_out_of_a_drawn_log_is_never_overlooked() {
    for seed in 0..200 {
        let mut history = drawn(seed);
        let log = &mut history.clients.last_mut().expect("a log").events;
        log.remove((seed as usize * 7) % 300);
        let report = check(&history);
        assert!(report.count(Kind::Gap) == 1, "seed {seed}: {report}");
    }
}
