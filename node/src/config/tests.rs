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
fn every_setting_has_a_doc_and_a_variable() {
    for setting in SETTINGS {
        assert!(setting.doc.trim().len() > 10, "{} needs a sentence", setting.key);
    }
    assert_eq!(variable("journal.bytes_max"), "MERIDIAN_JOURNAL__BYTES_MAX");
}
