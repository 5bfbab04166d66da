//! Calls of one connection that were sent and not answered.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::call::{Answer, CallError};

/// Calls of one connection that were sent and not answered. When it is dropped, they fail with
/// [`CallError::Closed`].
#[derive(Default)]
pub(crate) struct CallsUnderWay(Mutex<Table>);

#[derive(Default)]
struct Table {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

impl CallsUnderWay {
    /// Numbers a call, from 1.
    pub(crate) fn insert(&self, sender: oneshot::Sender<Answer>) -> u64 {
        let mut table = self.0.lock();
        table.last += 1;
        let request = table.last;
        table.waiting.insert(request, sender);
        request
    }

    /// An answer has come; nobody may wait for it any more.
    pub(crate) fn answer(&self, request: u64, outcome: Result<Bytes, String>) {
        let sender = self.0.lock().waiting.remove(&request);
        if let Some(sender) = sender {
            let _ = sender.send(outcome.map_err(CallError::Refused));
        }
    }

    /// Forgets calls whose callers have given up, which a peer that never answers would pile up.
    pub(crate) fn forget_abandoned(&self) {
        self.0.lock().waiting.retain(|_, sender| !sender.is_closed());
    }
}

impl Drop for CallsUnderWay {
    fn drop(&mut self) {
        for (_, sender) in self.0.get_mut().waiting.drain() {
            let _ = sender.send(Err(CallError::Closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_answer_reaches_its_own_call() {
        let calls = CallsUnderWay::default();
        let (one, first) = oneshot::channel();
        let (two, second) = oneshot::channel();
        let (one, two) = (calls.insert(one), calls.insert(two));
        calls.answer(two, Err("no".to_owned()));
        calls.answer(one, Ok(Bytes::from_static(b"yes")));
        calls.answer(99, Ok(Bytes::new()));
        assert_eq!(first.await, Ok(Ok(Bytes::from_static(b"yes"))));
        assert_eq!(second.await, Ok(Err(CallError::Refused("no".to_owned()))));
    }

    #[tokio::test]
    async fn abandoned_calls_are_forgotten_and_the_rest_fail_with_the_connection() {
        let calls = CallsUnderWay::default();
        let (abandoned, receiver) = oneshot::channel();
        calls.insert(abandoned);
        drop(receiver);
        let (kept, answer) = oneshot::channel();
        calls.insert(kept);
        calls.forget_abandoned();
        assert_eq!(calls.0.lock().waiting.len(), 1);
        drop(calls);
        assert_eq!(answer.await, Ok(Err(CallError::Closed)));
    }
}
