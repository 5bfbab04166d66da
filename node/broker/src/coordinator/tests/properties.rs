//! Random requests, losses and times against what must hold whatever happens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use meridian_types::{LeaderEpoch, ShardId, TimestampMs};
use proptest::prelude::*;

use super::super::core::{Action, Coordinator};
use super::super::error::{GroupError, StoreError};
use super::super::group::GroupState;
use super::super::query::ListFilter;
use super::super::request::*;
use super::super::saved::SavedGroup;
use super::super::saves::SaveId;
use super::super::settings::GroupSettings;

const SHARD: ShardId = ShardId(0);
const EPOCH: LeaderEpoch = LeaderEpoch(1);
const CLIENTS: usize = 6;
const GROUPS: [&str; 2] = ["blue", "green"];

#[derive(Clone, Debug)]
enum Op {
    /// The client joins its group with what it knows of itself.
    Join {
        client: usize,
        api_version: i16,
        protocols: usize,
    },
    /// The client restarts: it forgets its member id.
    Forget {
        client: usize,
    },
    Sync {
        client: usize,
    },
    Heartbeat {
        client: usize,
    },
    Commit {
        client: usize,
    },
    Leave {
        client: usize,
    },
    /// An administrator removes the client by its instance id.
    Remove {
        client: usize,
    },
    Delete {
        group: usize,
    },
    Advance {
        ms: i64,
    },
    /// The oldest save that is under way ends.
    Saved {
        ok: bool,
    },
    /// The shard moves away and back.
    Move,
    /// The node dies and comes back.
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..CLIENTS;
    prop_oneof![
        8 => (client(), 3i16..=9, 0usize..3).prop_map(|(client, api_version, protocols)| {
            Op::Join { client, api_version, protocols }
        }),
        8 => client().prop_map(|client| Op::Sync { client }),
        3 => client().prop_map(|client| Op::Heartbeat { client }),
        1 => client().prop_map(|client| Op::Commit { client }),
        1 => client().prop_map(|client| Op::Forget { client }),
        1 => client().prop_map(|client| Op::Leave { client }),
        1 => client().prop_map(|client| Op::Remove { client }),
        1 => (0..GROUPS.len()).prop_map(|group| Op::Delete { group }),
        4 => (0i64..4_000).prop_map(|ms| Op::Advance { ms }),
        1 => (0i64..20_000).prop_map(|ms| Op::Advance { ms }),
        5 => prop::bool::weighted(0.9).prop_map(|ok| Op::Saved { ok }),
        1 => Just(Op::Move),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Default)]
struct Client {
    member_id: String,
    generation: i32,
    /// Member ids to assign to, when this client leads.
    followers: Vec<String>,
}

/// What a request was about, to hold its answer against.
enum Asked {
    Join {
        client: usize,
    },
    Sync {
        client: usize,
        member_id: String,
        generation: i32,
    },
    Leave,
    Delete {
        group: usize,
    },
}

struct Run {
    core: Coordinator,
    settings: GroupSettings,
    now: TimestampMs,
    clients: Vec<Client>,
    asked: BTreeMap<Token, Asked>,
    next_token: u64,
    next_tag: u64,
    under_way: VecDeque<(SaveId, Arc<str>, Option<Bytes>)>,
    store: BTreeMap<String, Bytes>,
    /// Highest generation that anyone was told of, since the coordinator last loaded the group.
    generations: BTreeMap<usize, i32>,
    /// How often each group was deleted: generations start again then.
    incarnations: [u32; GROUPS.len()],
    /// What each member was told in each generation.
    told: BTreeMap<(usize, u32, i32, String), Bytes>,
    /// Which of the leader's syncs the assignments of a generation came from.
    tags: BTreeMap<(usize, u32, i32), String>,
}

fn group_of(client: usize) -> usize {
    client % GROUPS.len()
}

/// Clients 4 and 5 are static.
fn instance_of(client: usize) -> Option<String> {
    (client >= 4).then(|| format!("instance{client}"))
}

fn core(settings: &GroupSettings, salt: u64) -> Coordinator {
    let mut next = 0;
    let ids = move || {
        next += 1;
        format!("{salt}.{next}")
    };
    Coordinator::new(settings.clone(), 1, Box::new(ids))
}

