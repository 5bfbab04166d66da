//! What both sides of a link share: its connections, what waits to be sent, and what has come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::pending;
use parking_lot::Mutex;
use quinn::{Connection, SendDatagramError};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::budget::{Budget, Held};
use crate::frame::{Applied, Frame, Reject, Subscription, WATERMARKS_MAX, WatermarkOf};
use crate::head::{ENTRIES_BYTES_MAX, FrameError};
use crate::lane::{FrameReader, FrameWriter, Lane, LaneError, read_frame, write_frame};
use crate::load::Load;
use crate::settings::Settings;
use crate::status::{Transport, TransportStatus};

/// Frames that keep their order and wait for the network; a side that lets more pile up does not read.
const QUEUE_FRAMES_MAX: usize = 1024;
/// Frames handed to the writer.
const WRITER_FRAMES: usize = 64;
/// Frames that came and wait to be looked at.
const EVENTS: usize = 64;
/// How long the last words of a link may take.
const FAREWELL: Duration = Duration::from_millis(200);

/// How often it is looked whether a lane's window has grown.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Pause before a frame travels for the second time.
const REPEATED_AFTER: Duration = Duration::from_millis(2);

/// What came.
#[derive(Debug)]
pub(crate) enum Event {
    /// A frame, and the bytes it holds.
    Frame(Frame, Held),
    /// The link is over.
    Ended(LaneError),
}

/// A link that is up.
pub(crate) struct Session {
    pub(crate) outgoing: Arc<Outgoing>,
    control: mpsc::Sender<Bytes>,
    queue: VecDeque<Bytes>,
    /// Only the newest counts.
    acknowledgements: BTreeMap<Subscription, u64>,
    events: mpsc::Sender<Event>,
    budget: Arc<Budget>,
    idle: Duration,
    tasks: JoinSet<()>,
    transport: Transport,
    peer: std::net::SocketAddr,
    is_authenticated: bool,
    started: Instant,
    rtt: Option<Duration>,
}

/// The way out for frames of entries; shared with the tasks that compress them.
pub(crate) struct Outgoing {
    lanes: Mutex<Vec<OutLane>>,
    /// With TCP, entries go the way of all frames, behind those that are not entries.
    tcp: Option<mpsc::Sender<(Vec<Bytes>, oneshot::Sender<()>)>>,
    next: AtomicUsize,
    /// Of the frame that is to be given to a lane next.
    turn: AsyncMutex<()>,
    /// A lane has less to do.
    freed: Notify,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

struct OutLane {
    connection: Connection,
    /// Bytes of frames that the other side has not acknowledged yet.
    waiting: Arc<AtomicUsize>,
}

/// Bytes of a frame that a lane has, until they are acknowledged.
struct Carried {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
    outgoing: Arc<Outgoing>,
}

/// A connection, and what it is given.
type Place = (Connection, Carried);

impl Drop for Carried {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
        self.outgoing.freed.notify_one();
    }
}

