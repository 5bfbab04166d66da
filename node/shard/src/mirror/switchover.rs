//! The planned move of ownership: the owner is drained for another region, which then gets it.
//!
//! Writes go on until the other region is seen to follow every log: one whose links are just coming back is waited for first.
//!
//! The leader of the owner's controller decides, by what the nodes of its region tell: once every log is fenced and the
//! other region holds all of it, ownership goes, and nothing can take that back. If that is not so by the deadline, the
//! owner goes on under the next region epoch. Whoever leads the controller next goes on from what is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_controller::{Command, Outcome, Ownership, OwnershipState};
use meridian_lineage::Role;
use meridian_types::{RegionEpoch, RegionNumber, ShardId, ShardMap, TimestampMs};
use thiserror::Error;
use tokio::time::Instant;

use super::nodes::{Acknowledged, LedLog, MirrorAnswer};
use crate::errors::ControlError;
use crate::region::{Inner, Region};

/// A region that is to own shows within this time that it follows.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);

/// Pause between looks at that.
const FOLLOWS_STEP: Duration = Duration::from_millis(50);

/// Logs that a refusal names.
const NAMED_MAX: usize = 8;

/// Why ownership is not moved.
#[derive(Debug, Error)]
pub enum SwitchOverError {
    /// Nothing was decided: ask a node of the owner, or for another region. The text says which.
    #[error("{0}")]
    Refused(String),
    /// The controller's group did not take it, or nobody knows. Look, then ask again.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Region {
    /// Begins to move ownership to another region: waits up to `timeout`, 5 s at most, until that region is seen to follow,
    /// then stops writes, and moves it once that region has everything. Returns when that is begun, with the region epoch
    /// that it ends. `timeout` after that it is taken back.
    pub async fn switch_over(
        &self,
        to: RegionNumber,
        timeout: Duration,
    ) -> Result<RegionEpoch, SwitchOverError> {
        let inner = &self.inner;
        let refused = |reason: String| Err(SwitchOverError::Refused(reason));
        let present = match before(inner, to)? {
            Before::Begun(region_epoch) => return Ok(region_epoch),
            Before::Held(present) => present,
        };
        if to != inner.number() {
            let limit = timeout.min(FOLLOWS_WITHIN);
            if let Err(lacking) = until_followed(inner, to, present.region_epoch, limit).await {
                return refused(lacking);
            }
        }
        // Somebody else may have decided something meanwhile.
        let present = match before(inner, to)? {
            Before::Begun(region_epoch) => return Ok(region_epoch),
            Before::Held(present) => present,
        };
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let deadline = TimestampMs((inner.clock)().0.saturating_add(timeout_ms));
        let ownership = Ownership {
            state: OwnershipState::Draining { to, deadline },
            ..present
        };
        match inner.control(&Command::SetOwnership(ownership)).await? {
            Outcome::OwnershipSet(Ok(())) => {
                tracing::warn!(%to, region_epoch = %present.region_epoch, "ownership is being moved to another region");
                Ok(present.region_epoch)
            }
            Outcome::OwnershipSet(Err(error)) => refused(error.to_string()),
            Outcome::NotOwner(error) => refused(error.to_string()),
            other => refused(format!("the controller answered {other:?}")),
        }
    }
}

/// What a switchover finds.
enum Before {
    /// It goes on already: the region epoch that it ends.
    Begun(RegionEpoch),
    Held(Ownership),
}

/// Whether ownership may be moved to a region, as far as is known at once.
fn before(inner: &Inner, to: RegionNumber) -> Result<Before, SwitchOverError> {
    let refused = |reason: String| Err(SwitchOverError::Refused(reason));
    let present = inner.control.controller().ownership();
    if let OwnershipState::Draining { to: already, .. } = present.state {
        return match already == to {
            true => Ok(Before::Begun(present.region_epoch)),
            false => refused(format!(
                "ownership is being moved to region {already} already: wait for the end of that"
            )),
        };
    }
    let was_heard = inner
        .mirror()
        .is_some_and(|mirror| mirror.remote.load().region(to).is_some());
    if !was_heard && to != inner.number() {
        return refused(format!(
            "region {to} is not heard: see that its nodes run and that the link to it is up (meridian link list)"
        ));
    }
    if let Some(diverged) = diverged(inner, to) {
        return refused(diverged);
    }
    let wanted = Ownership {
        state: OwnershipState::Draining {
            to,
            deadline: (inner.clock)(),
        },
        ..present
    };
    match inner.control.controller().check_set_ownership(&wanted) {
        Err(error) if is_known(inner, to) => refused(error.to_string()),
        _ => Ok(Before::Held(present)),
    }
}

