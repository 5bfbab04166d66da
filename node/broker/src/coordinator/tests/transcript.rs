//! Protocol traces in `transcripts/groups/`. Lines at the margin are commands and comments, indented
//! lines are what came of the command above. `BLESS=1` rewrites the indented lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::world::World;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("transcripts/groups")
}

fn play(file: &str) {
    let path = folder().join(file);
    let expected = fs::read_to_string(&path).expect("the transcript can be read");
    let mut world = World::new();
    let mut actual = String::new();
    for line in expected.lines().filter(|line| !line.starts_with(' ')) {
        actual.push_str(line);
        actual.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            actual.push_str(&world.run(line));
        }
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, actual).expect("the transcript can be written");
    } else {
        assert_eq!(
            actual, expected,
            "{file} went differently; look at it, then run with BLESS=1"
        );
    }
    assert_eq!(world.unanswered(), 0, "{file} leaves someone without an answer");
}

macro_rules! transcripts {
    ($($claim:ident: $file:literal,)*) => {
        $(#[test] fn $claim() { play($file); })*
        const FILES: &[&str] = &[$($file),*];
    };
}

transcripts! {
    a_new_member_joins_twice_and_gets_its_assignment: "first-join.txt",
    an_old_client_joins_once: "old-client.txt",
    two_members_share_what_the_leader_assigns: "two-members.txt",
    an_empty_group_waits_for_more_members: "initial-delay.txt",
    joining_and_leaving_rebalance: "join-and-leave.txt",
    a_silent_member_is_removed: "lost-member.txt",
    a_static_member_restarts_without_rebalance: "static-restart.txt",
    the_old_instance_is_fenced: "fenced-instance.txt",
    an_administrator_removes_static_members: "admin-removal.txt",
    the_leader_rejoining_rebalances_and_a_follower_does_not: "rejoin.txt",
    a_slow_joiner_is_dropped: "slow-joiner.txt",
    a_member_that_does_not_sync_is_dropped: "sync-timeout.txt",
    a_restart_goes_on_without_rebalance: "restart.txt",
    the_coordinator_moves: "move.txt",
    a_save_that_fails_hands_nothing_out: "save-fails.txt",
    a_handed_out_member_id_expires: "pending-expires.txt",
    a_group_upgrades_to_the_cooperative_protocol: "cooperative-upgrade.txt",
    protocols_must_fit: "protocol-mismatch.txt",
    a_full_group_refuses_members: "full-group.txt",
    wrong_ids_and_generations_are_refused: "wrong-ids.txt",
    commits_are_checked_by_member_generation_and_state: "commit.txt",
    groups_are_described_and_listed: "describe-and-list.txt",
    groups_and_offsets_are_deleted_when_unused: "delete.txt",
    a_worker_group_of_connect_is_opaque: "connect.txt",
}

#[test]
fn every_transcript_is_played() {
    let played: BTreeSet<String> = FILES.iter().map(|file| (*file).to_owned()).collect();
    let stored: BTreeSet<String> = fs::read_dir(folder())
        .expect("the folder can be read")
        .map(|entry| {
            entry
                .expect("the folder can be read")
                .file_name()
                .into_string()
                .expect("plain names")
        })
        .collect();
    assert_eq!(played, stored);
}
