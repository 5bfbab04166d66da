//! The share of the simulation that every build runs. More: `cargo run --release -p meridian-sim -- run --seeds 2000`.

use std::path::Path;
use std::process::Command;

use meridian_mutants::Mutant;
use meridian_sim::many::{self, Many};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sim");

/// Runs the seeds, none of which may be broken. Returns what their runs say.
fn assert_sound(many: &Many) -> String {
    let mut verdicts = String::new();
    let broken = many::run(Path::new(PROGRAM), many, &mut |verdict| {
        verdicts.push_str(verdict);
    });
    assert_eq!(broken.expect("it runs"), Vec::<u64>::new(), "{verdicts}");
    verdicts
}

#[test]
fn fifty_seeds_lose_nothing_and_leave_replicas_alike() {
    let many = Many {
        first: 1,
        seeds: 50,
        jobs: 2,
        arguments: vec!["--seconds".to_owned(), "60".to_owned()],
    };
    assert_sound(&many);
}

#[test]
fn every_deliberate_defect_is_noticed() {
    let unnoticed: Vec<_> = Mutant::ALL
        .iter()
        .filter(|mutant| {
            let many = Many {
                first: 1,
                seeds: 20,
                jobs: 2,
                arguments: vec!["--mutant".to_owned(), mutant.name().to_owned()],
            };
            let broken = many::first_broken(Path::new(PROGRAM), &many).expect("it runs");
            println!("{}: seed {broken:?}", mutant.name());
            broken.is_none()
        })
        .collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

/// Nodes are away for minutes, and the bucket for up to a quarter of an hour.
#[test]
fn an_hour_with_long_outages_of_the_bucket_loses_nothing() {
    let output = Command::new(PROGRAM)
        .args(["replay", "3", "--quiet", "--bucket", "true", "--stretch", "60"])
        .output()
        .expect("it runs");
    let verdict = String::from_utf8(output.stdout).expect("text");
    assert!(verdict.contains("sound"), "{verdict}");
}

#[test]
fn regions_that_mirror_one_another_hold_the_same_through_switchovers_and_faults() {
    for regions in ["2", "3"] {
        let many = Many {
            first: 1,
            seeds: 6,
            jobs: 2,
            arguments: ["--regions", regions, "--seconds", "40"]
                .map(str::to_owned)
                .to_vec(),
        };
        let verdicts = assert_sound(&many);
        assert!(verdicts.contains("switchovers begun"), "{verdicts}");
    }
}

/// Without a bucket, and with one.
#[test]
fn a_seed_replays_exactly() {
    for (seed, has_bucket) in [("4712", false), ("4711", true)] {
        let replay = |arguments: &[&str]| {
            let output = Command::new(PROGRAM)
                .args(["replay", seed, "--seconds", "20"])
                .args(arguments)
                .output()
                .expect("it runs");
            String::from_utf8(output.stdout).expect("text")
        };
        let first = replay(&[]);
        assert!(first.contains("sound"), "{first}");
        assert_eq!(first.contains("bundles"), has_bucket, "{first}");
        assert_eq!(first, replay(&[]));
        let logged = replay(&["--log", "meridian_shard=info"]);
        let verdict = first.lines().last().expect("a verdict");
        assert_eq!(
            logged.lines().last(),
            Some(verdict),
            "the same, looked at closely"
        );
    }
}