impl Session {
    /// Takes a greeted connection. `entries_bytes_max`: how many bytes of entries may be on their way in.
    pub(crate) fn start(
        lane: Lane,
        settings: &Settings,
        entries_bytes_max: usize,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, received) = mpsc::channel(EVENTS);
        let (control, frames) = mpsc::channel(WRITER_FRAMES);
        let (tcp, entries) = match lane.transport {
            Transport::Quic => (None, None),
            Transport::Tcp => {
                let (sender, receiver) = mpsc::channel(1);
                (Some(sender), Some(receiver))
            }
        };
        let outgoing = Arc::new(Outgoing {
            lanes: Mutex::default(),
            tcp,
            next: AtomicUsize::new(0),
            turn: AsyncMutex::new(()),
            freed: Notify::new(),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        });
        let idle = settings.idle_timeout;
        // One frame beyond what was asked for may be larger than everything else.
        let budget = Budget::new(entries_bytes_max.saturating_add(ENTRIES_BYTES_MAX) + (4 << 20));
        let mut session = Self {
            outgoing: outgoing.clone(),
            control,
            queue: VecDeque::new(),
            acknowledgements: BTreeMap::new(),
            events: events.clone(),
            budget: budget.clone(),
            idle,
            tasks: JoinSet::new(),
            transport: lane.transport,
            peer: lane.peer,
            is_authenticated: lane.is_authenticated,
            started: Instant::now(),
            rtt: None,
        };
        session.tasks.spawn(write(
            lane.writer,
            frames,
            entries,
            idle,
            events.clone(),
            outgoing.clone(),
        ));
        let carries_entries = lane.transport == Transport::Tcp;
        session
            .tasks
            .spawn(read(lane.reader, idle, budget, events, carries_entries, outgoing));
        if let Some(connection) = lane.quic {
            session.add_lane(connection);
        }
        (session, received)
    }

    /// One more connection for entries.
    pub(crate) fn add_lane(&mut self, connection: Connection) {
        self.tasks.spawn(read_streams(
            connection.clone(),
            self.idle,
            self.budget.clone(),
            self.events.clone(),
        ));
        self.tasks.spawn(read_datagrams(
            connection.clone(),
            self.events.clone(),
            self.budget.clone(),
        ));
        self.outgoing.lanes.lock().push(OutLane {
            connection,
            waiting: Arc::default(),
        });
    }

    /// Queues a frame that keeps its order. Errors: too many wait.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<(), LaneError> {
        if self.queue.len() >= QUEUE_FRAMES_MAX {
            return Err(LaneError::Stuck);
        }
        self.queue.push_back(frame.encode());
        Ok(())
    }

    /// Tells how far a shard is applied; only the newest word travels.
    pub(crate) fn acknowledge(&mut self, applied: Applied) {
        self.acknowledgements
            .insert(applied.subscription, applied.sequence);
    }

    /// Sends promises past everything else, or not at all: the next ones come soon.
    pub(crate) fn promise(&self, watermarks: &[WatermarkOf]) {
        for part in watermarks.chunks(WATERMARKS_MAX) {
            let frame = Frame::Watermarks(part.to_vec()).encode();
            let sent = match self.outgoing.lanes.lock().first() {
                Some(lane) => lane.connection.send_datagram(frame.clone()),
                None => Err(SendDatagramError::Disabled),
            };
            if sent.is_err() {
                let _ = self.control.try_send(frame);
            }
        }
    }

    /// Hands one waiting frame to the writer. Waits forever when there is none. Safe to cancel.
    pub(crate) async fn flush(&mut self) {
        if self.queue.is_empty() && self.acknowledgements.is_empty() {
            return pending().await;
        }
        let Ok(permit) = self.control.reserve().await else {
            // The writer has ended, and says so through an event.
            return pending().await;
        };
        if let Some(frame) = self.queue.pop_front() {
            permit.send(frame);
        } else if let Some((subscription, sequence)) = self.acknowledgements.pop_first() {
            let applied = Applied {
                subscription,
                sequence,
            };
            permit.send(Frame::Applied(applied).encode());
        }
    }

    /// Asks whether the other side is there.
    pub(crate) fn ping(&mut self) -> Result<(), LaneError> {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0);
        self.send(&Frame::Ping(micros))
    }

    /// The other side is there.
    pub(crate) fn handle_pong(&mut self, micros: u64) {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0);
        let sample = Duration::from_micros(now.saturating_sub(micros));
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// Time there and back, as far as is known.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.outgoing.lanes.lock().first() {
            Some(lane) => Some(lane.connection.rtt()),
            None => self.rtt,
        }
    }

    /// What the network says about the link.
    pub(crate) fn status(&self) -> TransportStatus {
        let lanes = self.outgoing.lanes.lock();
        let mut status = TransportStatus {
            transport: self.transport,
            is_authenticated: self.is_authenticated,
            peer: self.peer,
            connections: lanes.len().max(1),
            rtt: lanes.first().map_or(self.rtt, |lane| Some(lane.connection.rtt())),
            bytes_sent: self.outgoing.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.outgoing.bytes_received.load(Ordering::Relaxed),
            packets_sent: 0,
            packets_lost: 0,
            connected_for: self.started.elapsed(),
        };
        if !lanes.is_empty() {
            status.bytes_sent = 0;
            status.bytes_received = 0;
        }
        for lane in lanes.iter() {
            let stats = lane.connection.stats();
            status.bytes_sent += stats.udp_tx.bytes;
            status.bytes_received += stats.udp_rx.bytes;
            status.packets_sent += stats.path.sent_packets;
            status.packets_lost += stats.path.lost_packets;
        }
        status
    }

    /// Ends the link, and tells the other side why if it is its fault.
    pub(crate) async fn end(mut self, breach: Option<(Reject, String)>) {
        let lanes = std::mem::take(&mut *self.outgoing.lanes.lock());
        let (reject, reason) = breach.unwrap_or((Reject::Other, String::new()));
        if lanes.is_empty() && !reason.is_empty() {
            let frame = Frame::Rejected {
                reject,
                reason: reason.clone(),
            };
            if self.control.try_send(frame.encode()).is_ok() {
                tokio::time::sleep(FAREWELL).await;
            }
        }
        for lane in lanes {
            lane.connection
                .close(quinn::VarInt::from_u32(reject as u32), reason.as_bytes());
        }
        self.tasks.abort_all();
    }
}

