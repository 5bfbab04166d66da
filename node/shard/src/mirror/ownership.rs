//! From what the controller has decided about ownership to what each log is.
//!
//! Ownership is decided in one log only, the controller's, whose decisions come to all regions as content. The leader of
//! each data shard brings its own log in line with them, whenever it finds that it is not: a death anywhere in the
//! middle is only a repetition.

use meridian_lineage::{BeginEpoch, Progress, Role};
use meridian_types::{RegionEpoch, RegionNumber};

use super::stream::{Stand, Stream};
use crate::region::Inner;

/// Who owns, and since which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Believed {
    pub(crate) owner: RegionNumber,
    pub(crate) region_epoch: RegionEpoch,
}

/// What a shard's leader has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Begin(BeginEpoch),
    Fence(RegionEpoch),
}

/// Who owns: as this region's controller has it, or as other regions say under a newer epoch.
pub(crate) fn believed(inner: &Inner) -> Believed {
    let own = {
        let controller = inner.control.controller();
        let standing = controller.standing();
        match standing.is_counted() {
            true => Believed {
                owner: standing.owner(),
                region_epoch: standing.region_epoch(),
            },
            false => Believed {
                owner: inner.number(),
                region_epoch: RegionEpoch(0),
            },
        }
    };
    let told = inner.mirror().and_then(|mirror| mirror.remote.load().newest());
    match told {
        Some((region_epoch, owner)) if region_epoch > own.region_epoch => Believed { owner, region_epoch },
        _ => own,
    }
}

/// The region that a log of this one should follow; `None` where it should follow none.
///
/// A region that is to own learns so by the controller's content, which still comes from the one that gave it away.
pub(crate) fn source(inner: &Inner) -> Option<RegionNumber> {
    let own = inner.number();
    let by_controller = {
        let controller = inner.control.controller();
        let standing = controller.standing();
        standing.is_counted().then(|| standing.owner())?
    };
    source_of(own, by_controller, believed(inner).owner)
}

fn source_of(own: RegionNumber, by_controller: RegionNumber, believed: RegionNumber) -> Option<RegionNumber> {
    let source = match believed == own {
        true => by_controller,
        false => believed,
    };
    (source != own).then_some(source)
}

/// Whether a log may begin to follow an epoch of another region.
pub(crate) fn may_follow(inner: &Inner, stand: &Stand) -> bool {
    if stand.is_counted {
        return stand.progress.role == Role::Mirror;
    }
    let controller = inner.control.controller();
    let standing = controller.standing();
    standing.is_counted() && standing.owner() != inner.number()
}

/// What brings a data shard in line with the controller, whose progress is `control`.
pub(crate) fn next_step(own: RegionNumber, control: &Progress, shard: &Stand) -> Option<Step> {
    let wanted = control.region_epoch;
    let present = shard.progress.region_epoch;
    let begin = |is_owner| {
        Step::Begin(BeginEpoch {
            region_epoch: wanted,
            owner: control.owner,
            is_owner,
            expected_sequence: shard.progress.sequence,
        })
    };
    if control.owner == own {
        return match (shard.is_counted, shard.progress.role) {
            (false, _) => Some(begin(true)),
            (true, _) if present < wanted => Some(begin(true)),
            (true, Role::Owner) if control.draining_to.is_some() => Some(Step::Fence(present)),
            _ => None,
        };
    }
    if !shard.is_counted || present >= wanted {
        // A mirror moves on with the content that comes.
        return None;
    }
    match shard.progress.role {
        // It should have been fenced before ownership went.
        Role::Owner => Some(Step::Fence(present)),
        Role::Fenced => Some(begin(false)),
        Role::Mirror => None,
    }
}

