//! Random work, a crash at any point, recovery: what was acknowledged is there, in order, and nothing else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use meridian_journal::{
    Durability, Entry, Fault, FaultyDisk, Journal, JournalError, JournalSettings, Payload, ReadError, Writer,
};
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};
use parking_lot::Mutex;

/// One frame's worth of work on one shard.
#[derive(Clone)]
enum Step {
    Append(LogPosition, Bytes),
    Vote(Bytes),
    Truncate(Option<RaftIndex>),
    Purge(LogPosition),
    Reset,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Append(position, bytes) => write!(f, "append {position} ({})", bytes.len()),
            Self::Vote(_) => write!(f, "vote"),
            Self::Truncate(kept) => write!(f, "truncate {kept:?}"),
            Self::Purge(through) => write!(f, "purge {through}"),
            Self::Reset => write!(f, "reset"),
        }
    }
}

/// A shard as it must be.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: BTreeMap<u64, (Term, Bytes)>,
    purged: Option<LogPosition>,
    vote: Option<Bytes>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(position, bytes) => {
                self.entries
                    .insert(position.index.0, (position.term, bytes.clone()));
            }
            Step::Vote(vote) => self.vote = Some(vote.clone()),
            Step::Truncate(kept) => {
                let end = kept
                    .iter()
                    .map(|kept| kept.0)
                    .chain(self.purged.map(|purged| purged.index.0))
                    .max();
                self.entries
                    .retain(|index, _| end.is_some_and(|end| *index <= end));
            }
            Step::Purge(through) => {
                let known = self.entries.get(&through.index.0).map(|(term, _)| *term);
                if known != Some(through.term) {
                    self.entries.retain(|index, _| *index > through.index.0);
                }
                self.purged = self.purged.max(Some(*through));
            }
            Step::Reset => *self = Self::default(),
        }
    }

    fn purged_index(&self) -> Option<u64> {
        self.purged.map(|purged| purged.index.0)
    }

    fn last(&self) -> Option<LogPosition> {
        let (index, (term, _)) = self.entries.last_key_value()?;
        (Some(*index) > self.purged_index()).then_some(LogPosition {
            term: *term,
            index: RaftIndex(*index),
        })
    }

    fn first(&self) -> Option<LogPosition> {
        let from = self.purged_index().map_or(0, |purged| purged + 1);
        let (index, (term, _)) = self.entries.range(from..).next()?;
        Some(LogPosition {
            term: *term,
            index: RaftIndex(*index),
        })
    }

    /// What differs from the journal, if anything.
    fn difference(&self, journal: &Journal, shard: ShardId, released: u64) -> Option<String> {
        let log = journal.log(shard);
        let expected = (self.first(), self.last(), self.purged, self.vote.clone(), None);
        let found = (log.first, log.last, log.purged, log.vote, log.damaged);
        if found != expected {
            return Some(format!("found {found:?}, expected {expected:?}"));
        }
        for (index, (term, bytes)) in &self.entries {
            let may_be_gone = Some(*index) <= self.purged_index() && *index <= released;
            let index = RaftIndex(*index);
            match journal.read(shard, index, 0, u32::try_from(bytes.len()).unwrap()) {
                Ok(parts) if parts.concat() == bytes[..] && may_be_gone => {}
                Ok(parts) if parts.concat() == bytes[..] && journal.term_of(shard, index) == Some(*term) => {}
                Err(ReadError::Missing { .. }) if may_be_gone => {}
                other => {
                    return Some(format!(
                        "entry {index}: {:?}",
                        other.map(|parts| parts.concat().len())
                    ));
                }
            }
        }
        None
    }
}

/// A shard's model, the steps since it was last compared, and how many of those were acknowledged.
#[derive(Default)]
struct Shard {
    base: Model,
    now: Model,
    steps: Vec<Step>,
    acknowledged: Arc<Mutex<usize>>,
    released: u64,
    term: u64,
}

struct World {
    disk: FaultyDisk,
    settings: JournalSettings,
    shards: BTreeMap<ShardId, Shard>,
    random: RefCell<u64>,
    order: Arc<Mutex<Vec<(ShardId, u64)>>>,
    submitted: u64,
    recoveries: usize,
    rolled: u64,
    retired: u64,
}

