//! Entries that are longer than a command may be in this region: the journals of another one may take longer ones.

use bytes::Bytes;
use meridian_geo_mirror::{Entries, SinkError};
use meridian_lineage::{ContentDigest, ContentRun};

/// What a run adds to its commands, and to each of them.
const RUN_BYTES: usize = 32;
const RUN_BYTES_PER_COMMAND: usize = 4;

/// Bytes of a command that carries these, at most.
pub(super) fn run_bytes(commands: &[Bytes]) -> usize {
    let each = commands
        .iter()
        .map(|command| command.len() + RUN_BYTES_PER_COMMAND);
    RUN_BYTES + each.sum::<usize>()
}

/// Cuts entries, without what a log at `sequence` has of them, into runs that are commands of at most `bytes_max` bytes.
///
/// Errors: something lacks before them; their digest is not that of their commands behind `digest`; a command is longer by
/// itself.
pub(super) fn pieces(
    sequence: u64,
    mut digest: ContentDigest,
    entries: Entries,
    bytes_max: usize,
    fold: impl Fn(ContentDigest, &Bytes) -> Result<ContentDigest, String>,
) -> Result<Vec<ContentRun>, SinkError> {
    let known = sequence.checked_sub(entries.first_sequence);
    let known = known.ok_or(SinkError::OutOfStep { sequence })?;
    let known = usize::try_from(known).unwrap_or(usize::MAX);
    let mut runs: Vec<ContentRun> = Vec::new();
    let mut bytes = 0;
    for (at, command) in (sequence..).zip(entries.commands.into_iter().skip(known)) {
        let alone = run_bytes(std::slice::from_ref(&command));
        if alone > bytes_max {
            let reason = format!(
                "content command {at} has {} bytes, and the journal of this node takes {bytes_max} at most: raise journal.file_bytes to what the nodes of the other region have, and start this node again",
                command.len()
            );
            tracing::error!(reason, "a mirror cannot go on");
            return Err(SinkError::Unavailable { reason });
        }
        digest = fold(digest, &command).map_err(|reason| SinkError::Unavailable { reason })?;
        match runs.last_mut() {
            Some(run) if bytes + alone - RUN_BYTES <= bytes_max => {
                bytes += alone - RUN_BYTES;
                run.commands.push(command);
                run.digest = digest;
            }
            _ => {
                bytes = alone;
                runs.push(ContentRun {
                    region_epoch: entries.region_epoch,
                    first_sequence: at,
                    commands: vec![command],
                    digest,
                });
            }
        }
    }
    // Each piece fits what is here by its making: what the owner says must be held against all of them before.
    let end = runs
        .last()
        .map(|run| run.first_sequence + run.commands.len() as u64);
    match end {
        Some(at) if digest.0 != entries.digest => {
            let (ours, theirs) = (digest.0, entries.digest);
            tracing::error!(at, ours, theirs, "this copy is not what its source has");
            Err(SinkError::Diverged { at })
        }
        _ => Ok(runs),
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::RegionEpoch;

    use super::*;

    /// A digest that depends on everything before.
    fn fold(digest: ContentDigest, command: &Bytes) -> Result<ContentDigest, String> {
        let fold = |digest: u64, byte: &u8| digest.wrapping_mul(31).wrapping_add(u64::from(*byte));
        Ok(ContentDigest(command.iter().fold(digest.0, fold)))
    }

    fn entries(first_sequence: u64, sizes: &[usize]) -> Entries {
        let commands: Vec<Bytes> = (1..)
            .zip(sizes)
            .map(|(byte, size)| vec![byte; *size].into())
            .collect();
        let digest = commands.iter().try_fold(ContentDigest(7), fold);
        Entries {
            region_epoch: RegionEpoch(3),
            first_sequence,
            commands,
            digest: digest.expect("it folds").0,
        }
    }

    #[test]
    fn pieces_hold_every_command_once_and_end_in_the_owners_digest() {
        let sent = entries(10, &[100, 200, 300, 10, 10, 600]);
        let runs = pieces(10, ContentDigest(7), sent.clone(), 700, fold).expect("they fit");
        let places: Vec<_> = runs
            .iter()
            .map(|run| (run.first_sequence, run.commands.len()))
            .collect();
        assert_eq!(places, [(10, 5), (15, 1)]);
        assert!(runs.iter().all(|run| run_bytes(&run.commands) <= 700));
        let joined: Vec<Bytes> = runs.iter().flat_map(|run| run.commands.clone()).collect();
        assert_eq!(joined, sent.commands);
        let mut digest = ContentDigest(7);
        for run in &runs {
            digest = run.commands.iter().try_fold(digest, fold).expect("it folds");
            assert_eq!(run.digest, digest);
        }
        assert_eq!(digest.0, sent.digest);
    }

    #[test]
    fn pieces_begin_where_the_log_stands_and_never_behind_a_gap() {
        let sent = entries(10, &[300, 300, 300]);
        let known = sent.commands[..2].iter().try_fold(ContentDigest(7), fold);
        let runs = pieces(12, known.expect("it folds"), sent.clone(), 400, fold).expect("they fit");
        assert_eq!(runs.len(), 1);
        assert_eq!(
            (runs[0].first_sequence, &runs[0].commands[..]),
            (12, &sent.commands[2..])
        );
        assert_eq!(
            pieces(13, ContentDigest(1), sent.clone(), 400, fold),
            Ok(Vec::new())
        );
        assert_eq!(
            pieces(9, ContentDigest(7), sent, 400, fold),
            Err(SinkError::OutOfStep { sequence: 9 })
        );
    }

    #[test]
    fn a_command_that_no_journal_here_takes_and_a_digest_that_differs_are_told() {
        let too_long = pieces(10, ContentDigest(7), entries(10, &[100, 700]), 700, fold);
        let Err(SinkError::Unavailable { reason }) = too_long else {
            panic!("{too_long:?}");
        };
        assert!(
            reason.contains("content command 11 has 700 bytes")
                && reason.contains("raise journal.file_bytes"),
            "{reason}"
        );
        let mut differs = entries(10, &[300, 300]);
        differs.digest += 1;
        assert_eq!(
            pieces(10, ContentDigest(7), differs, 400, fold),
            Err(SinkError::Diverged { at: 12 })
        );
    }
}
