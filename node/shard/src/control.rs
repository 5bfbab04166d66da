//! The state machine of the controller's group.

use std::collections::VecDeque;

use bytes::Bytes;
use meridian_controller::{Command, Controller, Outcome};
use meridian_journal::Payload;
use meridian_raft::{ApplyError, Machine, Reply};
use meridian_types::LogPosition;
use parking_lot::{RwLock, RwLockReadGuard};

/// Outcomes that are kept. A node that forwarded a command reads its outcome here when its own replica has
/// applied it, which is a matter of milliseconds after the leader's answer.
const OUTCOMES_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct ControlMachine {
    controller: RwLock<Controller>,
    outcomes: RwLock<VecDeque<(LogPosition, Outcome)>>,
}

impl ControlMachine {
    pub(crate) fn controller(&self) -> RwLockReadGuard<'_, Controller> {
        self.controller.read()
    }

    /// What the command at `at` did; `None` when it was not applied here one by one, or long ago.
    ///
    /// Every replica comes to the same outcome, as it comes to the same state (invariant 4).
    pub(crate) fn outcome(&self, at: LogPosition) -> Option<Outcome> {
        let outcomes = self.outcomes.read();
        let found = outcomes
            .binary_search_by_key(&at.index, |(at, _)| at.index)
            .ok()?;
        let (present, outcome) = &outcomes[found];
        (*present == at).then(|| outcome.clone())
    }
}

impl Machine for ControlMachine {
    fn apply(&self, at: LogPosition, command: &Payload) -> Result<Reply, ApplyError> {
        let command = Command::decode(command.parts()).map_err(|error| ApplyError {
            at,
            reason: error.to_string(),
        })?;
        let outcome = self.controller.write().apply(at, &command);
        let mut outcomes = self.outcomes.write();
        if outcomes.len() == OUTCOMES_MAX {
            outcomes.pop_front();
        }
        outcomes.push_back((at, outcome));
        Ok(Reply::new(()))
    }

    fn applied(&self, _: LogPosition) {}

    fn encode(&self) -> Vec<Bytes> {
        self.controller.read().encode_snapshot()
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        *self.controller.write() = Controller::decode_snapshot(state).map_err(|error| error.to_string())?;
        self.outcomes.write().clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{RaftIndex, Term};

    use super::*;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition {
            term: Term(term),
            index: RaftIndex(index),
        }
    }

    #[test]
    fn outcomes_are_found_by_their_place_until_newer_ones_take_theirs() {
        let machine = ControlMachine::default();
        let command = Payload::from(Command::AllocateProducerIds { count: 1 }.encode());
        let last = 2 * OUTCOMES_MAX as u64;
        for index in (2..=last).step_by(2) {
            machine.apply(at(1, index), &command).expect("it applies");
        }
        assert_eq!(machine.outcome(at(1, last)), Some(Outcome::NotFounded));
        assert_eq!(machine.outcome(at(2, last)), None, "another entry stood there");
        assert_eq!(machine.outcome(at(1, 3)), None, "no command stood there");
        assert_eq!(machine.outcome(at(1, 2)), Some(Outcome::NotFounded));
        machine.apply(at(1, last + 1), &command).expect("it applies");
        assert_eq!(machine.outcome(at(1, 2)), None, "it made room");
        assert_eq!(machine.outcomes.read().len(), OUTCOMES_MAX);
    }
}
