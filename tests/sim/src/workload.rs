//! What clients do, and what they remember of it for the checker.
//!
//! They call the region's nodes as the broker's handlers do. Kafka's wire is left out: it holds no state of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use meridian_checker::{Event, Value};
use meridian_shard::{Append, AppendError, ReadError, ReadFrom, Region};
use meridian_state::ProduceRejection;
use meridian_types::{Offset, Partition, ProducerId, TimestampMs};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression, records};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use crate::world::World;

/// A client waits so long for an answer, then asks again, perhaps elsewhere.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Long enough to be told what became of a proposal whose leader was replaced.
const LONG_PATIENCE: Duration = Duration::from_secs(8);
/// Pause before the next attempt.
const PAUSE_MS: u64 = 50;
/// Batches in flight of one producer to one partition; Kafka's clients have five.
const IN_FLIGHT: usize = 4;
const FETCH_BYTES: usize = 8 << 10;

/// What a client remembers.
#[derive(Default)]
pub struct Memory(RefCell<Vec<Event>>);

impl Memory {
    /// Remembers one more.
    pub fn note(&self, event: Event) {
        self.0.borrow_mut().push(event);
    }

    /// Everything, in its order.
    pub fn take(&self) -> Vec<Event> {
        self.0.take()
    }
}

struct Batch {
    first: u64,
    count: u64,
    bytes: Bytes,
}

/// An idempotent producer to one partition: whatever is not acknowledged is sent again, in order, until it is
/// or the run is over.
pub async fn produce(
    world: Rc<World>,
    producer: u32,
    partition: u32,
    mut random: StdRng,
    memory: Rc<Memory>,
) {
    let target = world.partition(partition);
    let mut next = 0_u64;
    let mut waiting: VecDeque<Batch> = VecDeque::new();
    let mut known: Option<u32> = None;
    loop {
        if !world.producing.get() && (waiting.is_empty() || world.over.get()) {
            break;
        }
        while world.producing.get() && waiting.len() < IN_FLIGHT {
            let count = random.random_range(1..=3);
            waiting.push_back(batch(producer, partition, next, count));
            next += count;
            memory.note(Event::Sent {
                producer,
                partition,
                count: next,
            });
        }
        let Some(region) = leader(&world, known, target) else {
            known = world.any(&mut random);
            sleep(world.pause(PAUSE_MS)).await;
            continue;
        };
        // In order, without waiting for one another: the later ones meet whatever became of the first.
        let appends: Vec<_> = waiting
            .iter()
            .map(|batch| timeout(PATIENCE, append(&region, target, &batch.bytes)))
            .collect();
        drop(region);
        let mut calm = true;
        let mut settled = 0;
        for (batch, answer) in waiting.iter().zip(join_all(appends).await) {
            match answer {
                Ok(Ok(appended)) if calm => {
                    acknowledge(&memory, producer, partition, batch, appended.base_offset);
                    settled += 1;
                }
                Ok(Err(AppendError::Rejected(
                    rejection @ (ProduceRejection::InvalidProducerEpoch(_)
                    | ProduceRejection::InvalidTxnState
                    | ProduceRejection::TopicDropped
                    | ProduceRejection::Malformed),
                ))) => {
                    world.complain(format!("producer {producer}: {rejection}"));
                    calm = false;
                }
                // Everything before it is acknowledged, so the region must know what comes next. librdkafka would take
                // a new epoch now and send again what may be in the log.
                Ok(Err(AppendError::Rejected(rejection @ ProduceRejection::OutOfOrderSequence(_))))
                    if calm =>
                {
                    world.complain(format!("producer {producer}, partition {partition}: {rejection}"));
                    calm = false;
                }
                // Acknowledged behind one that was not: it will be a duplicate when it comes again.
                _ => calm = false,
            }
        }
        waiting.drain(..settled);
        world.acknowledged.set(world.acknowledged.get() + settled as u64);
        if calm {
            if random.random_bool(0.1) {
                // A client asks anybody for the leader, also one who does not know yet that there is another.
                known = world.any(&mut random);
            }
            sleep(world.pause(random.random_range(1..150))).await;
        } else {
            known = world.any(&mut random);
            sleep(world.pause(PAUSE_MS)).await;
        }
    }
    for batch in waiting {
        for sequence in batch.first..batch.first + batch.count {
            memory.note(Event::Unknown {
                value: Value {
                    producer,
                    partition,
                    sequence,
                },
            });
        }
    }
}

