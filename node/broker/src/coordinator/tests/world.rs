//! A coordinator with a store and named members, driven by lines of text.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use meridian_types::{LeaderEpoch, ShardId, TimestampMs};

use super::super::core::{Action, Coordinator};
use super::super::error::{GroupError, StoreError};
use super::super::query::ListFilter;
use super::super::request::*;
use super::super::saved::SavedGroup;
use super::super::saves::SaveId;
use super::super::settings::GroupSettings;

const SHARD: ShardId = ShardId(0);
const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// What a named client knows of itself.
#[derive(Clone, Default)]
struct Who {
    member_id: String,
    generation: i32,
    instance_id: Option<String>,
}

pub(super) struct World {
    core: Coordinator,
    settings: GroupSettings,
    now: TimestampMs,
    who: BTreeMap<String, Who>,
    asked: BTreeMap<Token, (String, &'static str)>,
    next_token: u64,
    saved: BTreeMap<String, Bytes>,
    held: VecDeque<(SaveId, Arc<str>, Option<Bytes>)>,
    hold: bool,
    out: String,
}

fn core(settings: &GroupSettings, first_id: u64) -> Coordinator {
    let mut next = first_id;
    let ids = move || {
        next += 1;
        next.to_string()
    };
    Coordinator::new(settings.clone(), 1, Box::new(ids))
}

impl World {
    pub(super) fn new() -> Self {
        let settings = GroupSettings::default();
        let mut core = core(&settings, 0);
        assert!(core.load(TimestampMs(0), SHARD, EPOCH, []).is_empty());
        Self {
            core,
            settings,
            now: TimestampMs(0),
            who: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            saved: BTreeMap::new(),
            held: VecDeque::new(),
            hold: false,
            out: String::new(),
        }
    }

    /// Carries out one line and returns what it brought about, a line each.
    pub(super) fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let first = words.next().expect("lines are not empty");
        let rest: Vec<&str> = words.collect();
        if let Some(ms) = first.strip_prefix('+') {
            self.advance(ms.parse().expect("a number of milliseconds"));
        } else {
            match first {
                "settings" => self.change_settings(&rest),
                "hold-saves" => self.hold = true,
                "save" => self.finish_save(rest[0]),
                "restart" => self.restart(&rest),
                "lose-shard" => self.core.unload(SHARD),
                "begin-load" => self.core.begin_load(SHARD),
                "load" => self.load(),
                "describe" => self.describe(&rest),
                "list" => self.list(&rest),
                "delete" => self.delete(&rest),
                "delete-offsets" => self.delete_offsets(&rest),
                _ => self.ask(first, rest[0], &Options::of(&rest[1..])),
            }
        }
        self.settle();
        self.core.check();
        std::mem::take(&mut self.out)
    }

    /// Everyone who asked was answered, unless the transcript ends on purpose before that.
    pub(super) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    fn say(&mut self, text: &str) {
        writeln!(self.out, "  {text}").expect("strings take all");
    }

    fn token(&mut self, who: &str, what: &'static str) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.asked.insert(token, (who.to_owned(), what));
        token
    }