impl Outgoing {
    /// Sends a frame of entries, and waits until the network has taken it. One that `may_repeat` travels a second time over another
    /// connection where that costs nobody anything: who waits for it then need not wait until its loss is noticed. Returns whether
    /// it does.
    pub(crate) async fn entries(
        self: &Arc<Self>,
        parts: [Bytes; 2],
        may_repeat: bool,
    ) -> Result<bool, LaneError> {
        let over = || LaneError::Closed("it is over".to_owned());
        if let Some(tcp) = &self.tcp {
            let (done, written) = oneshot::channel();
            tcp.send((parts.to_vec(), done)).await.map_err(|_| over())?;
            return written.await.map(|()| false).map_err(|_| over());
        }
        let bytes = parts.iter().map(Bytes::len).sum();
        let (chosen, again) = {
            // In turn, so that an older frame is not kept waiting by newer ones.
            let _turn = self.turn.lock().await;
            loop {
                if let Some(chosen) = self.choose(bytes, may_repeat).ok_or_else(over)? {
                    break chosen;
                }
                // Windows grow without a word.
                let _ = timeout(LOOK_INTERVAL, self.freed.notified()).await;
            }
        };
        let is_repeated = again.is_some();
        if let Some((connection, carried)) = again {
            let parts = parts.clone();
            tokio::spawn(async move {
                // What is lost at one moment is often not alone.
                sleep(REPEATED_AFTER).await;
                // The first one counts.
                let _ = write_stream(&connection, parts, carried).await;
            });
        }
        let (connection, carried) = chosen;
        write_stream(&connection, parts, carried).await?;
        Ok(is_repeated)
    }

