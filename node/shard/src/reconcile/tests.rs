use super::*;

fn ids(nodes: &[u32]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// A view of node 1, which leads; every member has everything, every node up to 9 is alive.
fn view(wished: &[u32], voters: &[u32], learners: &[u32]) -> View {
    View {
        me: NodeId(1),
        wished: wished.iter().copied().map(NodeId).collect(),
        wished_learners: BTreeSet::new(),
        voters: ids(voters),
        learners: ids(learners),
        is_joint: false,
        last: RaftIndex(1000),
        matched: voters
            .iter()
            .chain(learners)
            .map(|node| (NodeId(*node), RaftIndex(1000)))
            .collect(),
        alive: (1..10).map(NodeId).collect(),
        damaged: BTreeSet::new(),
    }
}

fn step(view: &View) -> Option<Step> {
    view.next_step()
}

/// Executes steps, as openraft would, until none is due; returns them and the last view.
fn run(mut view: View) -> (Vec<Step>, View) {
    let mut steps = Vec::new();
    while let Some(step) = step(&view) {
        assert!(steps.len() < 30, "it does not end: {steps:?}");
        match &step {
            Step::AddLearner(node) => {
                assert!(view.learners.insert(*node) && !view.voters.contains(node));
                view.matched.insert(*node, view.last);
            }
            Step::ChangeVoters(voters) => {
                assert!(!voters.is_empty());
                let known: BTreeSet<_> = view.voters.union(&view.learners).copied().collect();
                assert!(voters.is_subset(&known), "every new voter was a learner before");
                view.voters = voters.clone();
                view.learners = view.learners.difference(voters).copied().collect();
            }
            Step::RemoveLearner(node) => assert!(view.learners.remove(node)),
        }
        steps.push(step);
    }
    (steps, view)
}

#[test]
fn members_as_wished_are_left_alone() {
    assert_eq!(step(&view(&[1, 2, 3], &[1, 2, 3], &[])), None);
    assert_eq!(
        step(&view(&[], &[1, 2, 3], &[4])),
        None,
        "unknown wishes change nothing"
    );
}

#[test]
fn one_copy_grows_to_three() {
    let (steps, end) = run(view(&[1, 2, 3], &[1], &[]));
    assert_eq!(end.voters, ids(&[1, 2, 3]));
    assert_eq!(
        steps,
        [
            Step::AddLearner(NodeId(2)),
            Step::AddLearner(NodeId(3)),
            Step::ChangeVoters(ids(&[1, 2, 3]))
        ]
    );
}

#[test]
fn a_copy_moves_only_after_the_new_one_holds_everything() {
    let mut moving = view(&[1, 2, 4], &[1, 2, 3], &[4]);
    moving.matched.insert(NodeId(4), RaftIndex(10));
    assert_eq!(step(&moving), None, "it waits");
    let (steps, end) = run(view(&[1, 2, 4], &[1, 2, 3], &[4]));
    assert_eq!(steps, [Step::ChangeVoters(ids(&[1, 2, 4]))]);
    assert_eq!((end.voters, end.learners), (ids(&[1, 2, 4]), ids(&[])));
}

#[test]
fn a_leader_that_is_to_go_hands_over_first() {
    let (steps, mut end) = run(view(&[2, 3, 4], &[1, 2, 3], &[]));
    assert_eq!(
        steps,
        [
            Step::AddLearner(NodeId(4)),
            Step::ChangeVoters(ids(&[1, 2, 3, 4])),
        ]
    );
    end.me = NodeId(2);
    let (steps, end) = run(end);
    assert_eq!(steps, [Step::ChangeVoters(ids(&[2, 3, 4]))]);
    assert_eq!(end.voters, ids(&[2, 3, 4]));
}

#[test]
fn a_dead_copy_is_not_taken_away_before_another_replaces_it() {
    let mut dead = view(&[1, 2, 4], &[1, 2, 3], &[]);
    dead.alive = ids(&[1, 2]);
    assert_eq!(step(&dead), None, "node 4 is not there yet");
    dead.alive = ids(&[1, 2, 4]);
    let (_, end) = run(dead);
    assert_eq!((end.voters, end.learners), (ids(&[1, 2, 4]), ids(&[])));
}

#[test]
fn growth_does_not_wait_for_a_wished_node_that_is_away() {
    let mut away = view(&[1, 2, 3], &[1], &[]);
    away.alive = ids(&[1, 2]);
    let (_, end) = run(away);
    assert_eq!(end.voters, ids(&[1, 2]));
}

#[test]
fn a_damaged_replica_is_taken_out_and_comes_back_as_a_learner() {
    let mut damaged = view(&[1, 2, 3], &[1, 2, 3], &[]);
    damaged.damaged = ids(&[3]);
    let (steps, mut end) = run(damaged);
    assert_eq!(steps, [Step::ChangeVoters(ids(&[1, 2]))]);
    end.damaged.clear();
    let (steps, end) = run(end);
    assert_eq!(
        steps,
        [Step::AddLearner(NodeId(3)), Step::ChangeVoters(ids(&[1, 2, 3]))]
    );
    assert_eq!(end.voters, ids(&[1, 2, 3]));
}

#[test]
fn a_damaged_replica_stays_while_the_others_could_not_decide_without_it() {
    let mut two = view(&[1, 2, 3], &[1, 2, 3], &[]);
    two.damaged = ids(&[3]);
    two.alive = ids(&[1, 3]);
    assert_eq!(step(&two), None);
}

#[test]
fn a_change_that_a_former_leader_began_is_ended() {
    let mut joint = view(&[1, 2, 3], &[1, 2, 3], &[]);
    joint.is_joint = true;
    assert_eq!(step(&joint), Some(Step::ChangeVoters(ids(&[1, 2, 3]))));
}

#[test]
fn the_controllers_learners_come_and_go_with_the_nodes() {
    let mut control = view(&[1, 2, 3], &[1, 2, 3], &[9]);
    control.wished_learners = ids(&[4, 5]);
    let (steps, end) = run(control);
    assert_eq!(
        steps,
        [
            Step::AddLearner(NodeId(4)),
            Step::AddLearner(NodeId(5)),
            Step::RemoveLearner(NodeId(9)),
        ]
    );
    assert_eq!(end.learners, ids(&[4, 5]));
}