    /// Timers fire one by one, each at its time.
    fn advance(&mut self, ms: i64) {
        let end = TimestampMs(self.now.0 + ms);
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.core.handle_timeout(self.now);
            let before = self.out.len();
            self.settle();
            if self.out.len() > before {
                let at = format!("  at {} ms\n", self.now);
                self.out.insert_str(before, &at);
            }
        }
        self.now = end;
    }

    fn change_settings(&mut self, words: &[&str]) {
        let options = Options::of(words);
        if let Some(max) = options.get("max-size") {
            self.settings.group_size_max = max.parse().expect("a number");
        }
        if let Some(delay) = options.get("initial-delay") {
            self.settings.initial_rebalance_delay_ms = delay.parse().expect("a number");
        }
        if let Some(bytes) = options.get("group-bytes") {
            self.settings.group_bytes_max = bytes.parse().expect("a number");
        }
        self.restart(&[]);
    }

    /// The node dies without a word and comes back with what was saved.
    fn restart(&mut self, words: &[&str]) {
        self.asked.clear();
        self.held.clear();
        self.core = core(&self.settings, self.next_token + 100);
        if !words.contains(&"unloaded") {
            self.load();
        }
    }

    fn load(&mut self) {
        let problems = self.core.load(self.now, SHARD, EPOCH, self.saved.clone());
        for problem in problems {
            self.say(&problem.to_string());
        }
    }

    fn finish_save(&mut self, how: &str) {
        let (save, group, body) = self.held.pop_front().expect("a save that is held");
        let result = match how {
            "ok" => Ok(()),
            "unavailable" => Err(StoreError::Unavailable),
            "not-leader" => Err(StoreError::NotLeader),
            _ => Err(StoreError::TooLarge),
        };
        if result.is_ok() {
            self.keep(&group, body);
        }
        self.core.saved(self.now, &group, save, result);
    }

    fn keep(&mut self, group: &str, body: Option<Bytes>) {
        match body {
            Some(body) => self.saved.insert(group.to_owned(), body),
            None => self.saved.remove(group),
        };
    }

    /// Takes replies and actions until there are none.
    fn settle(&mut self) {
        loop {
            while let Some((token, reply)) = self.core.poll_reply() {
                let (who, what) = self.asked.remove(&token).expect("a token is answered once");
                let text = self.told(&who, &reply);
                self.say(&format!("{who} {what} -> {text}"));
            }
            let Some(action) = self.core.poll_action() else {
                return;
            };
            let (save, group, body) = match action {
                Action::Save {
                    save, group, body, ..
                } => (save, group, Some(body)),
                Action::Delete { save, group, .. } => (save, group, None),
            };
            let what = match &body {
                Some(body) => format!("save {group}: {}", summary(body)),
                None => format!("delete {group} and its offsets"),
            };
            self.say(&what);
            if self.hold {
                self.held.push_back((save, group, body));
            } else {
                self.keep(&group, body);
                self.core.saved(self.now, &group, save, Ok(()));
            }
        }
    }

    fn told(&mut self, name: &str, reply: &Reply) -> String {
        let who = self.who.entry(name.to_owned()).or_default();
        match reply {
            Reply::Join(Ok(joined)) => {
                who.member_id.clone_from(&joined.member_id);
                who.generation = joined.generation;
                let mut text = format!(
                    "generation {} of {}/{}, member {}, leader {}",
                    joined.generation,
                    joined.protocol_type.as_deref().unwrap_or("-"),
                    joined.protocol_name.as_deref().unwrap_or("-"),
                    joined.member_id,
                    joined.leader
                );
                for member in &joined.members {
                    let instance = member
                        .instance_id
                        .as_ref()
                        .map(|id| format!("({id})"))
                        .unwrap_or_default();
                    write!(
                        text,
                        " {}{instance}[{}]",
                        member.member_id,
                        ascii(&member.metadata)
                    )
                    .expect("takes all");
                }
                if joined.skip_assignment {
                    text.push_str(", skip assignment");
                }
                text
            }
            Reply::Join(Err(refused)) => {
                if refused.error == GroupError::MemberIdRequired {
                    who.member_id.clone_from(&refused.member_id);
                }
                format!("{}, member {:?}", name_of(refused.error), refused.member_id)
            }
            Reply::Sync(Ok(synced)) => format!(
                "{}/{} [{}]",
                synced.protocol_type.as_deref().unwrap_or("-"),
                synced.protocol_name.as_deref().unwrap_or("-"),
                ascii(&synced.assignment)
            ),
            Reply::Sync(Err(error)) | Reply::Leave(Err(error)) | Reply::Delete(Err(error)) => name_of(*error),
            Reply::Leave(Ok(left)) => {
                let one = |left: &LeftMember| {
                    let instance_id = left.instance_id.as_deref().unwrap_or("nobody");
                    let id = if left.member_id.is_empty() {
                        instance_id
                    } else {
                        &left.member_id
                    };
                    format!("{id} {}", outcome(&left.result))
                };
                left.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            Reply::Delete(Ok(())) => "ok".to_owned(),
        }
    }

    fn ask(&mut self, name: &str, what: &str, options: &Options<'_>) {
        let who = self.who.entry(name.to_owned()).or_default();
        if let Some(instance_id) = options.get("instance").filter(|_| what == "join") {
            who.instance_id = Some(instance_id.to_owned());
        }
        let mut who = who.clone();
        if let Some(instance_id) = options.get("instance") {
            who.instance_id = Some(instance_id.to_owned());
        }
        if let Some(member_id) = options.get("member") {
            who.member_id = member_id.to_owned();
        }
        if let Some(generation) = options.get("generation") {
            who.generation = generation.parse().expect("a number");
        }
        let group_id = options.get("group").unwrap_or("g").to_owned();
        match what {
            "join" => {
                let request = join_request(name, group_id, who, options);
                let token = self.token(name, "join");
                self.core.handle_join(self.now, request, token);
            }
            "sync" => {
                let named = |(to, what): &(String, Bytes)| {
                    let known = self.who.get(to).map(|who| who.member_id.clone());
                    (known.unwrap_or_else(|| to.clone()), what.clone())
                };
                let assignments: Vec<_> = options.assignments().iter().map(named).collect();
                let request = SyncRequest {
                    group_id,
                    member_id: who.member_id,
                    instance_id: who.instance_id,
                    generation: who.generation,
                    protocol_type: options.get("type").map(str::to_owned),
                    protocol_name: options.get("protocol").map(str::to_owned),
                    assignments,
                };
                let token = self.token(name, "sync");
                self.core.handle_sync(self.now, request, token);
            }
            "heartbeat" => {
                let (member_id, instance_id, generation) = (who.member_id, who.instance_id, who.generation);
                let request = HeartbeatRequest {
                    group_id,
                    member_id,
                    instance_id,
                    generation,
                };
                let result = self.core.handle_heartbeat(self.now, &request);
                self.say(&format!("{name} heartbeat -> {}", outcome(&result)));
            }
            "commit" | "txn-commit" => {
                let kind = if what == "commit" {
                    CommitKind::Plain
                } else {
                    CommitKind::Transactional
                };
                let (member_id, instance_id, generation) = (who.member_id, who.instance_id, who.generation);
                let request = CommitRequest {
                    group_id,
                    member_id,
                    instance_id,
                    generation,
                    kind,
                };
                let result = self.core.validate_commit(self.now, &request).map(|_| ());
                self.say(&format!("{name} {what} -> {}", outcome(&result)));
            }
            "leave" => {
                let leaving = |member_id: String, instance_id| LeavingMember {
                    member_id,
                    instance_id,
                    reason: None,
                };
                let members = match options.get("instances") {
                    Some(ids) => ids
                        .split(',')
                        .map(|id| leaving(String::new(), Some(id.to_owned())))
                        .collect(),
                    None => vec![leaving(who.member_id, who.instance_id)],
                };
                let token = self.token(name, "leave");
                self.core
                    .handle_leave(self.now, LeaveRequest { group_id, members }, token);
            }
            "forgets" => {
                self.who.remove(name);
            }
            _ => panic!("no command {what:?}"),
        }
    }

    fn describe(&mut self, words: &[&str]) {
        let options = Options::of(words);
        let described = self
            .core
            .describe(options.get("group").unwrap_or("g"), words.contains(&"offsets"));
        match described {
            Err(error) => self.say(&name_of(error)),
            Ok(group) => {
                self.say(&format!(
                    "{} {:?}/{:?}",
                    group.state, group.protocol_type, group.protocol_name
                ));
                for member in group.members {
                    let instance = member
                        .instance_id
                        .map(|id| format!(" ({id})"))
                        .unwrap_or_default();
                    self.say(&format!(
                        "{}{instance} of {} at {}: metadata [{}], assignment [{}]",
                        member.member_id,
                        member.client_id,
                        member.client_host,
                        ascii(&member.metadata),
                        ascii(&member.assignment)
                    ));
                }
            }
        }
    }

    fn list(&mut self, words: &[&str]) {
        let options = Options::of(words);
        let names = |key| {
            options
                .get(key)
                .map(|v| v.split(',').map(str::to_owned).collect())
                .unwrap_or_default()
        };
        let filter = ListFilter {
            states: names("states"),
            types: names("types"),
        };
        match self.core.list(&filter, options.get("offsets")) {
            Err(error) => self.say(&name_of(error)),
            Ok(groups) => {
                for group in groups {
                    self.say(&format!(
                        "{} {} {:?}",
                        group.group_id, group.state, group.protocol_type
                    ));
                }
            }
        }
    }

    fn delete(&mut self, words: &[&str]) {
        let options = Options::of(words);
        let group = options.get("group").unwrap_or("g").to_owned();
        let token = self.token("admin", "delete");
        self.core
            .handle_delete(self.now, &group, words.contains(&"offsets"), token);
    }

    fn delete_offsets(&mut self, topics: &[&str]) {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        match self.core.validate_delete_offsets("g", true, &topics) {
            Err(error) => self.say(&name_of(error)),
            Ok(results) => {
                for (topic, result) in topics.iter().zip(results) {
                    self.say(&format!("{topic}: {}", outcome(&result)));
                }
            }
        }
    }
}

