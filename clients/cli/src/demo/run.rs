//! A demo from its start to its end.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::KeyEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::StartArgs;
use super::action::Action;
use super::control::{self, Command};
use super::load;
use super::mirror;
use super::network::FreePorts;
use super::node::NodeState;
use super::place::Place;
use super::plan::{Plan, Ports};
use super::say::Show;
use super::screen::driver::{Screen, keys};
use super::screen::keys::Selection;
use super::stage::{RegionStage, Stage};
use super::watch::Watch;
use crate::context::Context;
use crate::error::CliError;

/// From the start until everything works.
const OPEN_TIMEOUT: Duration = Duration::from_secs(90);

/// Pause between looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between pictures on the screen.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Commands and news that wait.
const QUEUE_MAX: usize = 64;

/// Runs a demo until it is stopped.
pub(super) async fn run(args: &StartArgs, context: &Context) -> Result<(), CliError> {
    let started = Instant::now();
    let signals = Signals::listen()?;
    let is_json = context.output.is_json();
    let has_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let show = match (is_json, args.headless || !has_terminal) {
        (true, _) => Show::Json,
        (false, true) => Show::Text,
        (false, false) => Show::Screen,
    };
    let listener = control::bind(args.control).await?;
    let place = Place::take(args.data.as_deref(), args.keep)?;
    let plan = plan(args, place.path())?;
    let (told, news) = mpsc::channel(QUEUE_MAX);
    let stage = Arc::new(Stage::set(&plan, args.latency, place.path(), started, told)?);
    let (commands, wanted) = mpsc::channel(QUEUE_MAX);
    let mut tasks = JoinSet::new();
    stage.picture.lock().control = listener.local_addr().ok();
    tasks.spawn(control::serve(listener, stage.clone(), commands));
    for (name, node) in stage.named_nodes() {
        tasks.spawn(tell_states(stage.clone(), name, node.watch()));
    }
    tasks.spawn(look(stage.clone()));
    if stage.regions.len() > 1 {
        tasks.spawn(mirror::watch(stage.clone()));
    }
    let shown = direct(&stage, show, signals, wanted, news).await;
    tasks.shutdown().await;
    stage.end(place.is_kept()).await;
    let kept = place.is_kept().then(|| place.path().to_owned());
    drop(place);
    shown?;
    show.ended(kept.as_deref())
}

/// What ends a demo from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Ports for every node, and where its files are.
fn plan(args: &StartArgs, directory: &Path) -> Result<Plan, CliError> {
    let mut free = FreePorts::new();
    let ports = |region: u16, place: u32| {
        let preferred = u32::from(args.kafka_port) + u32::from(region) * 10 + place - 1;
        let preferred = u16::try_from(preferred).ok().filter(|_| args.kafka_port > 0);
        Ok(Ports {
            kafka: match preferred.filter(|port| free.claim(*port)) {
                Some(port) => port,
                None => free.take()?,
            },
            admin: free.take()?,
            peer: free.take()?,
            geo: free.take()?,
            geo_advertise: free.take()?,
        })
    };
    Plan::new(args.regions, args.nodes, directory, ports)
        .map_err(|error| CliError::failed(format!("cannot find free ports: {error}")))
}

