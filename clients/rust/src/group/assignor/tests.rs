use proptest::prelude::*;

use super::*;

fn member(id: &str, topics: &[&str]) -> Member {
    Member {
        id: id.to_owned(),
        instance_id: None,
        subscription: Subscription {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            ..Subscription::default()
        },
    }
}

fn topics(topics: &[(&str, u32)]) -> BTreeMap<String, u32> {
    topics
        .iter()
        .map(|(topic, count)| ((*topic).to_owned(), *count))
        .collect()
}

fn indexes(assignments: &Assignments, id: &str, topic: &str) -> Vec<u32> {
    let given = assignments[id].iter();
    given
        .filter(|(of, _)| of == topic)
        .map(|(_, index)| *index)
        .collect()
}

/// Takes an assignment in, as a member does before the next rebalance.
fn take(members: &mut [Member], assignments: &Assignments, generation: i32) {
    for member in members {
        member.subscription.owned = assignments[&member.id].clone();
        member.subscription.generation = Some(generation);
        member.subscription.user_data = Assignor::Sticky.user_data(&assignments[&member.id], generation);
    }
}

#[test]
fn range_gives_neighbours_and_the_first_members_get_the_rest() {
    let members = [member("b", &["t", "u"]), member("a", &["t"]), member("c", &["t"])];
    let assignments = Assignor::Range.assign(&members, &topics(&[("t", 7), ("u", 2)]));
    assert_eq!(indexes(&assignments, "a", "t"), [0, 1, 2]);
    assert_eq!(indexes(&assignments, "b", "t"), [3, 4]);
    assert_eq!(indexes(&assignments, "c", "t"), [5, 6]);
    assert_eq!(indexes(&assignments, "b", "u"), [0, 1]);
}

#[test]
fn static_members_come_first_in_the_order_of_their_own_ids() {
    let mut members = [member("z", &["t"]), member("a", &["t"])];
    members[0].instance_id = Some("1".to_owned());
    let assignments = Assignor::Range.assign(&members, &topics(&[("t", 2)]));
    assert_eq!(indexes(&assignments, "z", "t"), [0]);
}

#[test]
fn round_robin_passes_over_who_does_not_want_a_topic() {
    let members = [member("a", &["t"]), member("b", &["t", "u"])];
    let assignments = Assignor::RoundRobin.assign(&members, &topics(&[("t", 3), ("u", 2)]));
    assert_eq!(indexes(&assignments, "a", "t"), [0, 2]);
    assert_eq!(indexes(&assignments, "b", "t"), [1]);
    assert_eq!(indexes(&assignments, "b", "u"), [0, 1]);
}

#[test]
fn a_new_member_takes_no_more_than_its_share() {
    for assignor in [Assignor::Sticky, Assignor::CooperativeSticky] {
        let all = topics(&[("t", 6)]);
        let mut members = vec![member("a", &["t"]), member("b", &["t"])];
        let first = assignor.assign(&members, &all);
        take(&mut members, &first, 1);
        members.push(member("c", &["t"]));
        let mut second = assignor.assign(&members, &all);
        if assignor.is_cooperative() {
            assert!(second["c"].is_empty(), "what moves is not given away yet");
            take(&mut members, &second, 2);
            second = assignor.assign(&members, &all);
        }
        for id in ["a", "b"] {
            assert_eq!(second[id].len(), 2);
            assert!(
                second[id].iter().all(|partition| first[id].contains(partition)),
                "{id} keeps its own"
            );
        }
        assert_eq!(second["c"].len(), 2);
    }
}

#[test]
fn of_two_claims_the_younger_generation_holds() {
    let mut members = vec![member("a", &["t"]), member("b", &["t"])];
    let all = topics(&[("t", 2)]);
    let both = vec![("t".to_owned(), 0), ("t".to_owned(), 1)];
    for (member, generation) in members.iter_mut().zip([3, 5]) {
        member.subscription.user_data = Assignor::Sticky.user_data(&both, generation);
    }
    let assignments = Assignor::Sticky.assign(&members, &all);
    assert_eq!((assignments["a"].len(), assignments["b"].len()), (1, 1));
}

#[test]
fn sticky_user_data_comes_back_and_rubbish_is_ignored() {
    let owned = vec![("a".to_owned(), 1), ("a".to_owned(), 2), ("b".to_owned(), 0)];
    assert_eq!(decode_sticky(&encode_sticky(&owned, 9)), Some((owned, 9)));
    assert_eq!(
        decode_sticky(&Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0, 1])),
        None
    );
}

fn any_group() -> impl Strategy<Value = (Vec<Member>, BTreeMap<String, u32>)> {
    let names = ["t", "u", "v"];
    let counts = prop::collection::vec(0_u32..9, 3);
    let wanted = prop::collection::vec(prop::collection::vec(any::<bool>(), 3), 1..6);
    (counts, wanted).prop_map(move |(counts, wanted)| {
        let topics = names.iter().map(|name| (*name).to_owned()).zip(counts).collect();
        let members = wanted
            .iter()
            .enumerate()
            .map(|(number, wants)| {
                let wanted: Vec<&str> = names
                    .iter()
                    .zip(wants)
                    .filter(|(_, want)| **want)
                    .map(|(name, _)| *name)
                    .collect();
                member(&format!("m{number}"), &wanted)
            })
            .collect();
        (members, topics)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_wanted_partition_has_one_reader_that_wants_it((mut members, topics) in any_group(), lost in 0_usize..6) {
        for assignor in Assignor::ALL {
            let first = assignor.assign(&members, &topics);
            check_complete(&members, &topics, &first)?;
            take(&mut members, &first, 1);
            // One member goes; the cooperative one needs a second round for what it has held back.
            if members.len() > 1 {
                let mut rest = members.clone();
                rest.remove(lost % members.len());
                let mut next = assignor.assign(&rest, &topics);
                if assignor.is_cooperative() {
                    take(&mut rest, &next, 2);
                    next = assignor.assign(&rest, &topics);
                }
                check_complete(&rest, &topics, &next)?;
            }
        }
    }

    #[test]
    fn sticky_is_even_where_all_want_the_same(count in 1_u32..40, number in 1_usize..8) {
        let members: Vec<Member> = (0..number).map(|it| member(&format!("m{it}"), &["t"])).collect();
        let assignments = Assignor::Sticky.assign(&members, &topics(&[("t", count)]));
        let loads: Vec<usize> = assignments.values().map(Vec::len).collect();
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
    }
}

fn check_complete(
    members: &[Member],
    topics: &BTreeMap<String, u32>,
    assignments: &Assignments,
) -> Result<(), TestCaseError> {
    for (topic, count) in topics {
        let is_wanted = members.iter().any(|member| wants(member, topic));
        for index in 0..*count {
            let partition = (topic.clone(), index);
            let readers: Vec<&Member> = members
                .iter()
                .filter(|member| assignments[&member.id].contains(&partition))
                .collect();
            prop_assert_eq!(readers.len(), usize::from(is_wanted), "{:?}", partition);
            prop_assert!(readers.iter().all(|reader| wants(reader, topic)));
        }
    }
    Ok(())
}
