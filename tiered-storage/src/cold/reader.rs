//! The reader: frames from memory, disk or store, and what is read ahead.

use std::sync::Arc;

use bytes::Bytes;
use foyer::{Cache, CacheBuilder};
use meridian_types::{Offset, Partition, TimestampMs, Uuid};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cache::{CacheSettings, FrameCache, FrameKey, OpenCacheError};
use super::error::ColdError;
use super::flight::{Flights, Landing, Turn};
use super::frames::{NumberedFrame, frames_of, position_of};
use super::readahead::{Ahead, Streams, WINDOW_BYTES_MIN};
use super::seek::{Gathered, Room, find_in_batches};
use super::stats::{ColdStats, Counters, add, count};
use super::{COLD_READAHEAD_BYTES, ColdRun, FoundRecord};
use crate::aside::{Aside, Priority};
use crate::bundle::{Codec, Footer, FooterPlace, Frame, unframe};
use crate::store::{Store, StoreError};

/// Most stored bytes in one request that somebody waits for, unless a single frame is larger: the first bytes are
/// to be there soon.
const WANTED_REQUEST_BYTES: u64 = 2 << 20;

/// Most stored bytes in one request that reads ahead.
const AHEAD_REQUEST_BYTES: u64 = 8 << 20;

/// Footers in memory, in frames that they describe: 64 bytes each, about.
const FOOTER_FRAMES_MAX: usize = 256 << 10;

/// Bytes on their way are counted in units of this size.
const PERMIT_BYTES: usize = 1024;

/// Reads what lies in the bucket. See [the module](super).
#[derive(Clone)]
pub struct ColdReader {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    frames: FrameCache,
    frame_flights: Flights<FrameKey, Bytes>,
    footers: Cache<Uuid, Arc<Footer>>,
    footer_flights: Flights<Uuid, Arc<Footer>>,
    streams: Mutex<Streams>,
    in_flight: Arc<Semaphore>,
    in_flight_permits: usize,
    /// Checksums and decompression take a millisecond of a processor for a MiB or two. On the threads of the runtime that is a
    /// millisecond for which producers and readers at the tail wait, and a few who catch up keep all of them busy.
    unpackers: Aside,
    counters: Counters,
}

/// A frame that this task must fetch.
struct Due {
    frame: NumberedFrame,
    landing: Landing<FrameKey, Bytes>,
}

