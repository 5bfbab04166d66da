//! All nodes of a region use the same bucket: a node without it could not read the region's history, and one with another
//! would put a part of it where nobody else looks. So a bucket has an id of its own, and a node that joins, or is started
//! again, holds it against those of the others (`docs/decisions/0016-same-bucket.md`).

use std::time::Duration;

use bytes::Bytes;
use meridian_peer::HostPort;
use meridian_tiered_storage::store::{Created, Store, StoreError};
use meridian_types::{Uuid, uuid_v4};

use crate::message::{VERSION, kind};
use crate::region::Inner;

/// Key of the object that holds the bucket's id, beside the clusters.
const KEY: &str = "BUCKET";

const HEAD: &str = "meridian-bucket 2\n";

/// What stands before the checksum of all before it.
const CHECKSUM: &str = "crc32c ";

/// A bucket that does not say its id in time is not compared.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What a node says of its bucket: the answer to [`kind::BUCKET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketAnswer {
    /// It was told of none.
    None,
    /// It has one, which does not answer now.
    Unknown,
    /// It has this one.
    Is(Uuid),
}

impl BucketAnswer {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::None => out.push(0),
            Self::Unknown => out.push(1),
            Self::Is(id) => {
                out.push(2);
                out.extend_from_slice(id.as_bytes());
            }
        }
        out.into()
    }

    /// `None` for bytes that are no such answer.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        match body {
            [VERSION, 0] => Some(Self::None),
            [VERSION, 1] => Some(Self::Unknown),
            [VERSION, 2, id @ ..] => Some(Self::Is(Uuid::from_slice(id).ok()?)),
            _ => None,
        }
    }
}

/// What this node has.
pub(crate) async fn own(inner: &Inner) -> BucketAnswer {
    let Some(bucket) = &inner.settings.bucket else {
        return BucketAnswer::None;
    };
    let fresh = uuid_v4((inner.random)());
    let asked = inner.bucket_id.get_or_try_init(|| id_of(&bucket.store, fresh));
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(id)) => BucketAnswer::Is(*id),
        Ok(Err(error)) => {
            tracing::warn!(error, "the bucket does not tell its id");
            BucketAnswer::Unknown
        }
        Err(_) => BucketAnswer::Unknown,
    }
}

/// The id of a bucket; the first who asks gives it one. It is read back: what a store took may not be what it keeps.
async fn id_of(store: &Store, fresh: Uuid) -> Result<Uuid, String> {
    let told = |error: StoreError| error.to_string();
    let kept = match store.create(KEY, document(fresh)).await.map_err(told)? {
        Created::Ours => store.get(KEY).await.map_err(told)?,
        Created::Theirs(theirs) => theirs,
    };
    read(&kept).ok_or_else(|| {
        format!("{KEY} is damaged, there or on the way: if it stays so, remove it, and the next node writes it anew")
    })
}

/// The object's bytes (`docs/formats/bucket-id.md`). A wrong bit would make it another bucket, and a node would not start.
fn document(id: Uuid) -> Bytes {
    let text = format!("{HEAD}{id}\n");
    let checksum = crc_fast::crc32_iscsi(text.as_bytes());
    format!("{text}{CHECKSUM}{checksum:08x}\n").into()
}

fn read(bytes: &[u8]) -> Option<Uuid> {
    let id = std::str::from_utf8(bytes)
        .ok()?
        .strip_prefix(HEAD)?
        .lines()
        .next()?;
    let id = Uuid::try_parse(id).ok()?;
    (document(id) == bytes).then_some(id)
}