impl World {
    fn seeded(seed: u64, durability: Durability) -> Self {
        let settings = JournalSettings {
            file_bytes: 64 << 10,
            bytes_max: 256 << 10,
            cache_bytes: 20_000,
            durability,
            ..JournalSettings::new(seed)
        };
        let shards = [ShardId(0), ShardId(1), ShardId::CONTROLLER].map(|shard| (shard, Shard::default()));
        Self {
            disk: FaultyDisk::seeded(seed),
            settings,
            shards: shards.into(),
            random: RefCell::new(seed),
            order: Arc::default(),
            submitted: 0,
            recoveries: 0,
            rolled: 0,
            retired: 0,
        }
    }

    /// A number below `below`, from the seed.
    fn below(&self, below: u64) -> u64 {
        let mut random = self.random.borrow_mut();
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % below
    }

    /// Opens the journal and holds every shard against its model: some number of steps, not fewer than were
    /// acknowledged, must explain it.
    fn recover(&mut self, acknowledged_must_hold: bool) -> (Journal, Writer) {
        let (journal, writer) = Journal::open(self.disk.mount(), self.settings.clone()).unwrap();
        for (id, shard) in &mut self.shards {
            let least = if acknowledged_must_hold {
                *shard.acknowledged.lock()
            } else {
                0
            };
            let mut model = shard.base.clone();
            shard.steps[..least].iter().for_each(|step| model.apply(step));
            let mut nearest;
            let mut steps = shard.steps[least..].iter();
            loop {
                match model.difference(&journal, *id, shard.released) {
                    None => break,
                    Some(difference) => nearest = difference,
                }
                match steps.next() {
                    Some(step) => model.apply(step),
                    None => panic!(
                        "shard {id}: after {least} acknowledged of {:?}: {nearest}",
                        shard.steps
                    ),
                }
            }
            shard.base = model.clone();
            shard.now = model;
            shard.steps.clear();
            shard.acknowledged = Arc::default();
        }
        self.recoveries += 1;
        (journal, writer)
    }

    fn submit(&mut self, id: ShardId, steps: Vec<Step>, journal: &Journal) {
        let count = steps.len();
        let number = self.submitted;
        self.submitted += 1;
        let (acknowledged, order) = (self.shards[&id].acknowledged.clone(), self.order.clone());
        let refused = Arc::new(Mutex::new(false));
        let refuse = refused.clone();
        // A purge may overtake what waits for space, and so may other shards.
        let in_order = !matches!(steps[..], [Step::Purge(_)]);
        let done = Box::new(move |result: Result<(), JournalError>| match result {
            Ok(()) => {
                if in_order {
                    order.lock().push((id, number));
                }
                *acknowledged.lock() += count;
            }
            Err(JournalError::Poisoned { .. } | JournalError::Stopped | JournalError::Full { .. }) => {
                *refuse.lock() = true;
            }
            Err(other) => panic!("unexpected {other}"),
        });
        match &steps[..] {
            [Step::Vote(vote)] => journal.save_vote(id, vote.clone(), done),
            [Step::Truncate(kept)] => journal.truncate_after(id, *kept, done),
            [Step::Purge(through)] => journal.purge(id, *through, done),
            [Step::Reset] => journal.reset(id, done),
            appends => {
                let entry = |step: &Step| match step {
                    Step::Append(position, bytes) => {
                        let cut = bytes.len() / 3;
                        let payload = Payload::from(vec![bytes.slice(..cut), bytes.slice(cut..)]);
                        Entry {
                            position: *position,
                            payload,
                        }
                    }
                    other => panic!("not an append: {other:?}"),
                };
                journal.append(id, appends.iter().map(entry).collect(), done);
            }
        }
        // Refused within the call: it changed nothing.
        if !*refused.lock() {
            let shard = self.shards.get_mut(&id).unwrap();
            steps.iter().for_each(|step| shard.now.apply(step));
            shard.steps.extend(steps);
        }
    }