/// Whether the cluster has such a region. One that has just been founded is heard before it is.
fn is_known(inner: &Inner, region: RegionNumber) -> bool {
    inner.control.controller().region(region).is_some()
}

/// Waits until `to` follows every log and holds what it held when it was first looked at.
///
/// Errors: what is lacking, for the operator.
async fn until_followed(
    inner: &Inner,
    to: RegionNumber,
    region_epoch: RegionEpoch,
    limit: Duration,
) -> Result<(), String> {
    let started = Instant::now();
    let shards = inner.shard_map().shared_count();
    let mut wanted = BTreeMap::new();
    loop {
        let answers = super::nodes::ask(inner, Acknowledged::ByFollowers).await;
        let answers: Vec<_> = answers.values().collect();
        let lacking = lacking(&mut wanted, region_epoch, to, shards, &answers);
        let is_known = is_known(inner, to);
        if lacking.is_empty() && is_known {
            return Ok(());
        }
        if started.elapsed() >= limit {
            if !is_known {
                return Err(format!(
                    "the cluster has no region {to} yet, and nothing was stopped: see 'meridian region list', then ask again"
                ));
            }
            let named: Vec<_> = lacking.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            let more = if lacking.len() > NAMED_MAX { ", .." } else { "" };
            return Err(format!(
                "region {to} does not follow {} of {} logs ({}{more}), and nothing was stopped: see 'meridian link list' and 'meridian mirror status --shards', then ask again",
                lacking.len(),
                all_logs(shards).count(),
                named.join(", "),
            ));
        }
        tokio::time::sleep(FOLLOWS_STEP).await;
    }
}

/// The logs that take writes under the epoch, and that `to` does not follow as far as they were when they were first seen,
/// which `wanted` keeps; and those that are not seen.
fn lacking(
    wanted: &mut BTreeMap<ShardId, u64>,
    region_epoch: RegionEpoch,
    to: RegionNumber,
    shards: u32,
    answers: &[&MirrorAnswer],
) -> Vec<ShardId> {
    let logs = newest(answers);
    let mut follows = |shard: &ShardId| {
        logs.get(shard).is_some_and(|log| {
            let sequence = *wanted.entry(*shard).or_insert(log.sequence);
            let is_followed = held_by(log, to).is_some_and(|held| held >= sequence);
            is_followed && log.role == Role::Owner && log.region_epoch == region_epoch
        })
    };
    all_logs(shards).filter(|shard| !follows(shard)).collect()
}

/// Why a region must not be promoted, if logs of it are not what this one has.
fn diverged(inner: &Inner, region: RegionNumber) -> Option<String> {
    let remote = inner.mirror()?.remote.load();
    let diverged = &remote.region(region)?.diverged;
    let shards: Vec<String> = diverged.iter().map(ToString::to_string).collect();
    (!shards.is_empty()).then(|| {
        format!(
            "region {region} must not be promoted: its copy of {} differs from what is here; compare with 'meridian mirror verify', and see docs/runbooks/mirror-diverged.md",
            shards.join(", ")
        )
    })
}

/// What the controller's leader decides, if anything. `may_move`: nothing speaks against the region that is to own.
pub(super) fn decide(
    present: &Ownership,
    may_move: bool,
    shards: u32,
    answers: &[&MirrorAnswer],
    now: TimestampMs,
) -> Option<Ownership> {
    let OwnershipState::Draining { to, deadline } = present.state else {
        return None;
    };
    let owner = match may_move && is_drained(present.region_epoch, to, shards, answers) {
        true => to,
        false if now >= deadline => present.owner,
        false => return None,
    };
    Some(Ownership {
        region_epoch: present.region_epoch.next()?,
        owner,
        state: OwnershipState::Held,
    })
}

