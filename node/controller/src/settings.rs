//! What can be configured: names, types, defaults and bounds of Kafka 4.3's configs.

use crate::configs::{ConfigError, Configs, items};
use crate::pattern;

pub mod broker;
pub mod topic;

/// One config.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Kafka's name for it.
    pub name: &'static str,
    /// The type of its value.
    pub kind: SettingKind,
    /// Its built-in value; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// Which values it takes.
    pub valid: Valid,
    /// Where it can be set.
    pub scope: Scope,
    /// Of a topic's config: the broker configs that give its default, the strongest first, each with what
    /// its value is multiplied by.
    pub synonyms: &'static [(&'static str, i64)],
    /// Whether it changes anything here; otherwise it is accepted and reported only.
    pub acts: bool,
    /// What it does, and if nothing, why.
    pub doc: &'static str,
}

/// Type of a config's value, by the number it has in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum SettingKind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32 bits, signed.
    Int = 3,
    /// 16 bits, signed.
    Short = 4,
    /// 64 bits, signed.
    Long = 5,
    /// A floating-point number.
    Double = 6,
    /// Items parted by commas.
    List = 7,
    /// The name of a Java class.
    Class = 8,
    /// A secret.
    Password = 9,
}

impl SettingKind {
    /// Its number in DescribeConfigs.
    pub fn number(self) -> i8 {
        self as i8
    }
}

/// Which values a config takes, beyond its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Valid {
    /// Any of its type.
    Any,
    /// Numbers from the first to the last, and one more if given.
    Range(i64, i64, Option<i64>),
    /// From 0 to 1.
    Ratio,
    /// One of these words; of a list, each item.
    OneOf(&'static [&'static str]),
    /// `*`, or `partition:broker` pairs.
    ThrottledReplicas,
    /// Topic names, in which `*` stands for any characters.
    TopicPatterns,
}

/// Where a config can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On a topic.
    Topic,
    /// For the whole cluster only.
    Cluster,
    /// For the cluster, and otherwise on single brokers.
    Node,
    /// Nowhere: it tells a fact.
    ReadOnly,
}

/// A value in force, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Set on the resource itself.
    Own,
    /// Set for the cluster, under this name.
    Cluster(&'static str),
    /// Nobody set it.
    Default,
}

impl Setting {
    const fn new(scope: Scope, name: &'static str, kind: SettingKind, default: &'static str) -> Self {
        Self {
            name,
            kind,
            default: Some(default),
            valid: Valid::Any,
            scope,
            synonyms: &[],
            acts: false,
            doc: "",
        }
    }

    const fn min(self, min: i64) -> Self {
        self.range(min, i64::MAX)
    }

    const fn range(mut self, min: i64, max: i64) -> Self {
        self.valid = Valid::Range(min, max, None);
        self
    }

    const fn range_or(mut self, min: i64, max: i64, other: i64) -> Self {
        self.valid = Valid::Range(min, max, Some(other));
        self
    }

