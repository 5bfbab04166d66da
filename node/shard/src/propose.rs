//! One way to propose a command and wait for what it does.

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use meridian_raft::Group;
use meridian_types::{LogPosition, Term};

use crate::errors::ControlError;

/// How long a command may be undecided before its fate counts as unknown.
const UNDECIDED_MAX: Duration = Duration::from_secs(5);

/// Proposes an encoded command under `term`, and waits for its outcome. `T` is what the group's machine
/// answers.
pub(crate) async fn propose<T: Any>(
    group: &Group,
    term: Term,
    command: Vec<Bytes>,
) -> Result<(LogPosition, T), ControlError> {
    // Raft takes a refused append for a broken disk.
    let bytes = command.iter().map(Bytes::len).sum();
    group.admit(bytes, 1).map_err(|refusal| ControlError::Storage {
        reason: refusal.to_string(),
    })?;
    let pending = group.propose(term, command).await?;
    let (at, reply) =
        tokio::time::timeout(UNDECIDED_MAX, pending)
            .await
            .map_err(|_| ControlError::Unknown {
                reason: format!("not decided after {UNDECIDED_MAX:?}"),
            })??;
    let reply = reply.into::<T>().ok_or_else(|| ControlError::Unknown {
        reason: "answered by another type".to_owned(),
    })?;
    Ok((at, reply))
}