/// A producer without idempotence: each record is sent once, and what is refused for certain must never be seen.
pub async fn produce_once(
    world: Rc<World>,
    producer: u32,
    partition: u32,
    mut random: StdRng,
    memory: Rc<Memory>,
) {
    let target = world.partition(partition);
    let mut sequence = 0;
    while world.producing.get() {
        sleep(world.pause(random.random_range(5..80))).await;
        // Any node, right or wrong: its answer must be true.
        let Some(region) = world.any(&mut random).and_then(|node| world.region(node)) else {
            continue;
        };
        let value = Value {
            producer,
            partition,
            sequence,
        };
        sequence += 1;
        memory.note(Event::Sent {
            producer,
            partition,
            count: sequence,
        });
        let bytes = build(&[value], None);
        let answer = timeout(LONG_PATIENCE, append(&region, target, &bytes)).await;
        memory.note(match answer {
            Ok(Ok(appended)) => Event::Ok {
                value,
                offset: appended.base_offset.0,
            },
            Ok(Err(AppendError::NotLeader { .. } | AppendError::Busy { .. } | AppendError::Rejected(_))) => {
                Event::Fail { value }
            }
            Ok(Err(AppendError::Unknown { .. } | AppendError::Storage { .. })) | Err(_) => {
                Event::Unknown { value }
            }
        });
    }
}

/// Reads all partitions in turn, from the leader or from any replica, each from where it was.
pub async fn consume(world: Rc<World>, mut random: StdRng, memory: Rc<Memory>) {
    let mut positions = vec![Offset(0); world.partitions as usize];
    for partition in 0..world.partitions {
        memory.note(Event::Position { partition, offset: 0 });
    }
    while !world.over.get() {
        sleep(world.pause(random.random_range(5..60))).await;
        let partition = random.random_range(0..world.partitions);
        let follower = random.random_bool(0.5);
        let Some(region) = world.any(&mut random).and_then(|node| world.region(node)) else {
            continue;
        };
        let reader = if follower { ReadFrom::Any } else { ReadFrom::Leader };
        let position = &mut positions[partition as usize];
        let read = region.read(world.partition(partition), *position, FETCH_BYTES, reader);
        if let Ok(Ok(batches)) = timeout(PATIENCE, read).await {
            for piece in &batches.records {
                note_records(&world, &memory, partition, piece, position);
            }
        }
    }
}

/// Reads partitions from their start to their end, again and again, as those do who catch up: from any replica, and from
/// the bucket what only it has.
pub async fn catch_up(world: Rc<World>, mut random: StdRng, memory: Rc<Memory>) {
    while !world.over.get() {
        sleep(world.pause(random.random_range(50..1_000))).await;
        let partition = random.random_range(0..world.partitions);
        let target = world.partition(partition);
        let Some(node) = world.any(&mut random) else {
            continue;
        };
        let known = world
            .region(node)
            .map(|region| region.positions(target, ReadFrom::Any));
        let Some(Ok(positions)) = known else { continue };
        let mut position = positions.log_start_offset;
        memory.note(Event::Position {
            partition,
            offset: position.0,
        });
        while position < positions.high_watermark && !world.over.get() {
            let Some(region) = world.region(node) else { break };
            let before = position;
            let read = region.read(target, position, FETCH_BYTES, ReadFrom::Any);
            if let Ok(Ok(batches)) = timeout(PATIENCE, read).await {
                for piece in &batches.records {
                    note_records(&world, &memory, partition, piece, &mut position);
                }
            }
            if position == before {
                break;
            }
        }
    }
}