/// Shows what happens and does what is wanted, until the demo is to end.
async fn direct(
    stage: &Arc<Stage>,
    show: Show,
    mut signals: Signals,
    mut wanted: mpsc::Receiver<Command>,
    mut news: mpsc::Receiver<String>,
) -> Result<(), CliError> {
    let no_terminal = |error| CliError::failed(format!("the terminal cannot be used: {error}"));
    let mut screen = match show {
        Show::Screen => Some(Screen::open().map_err(no_terminal)?),
        Show::Text | Show::Json => None,
    };
    let mut pressed = match show {
        Show::Screen => Some(keys().map_err(no_terminal)?),
        Show::Text | Show::Json => None,
    };
    let mut selection = Selection::new(&stage.picture.lock());
    let mut tasks = JoinSet::new();
    let (opened, mut opening) = oneshot::channel();
    tasks.spawn(open(stage.clone(), opened));
    let mut is_open = false;
    let mut draws = interval(DRAW_INTERVAL);
    let mut looks = interval(LOOK_INTERVAL);
    for ticks in [&mut draws, &mut looks] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    loop {
        let action = tokio::select! {
            () = signals.recv() => return Ok(()),
            result = &mut opening, if !is_open => {
                is_open = true;
                result.map_err(|_| CliError::failed("the demo did not start"))??;
                show.ready(&stage.picture.lock())?;
                continue;
            }
            told = news.recv() => {
                if let Some(told) = told {
                    show.news(&told)?;
                }
                continue;
            }
            key = next_key(&mut pressed) => match key {
                None => return Ok(()),
                Some(key) => {
                    let handled = selection.handle_key(key, &stage.picture.lock());
                    match handled {
                        Ok(Some(action)) => Command { action, reply: None },
                        Ok(None) => continue,
                        Err(reason) => {
                            stage.tell(reason);
                            continue;
                        }
                    }
                }
            },
            command = wanted.recv() => match command {
                Some(command) => command,
                None => return Ok(()),
            },
            _ = draws.tick(), if screen.is_some() => {
                if let Some(screen) = &mut screen {
                    screen.draw(&stage.picture.lock(), &selection).map_err(no_terminal)?;
                }
                continue;
            }
            _ = looks.tick(), if is_open => {
                show.status(&stage.picture.lock())?;
                continue;
            }
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        if action.action == Action::Stop {
            answer(action.reply, Ok("the demo ends".to_owned()));
            return Ok(());
        }
        match action.action {
            Action::SwitchOver(region) => {
                tasks.spawn(switch_over(stage.clone(), region, action.reply));
            }
            other => {
                let done = stage.act(&other);
                if let (None, Err(reason)) = (&action.reply, &done) {
                    stage.tell(reason);
                }
                answer(action.reply, done);
            }
        }
    }
}

/// The next key; never, where there is no terminal.
async fn next_key(pressed: &mut Option<mpsc::Receiver<KeyEvent>>) -> Option<KeyEvent> {
    match pressed {
        Some(pressed) => pressed.recv().await,
        None => std::future::pending().await,
    }
}

fn answer(reply: Option<oneshot::Sender<Result<String, String>>>, said: Result<String, String>) {
    if let Some(reply) = reply {
        // Whoever asked may have gone.
        let _ = reply.send(said);
    }
}

async fn switch_over(
    stage: Arc<Stage>,
    region: String,
    reply: Option<oneshot::Sender<Result<String, String>>>,
) {
    let names: Vec<&str> = stage.regions.iter().map(|it| it.plan.name).collect();
    let done = if names.len() == 1 {
        Err("one region has nobody to give ownership to: start the demo with --regions 2 or more".to_owned())
    } else if !names.contains(&region.as_str()) {
        Err(format!(
            "there is no region {region}: expected one of {}",
            names.join(", ")
        ))
    } else {
        stage.tell(&format!("ownership is to move to {region}"));
        let servers: Vec<_> = stage.regions.iter().flat_map(|region| region.servers()).collect();
        mirror::switch_over(&servers, &region).await
    };
    match &done {
        Ok(said) | Err(said) => stage.tell(said),
    }
    answer(reply, done);
}

/// Waits for the nodes, starts the load, and tells when the first record is through in every region.
async fn open(stage: Arc<Stage>, opened: oneshot::Sender<Result<(), CliError>>) {
    let mut loads = JoinSet::new();
    let opening = async {
        tokio::select! {
            result = try_open(&stage, &mut loads) => result,
            reason = first_failure(&stage) => Err(reason),
        }
    };
    let result = match timeout(OPEN_TIMEOUT, opening).await {
        Ok(result) => result.map_err(CliError::failed),
        Err(_) => {
            let picture = stage.picture.lock();
            let news = picture.news.iter().rev().take(5).rev();
            let news: Vec<&str> = news.map(String::as_str).collect();
            Err(CliError::failed(format!(
                "nothing came through within {OPEN_TIMEOUT:?}. The last that happened:\n{}",
                news.join("\n")
            ))
            .advise("start it with --keep, and look at the nodes' logs beside their data"))
        }
    };
    let is_open = result.is_ok();
    // Nobody waits for it when the demo is ending.
    let _ = opened.send(result);
    if is_open {
        // Load runs until this task is aborted with it.
        while loads.join_next().await.is_some() {}
    }
}

async fn try_open(stage: &Arc<Stage>, loads: &mut JoinSet<()>) -> Result<(), String> {
    for index in 0..stage.regions.len() {
        loads.spawn(work(stage.clone(), index));
    }
    let through = stage.regions.iter().map(|region| tell_first(stage, region));
    tokio::join!(stage.measure(), futures::future::join_all(through));
    // Who owns is part of being ready.
    while stage.picture.lock().owner().is_none() {
        sleep(DRAW_INTERVAL).await;
    }
    stage.refresh();
    Ok(())
}

/// Producer and consumer of a region, from when its nodes are up.
async fn work(stage: Arc<Stage>, index: usize) {
    let region = &stage.regions[index];
    for node in &region.nodes {
        node.ready().await;
    }
    let (name, load) = (region.plan.name, region.load.clone());
    match index {
        0 => load::create_topics(region.servers(), &load).await,
        _ => load::find_topics(region.servers(), &load).await,
    }
    load::run(name, region.servers(), load).await;
}

/// Tells when the first record came through in a region.
async fn tell_first(stage: &Stage, region: &RegionStage) {
    let after = region.load.first_record().await - stage.started;
    stage.tell(&format!(
        "the first record came through in {} after {after:.2?}",
        region.plan.name
    ));
    let mut picture = stage.picture.lock();
    picture.first_record = Some(picture.first_record.map_or(after, |earlier| earlier.min(after)));
}

/// Waits until a node ends that nobody has killed. Tells why.
async fn first_failure(stage: &Stage) -> String {
    let failures = stage.named_nodes().map(|(name, node)| {
        Box::pin(async move { format!("node {name} does not start: {}", node.failure().await) })
    });
    futures::future::select_all(failures).await.0
}

/// Looks again and again, until it is aborted.
async fn look(stage: Arc<Stage>) {
    let mut watch = Watch::default();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watch.look(&stage).await;
    }
}

/// Tells when a node comes and goes.
async fn tell_states(stage: Arc<Stage>, name: String, mut state: tokio::sync::watch::Receiver<NodeState>) {
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        stage.refresh();
        match now {
            NodeState::New => {}
            NodeState::Starting { pid } => stage.tell(&format!("{name} starts as process {pid}")),
            NodeState::Ready { .. } => stage.tell(&format!("{name} is up")),
            NodeState::Down { reason, .. } => stage.tell(&format!("{name} is down: {reason}")),
        }
    }
}
