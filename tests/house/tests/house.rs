//! The house rules, as tests: what a reader is told must be true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is there")
}

/// Files that git tracks, or would.
fn files(ending: &str) -> Vec<PathBuf> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            &format!("*{ending}"),
        ])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    let names = String::from_utf8(output.stdout).expect("names are text");
    names
        .lines()
        .map(|name| root().join(name))
        .filter(|path| path.exists())
        .collect()
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The arrows of `docs/ARCHITECTURE.md`: each crate, and which of ours it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("lineage", &["types"]),
    ("wire", &["types"]),
    ("net", &[]),
    ("peer", &["types", "net"]),
    // Only the simulation switches the deliberate defects of `mutants` on.
    ("journal", &["types", "mutants"]),
    ("raft", &["types", "journal", "peer", "mutants"]),
    ("tiered-storage", &["types", "wire"]),
    ("geo-mirror", &["types"]),
    ("wan-relay", &[]),
    (
        "state",
        &["types", "lineage", "wire", "tiered-storage", "mutants"],
    ),
    ("controller", &["types", "lineage"]),
    (
        "shard",
        &[
            "types",
            "wire",
            "net",
            "peer",
            "journal",
            "raft",
            "tiered-storage",
            "lineage",
            "geo-mirror",
            "state",
            "controller",
            "mutants",
        ],
    ),
    ("broker", &["types", "wire", "state", "controller", "shard"]),
    (
        "node",
        &[
            "types",
            "net",
            "peer",
            "journal",
            "raft",
            "tiered-storage",
            "geo-mirror",
            "state",
            "controller",
            "shard",
            "broker",
        ],
    ),
    ("client", &["types", "wire"]),
    (
        "cli",
        &[
            "types",
            "wire",
            "journal",
            "tiered-storage",
            "node",
            "client",
            "wan-relay",
        ],
    ),
    ("house", &[]),
    ("compat", &["types", "wire", "client", "checker"]),
    ("checker", &[]),
    ("crash", &["types", "wire", "client", "compat", "checker"]),
    (
        "cluster",
        &["types", "wire", "client", "compat", "checker", "wan-relay"],
    ),
    ("geo-test", &["compat", "checker", "cluster", "wan-relay"]),
    ("hostile", &["types", "wire", "client", "compat"]),
    ("mutants", &[]),
    (
        "sim",
        &[
            "types",
            "wire",
            "net",
            "journal",
            "tiered-storage",
            "geo-mirror",
            "state",
            "controller",
            "shard",
            "checker",
            "mutants",
        ],
    ),
    (
        "bench",
        &["types", "wire", "client", "compat", "cluster", "wan-relay"],
    ),
];

#[test]
fn crates_point_only_where_the_architecture_says() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo tells its metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let full = package["name"].as_str().expect("a name");
        let name = full
            .strip_prefix("meridian-")
            .unwrap_or_else(|| panic!("{full} lacks the prefix"));
        let arrows = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{full} is not in the table of arrows"));
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            let is_test = dependency["kind"] == "dev";
            if let (Some(to), false) = (to.strip_prefix("meridian-"), is_test) {
                assert!(
                    arrows.contains(&to),
                    "{name} names {to}; the architecture has no such arrow"
                );
            }
        }
    }
    for (name, _) in ARROWS {
        assert!(
            seen.contains(*name),
            "the table of arrows names {name}, which does not exist"
        );
    }
}

#[test]
fn only_the_raft_crate_names_openraft() {
    for path in files("Cargo.toml") {
        let text = std::fs::read_to_string(&path).expect("readable");
        let name = short(&path);
        if name != "Cargo.toml" && name != "node/raft/Cargo.toml" {
            assert!(
                !text.lines().any(|line| line.starts_with("openraft")),
                "{name} names openraft"
            );
        }
    }
}

/// Lines past which a file must say at its top why it is one.
const LINES_MAX: usize = 600;

#[test]
fn files_stay_small_or_say_why() {
    for path in files(".rs") {
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines = text.lines().count();
        let says_why = text
            .lines()
            .take(30)
            .any(|line| line.contains("One file because"));
        assert!(
            lines <= LINES_MAX || says_why,
            "{} has {lines} lines: look for the second concept",
            short(&path)
        );
    }
}

#[test]
fn the_types_crate_is_no_sink() {
    let lines: usize = files(".rs")
        .iter()
        .filter(|path| short(path).starts_with("node/types/"))
        .map(|path| std::fs::read_to_string(path).expect("readable").lines().count())
        .sum();
    assert!(
        lines <= 600,
        "node/types holds ids and positions only; it has {lines} lines"
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in files(".md") {
        let text = std::fs::read_to_string(&path).expect("readable");
        for target in links(&text) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let to = path.parent().expect("in a folder").join(target);
            assert!(
                to.exists(),
                "{} links to {target}, which does not exist",
                short(&path)
            );
        }
    }
}

/// Targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let mut rest = line;
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
    found
}

#[test]
fn every_dependency_of_the_workspace_is_used() {
    let root_manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    let declared = root_manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with('#'));
    let manifests: Vec<String> = files("Cargo.toml")
        .iter()
        .filter(|path| short(path) != "Cargo.toml")
        .map(|path| std::fs::read_to_string(path).expect("readable"))
        .collect();
    for name in declared {
        let used = manifests.iter().any(|text| {
            text.lines()
                .any(|line| line.starts_with(&format!("{name}.")) || line.starts_with(&format!("{name} ")))
        });
        assert!(used, "{name} is declared in Cargo.toml and used by no crate");
    }
}