fn join_request(name: &str, group_id: String, who: Who, options: &Options<'_>) -> JoinRequest {
    let number = |key, default| {
        options
            .get(key)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let protocol = |text: &str| {
        let (name, metadata) = text.split_once(':').unwrap_or((text, ""));
        Protocol {
            name: name.to_owned(),
            metadata: metadata_of(metadata),
        }
    };
    JoinRequest {
        api_version: i16::try_from(number("v", 9)).expect("a version"),
        group_id,
        member_id: who.member_id,
        instance_id: who.instance_id,
        client: Client {
            id: name.to_owned(),
            host: "/127.0.0.1".to_owned(),
        },
        session_timeout_ms: number("session", 10_000),
        rebalance_timeout_ms: number("rebalance", 60_000),
        protocol_type: options.get("type").unwrap_or("consumer").to_owned(),
        protocols: options
            .get("protocols")
            .unwrap_or("range")
            .split(',')
            .map(protocol)
            .collect(),
        reason: None,
    }
}

/// `@a+b` stands for a consumer's subscription to the topics a and b; all else for itself.
fn metadata_of(text: &str) -> Bytes {
    let Some(topics) = text.strip_prefix('@') else {
        return Bytes::copy_from_slice(text.as_bytes());
    };
    let topics: Vec<&str> = topics.split('+').collect();
    let mut bytes = vec![0, 0];
    bytes.extend(u32::try_from(topics.len()).expect("few").to_be_bytes());
    for topic in topics {
        bytes.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.into()
}

fn summary(body: &Bytes) -> String {
    let saved = SavedGroup::decode(body.clone()).expect("what was encoded can be decoded");
    let mut text = format!("generation {}", saved.generation);
    if let (Some(protocol), Some(leader)) = (saved.protocol_name, saved.leader) {
        write!(text, " of {protocol}, leader {leader}").expect("takes all");
    }
    if saved.members.is_empty() {
        text.push_str(", no members");
    }
    for member in &saved.members {
        write!(text, " {}[{}]", member.id, ascii(&member.assignment)).expect("takes all");
    }
    text
}

fn ascii(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn name_of(error: GroupError) -> String {
    format!("{error:?} ({})", error.code())
}

fn outcome(result: &Result<(), GroupError>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => name_of(*error),
    }
}

/// `key=value` words.
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    fn of(words: &[&'a str]) -> Self {
        Self(words.iter().filter_map(|word| word.split_once('=')).collect())
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    /// Keys that name a member are assignments to it.
    fn assignments(&self) -> Vec<(String, Bytes)> {
        let named = |(key, _): &&(&str, &str)| key.starts_with(|c: char| c.is_uppercase());
        self.0
            .iter()
            .filter(named)
            .map(|(key, value)| ((*key).to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect()
    }
}