    /// One random piece of work.
    fn work(&mut self, journal: &Journal) {
        let ids: Vec<ShardId> = self.shards.keys().copied().collect();
        let id = ids[usize::try_from(self.below(3)).unwrap()];
        let model = self.shards[&id].now.clone();
        let term = self.shards[&id].term;
        let last = model.last().or(model.purged).map_or(0, |last| last.index.0);
        let purged = model.purged_index().unwrap_or(0);
        let somewhere = purged + self.below(last - purged + 1);
        let steps = match self.below(100) {
            0..60 => {
                let count = 1 + self.below(4);
                let append = |index| {
                    let len = usize::try_from(if self.below(5) == 0 {
                        self.below(9000)
                    } else {
                        self.below(300)
                    })
                    .unwrap();
                    let byte = u8::try_from(self.below(256)).unwrap();
                    let position = LogPosition {
                        term: Term(term),
                        index: RaftIndex(index),
                    };
                    Step::Append(position, Bytes::from(vec![byte; len]))
                };
                (last + 1..=last + count).map(append).collect()
            }
            60..70 => vec![Step::Vote(Bytes::from(
                self.below(u64::MAX).to_le_bytes().to_vec(),
            ))],
            70..78 => {
                self.shards.get_mut(&id).unwrap().term += 1;
                vec![Step::Truncate((somewhere > 0).then_some(RaftIndex(somewhere)))]
            }
            78..88 => {
                // Rarely beyond the end, as when a snapshot is installed.
                let through = if self.below(20) == 0 { last + 5 } else { somewhere };
                let known = model.entries.get(&through).map(|(term, _)| *term);
                let term = known.unwrap_or(Term(term));
                if through == 0 || model.purged.is_some_and(|purged| purged.index.0 >= through) {
                    return;
                }
                vec![Step::Purge(LogPosition {
                    term,
                    index: RaftIndex(through),
                })]
            }
            88..99 => {
                let shard = self.shards.get_mut(&id).unwrap();
                shard.released = shard.released.max(purged);
                journal.release(id, RaftIndex(purged));
                return;
            }
            _ => {
                let shard = self.shards.get_mut(&id).unwrap();
                shard.term += 1;
                vec![Step::Reset]
            }
        };
        self.submit(id, steps, journal);
    }

    fn live(&mut self, rounds: u64) {
        let (journal, mut writer) = self.recover(true);
        let mut journal = Some(journal);
        for life in 0..rounds {
            let open = journal.take().unwrap();
            match self.below(4) {
                0 => self.disk.plan(self.below(60), Fault::Error),
                1 => self.disk.plan(self.below(60), Fault::Short),
                _ => self.disk.plan(self.below(150), Fault::PowerCut),
            }
            for _ in 0..self.below(250) {
                self.work(&open);
                if self.below(3) == 0 {
                    writer.run_round();
                }
                if open.usage().poisoned.is_some() {
                    break;
                }
                if self.below(10) == 0 {
                    for (id, shard) in &self.shards {
                        if let Some(last) = shard.now.last().filter(|_| open.usage().poisoned.is_none()) {
                            let bytes = &shard.now.entries[&last.index.0].1;
                            let len = u32::try_from(bytes.len()).unwrap();
                            let read = open.read(*id, last.index, 0, len);
                            // The power may have gone already.
                            if !matches!(read, Err(ReadError::Io(_))) {
                                assert_eq!(
                                    read.map(|parts| parts.concat()),
                                    Ok(bytes.to_vec()),
                                    "life {life}"
                                );
                            }
                        }
                    }
                }
            }
            let usage = open.usage();
            self.rolled = self.rolled.max(usage.active_file);
            self.retired += usage.files_retired;
            let power_cut = self.below(3) > 0;
            if power_cut {
                self.disk.power_cut();
            } else {
                self.disk.kill();
            }
            drop((open, writer));
            let mut order = std::mem::take(&mut *self.order.lock());
            order.sort_by_key(|(shard, _)| *shard);
            assert!(
                order.is_sorted(),
                "each shard is acknowledged in the order of submission"
            );
            let recovered = self.recover(self.settings.durability == Durability::Fsync);
            writer = recovered.1;
            journal = Some(recovered.0);
        }
    }
}

fn live(seeds: std::ops::Range<u64>, durability: Durability) {
    let (mut rolled, mut retired) = (0, 0);
    let one = std::env::var("JOURNAL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    for seed in seeds.filter(|seed| one.is_none_or(|one: u64| one == *seed)) {
        // A failure names its seed through the thread's panic message below.
        let result = std::panic::catch_unwind(|| {
            let mut world = World::seeded(seed, durability);
            world.live(6);
            (world.rolled, world.retired)
        });
        match result {
            Ok((files, gone)) => {
                rolled += files;
                retired += gone;
            }
            Err(panic) => {
                eprintln!("failed with seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        rolled > 0 && retired > 0,
        "the work must reach rolling ({rolled}) and deletion ({retired})"
    );
}

#[test]
fn acknowledged_work_survives_any_crash_and_nothing_is_invented() {
    live(0..seeds(), Durability::Fsync);
}

#[test]
fn without_fsync_a_power_cut_leaves_a_prefix() {
    live(1000..1000 + seeds(), Durability::Memory);
}

/// How many seeds to try: `JOURNAL_SEEDS`, or enough for every day. `JOURNAL_SEED` picks a single one.
fn seeds() -> u64 {
    std::env::var("JOURNAL_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(120)
}
