use std::collections::BTreeMap;

use super::*;

/// Rows of the stored list: scope and name, then type, default and validator as Kafka prints them.
fn kafka() -> BTreeMap<(&'static str, &'static str), (&'static str, &'static str, &'static str)> {
    let rows = include_str!("../../fixtures/kafka-4.3-configs.tsv").lines();
    rows.filter(|row| !row.starts_with('#'))
        .map(|row| {
            let [scope, name, kind, default, valid] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            ((scope, name), (kind, default, valid))
        })
        .collect()
}

/// A range as Kafka prints it.
fn range(valid: Valid) -> String {
    match valid {
        Valid::Range(min, i64::MAX, None) => format!("[{min},...]"),
        Valid::Range(min, max, None) => format!("[{min},...,{max}]"),
        Valid::Range(min, max, Some(other)) => format!("[{min},...,{max}] or {other}"),
        Valid::Ratio => "[0,...,1]".into(),
        Valid::OneOf(words) => format!("[{}]", words.join(", ")),
        Valid::ThrottledReplicas => "[partitionId]:[brokerId],[partitionId]:[brokerId],...".into(),
        Valid::TopicPatterns => "names, * for any characters".into(),
        Valid::Any => String::new(),
    }
}

/// Where the tables say something else than Kafka, on purpose.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "default.replication.factor",
        "three copies where there are three nodes, and no more than a Raft group can bear",
    ),
    ("node.id", "filled in for each node"),
    ("process.roles", "every node is both"),
];

#[test]
fn tables_agree_with_kafka() {
    let kafka = kafka();
    for (scope, table) in [("topic", topic::SETTINGS), ("broker", broker::SETTINGS)] {
        for setting in table
            .iter()
            .filter(|setting| !DIFFERENT.iter().any(|(name, _)| *name == setting.name))
        {
            let name = setting.name;
            let Some((kind, default, valid)) = kafka.get(&(scope, name)) else {
                // Set for brokers when partitions are reassigned, outside of Kafka's own table; or our own.
                assert!(
                    name.ends_with(".replication.throttled.rate") || name.starts_with("geo."),
                    "Kafka has no {scope} config {name}"
                );
                continue;
            };
            assert_eq!(
                format!("{:?}", setting.kind).to_lowercase(),
                *kind,
                "type of {name}"
            );
            assert_eq!(setting.default.unwrap_or("null"), *default, "default of {name}");
            // Kafka checks some broker configs only where they are used; facts are never set at all.
            let is_bounded = scope == "topic" || !valid.is_empty();
            if is_bounded && setting.scope != Scope::ReadOnly {
                assert_eq!(range(setting.valid), *valid, "bounds of {name}");
            }
        }
    }
}

#[test]
fn every_topic_config_of_kafka_is_known() {
    for (scope, name) in kafka()
        .into_keys()
        .filter(|(_, name)| !name.starts_with("internal."))
    {
        assert!(
            scope != "topic" || find(topic::SETTINGS, name).is_some(),
            "{name}"
        );
    }
}

#[test]
fn tables_are_in_order_and_their_defaults_and_synonyms_hold() {
    for table in [topic::SETTINGS, broker::SETTINGS] {
        assert!(table.windows(2).all(|pair| pair[0].name < pair[1].name));
        for setting in table {
            assert!(!setting.doc.is_empty(), "{} is not explained", setting.name);
            if let Some(default) = setting.default {
                assert_eq!(
                    setting.canonical(default).as_deref(),
                    Ok(default),
                    "{}",
                    setting.name
                );
            }
            for (name, factor) in setting.synonyms {
                let synonym =
                    find(broker::SETTINGS, name).unwrap_or_else(|| panic!("{name} is not in the table"));
                assert_eq!(synonym.acts, setting.acts, "{name}");
                if let (1, Some(default)) = (factor, synonym.default) {
                    assert_eq!(Some(default), setting.default, "{name}");
                }
            }
        }
    }
}

