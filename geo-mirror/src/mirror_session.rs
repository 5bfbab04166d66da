//! The mirror's side of one link: dials, follows, and gives the sink what [`Link`] says is next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::RegionNumber;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::counters::add;
use crate::dial::DialError;
use crate::follows::Follows;
use crate::frame::{Frame, Intent, Reject};
use crate::head::{ENTRIES_BYTES_MAX, FrameError};
use crate::hello::Hello;
use crate::lane::{Lane, LaneError};
use crate::links::{LinksShared, WantedLink};
use crate::questions::{AskError, QUESTIONS_MAX, Question};
use crate::session::{Event, Session};
use crate::settings::TransportSetting;
use crate::status::{LinkStatus, Transport};

/// How often the status is brought up to date.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// A link that lasted so long begins its waits anew.
const LASTED: Duration = Duration::from_secs(2);

/// One link, for as long as it is wanted.
pub(crate) struct LinkTask {
    pub(crate) shared: Arc<LinksShared>,
    pub(crate) region: RegionNumber,
    pub(crate) address: String,
    pub(crate) wanted: watch::Receiver<WantedLink>,
    pub(crate) status: Arc<Mutex<LinkStatus>>,
    pub(crate) questions: mpsc::Receiver<Question>,
}

/// A link that has just come up.
struct Up {
    lane: Lane,
    hello: Hello,
    session: u128,
}

/// Why a link is over.
enum End {
    Broken(LaneError),
    /// QUIC answers again.
    Better,
    Unwanted,
}

/// What was dialled beside the link.
enum Aside {
    Lane(Result<Connection, DialError>),
    Probe(bool),
}

