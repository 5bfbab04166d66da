//! The state machine of the controller's group.

use bytes::Bytes;
use meridian_controller::{Command, Controller};
use meridian_journal::Payload;
use meridian_raft::{ApplyError, Machine, Reply};
use meridian_types::LogPosition;
use parking_lot::{RwLock, RwLockReadGuard};

#[derive(Default)]
pub(crate) struct ControlMachine {
    controller: RwLock<Controller>,
}

impl ControlMachine {
    pub(crate) fn controller(&self) -> RwLockReadGuard<'_, Controller> {
        self.controller.read()
    }
}

impl Machine for ControlMachine {
    fn apply(&self, at: LogPosition, command: &Payload) -> Result<Reply, ApplyError> {
        let command = Command::decode(command.parts()).map_err(|error| ApplyError {
            at,
            reason: error.to_string(),
        })?;
        Ok(Reply::new(self.controller.write().apply(at, &command)))
    }

    fn applied(&self, _: LogPosition) {}

    fn encode(&self) -> Vec<Bytes> {
        self.controller.read().encode_snapshot()
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        *self.controller.write() = Controller::decode_snapshot(state).map_err(|error| error.to_string())?;
        Ok(())
    }
}