/// Does one step of a data shard that this node leads.
pub(super) async fn carry_out(inner: &Inner, stream: &Stream<'_>, step: Step) {
    let Some((group, term)) = stream.led() else { return };
    let encoded = match step {
        Step::Begin(begin) => Stream::encode_begin(begin),
        Step::Fence(region_epoch) => Stream::encode_fence(region_epoch),
    };
    let shard = stream.id();
    if let Err(refusal) = group.admit(encoded.iter().map(|part| part.len()).sum(), 1) {
        tracing::warn!(%shard, %refusal, "the ownership of a shard is brought in line later");
        return;
    }
    inner.pacing.note_activity(shard);
    let outcome = match group.propose(term, encoded).await {
        Ok(pending) => stream.outcome(pending).await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(Ok(())) => tracing::info!(%shard, ?step, "a shard follows the ownership"),
        Ok(Err(rejection)) => tracing::debug!(%shard, ?step, %rejection, "looking again"),
        Err(error) => tracing::debug!(%shard, ?step, %error, "looking again"),
    }
}

#[cfg(test)]
mod tests {
    use meridian_lineage::{ContentDigest, Lineage};
    use meridian_types::RaftIndex;

    use super::*;

    const HERE: RegionNumber = RegionNumber(1);
    const THERE: RegionNumber = RegionNumber(0);

    fn progress(region_epoch: u32, owner: RegionNumber, role: Role) -> Progress {
        Progress {
            sequence: 9,
            digest: ContentDigest::EMPTY,
            region_epoch: RegionEpoch(region_epoch),
            owner,
            role,
            draining_to: None,
        }
    }

    fn stand(region_epoch: u32, role: Role, is_counted: bool) -> Stand {
        Stand {
            progress: progress(region_epoch, THERE, role),
            is_counted,
            lineage: Lineage::default(),
            diverged_at: None,
            applied: RaftIndex(20),
        }
    }

    fn begin(region_epoch: u32, owner: RegionNumber, is_owner: bool) -> Option<Step> {
        Some(Step::Begin(BeginEpoch {
            region_epoch: RegionEpoch(region_epoch),
            owner,
            is_owner,
            expected_sequence: 9,
        }))
    }

    #[test]
    fn a_shard_of_the_owner_begins_its_epoch_and_is_fenced_while_it_is_drained() {
        let control = progress(4, HERE, Role::Owner);
        let draining = Progress {
            draining_to: Some(THERE),
            ..control
        };
        let step = |control: &Progress, shard: &Stand| next_step(HERE, control, shard);
        assert_eq!(
            step(&control, &stand(0, Role::Owner, false)),
            begin(4, HERE, true)
        );
        assert_eq!(
            step(&control, &stand(3, Role::Mirror, true)),
            begin(4, HERE, true)
        );
        assert_eq!(
            step(&control, &stand(3, Role::Fenced, true)),
            begin(4, HERE, true),
            "taken back"
        );
        assert_eq!(step(&control, &stand(4, Role::Owner, true)), None);
        assert_eq!(
            step(&draining, &stand(4, Role::Owner, true)),
            Some(Step::Fence(RegionEpoch(4)))
        );
        assert_eq!(step(&draining, &stand(4, Role::Fenced, true)), None);
    }

    #[test]
    fn a_shard_that_was_given_away_becomes_a_mirror_once_it_is_fenced() {
        let control = progress(5, THERE, Role::Mirror);
        let step = |shard: &Stand| next_step(HERE, &control, shard);
        assert_eq!(
            step(&stand(4, Role::Owner, true)),
            Some(Step::Fence(RegionEpoch(4)))
        );
        assert_eq!(step(&stand(4, Role::Fenced, true)), begin(5, THERE, false));
        for at_rest in [
            stand(4, Role::Mirror, true),
            stand(5, Role::Mirror, true),
            stand(0, Role::Owner, false),
        ] {
            assert_eq!(step(&at_rest), None);
        }
    }

    #[test]
    fn who_is_to_own_hears_of_it_from_who_gave_it_away() {
        let third = RegionNumber(2);
        assert_eq!(source_of(HERE, THERE, THERE), Some(THERE));
        assert_eq!(source_of(HERE, THERE, HERE), Some(THERE));
        assert_eq!(source_of(HERE, THERE, third), Some(third));
        assert_eq!(source_of(HERE, HERE, HERE), None);
        assert_eq!(source_of(HERE, HERE, third), Some(third));
    }
}