/// Whether every log, the controller's among them, is fenced and `to` holds all of it.
fn is_drained(region_epoch: RegionEpoch, to: RegionNumber, shards: u32, answers: &[&MirrorAnswer]) -> bool {
    let logs = newest(answers);
    let is_done = |shard: ShardId| {
        logs.get(&shard).is_some_and(|log| {
            let is_held = held_by(log, to).unwrap_or(0) >= log.sequence;
            is_held && log.role == Role::Fenced && log.region_epoch == region_epoch
        })
    };
    all_logs(shards).all(is_done)
}

/// The data shards' and the controller's.
fn all_logs(shards: u32) -> impl Iterator<Item = ShardId> {
    ShardMap::shared(shards).all().chain([ShardId::CONTROLLER])
}

/// Each log as its leader tells of it.
fn newest<'a>(answers: &[&'a MirrorAnswer]) -> BTreeMap<ShardId, &'a LedLog> {
    let mut logs: BTreeMap<ShardId, &LedLog> = BTreeMap::new();
    for led in answers.iter().flat_map(|answer| &answer.led) {
        // Two may believe that they lead: the one that has counted more is ahead.
        let known = logs.entry(led.shard).or_insert(led);
        if (known.region_epoch, known.sequence) < (led.region_epoch, led.sequence) {
            *known = led;
        }
    }
    logs
}

/// How much of a log a region has acknowledged, if it has.
fn held_by(log: &LedLog, region: RegionNumber) -> Option<u64> {
    let acked = log.acks.iter().find(|(acking, _)| *acking == region);
    acked.map(|(_, sequence)| *sequence)
}

