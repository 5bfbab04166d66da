//! Starts the process of a node, reads what it says, and ends it.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

use super::{Launch, NodeState, Wish};

/// A node that was asked to end and does not is killed after so long.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the node as wished, until nobody is there to wish. Its process ends with that.
pub(super) async fn live(launch: Launch, mut wishes: mpsc::Receiver<Wish>, state: watch::Sender<NodeState>) {
    while let Some(wish) = wishes.recv().await {
        if wish != Wish::Start {
            continue;
        }
        let (reason, is_wished) = match spawn(&launch) {
            Ok(child) => run(child, &launch, &mut wishes, &state).await,
            Err(error) => (format!("cannot be started: {error}"), false),
        };
        state.send_replace(NodeState::Down { reason, is_wished });
    }
}

/// This program once more, as a node. It watches its standard input, which ends with this process in any case.
fn spawn(launch: &Launch) -> io::Result<Child> {
    if let Some(directory) = launch.log.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let log = File::options().create(true).append(true).open(&launch.log)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("meridian")
        .args(&launch.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // Ctrl-C is for the demo, which ends its nodes in order.
        .process_group(0)
        .kill_on_drop(true);
    // What is set for other nodes is not for these.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("MERIDIAN_")) {
            command.env_remove(name);
        }
    }
    command.spawn()
}

/// Lets the process run until it ends. Gives the reason, and whether it was to end.
async fn run(
    mut child: Child,
    launch: &Launch,
    wishes: &mut mpsc::Receiver<Wish>,
    state: &watch::Sender<NodeState>,
) -> (String, bool) {
    let Some(pid) = child.id() else {
        return ("ended at once".to_owned(), false);
    };
    state.send_replace(NodeState::Starting { pid });
    // Held until the process has ended: its end of this pipe tells it that this process is there.
    let life_line = child.stdin.take();
    let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines());
    let (mut is_killed, mut is_stopped) = (false, false);
    let mut deadline = None;
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended,
            line = next_line(&mut lines) => {
                if line.is_some_and(|line| is_ready(&line)) {
                    state.send_replace(NodeState::Ready { pid });
                }
            }
            wish = wishes.recv() => match wish {
                Some(Wish::Start) => {}
                Some(Wish::Stop) => {
                    is_stopped = true;
                    signal(pid, Signal::TERM);
                    deadline = Some(tokio::time::Instant::now() + STOP_TIMEOUT);
                }
                Some(Wish::Kill) | None => {
                    is_killed = true;
                    signal(pid, Signal::KILL);
                    if wish.is_none() {
                        break child.wait().await;
                    }
                }
            },
            () = sleep_until(deadline) => {
                is_killed = true;
                deadline = None;
                signal(pid, Signal::KILL);
            }
        }
    };
    drop(life_line);
    let reason = match ended {
        Ok(_) if is_killed => "killed".to_owned(),
        Ok(status) if status.success() => "stopped".to_owned(),
        Ok(status) => format!("{}: see {}", text(status), launch.log.display()),
        Err(error) => format!("cannot be waited for: {error}"),
    };
    (reason, is_killed || is_stopped)
}

fn text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The next line; never, once there are no more.
async fn next_line(lines: &mut Option<tokio::io::Lines<BufReader<ChildStdout>>>) -> Option<String> {
    if let Some(open) = lines {
        if let Ok(Some(line)) = open.next_line().await {
            return Some(line);
        }
        *lines = None;
    }
    std::future::pending().await
}

fn is_ready(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|line| line["event"] == "ready")
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself; it was not waited for yet, so the number is still its own.
        let _ = kill_process(pid, signal);
    }
}
