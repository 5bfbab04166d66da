//! Two regions' replicas of one shard, what is written to one, and how it comes to the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_lineage::{
    BeginEpoch, ContentCommand, ContentDigest, ContentReader, ContentRun, MirrorRejected, SequencePoint,
};
use meridian_types::{
    LeaderEpoch, Offset, Partition, RaftIndex, RegionEpoch, RegionNumber, ShardId, TimestampMs,
};

use crate::command::{AppendGroup, Command, CommittedOffset, ExpiredOffsets};
use crate::mirror::Mirrored;
use crate::state::{Outcome, State};
use crate::testing::{BatchSpec, at, bundle, group, partition, topic};

pub(super) const WEST: RegionNumber = RegionNumber(0);
pub(super) const EAST: RegionNumber = RegionNumber(1);

/// One region's replica of the shard, with its log.
pub(super) struct Replica {
    pub(super) region: RegionNumber,
    pub(super) state: State,
    pub(super) log: Vec<Bytes>,
    pub(super) bundles: u128,
}

impl Replica {
    pub(super) fn new(region: RegionNumber) -> Self {
        Self {
            region,
            state: State::new(ShardId(3)),
            log: Vec::new(),
            bundles: 0,
        }
    }

    pub(super) fn apply(&mut self, command: &Command) -> Outcome {
        let entry: Bytes = command.encode().concat().into();
        // As a node would: from the bytes of the log.
        let command = Command::decode(std::slice::from_ref(&entry)).unwrap();
        self.log.push(entry);
        let outcome = self.state.apply(at(self.log.len() as u64), &command);
        self.state.check().unwrap();
        outcome
    }

    pub(super) fn begin(&mut self, epoch: u32, owner: RegionNumber) {
        let begin = BeginEpoch {
            region_epoch: RegionEpoch(epoch),
            owner,
            is_owner: owner == self.region,
            expected_sequence: self.state.standing().sequence(),
        };
        assert_eq!(self.apply(&Command::BeginEpoch(begin)), Outcome::Begun(Ok(())));
    }

    pub(super) fn run(&mut self, run: ContentRun) -> Result<Mirrored, MirrorRejected> {
        match self.apply(&Command::Mirrored(run)) {
            Outcome::Mirrored(result) => result,
            other => panic!("a run is answered as such, not by {other:?}"),
        }
    }

    /// Everything in the bucket, and nothing hot any more.
    pub(super) fn tier(&mut self) {
        if self.state.untiered().next().is_none() {
            return;
        }
        self.bundles += 1;
        let through = RaftIndex(self.log.len() as u64);
        let command = bundle(
            &self.state,
            through,
            self.bundles << 32 | u128::from(self.region.0),
        );
        assert_eq!(self.apply(&command), Outcome::Tier(Ok(())));
        let starts = self
            .state
            .partitions()
            .map(|(partition, state)| (partition, state.high_watermark()));
        let starts = starts.collect();
        self.apply(&Command::SetLocalStart { starts });
    }

    pub(super) fn restart(&mut self) {
        self.state = State::decode_snapshot(&self.state.encode_snapshot().concat()).unwrap();
    }

    /// The content of the log from `sequence` on, one command each, as a feed reads it.
    pub(super) fn content(&self, sequence: u64) -> Vec<ContentRun> {
        let point = self.state.standing().index().at_or_before(sequence).unwrap();
        let SequencePoint { index, progress } = *point;
        let mut reader = ContentReader::new(progress, self.region);
        let mut content = Vec::new();
        for entry in &self.log[index.0 as usize - 1..] {
            let mut before = *reader.progress();
            if let Some(run) = reader.read::<Command>(entry).unwrap() {
                assert_eq!(run.first_sequence, before.sequence);
                for (sequence, bytes) in (before.sequence..).zip(&run.commands) {
                    let command = Command::read(bytes).unwrap();
                    before.digest = command.fold(before.digest);
                    content.push(ContentRun {
                        region_epoch: run.region_epoch,
                        first_sequence: sequence,
                        commands: vec![bytes.clone()],
                        digest: before.digest,
                    });
                }
            }
        }
        let standing = self.state.standing();
        assert_eq!(
            reader.progress(),
            standing.progress(),
            "the reader follows the state"
        );
        content.retain(|run| run.first_sequence >= sequence);
        assert_eq!(content.len() as u64, standing.sequence() - sequence);
        content
    }

    pub(super) fn end(&self, to: Partition) -> u64 {
        self.state
            .partition(to)
            .map_or(0, |state| state.high_watermark().0)
    }
}

/// Log start, high watermark, digest, epochs with where they begin, and producers.
type PartitionView = (
    Offset,
    Offset,
    u64,
    Vec<(LeaderEpoch, Offset)>,
    Vec<crate::Producer>,
);

