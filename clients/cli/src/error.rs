//! How a command fails.

use std::process::ExitCode;

use meridian_client::cluster::{CoordinatorError, TopicError};
use meridian_client::{AdminError, ConsumeError, Phase, RequestCause, RequestError};
use meridian_wire::ErrorCode;

use crate::cert::make::MakeError;

/// The exit status of a command that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was tried and failed.
    Failed,
    /// It was asked for wrongly; nothing was tried.
    Usage,
    /// It was done, and found that something does not hold.
    CheckFailed,
}

/// Why a command is not done: what was wrong, and what to do about it.
#[derive(Debug)]
pub struct CliError {
    pub(crate) status: Status,
    message: String,
    advice: Option<String>,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Failed => 1,
            Status::Usage => 2,
            Status::CheckFailed => 3,
        })
    }
}

impl CliError {
    /// It was tried and failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::of(Status::Failed, message)
    }

    /// It was asked for wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::of(Status::Usage, message)
    }

    /// A check does not hold.
    pub(crate) fn check(message: impl Into<String>) -> Self {
        Self::of(Status::CheckFailed, message)
    }

    fn of(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            advice: None,
        }
    }

    /// Adds what to do about it.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Says it on standard error.
    pub(crate) fn print(&self) {
        // A reader that went away has what it wanted.
        if self.message.is_empty() {
            return;
        }
        eprintln!("error: {}", self.message);
        if let Some(advice) = &self.advice {
            eprintln!("  {advice}");
        }
    }
}

/// Writing the output failed. That the reader went away (`| head`) is no error to speak of.
impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::failed("");
        }
        Self::failed(format!("cannot write the output: {error}"))
    }
}

impl From<MakeError> for CliError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Name(_) => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<RequestError> for CliError {
    fn from(error: RequestError) -> Self {
        let endpoint = &error.endpoint;
        let advice = match (error.phase, &error.cause) {
            (Phase::Resolve, _) => Some(format!(
                "check the host name in --server {endpoint} (or MERIDIAN_SERVER)"
            )),
            (Phase::Connect, RequestCause::Io(io)) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                Some(format!(
                    "nothing listens there: start a server with `meridian serve`, or name another with --server (now {endpoint})"
                ))
            }
            (Phase::Connect, _) => Some(
                "check that the address is right and that no firewall is in between, or name another with --server"
                    .to_owned(),
            ),
            (Phase::Negotiate, _) => Some(
                "a server that expects TLS, or one that does not speak the Kafka protocol, looks like this"
                    .to_owned(),
            ),
            (Phase::Request(_), RequestCause::Unsupported { api, .. }) if api.is_private() => {
                Some("only a Meridian server offers this operation, and this one does not say that it is one".to_owned())
            }
            (Phase::Request(_), RequestCause::Unsupported { .. }) => {
                Some("the server is too old or does not offer this operation".to_owned())
            }
            (Phase::Request(_), _) if error.may_have_executed => {
                Some("look whether it was done before you try again".to_owned())
            }
            (Phase::Request(_), _) => None,
        };
        let result = Self::failed(error.to_string());
        match advice {
            Some(advice) => result.advise(advice),
            None => result,
        }
    }
}

/// What to do about a server's refusal.
fn advice_for(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopicOrPartition => {
            "list the topics with `meridian topic list`, or create it with `meridian topic create`"
        }
        ErrorCode::TopicAlreadyExists => {
            "look at it with `meridian topic describe`; `--if-not-exists` accepts it as it is"
        }
        ErrorCode::GroupIdNotFound => "list the groups with `meridian group list`",
        ErrorCode::NonEmptyGroup => "stop its members first; `meridian group describe` names them",
        ErrorCode::UnknownMemberId => {
            "the group has members: stop them first; `meridian group describe` names them"
        }
        ErrorCode::InvalidReplicationFactor => {
            "there must be as many brokers as replicas; `meridian cluster status` lists the brokers"
        }
        ErrorCode::BrokerIdNotRegistered => "`meridian cluster status` lists the nodes",
        ErrorCode::NotEnoughReplicas => {
            "too few of the partition's nodes are alive for its min.insync.replicas; `meridian cluster status` lists the nodes"
        }
        ErrorCode::InvalidTopicException => {
            "a topic's name has 1 to 249 letters, digits, dots, underscores and hyphens"
        }
        ErrorCode::MessageTooLarge => {
            "make the record smaller, or raise the topic's max.message.bytes with `meridian topic alter`"
        }
        _ => return None,
    })
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Request(error) => error.into(),
            AdminError::Refused { what, refusal } => {
                let result = Self::failed(format!("{what}: {refusal}"));
                match advice_for(refusal.code) {
                    Some(advice) => result.advise(advice),
                    None => result,
                }
            }
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<TopicError> for CliError {
    fn from(error: TopicError) -> Self {
        AdminError::from(error).into()
    }
}

impl From<CoordinatorError> for CliError {
    fn from(error: CoordinatorError) -> Self {
        AdminError::from(error).into()
    }
}

impl CliError {
    /// A refusal of a produce or fetch, with what to do about it.
    pub(crate) fn refused(message: String, code: ErrorCode) -> Self {
        let result = Self::failed(message);
        match advice_for(code) {
            Some(advice) => result.advise(advice),
            None => result,
        }
    }
}

impl From<ConsumeError> for CliError {
    fn from(error: ConsumeError) -> Self {
        match error {
            ConsumeError::Position(error) => error.into(),
            ConsumeError::Refused { ref refusal, .. } => Self::refused(error.to_string(), refusal.code),
            ConsumeError::OutOfRange { .. } => Self::failed(error.to_string())
                .advise("`meridian topic describe` shows where the log starts and ends"),
            ConsumeError::NotYet { .. } => Self::failed(error.to_string()).advise(
                "a longer --timeout waits longer; without --rack the leader is read, which has it; `meridian mirror status` shows how far mirrors are",
            ),
            other => Self::failed(other.to_string()),
        }
    }
}
