//! Blocks of producer ids.

use super::*;

#[test]
fn producer_ids_are_dealt_once_and_carry_the_region_epoch() {
    let mut controller = founded();
    let mut deal = |count| apply(&mut controller, &Command::AllocateProducerIds { count });
    let base = 3 << 48;
    assert_eq!(
        deal(1000),
        Outcome::ProducerIds(Ok(ProducerIds {
            first: ProducerId(base),
            count: 1000
        }))
    );
    assert_eq!(
        deal(1),
        Outcome::ProducerIds(Ok(ProducerIds {
            first: ProducerId(base + 1000),
            count: 1
        }))
    );
    assert_eq!(
        deal(0),
        Outcome::ProducerIds(Err(AllocateError::Count { count: 0 }))
    );
    assert!(
        i64::try_from(u64::from(RegionEpoch::MAX.0) << 48 | 0xffff_ffff_ffff).is_ok(),
        "Kafka's ids are signed"
    );
    controller.producer_ids_dealt = (1 << 48) - 1;
    let mut deal = |count| apply(&mut controller, &Command::AllocateProducerIds { count });
    assert_eq!(deal(2), Outcome::ProducerIds(Err(AllocateError::Exhausted)));
    assert!(matches!(deal(1), Outcome::ProducerIds(Ok(_))));
}