impl ColdReader {
    /// Opens the cache; what a disk holds of it is used again. Runs inside a tokio runtime.
    pub async fn open(store: Store, settings: &CacheSettings) -> Result<Self, OpenCacheError> {
        let in_flight_permits = (settings.in_flight_bytes_max / PERMIT_BYTES)
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        // What is read ahead of a few readers must fit, or it is gone before it is read.
        let window_bytes_max =
            (settings.memory_bytes as u64 / 4).clamp(WINDOW_BYTES_MIN, COLD_READAHEAD_BYTES);
        let footers = CacheBuilder::new(FOOTER_FRAMES_MAX)
            .with_weighter(|_: &Uuid, footer: &Arc<Footer>| 1 + footer.frames().len())
            .build();
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                frames: FrameCache::open(settings).await?,
                frame_flights: Flights::new(),
                footers,
                footer_flights: Flights::new(),
                streams: Mutex::new(Streams::new(window_bytes_max)),
                in_flight: Arc::new(Semaphore::new(in_flight_permits)),
                in_flight_permits,
                unpackers: Aside::start("unpack", processors(), Priority::Low),
                counters: Counters::default(),
            }),
        })
    }

    /// Reads whole batches of `partition` from the one that holds `from`, or the first behind it where compaction left
    /// a gap. Never empty.
    ///
    /// `runs` come from [`super::cold_runs`] and hold `from`. `bytes_max` is soft: the first batch is returned whole
    /// (KIP-74). May be dropped at any time: what it fetches goes on and is found by the next call.
    pub async fn read(
        &self,
        partition: Partition,
        runs: Vec<ColdRun>,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, ColdError> {
        let mut gathered = Gathered::default();
        if let Err(error) = self
            .inner
            .gather(partition, &runs, from, bytes_max, &mut gathered)
            .await
            && gathered.batches.is_empty()
        {
            return Err(error);
        }
        if gathered.batches.is_empty() {
            return Err(ColdError::NotCovered { from });
        }
        let ahead = self
            .inner
            .streams
            .lock()
            .advance(partition, from, gathered.next, gathered.bytes as u64);
        if let Some(ahead) = ahead {
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move { inner.read_ahead(partition, &runs, gathered.next, ahead).await });
        }
        Ok(gathered.batches)
    }

    /// Finds the first record at or behind `from` whose timestamp is `timestamp` or later, in `runs`.
    pub async fn find_timestamp(
        &self,
        partition: Partition,
        runs: &[ColdRun],
        from: Offset,
        timestamp: TimestampMs,
    ) -> Result<Option<FoundRecord>, ColdError> {
        let inner = &self.inner;
        for run in runs {
            if run.extent.end_offset <= from || run.extent.max_timestamp < timestamp {
                continue;
            }
            let frames = inner.directory(partition, run).await?;
            for frame in &frames[position_of(&frames, from)..] {
                if frame.frame.max_timestamp < timestamp {
                    continue;
                }
                let row = inner.frame(run, std::slice::from_ref(frame), 0).await?;
                let found = find_in_batches(&row, from, timestamp)
                    .map_err(|reason| ColdError::damaged(&run.key, &reason))?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// What was done since it was opened.
    pub fn stats(&self) -> ColdStats {
        let inner = &self.inner;
        let used = inner.in_flight_permits - inner.in_flight.available_permits();
        ColdStats {
            in_flight_bytes: (used * PERMIT_BYTES) as u64,
            in_flight_frames: inner.frame_flights.len() as u64,
            ..inner.counters.stats()
        }
    }

    /// Closes the local disk.
    pub async fn close(&self) {
        self.inner.frames.close().await;
    }
}

impl Inner {
    async fn gather(
        self: &Arc<Self>,
        partition: Partition,
        runs: &[ColdRun],
        from: Offset,
        bytes_max: usize,
        gathered: &mut Gathered,
    ) -> Result<(), ColdError> {
        for run in runs.iter().filter(|run| run.extent.end_offset > from) {
            let frames = self.directory(partition, run).await?;
            for at in position_of(&frames, from)..frames.len() {
                let wanted_bytes = bytes_max.saturating_sub(gathered.bytes) as u64;
                let row = self.frame(run, &frames[at..], wanted_bytes).await?;
                let room = gathered
                    .take(&row, from, bytes_max)
                    .map_err(|reason| ColdError::damaged(&run.key, &reason))?;
                if room == Room::Full {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The frames of a run.
    async fn directory(
        self: &Arc<Self>,
        partition: Partition,
        run: &ColdRun,
    ) -> Result<Vec<NumberedFrame>, ColdError> {
        let footer = self.footer(run).await?;
        frames_of(&footer, partition, &run.extent).map_err(|reason| ColdError::damaged(&run.key, &reason))
    }

    async fn footer(self: &Arc<Self>, run: &ColdRun) -> Result<Arc<Footer>, ColdError> {
        let id = run.object.name.id;
        let there = || self.footers.get(&id).map(|entry| Arc::clone(entry.value()));
        let waiter = match self.footer_flights.turn(&id, there) {
            Turn::There(footer) => return Ok(footer),
            Turn::Wait(waiter) => waiter,
            Turn::Fetch(landing) => {
                let waiter = landing.waiter();
                let (inner, run) = (Arc::clone(self), run.clone());
                tokio::spawn(async move {
                    let result = inner.fetch_footer(&run).await;
                    if let Ok(footer) = &result {
                        inner.footers.insert(id, Arc::clone(footer));
                    }
                    landing.land(result);
                });
                waiter
            }
        };
        waiter.wait(|| format!("the footer of {}", run.key)).await
    }

    async fn fetch_footer(&self, run: &ColdRun) -> Result<Arc<Footer>, ColdError> {
        let object = &run.object;
        let place = FooterPlace {
            footer_at: object.footer_at,
            footer_crc: object.footer_crc,
        };
        let mut reason = String::new();
        // What is damaged may have been damaged on its way: once more.
        for _ in 0..2 {
            let bytes = self
                .store
                .get_range(&run.key, object.footer_at..object.bytes)
                .await
                .map_err(|error| self.failed(&run.key, error))?;
            match Footer::decode(&bytes, place) {
                Ok(footer) => return Ok(Arc::new(footer)),
                Err(error) => reason = error.to_string(),
            }
            count(&self.counters.damaged);
        }
        Err(ColdError::damaged(&run.key, &reason))
    }

    /// The batches of the first frame of `frames`. If it must be fetched, those behind it come along, up to
    /// `wanted_bytes`.
    async fn frame(
        self: &Arc<Self>,
        run: &ColdRun,
        frames: &[NumberedFrame],
        wanted_bytes: u64,
    ) -> Result<Bytes, ColdError> {
        let (first, behind) = frames.split_first().expect("a frame is wanted");
        let waiter = match self.turn(run, first) {
            Turn::There(row) => {
                count(&self.counters.memory_hits);
                return Ok(row);
            }
            Turn::Wait(waiter) => {
                count(&self.counters.joined);
                waiter
            }
            Turn::Fetch(landing) => {
                count(&self.counters.misses);
                let waiter = landing.waiter();
                let mut raw_bytes = u64::from(first.frame.raw_len);
                let mut stored_bytes = u64::from(first.frame.stored_len);
                let mut due = vec![Due {
                    frame: *first,
                    landing,
                }];
                for frame in behind {
                    stored_bytes += u64::from(frame.frame.stored_len);
                    if raw_bytes >= wanted_bytes
                        || stored_bytes > WANTED_REQUEST_BYTES
                        || !follows(&due[due.len() - 1].frame.frame, &frame.frame)
                    {
                        break;
                    }
                    let Turn::Fetch(landing) = self.turn(run, frame) else {
                        break;
                    };
                    raw_bytes += u64::from(frame.frame.raw_len);
                    due.push(Due {
                        frame: *frame,
                        landing,
                    });
                }
                let (inner, key) = (Arc::clone(self), run.key.clone());
                tokio::spawn(async move {
                    let permits = inner.permits(due.iter().map(|due| &due.frame.frame));
                    let permit = Arc::clone(&inner.in_flight).acquire_many_owned(permits).await;
                    let _permit = permit.expect("the semaphore is never closed");
                    inner.fill(&key, due).await;
                });
                waiter
            }
        };
        waiter
            .wait(|| format!("frame {} of {}", first.number, run.key))
            .await
    }

    fn turn(&self, run: &ColdRun, frame: &NumberedFrame) -> Turn<FrameKey, Bytes> {
        let key = FrameKey {
            object: run.object.name.id,
            frame: frame.number,
        };
        self.frame_flights.turn(&key, || self.frames.in_memory(&key))
    }

    /// What frames count as on their way, at most everything that may be.
    fn permits<'a>(&self, frames: impl Iterator<Item = &'a Frame>) -> u32 {
        let bytes: usize = frames
            .map(|frame| frame.stored_len as usize + frame.raw_len as usize)
            .sum();
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.in_flight_permits);
        u32::try_from(permits).unwrap_or(u32::MAX)
    }

    /// Begins to fetch what is not there of `ahead`, for the reader that will ask for `next`.
    async fn read_ahead(
        self: &Arc<Self>,
        partition: Partition,
        runs: &[ColdRun],
        next: Offset,
        ahead: Ahead,
    ) {
        let mut asked_bytes = 0;
        let mut until = ahead.from;
        'runs: for run in runs.iter().filter(|run| run.extent.end_offset > ahead.from) {
            // Whoever gets there finds out what is wrong.
            let Ok(frames) = self.directory(partition, run).await else {
                break;
            };
            let mut due = Vec::new();
            let mut permit = None;
            for frame in &frames[position_of(&frames, ahead.from)..] {
                if asked_bytes >= ahead.bytes {
                    self.fill_ahead(run, &mut due, &mut permit);
                    break 'runs;
                }
                // Taken before its turn: nobody must come to wait for a frame that is then not fetched.
                let permits = self.permits(std::iter::once(&frame.frame));
                let Ok(more) = Arc::clone(&self.in_flight).try_acquire_many_owned(permits) else {
                    count(&self.counters.readahead_skipped);
                    self.fill_ahead(run, &mut due, &mut permit);
                    break 'runs;
                };
                let turn = self.turn(run, frame);
                if let Turn::Fetch(landing) = turn {
                    let bytes: u64 = due
                        .iter()
                        .map(|due: &Due| u64::from(due.frame.frame.stored_len))
                        .sum();
                    let fits = due
                        .last()
                        .is_none_or(|last| follows(&last.frame.frame, &frame.frame))
                        && bytes + u64::from(frame.frame.stored_len) <= AHEAD_REQUEST_BYTES;
                    if !fits {
                        self.fill_ahead(run, &mut due, &mut permit);
                    }
                    due.push(Due {
                        frame: *frame,
                        landing,
                    });
                    match &mut permit {
                        None => permit = Some(more),
                        Some(permit) => permit.merge(more),
                    }
                }
                asked_bytes += u64::from(frame.frame.raw_len);
                until = frame.frame.end_offset;
            }
            self.fill_ahead(run, &mut due, &mut permit);
        }
        self.streams.lock().asked(partition, next, until, asked_bytes);
    }

    fn fill_ahead(
        self: &Arc<Self>,
        run: &ColdRun,
        due: &mut Vec<Due>,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) {
        let (due, permit) = (std::mem::take(due), permit.take());
        if due.is_empty() {
            return;
        }
        count(&self.counters.readahead_fills);
        let (inner, key) = (Arc::clone(self), run.key.clone());
        tokio::spawn(async move {
            inner.fill(&key, due).await;
            drop(permit);
        });
    }

    /// Gets frames that lie one behind the other, from the disk or the store, and tells those who wait.
    async fn fill(&self, key: &str, due: Vec<Due>) {
        let mut missing: Vec<Due> = Vec::new();
        for due in due {
            let frame_key = due.landing.key();
            if let Some(row) = self.frames.on_disk(frame_key).await {
                count(&self.counters.disk_hits);
                due.landing.land(Ok(row));
                continue;
            }
            if missing
                .last()
                .is_some_and(|last| !follows(&last.frame.frame, &due.frame.frame))
            {
                self.fetch(key, std::mem::take(&mut missing)).await;
            }
            missing.push(due);
        }
        if !missing.is_empty() {
            self.fetch(key, missing).await;
        }
    }

    /// Fetches frames that lie one behind the other with one request.
    async fn fetch(&self, key: &str, due: Vec<Due>) {
        let start = due[0].frame.frame.at;
        let end = due[due.len() - 1].frame.frame.range().end;
        let stored = match self.get(key, start..end).await {
            Ok(stored) => stored,
            Err(error) => {
                for due in due {
                    due.landing.land(Err(error.clone()));
                }
                return;
            }
        };
        let is_alone = due.len() == 1;
        for Due { frame, landing } in due {
            let frame = frame.frame;
            let from = usize::try_from(frame.at - start).unwrap_or(usize::MAX);
            let part = stored
                .get(from..from.saturating_add(frame.stored_len as usize))
                .map(|part| stored.slice_ref(part));
            let opened = match part {
                Some(part) => self.unpack(frame, part).await,
                None => Err("it is cut short".to_owned()),
            };
            let result = match opened {
                Ok(row) => Ok(row),
                Err(reason) => self.fetch_again(key, &frame, &reason).await,
            };
            let result = result.map(|row| {
                // A frame must not hold the memory of those it was fetched with.
                if is_alone || frame.codec != Codec::Raw {
                    row
                } else {
                    Bytes::copy_from_slice(&row)
                }
            });
            if let Ok(row) = &result {
                self.frames.insert(*landing.key(), row.clone());
            }
            landing.land(result);
        }
    }

    /// A damaged frame may have been damaged on its way.
    async fn fetch_again(&self, key: &str, frame: &Frame, reason: &str) -> Result<Bytes, ColdError> {
        count(&self.counters.damaged);
        tracing::warn!(
            key,
            at = frame.at,
            reason,
            "a frame came damaged from the bucket; fetching it again"
        );
        let stored = self.get(key, frame.range()).await?;
        self.unpack(*frame, stored).await.map_err(|reason| {
            count(&self.counters.damaged);
            ColdError::damaged(key, &format!("the frame at byte {}: {reason}", frame.at))
        })
    }

    /// The batches of a frame. Errors: what is wrong with it.
    async fn unpack(&self, frame: Frame, stored: Bytes) -> Result<Bytes, String> {
        let opened = self.unpackers.run(move || unframe(&frame, &stored)).await;
        let opened = opened.map_err(|error| error.to_string())?;
        opened.map_err(|error| error.to_string())
    }

    async fn get(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, ColdError> {
        count(&self.counters.fills);
        let bytes = self
            .store
            .get_range(key, range)
            .await
            .map_err(|error| self.failed(key, error))?;
        add(&self.counters.fill_bytes, bytes.len() as u64);
        Ok(bytes)
    }

    fn failed(&self, key: &str, error: StoreError) -> ColdError {
        count(&self.counters.failures);
        ColdError::of_store(key, error)
    }
}

fn follows(first: &Frame, second: &Frame) -> bool {
    first.range().end == second.at
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