    const fn one_of(mut self, words: &'static [&'static str]) -> Self {
        self.valid = Valid::OneOf(words);
        self
    }

    const fn valid(mut self, valid: Valid) -> Self {
        self.valid = valid;
        self
    }

    const fn synonyms(mut self, synonyms: &'static [(&'static str, i64)]) -> Self {
        self.synonyms = synonyms;
        self
    }

    const fn null(mut self) -> Self {
        self.default = None;
        self
    }

    const fn acts(mut self, doc: &'static str) -> Self {
        self.acts = true;
        self.doc = doc;
        self
    }

    const fn inert(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// The one way to write a value: without blanks around it, numbers without a plus, no item twice.
    ///
    /// Errors: `Invalid`, with what would be possible.
    pub fn canonical(&self, value: &str) -> Result<String, ConfigError> {
        self.parse(value.trim()).map_err(|reason| ConfigError::Invalid {
            name: self.name.to_owned(),
            value: value.to_owned(),
            reason,
        })
    }

    fn parse(&self, value: &str) -> Result<String, String> {
        match self.kind {
            SettingKind::Boolean => match value.to_ascii_lowercase() {
                word if word == "true" || word == "false" => Ok(word),
                _ => Err("it must be true or false".into()),
            },
            SettingKind::Short => self.parse_integer(value, i16::MIN.into(), i16::MAX.into()),
            SettingKind::Int => self.parse_integer(value, i32::MIN.into(), i32::MAX.into()),
            SettingKind::Long => self.parse_integer(value, i64::MIN, i64::MAX),
            SettingKind::Double => match value.parse::<f64>() {
                Ok(number) if self.valid == Valid::Ratio && !(0.0..=1.0).contains(&number) => {
                    Err("it must be from 0 to 1".into())
                }
                Ok(number) if number.is_finite() => Ok(number.to_string()),
                _ => Err("it must be a number".into()),
            },
            SettingKind::List => self.parse_list(value),
            SettingKind::String | SettingKind::Class | SettingKind::Password => match self.valid {
                Valid::OneOf(words) if !words.contains(&value) => {
                    Err(format!("it must be one of {}", words.join(", ")))
                }
                _ => Ok(value.to_owned()),
            },
        }
    }

    fn parse_integer(&self, value: &str, least: i64, most: i64) -> Result<String, String> {
        let in_type = |number: &i64| (least..=most).contains(number);
        let number = value.parse::<i64>().ok().filter(in_type);
        let number = number.ok_or_else(|| format!("it must be a whole number from {least} to {most}"))?;
        match self.valid {
            Valid::Range(_, _, Some(other)) if number == other => {}
            Valid::Range(min, i64::MAX, _) if number < min => {
                return Err(format!("it must be at least {min}"));
            }
            Valid::Range(min, max, Some(other)) if !(min..=max).contains(&number) => {
                return Err(format!("it must be from {min} to {max}, or {other}"));
            }
            Valid::Range(min, max, None) if !(min..=max).contains(&number) => {
                return Err(format!("it must be from {min} to {max}"));
            }
            _ => {}
        }
        Ok(number.to_string())
    }

    fn parse_list(&self, value: &str) -> Result<String, String> {
        let mut list: Vec<&str> = Vec::new();
        for item in items(value) {
            if item.is_empty() {
                return Err("an item of the list is empty".into());
            }
            match self.valid {
                Valid::OneOf(words) if !words.contains(&item) => {
                    return Err(format!("items must be of {}", words.join(", ")));
                }
                Valid::TopicPatterns => pattern::check(item)?,
                Valid::ThrottledReplicas if !is_throttled_replica(item) => {
                    return Err("it must be * or a list of partition:broker pairs".into());
                }
                _ => {}
            }
            if !list.contains(&item) {
                list.push(item);
            }
        }
        if self.valid == Valid::ThrottledReplicas && list.len() > 1 && list.contains(&"*") {
            return Err("* stands for all replicas and must stand alone".into());
        }
        Ok(list.join(","))
    }

    /// The value in force: the resource's own, else the cluster's under this name or a synonym, else the
    /// built-in one.
    pub(crate) fn resolve(&self, own: &[&Configs], cluster: &Configs) -> Resolved {
        if let Some(value) = own.iter().find_map(|configs| configs.get(self.name)) {
            return Resolved {
                value: value.clone(),
                origin: Origin::Own,
            };
        }
        if let Some((name, value)) = self.cluster_values(cluster).next() {
            return Resolved {
                value,
                origin: Origin::Cluster(name),
            };
        }
        Resolved {
            value: self.default.unwrap_or_default().to_owned(),
            origin: Origin::Default,
        }
    }

    /// What the cluster sets for this, the strongest first.
    pub(crate) fn cluster_values<'a>(
        &'a self,
        cluster: &'a Configs,
    ) -> impl Iterator<Item = (&'static str, String)> + 'a {
        let own_name = (self.scope != Scope::Topic).then_some((self.name, 1));
        let names = own_name.into_iter().chain(self.synonyms.iter().copied());
        names.filter_map(|(name, factor)| Some((name, scaled(cluster.get(name)?, factor))))
    }
}

/// `168` hours as milliseconds. Negative values mean "never" in every unit.
fn scaled(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        Ok(number) if factor != 1 && number > 0 => number.saturating_mul(factor).to_string(),
        _ => value.to_owned(),
    }
}

fn is_throttled_replica(item: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    item == "*"
        || item
            .split_once(':')
            .is_some_and(|(partition, broker)| is_number(partition) && is_number(broker))
}

/// A setting of a table, which is in the order of its names.
pub fn find(table: &'static [Setting], name: &str) -> Option<&'static Setting> {
    let at = table.binary_search_by_key(&name, |setting| setting.name).ok()?;
    Some(&table[at])
}

/// The name of the table that was probably meant.
pub(crate) fn suggest(table: &'static [Setting], name: &str) -> Option<&'static str> {
    let close = table
        .iter()
        .map(|setting| (distance(setting.name, name), setting.name));
    close
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, name)| name)
}

/// Edits between two words (Levenshtein), without looking at overlong ones.
fn distance(a: &str, b: &str) -> usize {
    if b.len() > 2 * a.len() {
        return b.len();
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Values of one resource, parsed. What stands in configs is canonical, so nothing here can fail; a value
/// that nevertheless does not parse counts as the default.
pub(crate) struct Reader<'a> {
    pub(crate) table: &'static [Setting],
    pub(crate) own: &'a Configs,
    pub(crate) cluster: &'a Configs,
}

impl Reader<'_> {
    pub(crate) fn text(&self, name: &str) -> String {
        self.setting(name).resolve(&[self.own], self.cluster).value
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> T
    where
        T::Err: std::fmt::Debug,
    {
        let default = || self.setting(name).default.unwrap_or_default().parse();
        self.text(name)
            .parse()
            .or_else(|_| default())
            .expect("the table's defaults have its types")
    }

    /// `None` for the negative numbers that stand for "no limit".
    pub(crate) fn limit(&self, name: &str) -> Option<u64> {
        u64::try_from(self.number::<i64>(name)).ok()
    }

    /// A number that is not negative by its bounds.
    pub(crate) fn unsigned(&self, name: &str) -> u64 {
        self.limit(name).unwrap_or(0)
    }

    fn setting(&self, name: &str) -> &'static Setting {
        find(self.table, name).expect("names in this crate are in the table")
    }
}

#[cfg(test)]
mod tests;
