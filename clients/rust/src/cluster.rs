//! A cluster as a client sees it: bootstrap, metadata, and a connection to whoever must be asked.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use meridian_types::{LeaderEpoch, NodeId};
use meridian_wire::messages::metadata::MetadataRequestTopic;
use meridian_wire::{ApiKey, ErrorCode, FindCoordinatorRequest, MetadataRequest, Request};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::Instant;

use crate::backoff::{Backoff, split_mix};
use crate::connection::{Connection, ConnectionSettings};
use crate::driver::random_seed;
use crate::endpoint::Endpoint;
use crate::error::{Phase, Refusal, RequestCause, RequestError, check};
use crate::metadata::{Broker, Metadata, MetadataUpdate, TopicMetadata, node};

/// Who has not answered for so long is not waited for alone, where another server could say the same.
const HEDGE_AFTER: Duration = Duration::from_millis(500);

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Servers to begin with; any that answers will do.
    pub bootstrap: Vec<Endpoint>,
    /// How to connect.
    pub connection: ConnectionSettings,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long an operation may go on trying, over all its requests.
    pub operation_timeout: Duration,
    /// First wait before another try; doubles up to [`ClusterSettings::retry_wait_max`].
    pub retry_wait: Duration,
    /// Longest wait before another try.
    pub retry_wait_max: Duration,
    /// Whether asking for a topic that does not exist may create it, if the server allows it too. Off by default: a
    /// misspelt name should be an error.
    pub allow_topic_creation: bool,
}

impl ClusterSettings {
    /// The defaults, for a cluster that is found through `bootstrap`.
    pub fn new(bootstrap: Vec<Endpoint>) -> Self {
        Self {
            bootstrap,
            connection: ConnectionSettings::default(),
            request_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(60),
            retry_wait: Duration::from_millis(50),
            retry_wait_max: Duration::from_secs(1),
            allow_topic_creation: false,
        }
    }
}

/// A set of connections of its own, one to each server. Servers answer the requests of a connection in order, so
/// whoever waits long (a fetch, a group that rebalances) takes a lane of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(u64);

impl Lane {
    /// The lane for short questions.
    pub const SHARED: Self = Self(0);
}

/// A handle to the cluster. Clones share metadata and connections.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: ClusterSettings,
    metadata: Mutex<Arc<Metadata>>,
    slots: Mutex<HashMap<(Lane, Endpoint), Arc<Slot>>>,
    counter: AtomicU64,
    seed: u64,
}

/// The connection of one lane to one server. The lock is held while it is opened, so that it is opened once.
#[derive(Debug, Default)]
struct Slot {
    connection: tokio::sync::Mutex<Option<Connection>>,
}

/// Why there is no metadata for a topic.
#[derive(Clone, Debug, Error)]
pub enum TopicError {
    /// No server could be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server will not describe it: it does not exist, its name is not allowed, or rights are missing.
    #[error("topic '{topic}': {refusal}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the server says.
        refusal: Refusal,
    },
}

/// Why a coordinator was not found.
#[derive(Clone, Debug, Error)]
pub enum CoordinatorError {
    /// No server could be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server refused, or has no coordinator for it for now.
    #[error("the coordinator of group '{group}' cannot be found: {refusal}")]
    Refused {
        /// The group.
        group: String,
        /// What the server says.
        refusal: Refusal,
    },
}