impl LinkTask {
    pub(crate) async fn run(mut self) {
        let settings = &self.shared.dialler.settings;
        let mut backoff = Backoff::new(settings.backoff_min, settings.backoff_max);
        let mut follows = Follows::new(self.shared.clone());
        let mut retry_quic_at = None;
        loop {
            let connected = tokio::select! {
                connected = self.connect(&mut retry_quic_at) => connected,
                () = unwanted(self.wanted.clone()) => return,
            };
            match connected {
                Ok(up) => {
                    add(&self.shared.counters.connects, 1);
                    let started = Instant::now();
                    let end = self.session(up, &mut follows, &mut retry_quic_at).await;
                    add(&self.shared.counters.disconnects, 1);
                    follows.handle_disconnected(Instant::now());
                    self.status.lock().transport = None;
                    match end {
                        End::Unwanted => return,
                        End::Better => {
                            retry_quic_at = None;
                            continue;
                        }
                        End::Broken(error) => {
                            info!(address = %self.address, region = %self.region, %error, "a link has ended");
                            self.status.lock().trouble = Some(error.to_string());
                        }
                    }
                    if started.elapsed() >= LASTED {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    add(&self.shared.counters.connects_failed, 1);
                    let text = error.to_string();
                    let before = self.status.lock().trouble.replace(text.clone());
                    if before.as_ref() != Some(&text) {
                        warn!(region = %self.region, %error, "a region cannot be linked to");
                    }
                    self.shared.clone().rotate(self.region, &self.address);
                }
            }
            self.report_follows(&mut follows);
            let wait = backoff.next(self.shared.dialler.chance());
            tokio::select! {
                () = sleep(wait) => {}
                () = unwanted(self.wanted.clone()) => return,
            }
        }
    }

    async fn connect(&self, retry_quic_at: &mut Option<Instant>) -> Result<Up, DialError> {
        let dialler = &self.shared.dialler;
        let setting = dialler.settings.transport;
        let prefers_tcp = retry_quic_at.is_some_and(|at| Instant::now() < at);
        let first = match setting {
            TransportSetting::Tcp => Transport::Tcp,
            TransportSetting::Auto if prefers_tcp => Transport::Tcp,
            TransportSetting::Auto | TransportSetting::Quic => Transport::Quic,
        };
        let may_fall_back = setting == TransportSetting::Auto && first == Transport::Quic;
        match self.dial(first).await {
            Err(error) if error.is_unreachable() && may_fall_back => {
                let up = self.dial(Transport::Tcp).await?;
                warn!(address = %self.address, %error, "a link runs over TCP");
                add(&self.shared.counters.fallbacks, 1);
                *retry_quic_at = Some(Instant::now() + dialler.settings.quic_retry_interval);
                Ok(up)
            }
            other => other,
        }
    }

    async fn dial(&self, transport: Transport) -> Result<Up, DialError> {
        let dialler = &self.shared.dialler;
        let session = dialler.session();
        let greeting = dialler.greeting(Intent::Link, session, self.shared.source.hello());
        let (lane, hello) = dialler.dial(&self.address, transport, &greeting).await?;
        let rejected = |reject, reason| DialError::Rejected {
            address: self.address.clone(),
            reject,
            reason,
        };
        if hello.number != self.region {
            return Err(rejected(
                Reject::DuplicateRegion,
                format!("region number {} answers, expected {}", hello.number, self.region),
            ));
        }
        self.shared
            .source
            .admit(&hello)
            .map_err(|reason| rejected(Reject::NotAdmitted, reason))?;
        Ok(Up { lane, hello, session })
    }

    /// Runs a link until it ends.
    async fn session(&mut self, up: Up, follows: &mut Follows, retry_quic_at: &mut Option<Instant>) -> End {
        let settings = self.shared.dialler.settings.clone();
        let transport = up.lane.transport;
        {
            let mut status = self.status.lock();
            status.name = Some(up.hello.region.clone());
            status.node = Some(up.hello.node);
            status.region_epoch = Some(up.hello.region_epoch);
            status.trouble = None;
        }
        info!(address = %self.address, region = %up.hello.region, ?transport, "linked to a region");
        self.shared.sink.connected(&up.hello);
        let (mut session, mut events) = Session::start(up.lane, &settings, settings.link_window_bytes);
        let mut aside: JoinSet<Aside> = JoinSet::new();
        let mut has_lanes = transport == Transport::Tcp;
        let mut limit = None;
        let mut unanswered: BTreeMap<u64, oneshot::Sender<Result<Bytes, AskError>>> = BTreeMap::new();
        let mut questions_asked = 0_u64;
        let mut card = self.shared.source.card();
        card.mark_changed();
        let mut cards = interval(settings.card_interval);
        let mut pings = interval(settings.ping_interval());
        let mut reports = interval(REPORT_INTERVAL);
        for ticks in [&mut cards, &mut pings, &mut reports] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        self.wanted.mark_changed();
        follows.handle_connected();
        let end = loop {
            if let Err(error) = follows.act(&mut session) {
                break End::Broken(error);
            }
            let wake = follows.poll_timeout();
            let wake_at = wake.unwrap_or_else(Instant::now);
            let probe_at = retry_quic_at.unwrap_or_else(Instant::now);
            let may_probe = retry_quic_at.is_some() && transport == Transport::Tcp && aside.is_empty();
            let step = tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Frame(frame, held)) => {
                        let handled = match frame {
                            Frame::Answer { number, answer } => {
                                // Nobody may wait for it any more.
                                if let Some(waits) = unanswered.remove(&number) {
                                    let _ = waits.send(answer.map_err(AskError::from));
                                }
                                Ok(())
                            }
                            frame => self.handle_frame(&mut session, follows, frame),
                        };
                        drop(held);
                        handled
                    }
                    Some(Event::Ended(error)) => Err(error),
                    None => Err(LaneError::Closed("it is over".to_owned())),
                },
                Some(done) = follows.tasks.join_next() => match done {
                    Ok(done) => {
                        follows.handle_done(Instant::now(), done);
                        Ok(())
                    }
                    Err(error) => {
                        follows.forget_all();
                        Err(LaneError::Closed(format!("a task of the link failed: {error}")))
                    }
                },
                Some(Ok(done)) = aside.join_next() => match done {
                    Aside::Lane(Ok(connection)) => {
                        session.add_lane(connection);
                        Ok(())
                    }
                    Aside::Lane(Err(error)) => {
                        debug!(address = %self.address, %error, "a link has a connection less");
                        Ok(())
                    }
                    Aside::Probe(true) => break End::Better,
                    Aside::Probe(false) => {
                        *retry_quic_at = Some(Instant::now() + settings.quic_retry_interval);
                        Ok(())
                    }
                },
                Some(question) = self.questions.recv(), if unanswered.len() < QUESTIONS_MAX => {
                    let Question { shard, body, answer } = question;
                    // Whoever asked before the link came up may have given up.
                    if answer.is_closed() {
                        continue;
                    }
                    let number = questions_asked;
                    questions_asked += 1;
                    unanswered.insert(number, answer);
                    session.send(&Frame::Question { number, shard, body })
                }
                () = session.flush() => Ok(()),
                () = sleep_until(wake_at), if wake.is_some() => {
                    follows.handle_timeout(Instant::now());
                    Ok(())
                }
                () = sleep_until(probe_at), if may_probe => {
                    self.probe(&mut aside);
                    Ok(())
                }
                changed = self.wanted.changed() => match changed {
                    Err(_) => break End::Unwanted,
                    Ok(()) => {
                        let wanted = self.wanted.borrow_and_update().clone();
                        follows.want(Instant::now(), &wanted.follows);
                        if !has_lanes && !wanted.follows.is_empty() {
                            has_lanes = true;
                            self.open_lanes(&mut aside, up.session);
                        }
                        let before = std::mem::replace(&mut limit, wanted.limit_bytes_per_second);
                        self.status.lock().limit_bytes_per_second = limit;
                        if before == limit {
                            Ok(())
                        } else {
                            session.send(&Frame::Throttle(limit))
                        }
                    }
                },
                _ = cards.tick() => {
                    card.mark_changed();
                    Ok(())
                }
                changed = card.changed() => match changed {
                    Ok(()) => {
                        let body = card.borrow_and_update().clone();
                        session.send(&Frame::Card(body))
                    }
                    Err(_) => Err(LaneError::Closed("this node stops".to_owned())),
                },
                _ = pings.tick() => session.ping(),
                _ = reports.tick() => {
                    follows.rtt = session.rtt();
                    self.status.lock().transport = Some(session.status());
                    self.report_follows(follows);
                    Ok(())
                }
            };
            if let Err(error) = step {
                break End::Broken(error);
            }
        };
        if matches!(end, End::Unwanted) {
            // The other side need not wait for silence.
            follows.end_all();
            let _ = follows.act(&mut session);
        }
        let breach = match &end {
            End::Broken(error) if error.is_breach() => Some((Reject::Protocol, error.to_string())),
            _ => None,
        };
        session.end(breach).await;
        end
    }

    fn handle_frame(
        &self,
        session: &mut Session,
        follows: &mut Follows,
        frame: Frame,
    ) -> Result<(), LaneError> {
        let now = Instant::now();
        match frame {
            Frame::Following(subscription) => follows.handle_following(now, subscription),
            Frame::Entries(entries) => {
                follows.handle_entries(now, entries);
                let window = self.shared.dialler.settings.link_window_bytes;
                if follows.waiting_bytes() > window.saturating_add(ENTRIES_BYTES_MAX) {
                    return Err(LaneError::Full);
                }
            }
            Frame::Watermarks(watermarks) => {
                for of in watermarks {
                    follows.handle_watermark(now, of.subscription, of.watermark);
                }
            }
            Frame::Refused {
                subscription,
                refusal,
            } => follows.handle_refused(now, subscription, refusal),
            Frame::Card(card) => self.shared.sink.card(self.region, card),
            Frame::Ping(nonce) => session.send(&Frame::Pong(nonce))?,
            Frame::Pong(nonce) => session.handle_pong(nonce),
            Frame::Rejected { reason, .. } => return Err(LaneError::Closed(reason)),
            Frame::Hello(_)
            | Frame::Question { .. }
            | Frame::Answer { .. }
            | Frame::Follow(_)
            | Frame::Unfollow(_)
            | Frame::Applied(_)
            | Frame::Throttle(_) => return Err(FrameError::Misplaced(frame.type_byte()).into()),
        }
        Ok(())
    }

    /// Opens the other connections of a link that carries content.
    fn open_lanes(&self, aside: &mut JoinSet<Aside>, session: u128) {
        for _ in 1..self.shared.dialler.settings.connections {
            let (shared, address) = (self.shared.clone(), self.address.clone());
            aside.spawn(async move {
                let dialler = &shared.dialler;
                let greeting = dialler.greeting(Intent::Lane, session, shared.source.hello());
                let dialled = dialler.dial(&address, Transport::Quic, &greeting).await;
                Aside::Lane(dialled.and_then(|(lane, _)| {
                    lane.quic.ok_or_else(|| DialError::Protocol {
                        address,
                        reason: "no connection of QUIC".to_owned(),
                    })
                }))
            });
        }
    }

    /// Looks whether QUIC comes up by now.
    fn probe(&self, aside: &mut JoinSet<Aside>) {
        let (shared, address) = (self.shared.clone(), self.address.clone());
        aside.spawn(async move {
            let dialler = &shared.dialler;
            let greeting = dialler.greeting(Intent::Question, 0, shared.source.hello());
            let dialled = dialler.dial(&address, Transport::Quic, &greeting).await;
            Aside::Probe(dialled.is_ok())
        });
    }

    fn report_follows(&self, follows: &mut Follows) {
        let shards = follows.status(Instant::now());
        self.status.lock().shards = shards;
    }
}

/// Returns when nobody wants the link any more.
async fn unwanted(mut wanted: watch::Receiver<WantedLink>) {
    while wanted.changed().await.is_ok() {}
}