/// Reads a partition from its start to its end at one node, after the last fault. Errors: why it cannot be read.
pub async fn read_all(world: &World, node: u32, partition: u32, memory: &Memory) -> Result<(), String> {
    let region = world
        .region(node)
        .ok_or_else(|| format!("node {node} does not run"))?;
    let target = world.partition(partition);
    let failed = |error: ReadError| format!("node {node}, partition {partition}: {error}");
    let positions = region.positions(target, ReadFrom::Any).map_err(failed)?;
    let (start, end) = (positions.log_start_offset, positions.high_watermark);
    memory.note(Event::Position {
        partition,
        offset: start.0,
    });
    let mut position = start;
    while position < end {
        let before = position;
        let batches = region
            .read(target, position, FETCH_BYTES, ReadFrom::Any)
            .await
            .map_err(failed)?;
        for piece in &batches.records {
            note_records(world, memory, partition, piece, &mut position);
        }
        if position == before {
            return Err(format!(
                "node {node}, partition {partition}: nothing at {position} below the end {end}"
            ));
        }
    }
    memory.note(Event::Complete {
        partition,
        start: start.0,
        end: end.0,
    });
    Ok(())
}

fn leader(world: &World, known: Option<u32>, target: Partition) -> Option<Region> {
    let asked = world.region(known?)?;
    let shard = asked.shard_of(target);
    let remote = asked.remote();
    let stays = target.topic.home().is_some();
    let leader = match !stays && remote.is_owner_elsewhere() {
        true => remote.leader_of(shard)?.0,
        // Of a topic that stays elsewhere nobody, so that the client asks somebody else.
        false => asked.leader_of(shard)?,
    };
    world.region_of(leader)
}

/// Queued when this returns; the region itself is not held while the answer is awaited, as it may crash.
fn append(region: &Region, target: Partition, batch: &Bytes) -> Append {
    let header = BatchHeader::parse(batch).expect("built here");
    region.append(target, BytesMut::from(&batch[..]), header)
}

fn acknowledge(memory: &Memory, producer: u32, partition: u32, batch: &Batch, base: Offset) {
    for index in 0..batch.count {
        memory.note(Event::Ok {
            value: Value {
                producer,
                partition,
                sequence: batch.first + index,
            },
            offset: base.0 + index,
        });
    }
}

fn batch(producer: u32, partition: u32, first: u64, count: u64) -> Batch {
    let values: Vec<_> = (first..first + count)
        .map(|sequence| Value {
            producer,
            partition,
            sequence,
        })
        .collect();
    let base_sequence = i32::try_from(first).expect("a short run");
    Batch {
        first,
        count,
        bytes: build(&values, Some((ProducerId(u64::from(producer)), 0, base_sequence))),
    }
}

fn build(values: &[Value], producer: Option<(ProducerId, i16, i32)>) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.with_producer(id, epoch, sequence);
    }
    for value in values {
        let text = format!("{} {} {}", value.producer, value.partition, value.sequence);
        builder
            .push(TimestampMs(1), None, Some(text.as_bytes()), &[])
            .expect("a small record");
    }
    builder.build().expect("a good batch")
}

/// Remembers the records of whole batches from `position` on, and moves it behind them.
pub fn note_records(world: &World, memory: &Memory, partition: u32, piece: &Bytes, position: &mut Offset) {
    let mut rest = piece.clone();
    while !rest.is_empty() {
        let Ok(header) = BatchHeader::parse(&rest) else {
            world.complain(format!("partition {partition}: no batch at {position}"));
            return;
        };
        let batch = rest.split_to(header.size().min(rest.len()));
        let Ok(walk) = records(&batch, 1 << 20) else {
            world.complain(format!("partition {partition}: a damaged batch at {position}"));
            return;
        };
        for record in walk {
            let Ok(record) = record else {
                world.complain(format!("partition {partition}: a damaged record at {position}"));
                return;
            };
            if record.offset < *position {
                continue;
            }
            *position = Offset(record.offset.0 + 1);
            let value = record.value.as_deref().unwrap_or_default();
            memory.note(Event::Read {
                partition,
                offset: record.offset.0,
                value: String::from_utf8_lossy(value).into_owned(),
            });
        }
    }
}

/// A flag that all clients see.
pub type Flag = Cell<bool>;