/// Everything of a state that a client can see, or that decides what clients will see.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    pub(super) partitions: BTreeMap<Partition, PartitionView>,
    pub(super) groups: BTreeMap<String, crate::Group>,
    pub(super) dropped: BTreeMap<meridian_types::TopicId, TimestampMs>,
    pub(super) sequence: u64,
    pub(super) digest: ContentDigest,
    pub(super) epoch: RegionEpoch,
    pub(super) spans: Vec<(RegionEpoch, u64)>,
}

pub(super) fn view(replica: &Replica) -> View {
    let state = &replica.state;
    let standing = state.standing();
    let seen = |(partition, held): (Partition, &crate::PartitionState)| {
        let facts = (
            held.log_start_offset(),
            held.high_watermark(),
            held.digest(),
            held.epochs.entries().to_vec(),
            held.producers().to_vec(),
        );
        (partition, facts)
    };
    View {
        partitions: state.partitions().map(seen).collect(),
        groups: state
            .groups()
            .map(|(name, group)| (name.to_owned(), group.clone()))
            .collect(),
        dropped: state.dropped.clone(),
        sequence: standing.sequence(),
        digest: standing.digest(),
        epoch: standing.region_epoch(),
        spans: standing.lineage().spans().to_vec(),
    }
}

/// The batches of the hot index, as a reader takes them from the log.
pub(super) fn hot_bytes(replica: &Replica) -> BTreeMap<Partition, BTreeMap<Offset, Bytes>> {
    let read = |chunk: crate::Chunk| {
        let entry = &replica.log[chunk.index.0 as usize - 1];
        let bytes = entry.slice(chunk.at as usize..(chunk.at + chunk.bytes) as usize);
        (chunk.base_offset, bytes)
    };
    let of = |(partition, state): (Partition, &crate::PartitionState)| {
        (partition, state.chunks().map(read).collect())
    };
    replica.state.partitions().map(of).collect()
}

/// A small generator, so that a seed is a whole history.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }
}

pub(super) fn now(dice: &mut Dice) -> TimestampMs {
    TimestampMs(1_700_000_000_000 + dice.roll(200_000_000) as i64)
}

/// Something that an owner adds: mostly what fits, now and then what its own state refuses.
pub(super) fn content(dice: &mut Dice, owner: &Replica, epoch: u32) -> Command {
    let now = now(dice);
    let some = partition(1 + u128::from(dice.roll(3)), dice.roll(2) as u32);
    match dice.roll(14) {
        0..7 => {
            let mut ends: BTreeMap<Partition, u64> = BTreeMap::new();
            let mut groups: Vec<AppendGroup> = Vec::new();
            for _ in 0..=dice.roll(3) {
                let to = partition(1 + u128::from(dice.roll(3)), dice.roll(2) as u32);
                let end = ends.entry(to).or_insert_with(|| owner.end(to));
                let known = dice.roll(3) == 0;
                let spec = BatchSpec {
                    records: 1 + dice.roll(4) as u32,
                    max_timestamp: now.0,
                    producer: known.then(|| (dice.roll(3), 0, dice.roll(3) as i32)),
                    crc: dice.roll(1 << 32) as u32,
                    body_bytes: dice.roll(30) as usize,
                };
                let stamp = *end + u64::from(dice.roll(12) == 0);
                let election = 1 + dice.roll(2) as u32 * u32::from(dice.roll(9) == 0);
                groups.push(group(to, [spec.stamped(stamp, epoch << 20 | election)]));
                *end += u64::from(spec.records);
            }
            Command::Append { now, groups }
        }
        7 => Command::CommitOffsets {
            group: format!("g{}", dice.roll(3)),
            now,
            offsets: vec![(
                some,
                CommittedOffset {
                    offset: Offset(dice.roll(9)),
                    leader_epoch: None,
                    metadata: "m".into(),
                    committed_at: now,
                },
            )],
        },
        8 => Command::SaveGroup {
            group: format!("g{}", dice.roll(3)),
            body: vec![dice.roll(256) as u8; 5].into(),
            now,
        },
        9 => Command::DeleteGroups {
            groups: vec![format!("g{}", dice.roll(3))],
        },
        10 => Command::SetLogStart {
            starts: vec![(some, Offset(dice.roll(owner.end(some) + 3)))],
        },
        11 => Command::ExpireOffsets {
            now,
            expired: vec![ExpiredOffsets {
                group: "g0".into(),
                offsets: vec![(some, now)],
            }],
        },
        12 if dice.roll(4) == 0 => Command::DropTopic {
            topic: topic(1 + u128::from(dice.roll(3))),
            now,
        },
        12 => Command::DeleteOffsets {
            group: "g1".into(),
            partitions: vec![some],
        },
        _ => Command::ExpireProducers { now },
    }
}

