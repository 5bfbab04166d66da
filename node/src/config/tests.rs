use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::load(Some(file(text).path()), &[])
}

#[test]
fn a_file_overrides_defaults_and_flags_override_the_file() {
    let file = file("[node]\nid = 7\n[journal]\nfile_bytes = \"8MiB\"\n");
    let config = Config::load(Some(file.path()), &[("node.id", "9".to_owned())]).expect("good");
    assert_eq!(config.settings().node.id, 9);
    assert_eq!(config.settings().journal.file_bytes.0, 8 << 20);
    let source = |key: &str| {
        config
            .explain()
            .into_iter()
            .find(|e| e.key == key)
            .expect("known")
            .source
    };
    assert_eq!(source("node.id"), "command line");
    assert!(source("journal.file_bytes").starts_with("file "));
    assert_eq!(source("region.shards"), "built-in default");
}

#[test]
fn an_unknown_key_is_refused_with_its_source_and_a_suggestion() {
    let error = load("[journal]\nfile_byte = 1\n")
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("journal.file_byte "), "{error}");
    assert!(error.contains("did you mean journal.file_bytes?"), "{error}");
    assert!(error.contains("file "), "{error}");
}

#[test]
fn a_wrong_value_names_its_key_and_what_is_expected() {
    let error = load("[journal]\nfile_bytes = \"much\"\n")
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("file_bytes") && error.contains("1MiB"), "{error}");
    let error = load("[region]\nshards = 12\n")
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("power of two"), "{error}");
    let beyond = meridian_controller::FEATURE_LEVEL_MAX + 1;
    let error = load(&format!("[node]\nfeature_level_max = {beyond}\n"))
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("understands no newer one"), "{error}");
}

#[test]
fn a_listener_beyond_loopback_wants_insecure_in_so_many_words() {
    let error = load("[kafka]\nlisten = \"0.0.0.0:9092\"\n")
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("--insecure"), "{error}");
    load("[node]\ninsecure = true\n[kafka]\nlisten = \"0.0.0.0:9092\"\n").expect("good");
}

#[test]
fn a_text_may_look_like_a_number() {
    let config = load("[node]\nrack = 5\n").expect("good");
    assert_eq!(
        config.settings().node.rack.as_ref().map(|rack| rack.0.as_str()),
        Some("5")
    );
}

#[test]
fn what_nobody_set_is_what_the_data_directory_was_made_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let of_node_7 = (meridian_types::NodeId(7), meridian_types::Uuid::from_u128(1));
    identity::give(directory.path(), of_node_7.0, of_node_7.1, "eu").expect("written");
    let data = ("node.data", directory.path().display().to_string());
    let config = Config::load(None, std::slice::from_ref(&data)).expect("good");
    let settings = config.settings();
    assert_eq!((settings.node.id, settings.region.name.0.as_str()), (7, "eu"));
    let source = |key| {
        config
            .explain()
            .into_iter()
            .find(|explained| explained.key == key)
    };
    assert_eq!(source("node.id").expect("a setting").source, "data directory");
    let set = Config::load(None, &[data, ("node.id", "9".to_owned())]).expect("good");
    assert_eq!(set.settings().node.id, 9, "what was set stands");
    assert_eq!(set.settings().region.name.0, "eu");
}

#[test]
fn every_setting_has_a_doc_and_a_variable() {
    for setting in SETTINGS {
        assert!(setting.doc.trim().len() > 10, "{} needs a sentence", setting.key);
    }
    assert_eq!(variable("journal.bytes_max"), "MERIDIAN_JOURNAL__BYTES_MAX");
}

#[test]
fn variables_of_the_command_line_and_of_tests_are_no_settings() {
    for name in ["BUCKET", "bucket", "SERVER", "TEST_ROUNDS", "TEST_S3"] {
        assert!(is_other_variable(name), "{name}");
    }
    for setting in SETTINGS {
        let name = variable(setting.key);
        let name = name.strip_prefix(ENV_PREFIX).expect("the prefix");
        assert!(!is_other_variable(name), "{name} cannot be set by a variable");
    }
}
