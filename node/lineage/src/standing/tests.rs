use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::reader::ContentReader;

const WEST: RegionNumber = RegionNumber(0);
const EAST: RegionNumber = RegionNumber(1);

/// A log of a controller's kind, whose ownership moves by its own content.
#[derive(Clone, Debug, PartialEq)]
enum Command {
    Word(u8),
    Turn(Turn),
    Run(ContentRun),
    Own,
}

#[derive(Debug, thiserror::Error)]
#[error("no command of this test")]
struct Unreadable;

impl Command {
    fn bytes(&self) -> Bytes {
        match self {
            Self::Word(word) => vec![1, 1, *word].into(),
            Self::Turn(Turn::Drain { region_epoch, to }) => {
                vec![1, 2, region_epoch.0 as u8, to.0 as u8].into()
            }
            Self::Turn(Turn::Hold { region_epoch, owner }) => {
                vec![1, 3, region_epoch.0 as u8, owner.0 as u8].into()
            }
            Self::Run(run) => run.encode(1, 4).concat().into(),
            Self::Own => vec![1, 5].into(),
        }
    }
}

impl ContentCommand for Command {
    type Error = Unreadable;

    fn read(bytes: &Bytes) -> Result<Self, Unreadable> {
        let epoch = |at: usize| RegionEpoch(u32::from(bytes[at]));
        let region = |at: usize| RegionNumber(u16::from(bytes[at]));
        Ok(match &bytes[..] {
            [1, 1, word] => Self::Word(*word),
            [1, 2, _, _] => Self::Turn(Turn::Drain {
                region_epoch: epoch(2),
                to: region(3),
            }),
            [1, 3, _, _] => Self::Turn(Turn::Hold {
                region_epoch: epoch(2),
                owner: region(3),
            }),
            [1, 4, ..] => {
                let (head, mut at) = crate::run::RunHead::decode(bytes).map_err(|_| Unreadable)?;
                Self::Run(head.with_commands(|length| {
                    at += length;
                    Ok(bytes.slice(at - length..at))
                })?)
            }
            [1, 5] => Self::Own,
            _ => return Err(Unreadable),
        })
    }

    fn effect(&self) -> Effect<'_> {
        match self {
            Self::Word(_) => Effect::Content(None),
            Self::Turn(turn) => Effect::Content(Some(*turn)),
            Self::Run(run) => Effect::Run(run),
            Self::Own => Effect::Own,
        }
    }

    fn fold(&self, digest: ContentDigest) -> ContentDigest {
        digest.mix_bytes(&self.bytes())
    }
}

struct Log {
    region: RegionNumber,
    standing: Standing,
    entries: Vec<Bytes>,
    words: Vec<u8>,
}

impl Log {
    fn new(region: RegionNumber, owner: RegionNumber) -> Self {
        let mut standing = Standing::default();
        let begin = BeginEpoch {
            region_epoch: RegionEpoch(0),
            owner,
            is_owner: owner == region,
            expected_sequence: 0,
        };
        standing.begin(RaftIndex(0), &begin, None).expect("it begins");
        Self {
            region,
            standing,
            entries: Vec::new(),
            words: Vec::new(),
        }
    }

    /// Whether the command was taken.
    fn apply(&mut self, command: &Command) -> Result<(), String> {
        self.entries.push(command.bytes());
        let index = RaftIndex(self.entries.len() as u64);
        let taken = match command.effect() {
            Effect::Content(turn) => self
                .standing
                .check_content(turn)
                .map(|()| {
                    self.standing.add(index, command, self.region);
                    if let Command::Word(word) = command {
                        self.words.push(*word);
                    }
                })
                .map_err(|rejected| rejected.to_string()),
            Effect::Run(run) => self
                .standing
                .admit::<Command>(index, run, self.region)
                .map(|commands| {
                    for (at, command) in commands {
                        let entry = &self.entries[self.entries.len() - 1];
                        assert!(
                            entry[at as usize..].starts_with(&command.bytes()),
                            "it lies where it is said to"
                        );
                        if let Command::Word(word) = command {
                            self.words.push(word);
                        }
                    }
                })
                .map_err(|rejected| rejected.to_string()),
            _ => Ok(()),
        };
        self.standing.check().expect("invariants hold");
        taken
    }

    fn runs(&self) -> Vec<ContentRun> {
        let point = self
            .standing
            .index()
            .at_or_before(0)
            .expect("it counts from the start");
        let mut reader = ContentReader::new(point.progress, self.region);
        let entries = &self.entries[point.index.0 as usize - 1..];
        let runs = entries
            .iter()
            .filter_map(|entry| reader.read::<Command>(entry).expect("it reads"));
        let runs = runs.collect();
        assert_eq!(reader.progress(), self.standing.progress());
        runs
    }
}