/// One run over all of `content[from..to]`.
pub(super) fn joined(content: &[ContentRun], from: usize, to: usize) -> ContentRun {
    let runs = &content[from..to];
    ContentRun {
        commands: runs.iter().flat_map(|run| run.commands.clone()).collect(),
        digest: runs[runs.len() - 1].digest,
        ..runs[0].clone()
    }
}

/// Ways to spoil a run that fits; each is refused, and named.
pub(super) fn spoil(dice: &mut Dice, run: &ContentRun) -> ContentRun {
    let mut bad = run.clone();
    match dice.roll(6) {
        0 => bad.first_sequence += 1,
        1 => bad.region_epoch = RegionEpoch(bad.region_epoch.0 + 1),
        2 => bad.digest.0 ^= 1 << dice.roll(64),
        3 => {
            let place = dice.roll(bad.commands.len() as u64) as usize;
            let own = Command::SetLocalStart { starts: vec![] };
            bad.commands[place] = own.encode().concat().into();
        }
        4 => {
            let place = dice.roll(bad.commands.len() as u64) as usize;
            let mut bytes = bad.commands[place].to_vec();
            let byte = 2 + dice.roll(bytes.len() as u64 - 2) as usize;
            bytes[byte] ^= 1 << dice.roll(8);
            bad.commands[place] = bytes.into();
        }
        _ => {
            let place = dice.roll(bad.commands.len() as u64) as usize;
            bad.commands[place] = bad.commands[place].slice(..1);
        }
    }
    bad
}

/// Brings the mirror to where the owner is, by frames of any cut, some twice, some overlapping, some spoilt.
pub(super) fn feed(dice: &mut Dice, owner: &Replica, mirror: &mut Replica) {
    let content = owner.content(0);
    loop {
        let sequence = mirror.state.standing().sequence() as usize;
        if sequence == content.len() {
            break;
        }
        let epoch = content[sequence].region_epoch;
        let end_of_epoch = content
            .iter()
            .position(|run| run.region_epoch > epoch)
            .unwrap_or(content.len());
        let overlap = dice.roll(4).saturating_sub(1) as usize;
        let start_of_epoch = content.iter().position(|run| run.region_epoch == epoch).unwrap();
        let from = sequence.saturating_sub(overlap).max(start_of_epoch);
        let to = (sequence + 1 + dice.roll(9) as usize).min(end_of_epoch);
        let run = joined(&content, from, to);
        if mirror.state.standing().region_epoch() < epoch {
            assert!(matches!(
                mirror.run(run.clone()),
                Err(MirrorRejected::NewEpoch { .. })
            ));
            let owner = if epoch.0.is_multiple_of(2) { WEST } else { EAST };
            mirror.begin(epoch.0, owner);
        }
        if dice.roll(3) == 0 {
            let bad = spoil(dice, &joined(&content, sequence, to));
            let before = view(mirror);
            // A flipped bit in the body of a batch is what its checksum is for.
            let decoded: Vec<_> = bad.commands.iter().map(Command::read).collect();
            let same_digest = {
                let folded = decoded
                    .iter()
                    .try_fold(mirror.state.standing().digest(), |digest, command| {
                        Some(command.as_ref().ok()?.fold(digest))
                    });
                bad.first_sequence == sequence as u64
                    && bad.region_epoch == epoch
                    && folded == Some(bad.digest)
                    && bad.digest == joined(&content, sequence, to).digest
            };
            if !same_digest {
                let is_corrupt = bad.first_sequence == sequence as u64 && bad.region_epoch == epoch;
                let rejected = mirror.run(bad).unwrap_err();
                assert_eq!(view(mirror), before, "{rejected}");
                assert_eq!(
                    mirror.state.standing().diverged_at().is_some(),
                    is_corrupt,
                    "{rejected}"
                );
            }
        }
        let taken = mirror.run(run.clone()).unwrap();
        assert_eq!((taken.sequence, taken.commands), (to as u64, to - sequence));
        assert_eq!(mirror.state.standing().diverged_at(), None);
        if dice.roll(4) == 0 {
            assert_eq!(
                mirror.run(run).unwrap().commands,
                0,
                "a frame that comes again changes nothing"
            );
        }
        match dice.roll(8) {
            0 => mirror.restart(),
            1 => mirror.tier(),
            _ => {}
        }
    }
}

pub(super) fn write(dice: &mut Dice, owner: &mut Replica, epoch: u32, count: u64) {
    for _ in 0..count {
        let command = content(dice, owner, epoch);
        let outcome = owner.apply(&command);
        assert!(matches!(outcome, Outcome::Append(_) | Outcome::Done));
        match dice.roll(25) {
            0 => owner.restart(),
            1 => owner.tier(),
            _ => {}
        }
    }
}

pub(super) fn begun() -> (Replica, Replica) {
    let (mut west, mut east) = (Replica::new(WEST), Replica::new(EAST));
    west.begin(0, WEST);
    east.begin(0, WEST);
    (west, east)
}