impl Cluster {
    /// Connects to the first bootstrap server that answers and learns the cluster's brokers.
    ///
    /// Errors: that of the last server, when none answers; there is no further try.
    pub async fn connect(settings: ClusterSettings) -> Result<Self, RequestError> {
        let cluster = Self {
            inner: Arc::new(Inner {
                settings,
                metadata: Mutex::default(),
                slots: Mutex::default(),
                counter: AtomicU64::new(1),
                seed: random_seed(),
            }),
        };
        cluster.refresh_once(Some(&[])).await?;
        Ok(cluster)
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &ClusterSettings {
        &self.inner.settings
    }

    /// What is known now.
    pub fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&self.inner.metadata.lock())
    }

    /// A new lane.
    pub fn lane(&self) -> Lane {
        Lane(self.inner.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// A fresh series of waits.
    pub fn backoff(&self) -> Backoff {
        let settings = &self.inner.settings;
        Backoff::new(settings.retry_wait, settings.retry_wait_max, self.seed())
    }

    /// A number that is different at every call.
    pub(crate) fn seed(&self) -> u64 {
        split_mix(self.inner.seed ^ self.inner.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// The connection of `lane` to `endpoint`, opened if it is not.
    pub async fn connection_to(&self, lane: Lane, endpoint: &Endpoint) -> Result<Connection, RequestError> {
        let slot = {
            let mut slots = self.inner.slots.lock();
            Arc::clone(slots.entry((lane, endpoint.clone())).or_default())
        };
        let mut connection = slot.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(open.clone());
        }
        // Forgotten first: if opening fails or is given up, the dead one must not stay.
        *connection = None;
        let opened = Connection::open(endpoint, &self.inner.settings.connection).await?;
        *connection = Some(opened.clone());
        Ok(opened)
    }

    /// The connection of `lane` to a broker.
    pub async fn connection(&self, lane: Lane, broker: NodeId) -> Result<Connection, RequestError> {
        let endpoint = self
            .metadata()
            .brokers
            .get(&broker)
            .map(|broker| broker.endpoint.clone());
        match endpoint {
            Some(endpoint) => self.connection_to(lane, &endpoint).await,
            None => Err(RequestError {
                endpoint: self.first_bootstrap(),
                phase: Phase::Connect,
                may_have_executed: false,
                cause: RequestCause::UnknownBroker(broker),
            }),
        }
    }

    /// Closes the connections of a lane that will not be used again.
    pub fn close_lane(&self, lane: Lane) {
        self.inner.slots.lock().retain(|(of, _), _| *of != lane);
    }

    /// Asks any server; tries others and again until the operation's time is up. For questions that may be
    /// asked twice.
    pub async fn send_any<R: Request + Clone>(&self, request: &R) -> Result<R::Response, RequestError> {
        self.send_any_of(|_| true, request).await
    }

    /// As [`Self::send_any`], of the brokers that are meant, as far as some are known.
    pub async fn send_any_of<R: Request + Clone>(
        &self,
        is_meant: impl Fn(NodeId) -> bool,
        request: &R,
    ) -> Result<R::Response, RequestError> {
        self.retry(|| self.send_some(self.candidates(&is_meant), |_| request.clone()))
            .await
    }

    /// Asks the servers that the settings name, in their order, until one answers; once.
    pub async fn send_given<R: Request + Clone>(&self, request: &R) -> Result<R::Response, RequestError> {
        let given = self.inner.settings.bootstrap.clone();
        self.send_some(given, |_| request.clone()).await
    }

    /// Asks one server after the other until one answers. The next is asked at once where one cannot be, and after
    /// [`HEDGE_AFTER`] where one is only slow: a broker that has stopped must not keep anyone from the others.
    ///
    /// Errors: that of the last server, when none answers.
    async fn send_some<R: Request>(
        &self,
        candidates: Vec<Endpoint>,
        question: impl Fn(&Connection) -> R,
    ) -> Result<R::Response, RequestError> {
        let limit = self.inner.settings.request_timeout;
        let question = &question;
        let ask = |endpoint: Endpoint| async move {
            let connection = self.connection_to(Lane::SHARED, &endpoint).await?;
            connection.send(&question(&connection), limit).await
        };
        let mut candidates = candidates.into_iter();
        let mut asked = FuturesUnordered::new();
        let mut last = None;
        loop {
            match candidates.next() {
                Some(endpoint) => asked.push(ask(endpoint)),
                None if asked.is_empty() => return Err(last.unwrap_or_else(|| self.no_server())),
                None => {}
            }
            let hedge = tokio::time::sleep(HEDGE_AFTER);
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = Some(error),
                },
                () = hedge, if !candidates.as_slice().is_empty() => {}
            }
        }
    }

    /// Asks one broker, once.
    pub async fn send_to<R: Request>(
        &self,
        lane: Lane,
        broker: NodeId,
        request: &R,
    ) -> Result<R::Response, RequestError> {
        let connection = self.connection(lane, broker).await?;
        connection
            .send(request, self.inner.settings.request_timeout)
            .await
    }

    /// Asks the controller, or any broker where the metadata names none. Tries again only what has certainly not
    /// been executed.
    pub async fn send_controller<R: Request>(&self, request: &R) -> Result<R::Response, RequestError> {
        let mut backoff = self.backoff();
        let deadline = Instant::now() + self.inner.settings.operation_timeout;
        loop {
            let connection = match self.metadata().controller {
                Some(controller) => self.connection(Lane::SHARED, controller).await,
                None => self.any_connection().await,
            };
            let result = match connection {
                Ok(connection) => {
                    connection
                        .send(request, self.inner.settings.request_timeout)
                        .await
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.is_retriable() && !error.may_have_executed => {
                    let wait = backoff.next_wait();
                    if Instant::now() + wait >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                    // The controller may have moved; if nobody can tell, the next try says so.
                    drop(self.refresh_once(Some(&[])).await);
                }
                result => return result,
            }
        }
    }

    /// Learns again about `topics`, or about all there are (`None`); about brokers in any case.
    pub async fn refresh(&self, topics: Option<&[&str]>) -> Result<MetadataUpdate, RequestError> {
        self.retry(|| self.refresh_once(topics)).await
    }

    async fn refresh_once(&self, topics: Option<&[&str]>) -> Result<MetadataUpdate, RequestError> {
        let settings = &self.inner.settings;
        let request = MetadataRequest {
            topics: topics.map(|names| {
                names
                    .iter()
                    .map(|name| MetadataRequestTopic {
                        name: Some((*name).to_owned().into()),
                        ..MetadataRequestTopic::default()
                    })
                    .collect()
            }),
            allow_auto_topic_creation: settings.allow_topic_creation && topics.is_some(),
            ..MetadataRequest::default()
        };
        let response = self
            .send_some(self.candidates(&|_| true), |_| request.clone())
            .await?;
        let update = MetadataUpdate::read(&response);
        let mut metadata = self.inner.metadata.lock();
        Arc::make_mut(&mut metadata).merge(update.clone());
        Ok(update)
    }

    /// Takes in what a broker says of a partition that it no longer leads (KIP-951), with the addresses it gives.
    /// `true`: the partition's leader is now this one, and can be asked at once.
    pub(crate) fn learn_leader(
        &self,
        topic: &str,
        index: u32,
        leader: (i32, i32),
        endpoints: impl Iterator<Item = Broker>,
    ) -> bool {
        let (Some(leader), Ok(epoch)) = (node(leader.0), u32::try_from(leader.1)) else {
            return false;
        };
        let mut metadata = self.inner.metadata.lock();
        let metadata = Arc::make_mut(&mut metadata);
        for broker in endpoints {
            metadata.brokers.insert(broker.id, broker);
        }
        metadata.learn_leader(topic, index, leader, LeaderEpoch(epoch))
    }

    /// A topic's metadata: what is known, or what the server says. Waits while it is being created or has no
    /// leaders yet, until the operation's time is up.
    pub async fn topic(&self, name: &str) -> Result<Arc<TopicMetadata>, TopicError> {
        if let Some(topic) = self.metadata().topics.get(name) {
            return Ok(Arc::clone(topic));
        }
        let mut backoff = self.backoff();
        let deadline = Instant::now() + self.inner.settings.operation_timeout;
        let mut unknown = 0;
        loop {
            let update = self.refresh(Some(&[name])).await?;
            if let Some(topic) = update
                .metadata
                .topics
                .get(name)
                .filter(|topic| !topic.partitions.is_empty())
            {
                return Ok(Arc::clone(topic));
            }
            let code = update
                .errors
                .get(name)
                .copied()
                .unwrap_or(ErrorCode::LeaderNotAvailable);
            let wait = backoff.next_wait();
            // A topic just created may be unknown to the broker that was asked, or have no leader yet; but one
            // that nobody creates stays unknown for good.
            unknown += u32::from(code == ErrorCode::UnknownTopicOrPartition);
            let is_final = !code.is_retriable()
                || (unknown > 3 && !self.inner.settings.allow_topic_creation)
                || Instant::now() + wait >= deadline;
            if is_final {
                return Err(TopicError::Refused {
                    topic: name.to_owned(),
                    refusal: code.into(),
                });
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Where the coordinator of a consumer group is. Waits while there is none, until the operation's time is up.
    pub async fn coordinator(&self, group: &str) -> Result<Endpoint, CoordinatorError> {
        let mut backoff = self.backoff();
        let deadline = Instant::now() + self.inner.settings.operation_timeout;
        loop {
            let (code, endpoint, message) = self.find_coordinator(group).await?;
            match check(code) {
                Ok(()) => return Ok(endpoint),
                Err(error) => {
                    let wait = backoff.next_wait();
                    if !error.is_retriable() || Instant::now() + wait >= deadline {
                        return Err(CoordinatorError::Refused {
                            group: group.to_owned(),
                            refusal: Refusal { code: error, message },
                        });
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn find_coordinator(&self, group: &str) -> Result<(i16, Endpoint, Option<String>), RequestError> {
        let question = |connection: &Connection| {
            // From version 4 on a request names several keys.
            let version = connection.versions().common(ApiKey::FindCoordinator);
            let key = group.to_owned();
            if version.is_some_and(|version| version >= 4) {
                FindCoordinatorRequest {
                    coordinator_keys: vec![key.into()],
                    ..FindCoordinatorRequest::default()
                }
            } else {
                FindCoordinatorRequest {
                    key: key.into(),
                    ..FindCoordinatorRequest::default()
                }
            }
        };
        let response = self
            .retry(|| self.send_some(self.candidates(&|_| true), question))
            .await?;
        let endpoint = |host: &str, port: i32| Endpoint::new(host, u16::try_from(port).unwrap_or(0));
        let text = |text: &Option<meridian_wire::Str>| text.as_ref().map(|text| text.as_str().to_owned());
        Ok(match response.coordinators.first() {
            Some(found) => (
                found.error_code,
                endpoint(&found.host, found.port),
                text(&found.error_message),
            ),
            None => (
                response.error_code,
                endpoint(&response.host, response.port),
                text(&response.error_message),
            ),
        })
    }

    /// Servers to ask what any can answer: known brokers, beginning with another one each time, before bootstrap
    /// servers. Of brokers that are not meant only where none is known that is.
    fn candidates(&self, is_meant: &impl Fn(NodeId) -> bool) -> Vec<Endpoint> {
        let metadata = self.metadata();
        let meant = metadata.brokers.iter().filter(|(id, _)| is_meant(**id));
        let mut candidates: Vec<Endpoint> = meant.map(|(_, broker)| broker.endpoint.clone()).collect();
        let is_choice = !candidates.is_empty() && candidates.len() < metadata.brokers.len();
        if !candidates.is_empty() {
            let start = self.inner.counter.fetch_add(1, Ordering::Relaxed) as usize % candidates.len();
            candidates.rotate_left(start);
        }
        if is_choice {
            return candidates;
        }
        for bootstrap in &self.inner.settings.bootstrap {
            if !candidates.contains(bootstrap) {
                candidates.push(bootstrap.clone());
            }
        }
        candidates
    }

    /// A connection to some server: the first that can be opened.
    async fn any_connection(&self) -> Result<Connection, RequestError> {
        let mut last = None;
        for endpoint in self.candidates(&|_| true) {
            match self.connection_to(Lane::SHARED, &endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.no_server()))
    }

    fn no_server(&self) -> RequestError {
        RequestError {
            endpoint: self.first_bootstrap(),
            phase: Phase::Resolve,
            may_have_executed: false,
            cause: RequestCause::Io(Arc::new(std::io::Error::other("no bootstrap server was given"))),
        }
    }

    /// Tries again while the failure may pass, until the operation's time is up.
    pub(crate) async fn retry<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, RequestError>
    where
        F: Future<Output = Result<T, RequestError>>,
    {
        let mut backoff = self.backoff();
        let deadline = Instant::now() + self.inner.settings.operation_timeout;
        loop {
            match attempt().await {
                Err(error) if error.is_retriable() => {
                    let wait = backoff.next_wait();
                    if Instant::now() + wait >= deadline {
                        return Err(error);
                    }
                    tracing::debug!(%error, ?wait, "trying again");
                    tokio::time::sleep(wait).await;
                }
                result => return result,
            }
        }
    }

    fn first_bootstrap(&self) -> Endpoint {
        self.inner
            .settings
            .bootstrap
            .first()
            .cloned()
            .unwrap_or_else(|| Endpoint::new("", 0))
    }
}
