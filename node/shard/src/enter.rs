//! From an empty directory, or an old one, into the region: asks seeds, founds or joins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{
    Command, ConfigChange, ConfigOp, ConfigResource, Controller, Founding, FoundingError, GeoFounding,
    HostPort as FactHostPort, NodeRegistration, Outcome,
};
use meridian_journal::Journal;
use meridian_peer::{AddressError, CallError, DialError, HostPort, Peers};
use meridian_raft::Leadership;
use meridian_types::{NodeId, RegionEpoch, ShardId, Uuid, uuid_v4};
use tokio::time::Instant;

use crate::control::ControlMachine;
use crate::join::{self, Asked, JoinStep, SeedAnswer, Silent};
use crate::message::{Introduced, JoinAnswer, JoinInfo, ReplicaAnswer, ReplicaQuestion, ReplicaState, kind};
use crate::mirror;
use crate::pacing::Known;
use crate::region::{Inner, others};
use crate::same_bucket;
use crate::settings::RegionSettings;
use crate::start::RegionStartError;

/// Pause between attempts.
pub(crate) const JOIN_STEP: Duration = Duration::from_millis(100);

/// How often the log tells what is waited for.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Nodes that are asked in turn, when one names another as the leader.
const REDIRECTS_MAX: usize = 8;

/// What the region is told about a node before it takes clients.
pub(crate) fn registration(node: NodeId, incarnation: Uuid, info: &JoinInfo) -> NodeRegistration {
    NodeRegistration {
        node,
        incarnation,
        kafka: None,
        peer: Some(FactHostPort {
            host: info.address.host.clone(),
            port: info.address.port,
        }),
        rack: info.rack.clone(),
        version_max: info.version_max,
    }
}

/// Asks, until the controller's leader says so, whether this node is no member of its group any more. The question
/// tells that the replica here is damaged.
pub(crate) async fn wait_until_dismissed(settings: &RegionSettings, peers: &Peers) {
    let question = ReplicaQuestion {
        mine: ReplicaState::Damaged,
    };
    let mut told: Option<Instant> = None;
    loop {
        for seed in &settings.seeds {
            let asked = peers
                .call_address(seed, kind::REPLICA, vec![question.encode()])
                .await;
            let Ok((_, body)) = asked else { continue };
            match ReplicaAnswer::decode(&body) {
                Ok(ReplicaAnswer {
                    members: Some(says), ..
                }) if !says.members.contains(&settings.peer.node) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(%seed, %error, "a seed's answer cannot be read"),
            }
        }
        if told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL) {
            let what = "waiting for the controller's leader to let the damaged replica go";
            tracing::info!("{what}");
            settings.tell(what);
            told = Some(Instant::now());
        }
        tokio::time::sleep(JOIN_STEP).await;
    }
}

/// The nodes that the controller's log here names, where there is no checkpoint and so nothing is known for certain: a
/// node that comes back at another address finds by them who can tell it what is committed.
pub(crate) async fn logged_nodes(
    journal: &Journal,
    control: &ControlMachine,
    me: NodeId,
) -> BTreeMap<NodeId, Known> {
    if control.controller().founding().is_some() {
        return BTreeMap::new();
    }
    let journal = journal.clone();
    let read = move || {
        let mut facts = Controller::new();
        let read = meridian_raft::logged_commands(&journal, ShardId::CONTROLLER, |at, command| {
            // What this version cannot read, it is told again by whoever leads.
            if let Ok(command) = Command::decode(command.parts()) {
                facts.apply(at, &command);
            }
        });
        if let Err(reason) = read {
            tracing::warn!(reason, "the controller's log is not readable to its end");
        }
        others(&facts, me)
    };
    meridian_raft::blocking(read).await.unwrap_or_default()
}