/// Holds this node's bucket against those of the nodes at these addresses, as far as they tell. The error says what to do.
pub(crate) async fn check(inner: &Inner, nodes: &[HostPort]) -> Result<(), String> {
    let asking = nodes.iter().map(|address| async move {
        let asked = inner.peers.call_address(address, kind::BUCKET, Vec::new());
        let (_, body) = tokio::time::timeout(2 * TIMEOUT, asked).await.ok()?.ok()?;
        // A node of an older version does not know the question.
        BucketAnswer::decode(&body)
    });
    let answers = futures::future::join_all(asking).await;
    let mut theirs = answers.into_iter().flatten().peekable();
    if theirs.peek().is_none() {
        return Ok(());
    }
    let own = own(inner).await;
    let place = inner.settings.bucket.as_ref().map(|bucket| bucket.store.place());
    theirs.try_for_each(|theirs| compare(own, theirs, place.as_deref().unwrap_or_default()))
}

/// Holds this node's bucket against those of the others of its region, as far as they are up.
pub(crate) async fn check_members(inner: &Inner) -> Result<(), String> {
    let others: Vec<_> = inner.nodes().into_values().map(|known| known.address).collect();
    check(inner, &others).await
}

fn compare(own: BucketAnswer, theirs: BucketAnswer, place: &str) -> Result<(), String> {
    match (own, theirs) {
        (BucketAnswer::None, BucketAnswer::Unknown | BucketAnswer::Is(_)) => Err(
            "the region has a bucket, and this node was started without one: start it with the --bucket (tier.url) of the \
             other nodes"
                .to_owned(),
        ),
        (BucketAnswer::Is(own), BucketAnswer::Is(theirs)) if own != theirs => Err(format!(
            "this node's bucket ({place}) is not that of its region: its id is {own}, the region's is {theirs}; start it \
             with the --bucket (tier.url) of the other nodes, which all of them must reach"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use meridian_tiered_storage::store::StoreSettings;

    use super::*;

    const A: BucketAnswer = BucketAnswer::Is(Uuid::from_u128(1));
    const B: BucketAnswer = BucketAnswer::Is(Uuid::from_u128(2));

    #[test]
    fn answers_come_back_and_others_are_none() {
        for answer in [BucketAnswer::None, BucketAnswer::Unknown, A] {
            assert_eq!(BucketAnswer::decode(&answer.encode()), Some(answer));
        }
        for other in [&[][..], &[VERSION], &[VERSION, 2, 1], &[VERSION, 3], &[9, 0]] {
            assert_eq!(BucketAnswer::decode(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_a_missing_or_another_bucket_is_refused() {
        for (own, theirs, is_good) in [
            (A, A, true),
            (A, B, false),
            (BucketAnswer::None, A, false),
            (BucketAnswer::None, BucketAnswer::Unknown, false),
            (BucketAnswer::None, BucketAnswer::None, true),
            // The region is being given a bucket, node by node.
            (A, BucketAnswer::None, true),
            (A, BucketAnswer::Unknown, true),
            (BucketAnswer::Unknown, B, true),
        ] {
            assert_eq!(
                compare(own, theirs, "here").is_ok(),
                is_good,
                "{own:?} {theirs:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_bucket_keeps_the_id_that_it_got_first() {
        let store = Store::open(&StoreSettings::new("memory:///")).expect("a store");
        let first = id_of(&store, Uuid::from_u128(7)).await;
        assert_eq!(first, Ok(Uuid::from_u128(7)));
        assert_eq!(id_of(&store, Uuid::from_u128(8)).await, first);
        let other = Store::open(&StoreSettings::new("memory:///")).expect("a store");
        other
            .put(KEY, vec![Bytes::from_static(b"what?")])
            .await
            .expect("written");
        assert!(id_of(&other, Uuid::from_u128(8)).await.is_err());
    }

    #[test]
    fn an_object_with_a_wrong_bit_or_a_part_of_one_is_no_other_bucket() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let good = document(id);
        assert_eq!(read(&good), Some(id));
        for at in 0..good.len() {
            assert_eq!(read(&good[..at]), None, "{at} bytes of it");
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << bit;
                assert_eq!(read(&bad), None, "bit {bit} of byte {at}");
            }
        }
    }
}