#[test]
fn values_are_held_against_type_and_bounds() {
    let canonical = |name, value: &str| {
        let setting = find(topic::SETTINGS, name).unwrap();
        setting.canonical(value).map_err(|error| match error {
            ConfigError::Invalid { reason, .. } => reason,
            other => panic!("{other}"),
        })
    };
    let ok = |value: &str| Ok(value.to_owned());
    let error = |reason: &str| Err(reason.to_owned());
    assert_eq!(canonical("preallocate", " TRUE "), ok("true"));
    assert_eq!(canonical("preallocate", "yes"), error("it must be true or false"));
    assert_eq!(canonical("flush.ms", "+7"), ok("7"));
    assert_eq!(canonical("retention.ms", "-2"), error("it must be at least -1"));
    assert_eq!(
        canonical("max.message.bytes", "1e3"),
        error("it must be a whole number from -2147483648 to 2147483647")
    );
    assert_eq!(
        canonical("max.message.bytes", "2147483648"),
        error("it must be a whole number from -2147483648 to 2147483647")
    );
    assert_eq!(canonical("compression.gzip.level", "-1"), ok("-1"));
    assert_eq!(
        canonical("compression.gzip.level", "0"),
        error("it must be from 1 to 9, or -1")
    );
    assert_eq!(
        canonical("compression.lz4.level", "18"),
        error("it must be from 1 to 17")
    );
    assert_eq!(canonical("min.cleanable.dirty.ratio", "0.25"), ok("0.25"));
    assert_eq!(
        canonical("min.cleanable.dirty.ratio", "1.5"),
        error("it must be from 0 to 1")
    );
    assert_eq!(
        canonical("min.cleanable.dirty.ratio", "NaN"),
        error("it must be from 0 to 1")
    );
    assert_eq!(
        canonical("retention.bytes", "-5"),
        ok("-5"),
        "Kafka sets no bound here"
    );
    assert_eq!(
        canonical("compression.type", "GZIP"),
        error("it must be one of uncompressed, zstd, lz4, snappy, gzip, producer")
    );
    assert_eq!(
        canonical("cleanup.policy", " compact , delete "),
        ok("compact,delete")
    );
    assert_eq!(canonical("cleanup.policy", "compact,compact"), ok("compact"));
    assert_eq!(canonical("cleanup.policy", ""), ok(""));
    assert_eq!(
        canonical("cleanup.policy", "compact,,delete"),
        error("an item of the list is empty")
    );
    assert_eq!(
        canonical("cleanup.policy", "squash"),
        error("items must be of compact, delete")
    );
    let throttled = "leader.replication.throttled.replicas";
    assert_eq!(canonical(throttled, "0:1,2:3"), ok("0:1,2:3"));
    assert_eq!(canonical(throttled, "*"), ok("*"));
    assert_eq!(
        canonical(throttled, "0:a"),
        error("it must be * or a list of partition:broker pairs")
    );
}

#[test]
fn local_retention_follows_and_never_outlasts_the_total() {
    let settings = |configs: &[(&str, &str)]| {
        let own = configs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        topic::TopicSettings::resolve(&own, &Configs::new()).local_retention_ms()
    };
    assert_eq!(settings(&[]), Some(604_800_000));
    assert_eq!(settings(&[("local.retention.ms", "1000")]), Some(1000));
    assert_eq!(
        settings(&[("local.retention.ms", "1000"), ("retention.ms", "10")]),
        Some(10)
    );
    assert_eq!(
        settings(&[("local.retention.ms", "-1"), ("retention.ms", "-1")]),
        None
    );
    assert_eq!(
        settings(&[("local.retention.ms", "-1"), ("retention.ms", "10")]),
        Some(10)
    );
}

#[test]
fn misspelt_names_get_a_suggestion() {
    assert_eq!(suggest(topic::SETTINGS, "retension.ms"), Some("retention.ms"));
    assert_eq!(suggest(topic::SETTINGS, "cleanup-policy"), Some("cleanup.policy"));
    assert_eq!(suggest(topic::SETTINGS, "colour"), None);
    assert_eq!(suggest(topic::SETTINGS, &"x".repeat(1 << 20)), None);
}

/// `docs/CONFIGS.md`. With `BLESS=1` in the environment it is written anew.
#[test]
fn the_page_of_configs_says_what_the_tables_say() {
    use std::fmt::Write as _;

    let mut page = include_str!("page.md").to_owned();
    for (title, table) in [("Topics", topic::SETTINGS), ("Brokers", broker::SETTINGS)] {
        writeln!(
            page,
            "\n## {title}\n\n| config | type | default | values | acts | what it does |\n|---|---|---|---|---|---|"
        )
        .unwrap();
        for setting in table {
            let Setting {
                name,
                kind,
                default,
                valid,
                acts,
                doc,
                scope,
                ..
            } = setting;
            let kind = format!("{kind:?}").to_lowercase();
            let default = match default {
                None => "null".to_owned(),
                Some("") => String::new(),
                Some(default) => format!("`{default}`"),
            };
            let values = match range(*valid) {
                values if values.is_empty() => values,
                values => format!("`{values}`"),
            };
            let acts = match scope {
                Scope::ReadOnly => "read only",
                Scope::Node if *acts => "yes, also per node",
                _ if *acts => "yes",
                _ => "no",
            };
            writeln!(
                page,
                "| `{name}` | {kind} | {default} | {values} | {acts} | {doc} |"
            )
            .unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGS.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        page,
        "run the test with BLESS=1"
    );
}