/// Repeats until the region's founding is known and this node is one of its nodes.
pub(crate) async fn find_region(inner: &Arc<Inner>) -> Result<Founding, RegionStartError> {
    let started = Instant::now();
    let mut told: Option<(Instant, String)> = None;
    let mut applied = inner.control_group.applied();
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(founding) = admitted(inner) {
            return Ok(founding);
        }
        let waiting = if inner.is_initialized() || inner.settings.seeds.is_empty() || is_due(asked) {
            asked = Some(Instant::now());
            attempt(inner, started).await?
        } else {
            None
        };
        if let Some(reason) = waiting {
            let is_news = told
                .as_ref()
                .is_none_or(|(at, before)| at.elapsed() >= PROGRESS_INTERVAL || *before != reason);
            if is_news {
                tracing::info!(%reason, waited = ?started.elapsed(), "waiting for the region");
                inner.settings.tell(format!("waiting for the region: {reason}"));
                told = Some((Instant::now(), reason));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(JOIN_STEP) => {}
            _ = applied.changed() => {}
        }
    }
}

fn is_due(asked: Option<Instant>) -> bool {
    asked.is_none_or(|asked| asked.elapsed() >= JOIN_STEP)
}

/// The founding, once the facts that are applied here name this node.
fn admitted(inner: &Inner) -> Option<Founding> {
    let controller = inner.control.controller();
    let founding = controller.founding()?;
    let settings = &inner.settings;
    match controller
        .node(inner.node())
        .map(|node| node.registration.incarnation)
    {
        Some(present) if present == settings.peer.incarnation => {}
        // Below feature level 3, of a node that had this id before, and was removed: the log has not come so far yet. If it
        // was not, the controller's leader refuses this node.
        Some(_) => return None,
        // The region of one node knew its node only when that took clients.
        None if controller.nodes().len() == 0 => {}
        None => return None,
    }
    if founding.shards != settings.shards || founding.region != settings.peer.region {
        tracing::warn!(
            region = founding.region,
            shards = founding.shards,
            "the region was founded with other settings; its own are in force"
        );
    }
    Some(founding.clone())
}

/// Does what can be done now. Returns what is waited for.
async fn attempt(inner: &Arc<Inner>, started: Instant) -> Result<Option<String>, RegionStartError> {
    let answers = ask_seeds(inner).await;
    introduce(inner, &answers);
    if inner.is_initialized() {
        if inner.control.controller().founding().is_none() {
            return found(inner).await;
        }
        // A node that the region has forgotten, or never knew, asks as a new one would.
        let known = inner.nodes().into_values().map(|known| known.address);
        let at: Vec<_> = inner.settings.seeds.iter().cloned().chain(known).collect();
        return ask_to_join(inner, at, started).await;
    }
    let me = (inner.node(), inner.settings.peer.incarnation);
    match join::next_step(me, &inner.join_info(), &answers) {
        JoinStep::Found { others } => {
            let voters = others
                .iter()
                .map(|other| other.node)
                .chain([inner.node()])
                .collect();
            tracing::info!(?voters, "founding the region");
            inner.control_group.initialize(voters).await;
            Ok(None)
        }
        JoinStep::Join { at } => {
            let is_same = same_bucket::check(inner, &at).await;
            is_same.map_err(RegionStartError::Join)?;
            ask_to_join(inner, at, started).await
        }
        JoinStep::Wait { reason } => Ok(Some(reason)),
        JoinStep::Stuck { reason } if started.elapsed() < inner.settings.start_timeout => Ok(Some(reason)),
        JoinStep::Stuck { reason } => Err(RegionStartError::Join(reason)),
    }
}

/// What each seed says of itself.
pub(crate) async fn ask_seeds(inner: &Inner) -> Vec<Asked> {
    let question = inner.join_info().encode();
    let asking = inner.settings.seeds.iter().map(|seed| {
        let question = question.clone();
        async move {
            let answer = inner
                .peers
                .call_address(seed, kind::JOIN_INFO, vec![question])
                .await;
            let answer = answer
                .map_err(|error| silence(&error))
                .and_then(|(identity, body)| {
                    let info = JoinInfo::decode(&body).map_err(|error| Silent::Refuses(error.to_string()))?;
                    Ok(SeedAnswer {
                        node: identity.node,
                        incarnation: identity.incarnation,
                        info,
                    })
                });
            (seed.clone(), answer)
        }
    });
    futures::future::join_all(asking).await
}