fn drain(epoch: u32, to: RegionNumber) -> Command {
    Command::Turn(Turn::Drain {
        region_epoch: RegionEpoch(epoch),
        to,
    })
}

fn hold(epoch: u32, owner: RegionNumber) -> Command {
    Command::Turn(Turn::Hold {
        region_epoch: RegionEpoch(epoch),
        owner,
    })
}

#[test]
fn the_ownership_of_a_log_moves_by_its_own_content_and_reaches_both_alike() {
    let (mut west, mut east) = (Log::new(WEST, WEST), Log::new(EAST, WEST));
    for command in [
        Command::Word(1),
        Command::Own,
        drain(0, EAST),
        Command::Word(2),
        hold(1, EAST),
        Command::Word(3),
    ] {
        let is_late = matches!(command, Command::Word(2 | 3));
        assert_eq!(west.apply(&command).is_err(), is_late, "{command:?}");
    }
    assert_eq!(west.standing.role(), Role::Mirror);
    for run in west.runs() {
        assert_eq!(
            run.region_epoch,
            RegionEpoch(0),
            "a turn is the last content of its epoch"
        );
        east.apply(&Command::Run(run)).expect("it fits");
    }
    assert_eq!(east.standing.role(), Role::Owner);
    assert_eq!(east.standing.digest(), west.standing.digest());
    east.apply(&Command::Word(4)).expect("it owns the log");
    let news = east.runs().pop().expect("there is some");
    assert_eq!((news.region_epoch, news.first_sequence), (RegionEpoch(1), 3));
    west.apply(&Command::Run(news)).expect("roles have changed");
    assert_eq!(west.words, [1, 4]);
    let spans = west.standing.lineage().spans();
    assert_eq!(spans, [(RegionEpoch(0), 0), (RegionEpoch(1), 3)]);
}

#[test]
fn turns_are_taken_in_their_order_only() {
    let mut west = Log::new(WEST, WEST);
    let mut refused = |command, why: &str| assert_eq!(west.apply(&command), Err(why.to_owned()));
    refused(hold(1, WEST), "it is not being drained");
    refused(
        drain(1, EAST),
        "asked for in region epoch 1, where 0 was expected",
    );
    refused(drain(0, WEST), "region 0 cannot be named here");
    west.apply(&drain(0, EAST)).expect("a drain begins");
    let mut refused = |command, why: &str| assert_eq!(west.apply(&command), Err(why.to_owned()));
    refused(drain(0, EAST), "it is being drained for region 1 already");
    refused(hold(2, EAST), "asked for in region epoch 2, where 1 was expected");
    refused(hold(1, RegionNumber(5)), "region 5 cannot be named here");
    refused(
        Command::Word(1),
        "region 0 owns this log in region epoch 0; here it is fenced",
    );
    west.apply(&hold(1, WEST)).expect("rolled back");
    west.apply(&Command::Word(1)).expect("it is the owner again");
    let mut east = Log::new(EAST, WEST);
    assert_eq!(
        east.apply(&drain(0, EAST)),
        Err("region 0 owns this log in region epoch 0; here it is mirror".to_owned())
    );
}

#[test]
fn content_behind_a_turn_in_the_same_run_is_refused() {
    let mut west = Log::new(WEST, WEST);
    for command in [drain(0, EAST), hold(1, WEST), Command::Word(7)] {
        west.apply(&command).expect("it is taken");
    }
    let runs = west.runs();
    let whole = ContentRun {
        commands: runs.iter().flat_map(|run| run.commands.clone()).collect(),
        digest: west.standing.digest(),
        ..runs[0].clone()
    };
    let mut east = Log::new(EAST, WEST);
    let error = east.apply(&Command::Run(whole)).expect_err("it spans two epochs");
    assert_eq!(
        error,
        "content command 2 is malformed: it stands behind the end of the run's region epoch"
    );
    assert_eq!(
        (east.standing.sequence(), east.standing.diverged_at()),
        (0, Some(2))
    );
}

proptest! {
    #[test]
    fn a_standing_returns_from_its_bytes_and_damage_never_panics(
        words in 0..5000_u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut log = Log::new(WEST, WEST);
        for word in 0..words {
            log.standing.add(RaftIndex(word + 1), &Command::Word(word as u8), WEST);
        }
        log.standing.fence(RaftIndex(words + 1), RegionEpoch(0)).expect("it is the owner");
        let mut bytes = Vec::new();
        log.standing.encode(&mut bytes);
        let mut from = &bytes[..];
        prop_assert_eq!(Standing::decode(&mut from), Ok(log.standing));
        prop_assert!(from.is_empty());
        let short = bytes.len() - 1 - words as usize % bytes.len();
        prop_assert!(Standing::decode(&mut &bytes[..short]).is_err());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(standing) = Standing::decode(&mut &bytes[..]) {
            prop_assert!(standing.check().is_ok());
        }
    }
}