    /// A lane for so many bytes, and another one if they are to travel twice; within it, `None` while they had better wait. `None`
    /// without a lane.
    fn choose(self: &Arc<Self>, bytes: usize, may_repeat: bool) -> Option<Option<(Place, Option<Place>)>> {
        let lanes = self.lanes.lock();
        let loads: Vec<Load> = lanes.iter().map(OutLane::load).collect();
        if loads.is_empty() {
            return None;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let place = |at: usize| {
            let lane = &lanes[at % lanes.len()];
            lane.waiting.fetch_add(bytes, Ordering::Relaxed);
            let carried = Carried {
                waiting: lane.waiting.clone(),
                bytes,
                outgoing: self.clone(),
            };
            (lane.connection.clone(), carried)
        };
        let is_repeated = may_repeat && Load::may_repeat(&loads, bytes);
        let chosen = Load::choose(&loads, turn, bytes);
        Some(chosen.map(|at| (place(at), is_repeated.then(|| place(at + 1)))))
    }
}

impl OutLane {
    fn load(&self) -> Load {
        let path = self.connection.stats().path;
        Load {
            waiting_bytes: self.waiting.load(Ordering::Relaxed) as u64,
            window_bytes: path.cwnd,
            rtt: path.rtt,
        }
    }
}

async fn write_stream(
    connection: &Connection,
    mut parts: [Bytes; 2],
    carried: Carried,
) -> Result<(), LaneError> {
    let closed = |error: &dyn std::fmt::Display| LaneError::Closed(error.to_string());
    // The connection's own deadline ends all of this when the other side is gone.
    let mut stream = connection.open_uni().await.map_err(|error| closed(&error))?;
    stream
        .write_all_chunks(&mut parts)
        .await
        .map_err(|error| closed(&error))?;
    stream.finish().map_err(|error| closed(&error))?;
    let acknowledged = stream.stopped();
    // Ends with the connection at the latest.
    tokio::spawn(async move {
        let _ = acknowledged.await;
        drop(carried);
    });
    Ok(())
}

/// Frames that keep their order, and with TCP entries when none of those waits.
async fn write(
    mut writer: FrameWriter,
    mut frames: mpsc::Receiver<Bytes>,
    entries: Option<mpsc::Receiver<(Vec<Bytes>, oneshot::Sender<()>)>>,
    idle: Duration,
    events: mpsc::Sender<Event>,
    outgoing: Arc<Outgoing>,
) {
    let mut entries = entries;
    loop {
        let next_entries = async {
            match &mut entries {
                Some(entries) => entries.recv().await,
                None => pending().await,
            }
        };
        let (parts, done) = tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(frame) => (vec![frame], None),
                None => return,
            },
            Some((parts, done)) = next_entries => (parts, Some(done)),
        };
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if let Err(error) = write_frame(&mut writer, &parts, idle).await {
            let _ = events.send(Event::Ended(error)).await;
            return;
        }
        outgoing.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// Frames that keep their order.
async fn read(
    mut reader: FrameReader,
    idle: Duration,
    budget: Arc<Budget>,
    events: mpsc::Sender<Event>,
    carries_entries: bool,
    outgoing: Arc<Outgoing>,
) {
    loop {
        let event = match read_frame(&mut reader, idle, &budget).await {
            Ok((frame @ (Frame::Entries(_) | Frame::Answer { .. }), _)) if !carries_entries => {
                misplaced(&frame)
            }
            Ok((frame, held)) => {
                if let Frame::Entries(entries) = &frame {
                    let bytes = entries.wire_bytes() as u64;
                    outgoing.bytes_received.fetch_add(bytes, Ordering::Relaxed);
                }
                Event::Frame(frame, held)
            }
            Err(error) => Event::Ended(error),
        };
        let is_over = matches!(event, Event::Ended(_));
        if events.send(event).await.is_err() || is_over {
            return;
        }
    }
}

/// Frames of entries: one per stream. QUIC itself bounds how many there are.
async fn read_streams(
    connection: Connection,
    idle: Duration,
    budget: Arc<Budget>,
    events: mpsc::Sender<Event>,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    tasks.spawn(read_stream(stream, idle, budget.clone(), events.clone()));
                }
                Err(error) => {
                    let _ = events.send(Event::Ended(LaneError::Closed(error.to_string()))).await;
                    return;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn read_stream(
    mut stream: quinn::RecvStream,
    idle: Duration,
    budget: Arc<Budget>,
    events: mpsc::Sender<Event>,
) {
    let read = async {
        let (frame, held) = read_frame(&mut stream, idle, &budget).await?;
        // Nothing may follow. (`read_to_end` reads without order, and would see again what came twice.)
        let is_whole = matches!(stream.read(&mut [0]).await, Ok(None));
        if !is_whole {
            return Err(LaneError::from(FrameError::TooLong));
        }
        Ok((frame, held))
    };
    let event = match read.await {
        Ok((frame @ (Frame::Entries(_) | Frame::Answer { .. }), held)) => Event::Frame(frame, held),
        Ok((frame, _)) => misplaced(&frame),
        Err(error) => Event::Ended(error),
    };
    let _ = events.send(event).await;
}

/// Watermarks. What is no such frame is a breach; what comes too fast is dropped.
async fn read_datagrams(connection: Connection, events: mpsc::Sender<Event>, budget: Arc<Budget>) {
    // The end of the connection is told by the task that reads its streams.
    while let Ok(datagram) = connection.read_datagram().await {
        let event = match Frame::decode(datagram) {
            Ok(frame @ Frame::Watermarks(_)) => Event::Frame(frame, budget.nothing()),
            Ok(frame) => misplaced(&frame),
            Err(error) => Event::Ended(error.into()),
        };
        if matches!(event, Event::Ended(_)) {
            let _ = events.send(event).await;
            return;
        }
        let _ = events.try_send(event);
    }
}

fn misplaced(frame: &Frame) -> Event {
    Event::Ended(FrameError::Misplaced(frame.type_byte()).into())
}