/// One look, on the controller's leader.
pub(super) async fn look(inner: &Inner) {
    if inner.led_group(ShardId::CONTROLLER).is_none() {
        return;
    }
    let present = {
        let controller = inner.control.controller();
        let ownership = controller.ownership();
        let is_ours = ownership.owner == controller.region_number();
        if !is_ours || ownership.state == OwnershipState::Held {
            return;
        }
        ownership
    };
    let answers = super::nodes::ask(inner, Acknowledged::ByAny).await;
    let answers: Vec<_> = answers.values().collect();
    let shards = inner.shard_map().shared_count();
    let diverged = match present.state {
        OwnershipState::Draining { to, .. } => diverged(inner, to),
        OwnershipState::Held => None,
    };
    if let Some(reason) = &diverged {
        tracing::error!(reason, "ownership is not moved");
    }
    let Some(next) = decide(&present, diverged.is_none(), shards, &answers, (inner.clock)()) else {
        return;
    };
    match inner.control(&Command::SetOwnership(next)).await {
        Ok(Outcome::OwnershipSet(Ok(()))) if next.owner == present.owner => tracing::error!(
            region_epoch = %next.region_epoch,
            "ownership was not moved: the other region did not have everything in time; this one goes on"
        ),
        Ok(Outcome::OwnershipSet(Ok(()))) => tracing::warn!(
            owner = %next.owner,
            region_epoch = %next.region_epoch,
            "ownership is moved to another region"
        ),
        Ok(other) => tracing::info!(?other, "ownership was decided meanwhile"),
        Err(error) => tracing::info!(%error, "ownership is decided with the next look"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: RegionNumber = RegionNumber(1);

    fn log(shard: ShardId, role: Role, sequence: u64, acked: u64) -> LedLog {
        LedLog {
            shard,
            role,
            region_epoch: RegionEpoch(4),
            sequence,
            is_diverged: false,
            acks: vec![(RegionNumber(2), u64::MAX), (TO, acked)],
        }
    }

    fn answer(logs: Vec<LedLog>) -> MirrorAnswer {
        MirrorAnswer { geo: None, led: logs }
    }

    fn draining() -> Ownership {
        Ownership {
            region_epoch: RegionEpoch(4),
            owner: RegionNumber(0),
            state: OwnershipState::Draining {
                to: TO,
                deadline: TimestampMs(100),
            },
        }
    }

    fn decided(answers: &[MirrorAnswer], now: i64) -> Option<(u32, u16)> {
        let answers: Vec<_> = answers.iter().collect();
        let next = decide(&draining(), true, 2, &answers, TimestampMs(now))?;
        assert_eq!(next.state, OwnershipState::Held);
        Some((next.region_epoch.0, next.owner.0))
    }

    #[test]
    fn ownership_goes_once_every_log_is_fenced_and_held() {
        let control = log(ShardId::CONTROLLER, Role::Fenced, 5, 5);
        let whole = [
            answer(vec![log(ShardId(0), Role::Fenced, 9, 9), control.clone()]),
            answer(vec![log(ShardId(1), Role::Fenced, 0, 0)]),
        ];
        assert_eq!(decided(&whole, 0), Some((5, 1)));
        let differs: Vec<_> = whole.iter().collect();
        assert_eq!(
            decide(&draining(), false, 2, &differs, TimestampMs(99)),
            None,
            "a copy that differs is not promoted"
        );
        let taken_back = decide(&draining(), false, 2, &differs, TimestampMs(100));
        assert_eq!(taken_back.map(|next| next.owner.0), Some(0));
        // A leader that was deposed and does not know it yet.
        let old = answer(vec![log(ShardId(0), Role::Owner, 3, 3)]);
        assert_eq!(
            decided(&[whole[0].clone(), whole[1].clone(), old], 0),
            Some((5, 1))
        );
        for (what, missing) in [
            (
                "a shard without a leader",
                vec![log(ShardId(0), Role::Fenced, 9, 9), control.clone()],
            ),
            (
                "a shard that still writes",
                vec![
                    log(ShardId(0), Role::Fenced, 9, 9),
                    log(ShardId(1), Role::Owner, 2, 2),
                    control.clone(),
                ],
            ),
            (
                "a shard that is behind",
                vec![
                    log(ShardId(0), Role::Fenced, 9, 8),
                    log(ShardId(1), Role::Fenced, 2, 2),
                    control,
                ],
            ),
            (
                "the controller",
                vec![
                    log(ShardId(0), Role::Fenced, 9, 9),
                    log(ShardId(1), Role::Fenced, 2, 2),
                ],
            ),
        ] {
            let answers = [answer(missing)];
            assert_eq!(decided(&answers, 99), None, "{what}");
            assert_eq!(decided(&answers, 100), Some((5, 0)), "{what}: it is taken back");
        }
    }

    #[test]
    fn writes_stop_only_when_the_other_region_follows_every_log() {
        let led = |logs| [answer(logs)];
        let whole = vec![
            log(ShardId(0), Role::Owner, 9, 9),
            log(ShardId(1), Role::Owner, 0, 0),
            log(ShardId::CONTROLLER, Role::Owner, 5, 5),
        ];
        let seen = |wanted: &mut BTreeMap<_, _>, answers: &[MirrorAnswer]| {
            lacking(wanted, RegionEpoch(4), TO, 2, &answers.iter().collect::<Vec<_>>())
        };
        let first = |logs| seen(&mut BTreeMap::new(), &led(logs));
        assert_eq!(first(whole.clone()), []);
        let with = |place: usize, change: &dyn Fn(&mut LedLog)| {
            let mut logs = whole.clone();
            change(&mut logs[place]);
            first(logs)
        };
        assert_eq!(with(0, &|log| log.acks = vec![(TO, 8)]), [ShardId(0)]);
        // Nothing was ever written there; whether it is followed is a question all the same.
        assert_eq!(
            with(1, &|log| log.acks = vec![(RegionNumber(2), 7)]),
            [ShardId(1)]
        );
        assert_eq!(with(1, &|log| log.region_epoch = RegionEpoch(3)), [ShardId(1)]);
        assert_eq!(with(2, &|log| log.role = Role::Mirror), [ShardId::CONTROLLER]);
        assert_eq!(first(whole[1..].to_vec()), [ShardId(0)], "nobody leads it");
        // A log that grows all the time is not waited for as it grows.
        let mut wanted = BTreeMap::new();
        let mut grows = whole.clone();
        grows[2] = log(ShardId::CONTROLLER, Role::Owner, 6, 5);
        assert_eq!(seen(&mut wanted, &led(grows.clone())), [ShardId::CONTROLLER]);
        grows[2] = log(ShardId::CONTROLLER, Role::Owner, 9, 6);
        assert_eq!(seen(&mut wanted, &led(grows)), []);
    }

    #[test]
    fn what_is_held_is_left_alone() {
        let held = Ownership {
            state: OwnershipState::Held,
            ..draining()
        };
        assert_eq!(decide(&held, true, 2, &[], TimestampMs(1000)), None);
    }
}