/// A seed that is not up yet is normal; one that turns us away is not.
fn silence(error: &AddressError) -> Silent {
    match error {
        AddressError::Dial(
            DialError::Tls(_) | DialError::Protocol(_) | DialError::Stranger(_) | DialError::Rejected(_),
        )
        | AddressError::Call(CallError::Refused(_)) => Silent::Refuses(error.to_string()),
        _ => Silent::Away,
    }
}

/// Lets the pacemaker and the connections know of nodes that the facts do not name yet.
pub(crate) fn introduce(inner: &Inner, answers: &[Asked]) {
    let mut introduced = inner.introduced.lock();
    let others = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    for answer in others.filter(|answer| answer.node != inner.node()) {
        introduced.insert(answer.node, answer.clone());
    }
    let mut nodes = inner.nodes();
    for (node, answer) in &*introduced {
        let known = Known {
            incarnation: Some(answer.incarnation),
            address: answer.info.address.clone(),
        };
        // What a node says of itself now is newer than what it registered once.
        if nodes
            .get(node)
            .is_none_or(|fact| fact.incarnation == known.incarnation)
        {
            nodes.insert(*node, known);
        }
    }
    drop(introduced);
    inner.pacing.set_nodes(&nodes);
}

/// Founds the region as the leader of the controller's group, once every voter of it has said who it is.
async fn found(inner: &Inner) -> Result<Option<String>, RegionStartError> {
    if !matches!(
        *inner.control_group.leadership().borrow(),
        Leadership::Leading { .. }
    ) {
        return Ok(Some(without_leader(inner)));
    }
    let own = (inner.node(), inner.settings.peer.incarnation, inner.join_info());
    let mut nodes = vec![registration(own.0, own.1, &own.2)];
    for voter in inner.control_group.members().borrow().all() {
        if voter == inner.node() {
            continue;
        }
        match inner.introduced.lock().get(&voter) {
            Some(answer) => nodes.push(registration(answer.node, answer.incarnation, &answer.info)),
            None => return Ok(Some(format!("node {voter} has not said who it is"))),
        }
    }
    let settings = &inner.settings;
    let learned = match &settings.geo {
        Some(geo) if !geo.seeds.is_empty() => match mirror::seeds::learn(inner, geo).await {
            Ok(learned) => Some(learned),
            Err(reason) => return Ok(Some(format!("no other region answers: {reason}"))),
        },
        _ => None,
    };
    let told = learned.as_ref().map(|learned| learned.cluster_id.clone());
    let cluster_id = told.or_else(|| settings.cluster_id.clone());
    let founding = Founding {
        cluster_id: cluster_id.unwrap_or_else(|| make_cluster_id((inner.random)())),
        region: settings.peer.region.clone(),
        shards: learned.as_ref().map_or(settings.shards, |learned| learned.shards),
        region_epoch: RegionEpoch(0),
        founded_at: (inner.clock)(),
    };
    let replicas = (
        "default.replication.factor".to_owned(),
        settings.replicas.to_string(),
    );
    let command = match &settings.geo {
        Some(geo) => {
            let owner = learned.map_or(geo.number, |learned| learned.owner);
            let number = geo.number;
            Command::found_geo(founding, GeoFounding { number, owner }, nodes, settings.replicas)
        }
        None => Command::found(founding, nodes, BTreeMap::from([replicas.clone()])),
    };
    match inner.control(&command).await {
        Ok(Outcome::Founded(Ok(()))) if inner.control.controller().is_geo() => {
            set_cluster_config(inner, replicas).await;
            Ok(None)
        }
        Ok(Outcome::Founded(Ok(()))) => Ok(None),
        // Another voter was faster, or an earlier process of this node: its founding was in the log and not applied yet.
        Ok(Outcome::Founded(Err(FoundingError::Founded { region, .. })))
            if region == settings.peer.region =>
        {
            Ok(None)
        }
        Ok(Outcome::Founded(Err(refused))) => Err(RegionStartError::Settings(refused.to_string())),
        Ok(other) => Err(RegionStartError::Join(format!(
            "the founding was answered by {other:?}"
        ))),
        Err(error) => Ok(Some(error.to_string())),
    }
}

