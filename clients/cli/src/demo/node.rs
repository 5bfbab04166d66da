//! One node of the demo: a process of its own, killed and started as its owner wishes.

use tokio::sync::{mpsc, watch};

mod driver;

/// Wishes that wait for a node.
const WISHES_MAX: usize = 8;

/// What a node's process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    /// It has not been started yet.
    New,
    /// It recovers, or waits for others.
    Starting { pid: u32 },
    /// It takes requests.
    Ready { pid: u32 },
    /// There is none; why not, and whether it was to end.
    Down { reason: String, is_wished: bool },
}

/// What its owner wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Start,
    Kill,
    Stop,
}

/// How a node is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) arguments: Vec<String>,
    /// Where its standard error goes.
    pub(super) log: std::path::PathBuf,
}

/// A node. Dropping it kills its process.
#[derive(Debug)]
pub(super) struct Node {
    wishes: mpsc::Sender<Wish>,
    state: watch::Receiver<NodeState>,
}

impl NodeState {
    /// The process, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Starting { pid } | Self::Ready { pid } => Some(*pid),
            Self::New | Self::Down { .. } => None,
        }
    }
}

impl Node {
    /// Starts it. Returns at once.
    pub(super) fn launch(launch: Launch) -> Self {
        let (wishes, wished) = mpsc::channel(WISHES_MAX);
        let (told, state) = watch::channel(NodeState::New);
        tokio::spawn(driver::live(launch, wished, told));
        let node = Self { wishes, state };
        node.wish(Wish::Start);
        node
    }

    /// What its process does now.
    pub(super) fn state(&self) -> NodeState {
        self.state.borrow().clone()
    }

    /// Follows its state.
    pub(super) fn watch(&self) -> watch::Receiver<NodeState> {
        self.state.clone()
    }

    /// Starts it again, if it does not run.
    pub(super) fn start(&self) {
        self.wish(Wish::Start);
    }

    /// kill -9.
    pub(super) fn kill(&self) {
        self.wish(Wish::Kill);
    }

    /// Asks it to end.
    pub(super) fn stop(&self) {
        self.wish(Wish::Stop);
    }

    fn wish(&self, wish: Wish) {
        // Whoever wishes more than can wait has wished it already.
        let _ = self.wishes.try_send(wish);
    }

    /// Waits until it takes requests.
    pub(super) async fn ready(&self) {
        let mut state = self.state.clone();
        // An error means that nobody runs it any more: the demo is ending.
        let _ = state
            .wait_for(|state| matches!(state, NodeState::Ready { .. }))
            .await;
    }

    /// Waits until its process ends although nobody wished that. Tells why.
    pub(super) async fn failure(&self) -> String {
        let mut state = self.state.clone();
        loop {
            if let NodeState::Down {
                reason,
                is_wished: false,
            } = &*state.borrow_and_update()
            {
                return reason.clone();
            }
            if state.changed().await.is_err() {
                return "the demo is ending".to_owned();
            }
        }
    }

    /// Waits until it has no process.
    pub(super) async fn down(&self) {
        let mut state = self.state.clone();
        // An error means that nobody runs it any more.
        let _ = state.wait_for(|state| state.pid().is_none()).await;
    }
}
