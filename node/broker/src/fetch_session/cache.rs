use std::collections::{BTreeMap, BTreeSet};

use meridian_wire::ErrorCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::session::{Reported, Session, SessionPartition, TopicKey};

/// Epoch of a request that names all its partitions and asks for a session.
const EPOCH_INITIAL: i32 = 0;
/// Epoch of a request outside any session, or of one that ends its session.
const EPOCH_FINAL: i32 = -1;

/// How many sessions there may be.
#[derive(Clone, Debug)]
pub(crate) struct SessionLimits {
    /// Sessions in the cache.
    pub(crate) sessions_max: usize,
    /// Partitions of all sessions together.
    pub(crate) partitions_max: usize,
    /// A session unused for so long may be replaced by any other; a younger one by a larger only.
    pub(crate) eviction_ms: i64,
}

/// What a request says about its session.
#[derive(Clone, Debug)]
pub(crate) struct SessionRequest {
    pub(crate) session_id: i32,
    pub(crate) session_epoch: i32,
    /// From v13 on.
    pub(crate) uses_topic_ids: bool,
    /// Partitions named: all of them, or what is new or changed.
    pub(crate) partitions: Vec<SessionPartition>,
    pub(crate) forgotten: Vec<(TopicKey, i32)>,
}

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) kind: BeginKind,
    pub(crate) partitions: Vec<SessionPartition>,
}

/// What becomes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeginKind {
    /// Every partition is answered, nothing is remembered.
    Sessionless,
    /// Every partition is answered, and a session is made if there is room.
    Full { uses_topic_ids: bool },
    /// Only news is answered.
    Incremental { session_id: i32 },
}

/// All fetch sessions of a node.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    limits: SessionLimits,
    sessions: BTreeMap<i32, Session>,
    by_last_use: BTreeSet<(i64, i32)>,
    by_size: BTreeSet<(usize, i32)>,
    partitions: usize,
    evictions: u64,
    random: StdRng,
}

impl FetchSessions {
    /// An empty cache; session ids are drawn from `seed`.
    pub(crate) fn new(limits: SessionLimits, seed: u64) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            by_last_use: BTreeSet::new(),
            by_size: BTreeSet::new(),
            partitions: 0,
            evictions: 0,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Takes a request in. Errors: 70, 71 and 106 of Kafka, for the whole request.
    pub(crate) fn handle_request(
        &mut self,
        now_ms: i64,
        request: SessionRequest,
    ) -> Result<Begin, ErrorCode> {
        match request.session_epoch {
            EPOCH_FINAL => {
                self.remove(request.session_id);
                Ok(Begin {
                    kind: BeginKind::Sessionless,
                    partitions: request.partitions,
                })
            }
            EPOCH_INITIAL => {
                self.remove(request.session_id);
                let kind = BeginKind::Full {
                    uses_topic_ids: request.uses_topic_ids,
                };
                Ok(Begin {
                    kind,
                    partitions: request.partitions,
                })
            }
            _ => self.handle_incremental(now_ms, request),
        }
    }

