//! What a person can do to a running demo.

use std::fmt;
use std::str::FromStr;

/// What a person can do to a running demo, by a key or from another terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// kill -9 of a node.
    Kill(NodeName),
    /// Starts a node that does not run.
    Start(NodeName),
    /// Nothing passes between two regions.
    Cut(LinkName),
    /// Everything passes again between two regions, or between all.
    Heal(Option<LinkName>),
    /// Another region is to own.
    SwitchOver(String),
    /// Ends the demo.
    Stop,
}

/// A node, `REGION/NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeName {
    pub(super) region: String,
    pub(super) number: u32,
}

/// Two regions, `REGION-REGION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkName {
    pub(super) one: String,
    pub(super) other: String,
}

impl Action {
    /// Reads a verb and what it is about, as a command line or the control port has them.
    ///
    /// Errors: what was expected.
    pub(super) fn parse(verb: &str, what: Option<&str>) -> Result<Self, String> {
        let named = |expected: &str| what.ok_or_else(|| format!("{verb}: expected {expected}"));
        match verb {
            "kill" => Ok(Self::Kill(named("a node, such as us/1")?.parse()?)),
            "start" => Ok(Self::Start(named("a node, such as us/1")?.parse()?)),
            "cut" => Ok(Self::Cut(named("two regions, such as us-eu")?.parse()?)),
            "heal" => what.map(str::parse).transpose().map(Self::Heal),
            "switchover" => Ok(Self::SwitchOver(named("a region, such as eu")?.to_owned())),
            "stop" => Ok(Self::Stop),
            other => Err(format!(
                "'{other}' is nothing that can be done: expected kill, start, cut, heal, switchover or stop"
            )),
        }
    }

    /// The verb.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Start(_) => "start",
            Self::Cut(_) => "cut",
            Self::Heal(_) => "heal",
            Self::SwitchOver(_) => "switchover",
            Self::Stop => "stop",
        }
    }

    /// What it is about.
    pub(super) fn what(&self) -> Option<String> {
        match self {
            Self::Kill(node) | Self::Start(node) => Some(node.to_string()),
            Self::Cut(link) => Some(link.to_string()),
            Self::Heal(link) => link.as_ref().map(ToString::to_string),
            Self::SwitchOver(region) => Some(region.clone()),
            Self::Stop => None,
        }
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let node = text.split_once('/').and_then(|(region, number)| {
            let number = number.parse().ok()?;
            (!region.is_empty()).then(|| Self {
                region: region.to_owned(),
                number,
            })
        });
        node.ok_or_else(|| format!("'{text}' is no node: expected REGION/NUMBER, such as us/1"))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.number)
    }
}

impl FromStr for LinkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let link = text
            .split_once('-')
            .filter(|(one, other)| !one.is_empty() && !other.is_empty() && one != other);
        let (one, other) =
            link.ok_or_else(|| format!("'{text}' is no link: expected REGION-REGION, such as us-eu"))?;
        Ok(Self {
            one: one.to_owned(),
            other: other.to_owned(),
        })
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.one, self.other)
    }
}

impl LinkName {
    /// Whether it is the link between these two, in any order.
    pub(super) fn joins(&self, one: &str, other: &str) -> bool {
        (self.one == one && self.other == other) || (self.one == other && self.other == one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_reads_back_as_it_is_sent() {
        for (verb, what) in [
            ("kill", Some("us/1")),
            ("start", Some("eu/3")),
            ("cut", Some("us-eu")),
            ("heal", None),
            ("heal", Some("eu-ap")),
            ("switchover", Some("eu")),
            ("stop", None),
        ] {
            let action = Action::parse(verb, what).expect("an action");
            assert_eq!((action.verb(), action.what().as_deref()), (verb, what));
        }
    }

    #[test]
    fn what_is_no_action_is_refused_with_what_was_expected() {
        for (verb, what) in [
            ("kill", None),
            ("kill", Some("us")),
            ("kill", Some("us/x")),
            ("kill", Some("/1")),
            ("cut", Some("us")),
            ("cut", Some("us-us")),
            ("heal", Some("-")),
            ("switchover", None),
            ("dance", None),
        ] {
            let error = Action::parse(verb, what).expect_err("refused");
            assert!(error.contains("expected"), "{error}");
        }
    }
}