impl Run {
    fn new() -> Self {
        let settings = GroupSettings {
            group_size_max: 3,
            ..GroupSettings::default()
        };
        let mut core = core(&settings, 0);
        assert!(core.load(TimestampMs(0), SHARD, EPOCH, []).is_empty());
        Self {
            core,
            settings,
            now: TimestampMs(0),
            clients: vec![Client::default(); CLIENTS],
            asked: BTreeMap::new(),
            next_token: 0,
            next_tag: 0,
            under_way: VecDeque::new(),
            store: BTreeMap::new(),
            generations: BTreeMap::new(),
            incarnations: [0; GROUPS.len()],
            told: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    fn ask(&mut self, asked: Asked) -> Token {
        self.next_token += 1;
        self.asked.insert(Token(self.next_token), asked);
        Token(self.next_token)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Join {
                client,
                api_version,
                protocols,
            } => self.join(client, api_version, protocols),
            Op::Forget { client } => self.clients[client] = Client::default(),
            Op::Sync { client } => self.sync(client),
            Op::Heartbeat { client } => self.heartbeat(client),
            Op::Commit { client } => self.commit(client),
            Op::Leave { client } => self.leave(client, self.clients[client].member_id.clone()),
            Op::Remove { client } => self.leave(client, String::new()),
            Op::Delete { group } => {
                let token = self.ask(Asked::Delete { group });
                self.core.handle_delete(self.now, GROUPS[group], true, token);
            }
            Op::Advance { ms } => {
                self.now = TimestampMs(self.now.0 + ms);
                self.core.handle_timeout(self.now);
            }
            Op::Saved { ok } => self.end_save(ok),
            Op::Move => {
                self.core.unload(SHARD);
                self.settle();
                assert!(self.asked.is_empty(), "the old coordinator leaves nobody waiting");
                self.load();
            }
            Op::Restart => {
                self.asked.clear();
                self.core = core(&self.settings, self.next_token);
                self.load();
            }
        }
        self.settle();
        self.core.check();
        for group in self.core.groups.values() {
            assert!(
                group.len() <= 2 * self.settings.group_size_max,
                "a group outgrows its limit"
            );
        }
    }

    fn load(&mut self) {
        self.under_way.clear();
        self.generations.clear();
        for (at, group) in GROUPS.iter().enumerate() {
            if let Some(body) = self.store.get(*group) {
                let saved = SavedGroup::decode(body.clone()).expect("what was saved can be read");
                self.generations.insert(at, saved.generation);
            }
        }
        assert!(
            self.core
                .load(self.now, SHARD, EPOCH, self.store.clone())
                .is_empty()
        );
    }

    fn join(&mut self, client: usize, api_version: i16, protocols: usize) {
        let names: &[&str] = [&["range"][..], &["range", "sticky"], &["sticky", "range"]][protocols];
        let protocol = |name: &&str| Protocol {
            name: (*name).to_owned(),
            metadata: Bytes::new(),
        };
        let request = JoinRequest {
            api_version,
            group_id: GROUPS[group_of(client)].to_owned(),
            member_id: self.clients[client].member_id.clone(),
            instance_id: instance_of(client),
            client: super::super::request::Client::default(),
            session_timeout_ms: 6_000 + i32::try_from(client).expect("small") * 1_000,
            rebalance_timeout_ms: 10_000,
            protocol_type: "consumer".to_owned(),
            protocols: names.iter().map(protocol).collect(),
            reason: None,
        };
        let token = self.ask(Asked::Join { client });
        self.core.handle_join(self.now, request, token);
    }

    fn sync(&mut self, client: usize) {
        self.next_tag += 1;
        let tag = Bytes::from(format!("tag{}", self.next_tag));
        let Client {
            member_id,
            generation,
            followers,
        } = self.clients[client].clone();
        let assignments = followers.into_iter().map(|id| (id, tag.clone())).collect();
        let asked = Asked::Sync {
            client,
            member_id: member_id.clone(),
            generation,
        };
        let token = self.ask(asked);
        let request = SyncRequest {
            group_id: GROUPS[group_of(client)].to_owned(),
            member_id,
            instance_id: instance_of(client),
            generation,
            protocol_type: None,
            protocol_name: None,
            assignments,
        };
        self.core.handle_sync(self.now, request, token);
    }

    fn heartbeat(&mut self, client: usize) {
        let request = HeartbeatRequest {
            group_id: GROUPS[group_of(client)].to_owned(),
            member_id: self.clients[client].member_id.clone(),
            instance_id: instance_of(client),
            generation: self.clients[client].generation,
        };
        if self.core.handle_heartbeat(self.now, &request) == Err(GroupError::UnknownMember) {
            self.clients[client] = Client::default();
        }
    }

    fn commit(&mut self, client: usize) {
        let request = CommitRequest {
            group_id: GROUPS[group_of(client)].to_owned(),
            member_id: self.clients[client].member_id.clone(),
            instance_id: instance_of(client),
            generation: self.clients[client].generation,
            kind: CommitKind::Plain,
        };
        let _ = self.core.validate_commit(self.now, &request);
    }

    fn leave(&mut self, client: usize, member_id: String) {
        let token = self.ask(Asked::Leave);
        let leaving = LeavingMember {
            member_id,
            instance_id: instance_of(client),
            reason: None,
        };
        let group_id = GROUPS[group_of(client)].to_owned();
        self.core.handle_leave(
            self.now,
            LeaveRequest {
                group_id,
                members: vec![leaving],
            },
            token,
        );
    }

    fn end_save(&mut self, ok: bool) {
        let Some((save, group, body)) = self.under_way.pop_front() else {
            return;
        };
        if ok {
            match body {
                Some(body) => self.store.insert(group.to_string(), body),
                None => self.store.remove(&*group),
            };
        }
        let result = if ok { Ok(()) } else { Err(StoreError::Unavailable) };
        self.core.saved(self.now, &group, save, result);
    }

    fn settle(&mut self) {
        while let Some((token, reply)) = self.core.poll_reply() {
            let asked = self.asked.remove(&token).expect("a token is answered once");
            self.hear(asked, reply);
        }
        while let Some(action) = self.core.poll_action() {
            let (save, group, body) = match action {
                Action::Save {
                    save, group, body, ..
                } => (save, group, Some(body)),
                Action::Delete { save, group, .. } => (save, group, None),
            };
            assert!(
                self.under_way.iter().all(|(_, other, _)| *other != group),
                "two saves of a group at once"
            );
            self.under_way.push_back((save, group, body));
        }
    }

    fn hear(&mut self, asked: Asked, reply: Reply) {
        match (asked, reply) {
            (Asked::Join { client }, Reply::Join(result)) => self.hear_join(client, result),
            (
                Asked::Sync {
                    client,
                    member_id,
                    generation,
                },
                Reply::Sync(result),
            ) => {
                if let Ok(synced) = result {
                    self.hear_assignment(group_of(client), member_id, generation, &synced.assignment);
                }
            }
            (Asked::Leave, Reply::Leave(_)) => {}
            (Asked::Delete { group }, Reply::Delete(result)) => {
                if result.is_ok() {
                    self.incarnations[group] += 1;
                    self.generations.remove(&group);
                }
            }
            _ => panic!("the answer is to another question"),
        }
    }

    fn hear_join(&mut self, client: usize, result: JoinResult) {
        match result {
            Ok(joined) => {
                let highest = self.generations.entry(group_of(client)).or_default();
                assert!(joined.generation >= *highest, "a generation fell");
                *highest = joined.generation;
                let leads = joined.leader == joined.member_id && !joined.skip_assignment;
                assert!(leads || joined.skip_assignment || joined.members.is_empty());
                self.clients[client] = Client {
                    member_id: joined.member_id,
                    generation: joined.generation,
                    followers: if leads {
                        joined.members.into_iter().map(|m| m.member_id).collect()
                    } else {
                        vec![]
                    },
                };
            }
            Err(refused) => {
                self.clients[client] = match refused.error {
                    GroupError::MemberIdRequired => Client {
                        member_id: refused.member_id,
                        ..Client::default()
                    },
                    GroupError::UnknownMember | GroupError::FencedInstance => Client::default(),
                    _ => return,
                };
            }
        }
    }

    fn hear_assignment(&mut self, group: usize, member_id: String, generation: i32, assignment: &Bytes) {
        let body = self
            .store
            .get(GROUPS[group])
            .expect("saved before it was handed out");
        let saved = SavedGroup::decode(body.clone()).expect("what was saved can be read");
        assert_eq!(
            saved.generation, generation,
            "an assignment of a generation that is not saved"
        );
        let incarnation = self.incarnations[group];
        let tag = String::from_utf8(assignment.to_vec()).expect("a tag");
        if !tag.is_empty() {
            let of_generation = self
                .tags
                .entry((group, incarnation, generation))
                .or_insert_with(|| tag.clone());
            assert_eq!(*of_generation, tag, "a generation has one assignment");
        }
        let told = self
            .told
            .entry((group, incarnation, generation, member_id))
            .or_insert_with(|| assignment.clone());
        assert_eq!(told, assignment, "a member sees one assignment in a generation");
    }

    /// Nobody asks any more and saves succeed: all who waited are answered, all groups end empty.
    fn fall_silent(&mut self) {
        for _ in 0..200 {
            self.apply(&Op::Saved { ok: true });
            self.apply(&Op::Advance { ms: 5_000 });
        }
        assert!(
            self.asked.is_empty(),
            "{} calls are never answered",
            self.asked.len()
        );
        for listed in self.core.list(&ListFilter::default(), []).expect("loaded") {
            assert_eq!(
                listed.state,
                GroupState::Empty,
                "{} keeps members that are gone",
                listed.group_id
            );
        }
        assert_eq!(self.core.poll_timeout(), None);
        assert!(self.under_way.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_promises_are_kept(ops in proptest::collection::vec(op(), 1..250)) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
        }
        run.fall_silent();
    }
}
