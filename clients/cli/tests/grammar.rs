//! The grammar, the help texts, and wrong usage: nothing here needs a server.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::process::{Command, Output};

fn meridian(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(arguments)
        .env_remove("MERIDIAN_SERVER")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_grammar_is_consistent() {
    meridian_cli::grammar().debug_assert();
}

#[test]
fn every_command_has_a_help_text_that_says_what_it_does() {
    fn visit(command: &clap::Command, path: &str) {
        let name = format!("{path} {}", command.get_name());
        assert!(
            command.get_about().is_some() || command.get_name() == "help",
            "{name} says nothing"
        );
        for argument in command.get_arguments() {
            let is_built_in = ["help", "version"].contains(&argument.get_id().as_str());
            assert!(
                is_built_in || argument.get_help().is_some(),
                "{name} {} says nothing",
                argument.get_id()
            );
        }
        for sub in command.get_subcommands() {
            visit(sub, &name);
        }
    }
    visit(&meridian_cli::grammar(), "");
}

#[test]
fn the_nouns_are_those_of_the_design() {
    let grammar = meridian_cli::grammar();
    let mut nouns: Vec<&str> = grammar.get_subcommands().map(clap::Command::get_name).collect();
    nouns.sort_unstable();
    for noun in [
        "bench",
        "cert",
        "cluster",
        "completions",
        "config",
        "consume",
        "demo",
        "group",
        "journal",
        "produce",
        "region",
        "replay",
        "serve",
        "tier",
        "topic",
    ] {
        assert!(nouns.contains(&noun), "{noun} is missing among {nouns:?}");
    }
    let verbs = |noun: &str| -> Vec<String> {
        let command = grammar.find_subcommand(noun).unwrap();
        command
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect()
    };
    assert_eq!(
        verbs("topic"),
        ["create", "list", "describe", "alter", "delete", "trim"]
    );
    assert_eq!(verbs("group"), ["list", "describe", "reset", "delete"]);
    assert_eq!(verbs("bench"), ["produce", "consume", "end-to-end", "replay"]);
    assert_eq!(verbs("tier"), ["verify", "list", "describe", "cost"]);
    assert_eq!(verbs("cert"), ["ca", "node", "renew"]);
    assert_eq!(
        verbs("demo"),
        ["status", "kill", "start", "cut", "heal", "switchover", "stop"]
    );
    assert_eq!(verbs("journal"), ["inspect", "verify"]);
    assert_eq!(verbs("config"), ["check", "explain"]);
    assert_eq!(verbs("cluster"), ["status", "drain", "remove", "balance"]);
}

#[test]
fn help_is_status_0_and_names_the_options_of_every_command() {
    for arguments in [
        &["--help"][..],
        &["topic", "create", "--help"],
        &["bench", "produce", "--help"],
    ] {
        let output = meridian(arguments);
        assert_eq!(output.status.code(), Some(0));
        let text = stdout(&output);
        for option in ["--server", "--output", "--yes", "--timeout"] {
            assert!(
                text.contains(option),
                "{arguments:?} does not name {option}:\n{text}"
            );
        }
    }
    assert!(stdout(&meridian(&["--help"])).contains("3 a check does not hold"));
}

#[test]
fn wrong_usage_is_status_2_and_says_what_was_expected() {
    for (arguments, expected) in [
        (&[][..], "Usage"),
        (&["topic"], "subcommand"),
        (&["nonsense"], "unrecognized"),
        (&["topic", "create"], "TOPIC"),
        (&["topic", "create", "t", "--partitions", "0"], "1.."),
        (&["topic", "create", "t", "--config", "novalue"], "NAME=VALUE"),
        (&["topic", "alter", "t"], "--partitions"),
        (&["topic", "list", "--output", "xml"], "json"),
        (&["topic", "list", "--server", "a:b"], "HOST:PORT"),
        (&["topic", "list", "--timeout", "5"], "unit"),
        (&["topic", "trim", "t"], "--before"),
        (&["topic", "delete", "t"], "--yes"),
        (&["produce", "t", "--compression", "brotli"], "zstd"),
        (&["produce", "t", "--acks", "2"], "all"),
        (&["consume", "t", "--from", "whenever"], "earliest"),
        (&["consume", "t", "--format", "%x"], "%s value"),
        (&["group", "reset", "g"], "--to-earliest"),
        (
            &["group", "reset", "g", "--to-earliest", "--to-latest"],
            "cannot be used",
        ),
        (&["group", "delete", "g"], "--yes"),
        (&["cluster", "drain"], "NODE"),
        (&["cluster", "drain", "one"], "NODE"),
        (&["cluster", "remove", "2"], "--yes"),
        (
            &["cluster", "balance", "--dry-run", "--no-wait"],
            "cannot be used",
        ),
        (&["cert", "ca"], "--out"),
        (&["cert", "node", "--ca", "ca"], "--region"),
        (&["demo", "--regions", "0"], "1..=6"),
        (&["demo", "--latency", "far"], "80ms"),
        (&["demo", "kill", "us"], "us/1"),
        (&["demo", "--control", "0.0.0.0:0"], "127.0.0.1"),
        (&["debug", "relay", "--listen", "127.0.0.1:0"], "--target"),
        (&["bench", "produce", "--size", "3"], "24 bytes"),
        (&["bench", "produce", "--rate=-1"], "rate"),
        (&["bench", "end-to-end", "--rate", "0"], "rate"),
        (
            &["config", "check", "--set", "journal.bytes_maxx=1"],
            "journal.bytes_max",
        ),
    ] {
        let output = meridian(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.contains(expected),
            "{arguments:?} does not say {expected}:\n{text}"
        );
    }
}

#[test]
fn a_server_that_is_not_there_is_status_1_with_its_address_and_advice() {
    let output = meridian(&["topic", "list", "--server", "127.0.0.1:1", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with("error: cannot connect to 127.0.0.1:1"), "{text}");
    assert!(text.contains("meridian serve"), "{text}");
    assert!(stdout(&output).is_empty());
}

#[test]
fn a_directory_that_is_no_journal_is_an_error_and_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("nothing");
    let output = meridian(&["journal", "verify", "--data", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not a directory") && !missing.exists());
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = meridian(&["completions", shell]);
        assert!(
            output.status.success() && stdout(&output).contains("meridian"),
            "{shell}"
        );
    }
}

#[test]
fn config_explain_gives_every_setting_with_its_source() {
    let output = meridian(&["config", "explain", "--node-id", "7", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "meridian.config.explain/1");
    let settings = document["settings"].as_array().unwrap();
    let id = settings
        .iter()
        .find(|setting| setting["key"] == "node.id")
        .unwrap();
    assert_eq!((&id["value"], &id["source"]), (&7.into(), &"command line".into()));
    assert!(
        settings
            .iter()
            .any(|setting| setting["source"] == "built-in default")
    );
}
