//! Where each setting comes from: built-in default, file, environment, command line.
//!
//! Later sources win. figment merges them and remembers the source of every value; this module adds
//! what it leaves out: the exact name of the variable, and an error for keys that nobody reads.

use std::path::{Path, PathBuf};

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};
use serde::Serialize;
use thiserror::Error;

use crate::identity;
use crate::settings::{SETTINGS, Settings};

/// The source of what nobody set.
const BUILT_IN: &str = "built-in default";

const ENV_PREFIX: &str = "MERIDIAN_";

/// Variables with the prefix that are no settings: the command line and the tests read them themselves.
const OTHER_VARIABLES: &[&str] = &["SERVER", "CONFIG", "BUCKET", "BIN", "KAFKA_SCHEMAS"];

/// What the names of all other variables of the tests begin with.
const TEST_VARIABLES: &str = "TEST_";

/// Why the configuration cannot be used. The text names the key, its source, and what to write.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file named on the command line is not there or cannot be read.
    #[error("configuration file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A value does not fit its setting.
    #[error("{0}")]
    Value(String),
    /// A key that no setting has.
    #[error("unknown setting {key} from {from}{}", suggestion.as_ref().map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        from: String,
        /// The setting with the most similar name.
        suggestion: Option<&'static str>,
    },
}

/// A setting with its value and where that came from.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// `section.key`.
    pub key: &'static str,
    /// Its value; `null` where there is none.
    pub value: serde_json::Value,
    /// The source: `built-in default`, the file, the variable, or the command line.
    pub source: String,
    /// What it means.
    pub doc: &'static str,
    /// The environment variable that sets it.
    pub variable: String,
}

/// The settings in force, and how they came about.
pub struct Config {
    settings: Settings,
    figment: Figment,
}

impl Config {
    /// Merges the sources and checks every key and value.
    ///
    /// `flags` are `section.key` and value from the command line, which win over all.
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Named(BUILT_IN, Serialized::defaults(Settings::default())));
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
                path: path.to_owned(),
                source,
            })?;
            let name = format!("file {}", path.display());
            figment = figment.merge(Sourced {
                name,
                inner: Toml::string(&text),
            });
        }
        figment = figment.merge(environment());
        for (key, value) in flags {
            // As in the environment: `9` is a number, `true` a truth, everything else a text.
            let value: Value = value.parse().unwrap_or_else(|never| match never {});
            figment = figment.merge(Named("command line", Serialized::global(key, value)));
        }
        refuse_unknown(&figment)?;
        let extract = |figment: &Figment| -> Result<Settings, ConfigError> {
            let extracted = figment.extract();
            extracted.map_err(|error| ConfigError::Value(describe(&error)))
        };
        let mut settings = extract(&figment)?;
        if let Some(known) = known_by(&figment, &settings.node.data) {
            figment = known;
            settings = extract(&figment)?;
        }
        check(&settings)?;
        Ok(Self { settings, figment })
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every setting with its value and source.
    pub fn explain(&self) -> Vec<Explained> {
        let values = serde_json::to_value(&self.settings).unwrap_or_default();
        SETTINGS
            .iter()
            .map(|setting| {
                let pointer = format!("/{}", setting.key.replace('.', "/"));
                let source = self
                    .figment
                    .find_metadata(setting.key)
                    .map(|metadata| metadata.name.to_string());
                Explained {
                    key: setting.key,
                    value: values.pointer(&pointer).cloned().unwrap_or_default(),
                    source: source.unwrap_or_else(|| BUILT_IN.to_owned()),
                    doc: setting.doc.trim(),
                    variable: variable(setting.key),
                }
            })
            .collect()
    }
}

/// What nobody set is what the data directory was made for, if it says so.
fn known_by(figment: &Figment, data: &Path) -> Option<Figment> {
    let (node, region) = identity::look(data)?;
    let is_set = |key| {
        let source = figment.find_metadata(key);
        source.is_some_and(|metadata| metadata.name != BUILT_IN)
    };
    let mut figment = figment.clone();
    if !is_set("node.id") {
        figment = figment.merge(Named("data directory", Serialized::global("node.id", node.0)));
    }
    if let Some(region) = region.filter(|_| !is_set("region.name")) {
        figment = figment.merge(Named("data directory", Serialized::global("region.name", region)));
    }
    Some(figment)
}

/// The environment variable of a setting.
pub fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn environment() -> impl Provider {
    let inner = Env::prefixed(ENV_PREFIX)
        .filter(|name| !is_other_variable(name.as_str()))
        .split("__");
    Environment(inner)
}

/// Whether a variable, without the prefix, is meant for somebody else.
fn is_other_variable(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.starts_with(TEST_VARIABLES) || OTHER_VARIABLES.contains(&name.as_str())
}

/// The environment, with the variable's real name in every message.
struct Environment(Env);

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment").interpolater(|_, keys| variable(&keys.join(".")))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        self.0.data()
    }
}

/// A source under a name for people.
struct Named<P>(&'static str, P);

impl<P: Provider> Provider for Named<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        self.1.data()
    }
}

/// A source whose name is made at run time.
struct Sourced<P> {
    name: String,
    inner: P,
}

impl<P: Provider> Provider for Sourced<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        self.inner.data()
    }
}

