//! Single flight: what is being fetched, and who waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::ColdError;

type Outcome<V> = Option<Result<V, ColdError>>;
type Running<K, V> = Arc<Mutex<BTreeMap<K, watch::Receiver<Outcome<V>>>>>;

/// The fetches that are under way, by what they fetch.
#[derive(Clone)]
pub(super) struct Flights<K: Ord, V> {
    running: Running<K, V>,
}

/// What to do about a key.
pub(super) enum Turn<K: Ord + Clone, V> {
    /// It is there.
    There(V),
    /// Somebody fetches it: wait.
    Wait(Waiter<V>),
    /// Fetch it, and land.
    Fetch(Landing<K, V>),
}

/// Waits for a fetch.
pub(super) struct Waiter<V> {
    outcome: watch::Receiver<Outcome<V>>,
}

/// The duty to fetch a key. Dropped without [`Landing::land`], those who wait are told to try again.
pub(super) struct Landing<K: Ord + Clone, V> {
    key: K,
    outcome: watch::Sender<Outcome<V>>,
    running: Running<K, V>,
}

impl<K: Ord + Clone, V: Clone> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self {
            running: Arc::default(),
        }
    }

    /// Whose turn it is to fetch `key`. `there` looks into the cache; it runs under the lock, so that what lands in
    /// between is found either there or here.
    pub(super) fn turn(&self, key: &K, there: impl FnOnce() -> Option<V>) -> Turn<K, V> {
        let mut running = self.running.lock();
        if let Some(outcome) = running.get(key) {
            return Turn::Wait(Waiter {
                outcome: outcome.clone(),
            });
        }
        if let Some(value) = there() {
            return Turn::There(value);
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver);
        Turn::Fetch(Landing {
            key: key.clone(),
            outcome: sender,
            running: Arc::clone(&self.running),
        })
    }

    /// How many fetches are under way.
    pub(super) fn len(&self) -> usize {
        self.running.lock().len()
    }
}

impl<K: Ord + Clone, V: Clone> Landing<K, V> {
    /// What is to be fetched.
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// Waits for the own fetch, as those who come later do.
    pub(super) fn waiter(&self) -> Waiter<V> {
        Waiter {
            outcome: self.outcome.subscribe(),
        }
    }

    /// Tells everyone who waits. What was fetched must be in the cache already, if it is to be found there.
    pub(super) fn land(self, result: Result<V, ColdError>) {
        self.outcome.send_replace(Some(result));
    }
}

impl<K: Ord + Clone, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

impl<V: Clone> Waiter<V> {
    /// The fetch's result. `what` is for the error when the fetch was given up.
    pub(super) async fn wait(mut self, what: impl FnOnce() -> String) -> Result<V, ColdError> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("it was waited for"),
            Err(_) => Err(ColdError::GivenUp { what: what() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(flights: &Flights<u32, u32>, key: u32) -> Landing<u32, u32> {
        match flights.turn(&key, || None) {
            Turn::Fetch(landing) => landing,
            _ => panic!("nobody fetches {key} yet"),
        }
    }

    fn wait(flights: &Flights<u32, u32>, key: u32) -> Waiter<u32> {
        match flights.turn(&key, || panic!("the cache is not asked while it is on its way")) {
            Turn::Wait(waiter) => waiter,
            _ => panic!("somebody fetches {key}"),
        }
    }

    #[tokio::test]
    async fn one_fetches_and_all_get_it() {
        let flights = Flights::new();
        let landing = fetch(&flights, 1);
        let waiters = [landing.waiter(), wait(&flights, 1), wait(&flights, 1)];
        assert_eq!(flights.len(), 1);
        landing.land(Ok(7));
        for waiter in waiters {
            assert_eq!(waiter.wait(String::new).await.unwrap(), 7);
        }
        assert_eq!(flights.len(), 0);
        assert!(matches!(flights.turn(&1, || Some(7)), Turn::There(7)));
    }

    #[tokio::test]
    async fn a_fetch_given_up_is_retriable_and_frees_the_key() {
        let flights = Flights::new();
        let landing = fetch(&flights, 1);
        let waiter = wait(&flights, 1);
        drop(landing);
        let error = waiter.wait(|| "frame 1".to_owned()).await.unwrap_err();
        assert!(error.is_retriable() && error.to_string().contains("frame 1"));
        drop(fetch(&flights, 1));
    }
}