    fn handle_incremental(&mut self, now_ms: i64, request: SessionRequest) -> Result<Begin, ErrorCode> {
        let id = request.session_id;
        let session = self.sessions.get(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_topic_ids != request.uses_topic_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if self.partitions + session.count_new(&request.partitions) > self.limits.partitions_max {
            // The client starts anew, and gets no session while there is no room.
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let mut session = self.take_out(id).expect("looked up above");
        request
            .partitions
            .into_iter()
            .for_each(|partition| session.put(partition));
        request
            .forgotten
            .iter()
            .for_each(|(topic, index)| session.remove(topic, *index));
        if session.len() == 0 {
            return Ok(Begin {
                kind: BeginKind::Sessionless,
                partitions: Vec::new(),
            });
        }
        session.next_epoch = next_epoch(session.next_epoch);
        session.last_used_ms = now_ms;
        let partitions = session.partitions();
        self.put_in(id, session);
        Ok(Begin {
            kind: BeginKind::Incremental { session_id: id },
            partitions,
        })
    }

    /// Makes a session for a full fetch that has been answered with `answers`, one for each of `partitions`.
    /// 0 when there is no room: the client goes on without one.
    pub(crate) fn create(
        &mut self,
        now_ms: i64,
        uses_topic_ids: bool,
        partitions: Vec<SessionPartition>,
        answers: impl IntoIterator<Item = PartitionAnswer>,
    ) -> i32 {
        let mut session = Session::new(now_ms, uses_topic_ids);
        partitions
            .into_iter()
            .for_each(|partition| session.put(partition));
        if session.len() == 0 || !self.make_room(now_ms, session.len()) {
            return 0;
        }
        for answer in answers {
            session.report(
                &answer.topic,
                answer.index,
                answer.reported,
                answer.has_data,
                answer.must,
            );
        }
        let id = self.free_id();
        self.put_in(id, session);
        id
    }

    /// Which of the answers are news to the client of an incremental fetch; remembers them as told. A session
    /// that was evicted meanwhile has only news.
    pub(crate) fn report(
        &mut self,
        session_id: i32,
        answers: impl IntoIterator<Item = PartitionAnswer>,
    ) -> Vec<bool> {
        let mut session = self.sessions.get_mut(&session_id);
        let mut is_news = |answer: PartitionAnswer| match &mut session {
            Some(session) => session.report(
                &answer.topic,
                answer.index,
                answer.reported,
                answer.has_data,
                answer.must,
            ),
            None => true,
        };
        answers.into_iter().map(&mut is_news).collect()
    }

    /// Sessions in the cache.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Partitions of all sessions.
    pub(crate) fn partitions(&self) -> usize {
        self.partitions
    }

    /// Sessions that had to go for others, since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Kafka's rule: a session unused for long goes for any; one that has lived for so long goes for a larger.
    fn make_room(&mut self, now_ms: i64, size: usize) -> bool {
        if size > self.limits.partitions_max || self.limits.sessions_max == 0 {
            return false;
        }
        while self.sessions.len() >= self.limits.sessions_max
            || self.partitions + size > self.limits.partitions_max
        {
            let Some(victim) = self.victim(now_ms, size) else {
                return false;
            };
            self.remove(victim);
            self.evictions += 1;
        }
        true
    }

    fn victim(&self, now_ms: i64, size: usize) -> Option<i32> {
        let (last_used_ms, stalest) = *self.by_last_use.first()?;
        if now_ms - last_used_ms > self.limits.eviction_ms {
            return Some(stalest);
        }
        let smaller = self.by_size.iter().take_while(|(other, _)| *other < size);
        smaller
            .map(|(_, id)| *id)
            .find(|id| now_ms - self.sessions[id].created_ms > self.limits.eviction_ms)
    }

    fn free_id(&mut self) -> i32 {
        loop {
            let id = self.random.random_range(1..=i32::MAX);
            if !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    fn remove(&mut self, id: i32) {
        drop(self.take_out(id));
    }

    fn take_out(&mut self, id: i32) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.by_last_use.remove(&(session.last_used_ms, id));
        self.by_size.remove(&(session.len(), id));
        self.partitions -= session.len();
        Some(session)
    }

    fn put_in(&mut self, id: i32, session: Session) {
        self.by_last_use.insert((session.last_used_ms, id));
        self.by_size.insert((session.len(), id));
        self.partitions += session.len();
        self.sessions.insert(id, session);
    }

    /// Asserts what the fields promise one another.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.by_last_use.len(), self.sessions.len());
        assert_eq!(self.by_size.len(), self.sessions.len());
        assert_eq!(
            self.partitions,
            self.sessions.values().map(Session::len).sum::<usize>()
        );
        assert!(self.sessions.len() <= self.limits.sessions_max);
        assert!(self.partitions <= self.limits.partitions_max);
    }
}

/// The answer for one partition, as far as the session cares.
#[derive(Clone, Debug)]
pub(crate) struct PartitionAnswer {
    pub(crate) topic: TopicKey,
    pub(crate) index: i32,
    pub(crate) reported: Reported,
    pub(crate) has_data: bool,
    /// An error, a diverging epoch or a preferred replica: always sent.
    pub(crate) must: bool,
}

/// 0 and -1 mean something else, so the count goes from its largest back to 1.
pub(super) fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}