fn describe(error: &Error) -> String {
    error
        .clone()
        .into_iter()
        .map(|error| error.to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

fn refuse_unknown(figment: &Figment) -> Result<(), ConfigError> {
    let data = figment
        .data()
        .map_err(|error| ConfigError::Value(describe(&error)))?;
    for (section, value) in data.values().flatten() {
        let Value::Dict(_, keys) = value else {
            return Err(unknown(figment, section));
        };
        for key in keys.keys() {
            let name = format!("{section}.{key}");
            if !SETTINGS.iter().any(|setting| setting.key == name) {
                return Err(unknown(figment, &name));
            }
        }
    }
    Ok(())
}

fn unknown(figment: &Figment, key: &str) -> ConfigError {
    let from = figment.find_metadata(key).map_or_else(
        || "an unknown source".to_owned(),
        |metadata| match metadata.name.as_ref() {
            "environment" => format!("environment variable {}", variable(key)),
            name => name.to_owned(),
        },
    );
    let suggestion = SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(setting.key, key), setting.key))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key);
    ConfigError::UnknownKey {
        key: key.to_owned(),
        from,
        suggestion,
    }
}

/// What no single value shows.
fn check(settings: &Settings) -> Result<(), ConfigError> {
    let wrong = |text: String| Err(ConfigError::Value(text));
    if settings.node.id == 0 || i32::try_from(settings.node.id).is_err() {
        return wrong(format!(
            "node.id is {}, expected 1 to {}",
            settings.node.id,
            i32::MAX
        ));
    }
    if !settings.region.shards.is_power_of_two() || settings.region.shards > 4096 {
        return wrong(format!(
            "region.shards is {}, expected a power of two up to 4096",
            settings.region.shards
        ));
    }
    if settings.raft.election_timeout_ms < settings.raft.heartbeat_interval_ms * 2 {
        return wrong(format!(
            "raft.election_timeout_ms is {}, expected at least twice raft.heartbeat_interval_ms ({})",
            settings.raft.election_timeout_ms, settings.raft.heartbeat_interval_ms
        ));
    }
    if settings.region.replicas == 0 || settings.region.replicas > 7 {
        return wrong(format!(
            "region.replicas is {}, expected 1 to 7, best an odd number",
            settings.region.replicas
        ));
    }
    let understood = meridian_controller::FEATURE_LEVEL_MAX;
    if !(1..=understood).contains(&settings.node.feature_level_max) {
        return wrong(format!(
            "node.feature_level_max is {}, expected 1 to {understood}: this version of Meridian understands no newer one",
            settings.node.feature_level_max
        ));
    }
    if settings.region.number > 999 {
        return wrong(format!(
            "region.number is {}, expected 0 to 999",
            settings.region.number
        ));
    }
    if settings.node.id >= 100_000 && (settings.geo.listen.is_some() || settings.region.number > 0) {
        return wrong(format!(
            "node.id is {}, expected 1 to 99999 in a region that is one of several",
            settings.node.id
        ));
    }
    let geo = &settings.geo;
    if geo.listen.is_none()
        && (settings.region.number > 0 || !geo.seeds.0.is_empty() || geo.advertise.is_some())
    {
        return wrong(
            "region.number, geo.seeds and geo.advertise are for regions that are one of several: give geo.listen (--geo) too"
                .to_owned(),
        );
    }
    if !(1..=16).contains(&geo.connections) {
        return wrong(format!(
            "geo.connections is {}, expected 1 to 16",
            geo.connections
        ));
    }
    let geo_files = [&geo.tls_cert, &geo.tls_key, &geo.tls_ca];
    let regions_speak_tls = geo_files.iter().all(|file| file.is_some());
    if !regions_speak_tls && geo_files.iter().any(|file| file.is_some()) {
        return wrong(
            "geo.tls_cert, geo.tls_key and geo.tls_ca belong together: give all three, or none".to_owned(),
        );
    }
    let tls = &settings.peer;
    let files = [&tls.tls_cert, &tls.tls_key, &tls.tls_ca];
    let peers_speak_tls = files.iter().all(|file| file.is_some());
    if !peers_speak_tls && files.iter().any(|file| file.is_some()) {
        return wrong(
            "peer.tls_cert, peer.tls_key and peer.tls_ca belong together: give all three, or none".to_owned(),
        );
    }
    for (key, listen, tls) in [
        ("kafka.listen", settings.kafka.listen, false),
        ("admin.listen", settings.admin.listen, false),
        ("peer.listen", settings.peer_listen(), peers_speak_tls),
        (
            "geo.listen",
            geo.listen.unwrap_or_else(|| settings.peer_listen()),
            regions_speak_tls || geo.listen.is_none(),
        ),
    ] {
        if !listen.ip().is_loopback() && !tls && !settings.node.insecure {
            return wrong(format!(
                "{key} is {listen}, which other machines can reach without TLS: listen on 127.0.0.1, or say \
                 --insecure (node.insecure = true) if the network is trusted"
            ));
        }
    }
    let advertised = [
        ("kafka.advertise", &settings.kafka.advertise),
        ("peer.advertise", &settings.peer.advertise),
        ("geo.advertise", &settings.geo.advertise),
    ];
    let advertised = advertised
        .iter()
        .filter_map(|(key, address)| Some((*key, address.as_ref()?.0.as_str())));
    let seeds = settings
        .region
        .seeds
        .0
        .iter()
        .map(|seed| ("region.seeds", seed.as_str()));
    let geo_seeds = geo.seeds.0.iter().map(|seed| ("geo.seeds", seed.as_str()));
    for (key, address) in advertised.chain(seeds).chain(geo_seeds) {
        if crate::server::host_and_port(address).is_none() {
            return wrong(format!("{key} has {address:?}, expected HOST:PORT"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