/// All regions have the same configs of the cluster, so they come after the founding, and from the owner.
async fn set_cluster_config(inner: &Inner, (name, value): (String, String)) {
    if !inner.control.controller().is_owner() {
        return;
    }
    let change = ConfigChange {
        resource: ConfigResource::Cluster,
        replace_all: false,
        ops: vec![ConfigOp::Set { name, value }],
    };
    let command = Command::AlterConfigs {
        changes: vec![change],
    };
    if let Err(error) = inner.control(&command).await {
        tracing::warn!(%error, "the wanted number of copies is left at its default");
    }
}

/// What a node waits for that has a log of the region, and has not heard yet what of it is committed.
fn without_leader(inner: &Inner) -> String {
    let members: Vec<_> = inner.control_group.members().borrow().all().collect();
    let others = members.iter().filter(|member| **member != inner.node());
    let others: Vec<_> = others.map(|member| format!("node {member}")).collect();
    let known: Vec<_> = inner
        .nodes()
        .into_iter()
        .map(|(node, known)| format!("node {node} at {}", known.address))
        .collect();
    let heard: Vec<_> = inner
        .pacing
        .view()
        .alive
        .iter()
        .map(|node| format!("node {node}"))
        .collect();
    if known.is_empty() && !others.is_empty() {
        return format!(
            "the region has no leader yet, and where {} can be reached is not known here: start this node with seeds",
            others.join(", ")
        );
    }
    format!(
        "the region has no leader yet; known are {}; heard are {}",
        known.join(", "),
        heard.join(", ")
    )
}

/// Asks to be let in, at one node after the other.
async fn ask_to_join(
    inner: &Inner,
    mut at: Vec<HostPort>,
    started: Instant,
) -> Result<Option<String>, RegionStartError> {
    at.reverse();
    let (mut is_answered, mut is_turned_away) = (false, false);
    let question = inner.join_info().encode();
    let mut reason = "no node of the region can be reached".to_owned();
    for _ in 0..REDIRECTS_MAX {
        let Some(address) = at.pop() else { break };
        if address == inner.address() {
            continue;
        }
        let answer = inner
            .peers
            .call_address(&address, kind::JOIN, vec![question.clone()])
            .await;
        let answer = match answer {
            Ok((_, body)) => {
                is_answered = true;
                JoinAnswer::decode(&body).map_err(|error| error.to_string())
            }
            Err(error) => {
                is_turned_away |= matches!(silence(&error), Silent::Refuses(_));
                Err(error.to_string())
            }
        };
        match answer {
            Ok(JoinAnswer::Welcome { nodes }) => {
                let others = nodes.into_iter().filter(|known| known.node != inner.node());
                let known = |known: Introduced| {
                    let is = Known {
                        incarnation: Some(known.incarnation),
                        address: known.address,
                    };
                    (known.node, is)
                };
                inner.pacing.set_nodes(&others.map(known).collect());
                return Ok(Some(format!("let in by {address}; its log is on its way")));
            }
            Ok(JoinAnswer::Elsewhere { leader }) => {
                reason = format!("{address} knows no leader yet");
                at.extend(leader);
            }
            Ok(JoinAnswer::Refused { reason }) => return Err(RegionStartError::Join(reason)),
            Err(error) => reason = format!("{address}: {error}"),
        }
    }
    match is_turned_away && !is_answered && started.elapsed() >= inner.settings.start_timeout {
        true => Err(RegionStartError::Join(reason)),
        false => Ok(Some(reason)),
    }
}

/// A cluster id in Kafka's form: a UUID in 22 letters of URL-safe base64.
fn make_cluster_id(random: u128) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = uuid_v4(random).as_u128();
    // 21 letters carry 6 bits each, the last one 2.
    (0..22)
        .map(|place| {
            let shifted = if place < 21 {
                bits >> (122 - 6 * place)
            } else {
                bits << 4
            };
            char::from(LETTERS[(shifted & 63) as usize])
        })
        .collect()
}
