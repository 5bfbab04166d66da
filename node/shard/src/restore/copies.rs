//! The copies of states in a bucket: which there are, and the newest of each shard that can be read.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use meridian_state::State;
use meridian_tiered_storage::store::{Store, StoreError};
use meridian_tiered_storage::{ObjectName, StateFile, StateKey};
use meridian_types::{ShardId, TimestampMs};

use super::RestoreError;
use super::report::{CopyUsed, RestoreProgress};

/// Bytes of a state that one request reads.
const READ_BYTES: u64 = 64 << 20;

/// No log ever comes so far: a key with a higher index was not written by a region.
const INDEX_MAX: u64 = 1 << 60;

/// Objects that are asked for at once.
const HEADS_AT_ONCE: usize = 32;

/// What a listing says of one shard.
#[derive(Clone, Debug, Default)]
struct OfShard {
    /// Oldest first, with their keys.
    states: BTreeMap<StateKey, String>,
    bundles: BTreeMap<ObjectName, u64>,
    /// The highest index of a copy of the state or of the manifest.
    last_index: u64,
    modified: Option<TimestampMs>,
}

/// The copies of some shards.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    shards: BTreeMap<ShardId, OfShard>,
}

/// A shard's state as its newest copy has it.
pub(super) struct Loaded {
    pub(super) shard: ShardId,
    pub(super) state: State,
    pub(super) copy: Option<CopyUsed>,
    pub(super) warnings: Vec<String>,
}

/// Copies that cannot be read, by key, and why.
type Damaged = Vec<(String, String)>;

/// What the operator is told of newer copies that cannot be read.
pub(super) fn passed_over(damaged: &[(String, String)]) -> Vec<String> {
    let one =
        |(key, reason): &(String, String)| format!("{key} cannot be read, an older copy was used: {reason}");
    damaged.iter().map(one).collect()
}

impl Copies {
    /// Lists what there is of these shards.
    pub(super) async fn list(store: &Store, cluster: &str, shards: &[ShardId]) -> Result<Self, StoreError> {
        let mut copies = Self::default();
        for shard in shards {
            let of_shard = match *shard {
                // Nothing but states lies there.
                ShardId::CONTROLLER => list(store, &StateFile::prefix(cluster, *shard)).await?,
                shard => list(store, &ObjectName::prefix(cluster, shard)).await?,
            };
            copies.shards.insert(*shard, of_shard);
        }
        Ok(copies)
    }

    /// Takes another listing over.
    pub(super) fn add(&mut self, other: Self) {
        self.shards.extend(other.shards);
    }

    /// When anything of it was written last, by the store's clock.
    pub(super) fn modified(&self) -> Option<TimestampMs> {
        self.shards
            .values()
            .filter_map(|of_shard| of_shard.modified)
            .max()
    }

    /// The last entry that a copy of the shard knows.
    pub(super) fn last_index(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, |of_shard| of_shard.last_index)
    }

    /// Whether the newest states are the same in both.
    pub(super) fn has_same_states(&self, other: &Self) -> bool {
        let newest = |copies: &Self| -> Vec<(ShardId, Option<StateKey>)> {
            let shards = copies.shards.iter();
            let newest = |of_shard: &OfShard| of_shard.states.last_key_value().map(|(key, _)| key.clone());
            shards
                .map(|(shard, of_shard)| (*shard, newest(of_shard)))
                .collect()
        };
        newest(self) == newest(other)
    }

    /// The newest copy of a shard's state that can be read, and the newer ones that cannot.
    pub(super) async fn newest<T>(
        &self,
        store: &Store,
        shard: ShardId,
        decode: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<(Option<(T, CopyUsed)>, Damaged), StoreError> {
        let mut damaged = Vec::new();
        let states = self.shards.get(&shard).map(|of_shard| &of_shard.states);
        for key in states.into_iter().flatten().rev().map(|(_, key)| key) {
            let bytes = match read(store, key).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. }) => {
                    damaged.push((key.clone(), "it was deleted meanwhile".to_owned()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let file = StateFile::decode(shard, &bytes).map_err(|error| error.to_string());
            let decoded = file.and_then(|file| Ok((decode(&file.state)?, file)));
            match decoded {
                Ok((state, file)) => {
                    let copy = CopyUsed {
                        key: key.clone(),
                        position: file.position,
                        written_at: file.written_at,
                    };
                    return Ok((Some((state, copy)), damaged));
                }
                Err(reason) => damaged.push((key.clone(), reason)),
            }
        }
        Ok((None, damaged))
    }

    /// The state of a data shard; an empty one when the shard never wrote a copy.
    pub(super) async fn load(&self, store: &Store, shard: ShardId) -> Result<Loaded, RestoreError> {
        let decode = |bytes: &[u8]| {
            let state = State::decode_snapshot(bytes).map_err(|error| error.to_string())?;
            match state.shard() == shard {
                true => Ok(state),
                false => Err(format!("it holds the state of shard {}", state.shard())),
            }
        };
        let (found, damaged) = self.newest(store, shard, decode).await?;
        let mut warnings = passed_over(&damaged);
        if let Some((state, copy)) = found {
            return Ok(Loaded {
                shard,
                state,
                copy: Some(copy),
                warnings,
            });
        }
        if !damaged.is_empty() {
            return Err(RestoreError::NoState { shard, damaged });
        }
        let bundles = self
            .shards
            .get(&shard)
            .map_or(0, |of_shard| of_shard.bundles.len());
        if bundles > 0 {
            warnings.push(format!(
                "shard {shard} has {bundles} objects with records and no copy of its state, which was to follow within moments: it begins empty"
            ));
        }
        Ok(Loaded {
            shard,
            state: State::new(shard),
            copy: None,
            warnings,
        })
    }

    /// Makes sure that every object that the state names is there, in its length.
    pub(super) async fn check_objects(
        &self,
        store: &Store,
        cluster: &str,
        loaded: &Loaded,
        at: &mut RestoreProgress,
        progress: &(dyn Fn(RestoreProgress) + Send + Sync),
    ) -> Result<(), RestoreError> {
        let listed = self.shards.get(&loaded.shard).map(|of_shard| &of_shard.bundles);
        let is_listed =
            |name: &ObjectName, bytes| listed.is_some_and(|listed| listed.get(name) == Some(&bytes));
        let mut doubtful = Vec::new();
        for (_, object) in loaded.state.manifest().objects() {
            match is_listed(&object.name, object.bytes) {
                true => at.objects += 1,
                // A listing may be late; the object itself is not.
                false => doubtful.push((object.name.key(cluster, loaded.shard), object.bytes)),
            }
        }
        let heads = stream::iter(doubtful).map(|(key, bytes)| async move {
            match store.head(&key).await {
                Ok(found) if found == bytes => Ok(None),
                Ok(_) | Err(StoreError::NotFound { .. }) => Ok(Some(key)),
                Err(error) => Err(error),
            }
        });
        let missing: Vec<Option<String>> = heads.buffered(HEADS_AT_ONCE).try_collect().await?;
        at.objects += missing.iter().filter(|missing| missing.is_none()).count() as u64;
        progress(*at);
        let missing: Vec<String> = missing.into_iter().flatten().collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::Missing { missing }),
        }
    }
}

async fn list(store: &Store, prefix: &str) -> Result<OfShard, StoreError> {
    let mut found = OfShard::default();
    let mut listing = store.list(prefix);
    while let Some(listed) = listing.next().await {
        let listed = listed?;
        let Some(name) = listed.key.rsplit('/').next() else {
            continue;
        };
        let mut index = 0;
        if let Some(key) = StateFile::parse_key(name) {
            index = key.position.index.0;
            if index <= INDEX_MAX {
                found.states.insert(key, listed.key.clone());
            }
        } else if let Some(name) = ObjectName::parse(name) {
            found.bundles.insert(name, listed.bytes);
        } else if let Some((number, _)) = name.split_once('-').filter(|_| name.ends_with(".manifest")) {
            index = number.parse().unwrap_or(0);
        } else {
            continue;
        }
        if index <= INDEX_MAX {
            found.last_index = found.last_index.max(index);
        }
        found.modified = found.modified.max(Some(listed.modified));
    }
    Ok(found)
}

/// A whole object, however large.
async fn read(store: &Store, key: &str) -> Result<Bytes, StoreError> {
    let bytes = store.head(key).await?;
    let mut whole = BytesMut::new();
    let mut at = 0;
    while at < bytes {
        let end = (at + READ_BYTES).min(bytes);
        whole.extend_from_slice(&store.get_range(key, at..end).await?);
        at = end;
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use meridian_tiered_storage::store::StoreSettings;
    use meridian_types::{LogPosition, RaftIndex, Term, Uuid};

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn position(index: u64) -> LogPosition {
        LogPosition {
            term: Term(2),
            index: RaftIndex(index),
        }
    }

    async fn put_state(store: &Store, index: u64, shard: ShardId) {
        let position = position(index);
        let id = Uuid::from_u128(index.into());
        let key = StateFile::key("c", SHARD, &StateKey { position, id });
        let state = State::new(shard).encode_snapshot();
        let parts = StateFile::encode(SHARD, position, TimestampMs(7), state);
        store.put(&key, parts).await.expect("written");
    }

    #[tokio::test]
    async fn the_newest_copy_that_can_be_read_is_taken_and_damaged_ones_are_told() {
        let store = Store::open(&StoreSettings::new("memory:///")).expect("a store");
        for index in [9, 10] {
            put_state(&store, index, SHARD).await;
        }
        // Of another shard, and no state at all.
        put_state(&store, 11, ShardId(4)).await;
        let id = Uuid::from_u128(12);
        let damaged = StateFile::key(
            "c",
            SHARD,
            &StateKey {
                position: position(12),
                id,
            },
        );
        store
            .put(&damaged, vec![Bytes::from_static(b"MRDNSTA1 but no more")])
            .await
            .expect("written");
        let manifest = format!("c/{SHARD}/manifest/{:020}-{id}.manifest", 40);
        store.put(&manifest, vec![Bytes::new()]).await.expect("written");

        let copies = Copies::list(&store, "c", &[SHARD, ShardId(5)])
            .await
            .expect("listed");
        assert_eq!(copies.last_index(SHARD), 40);
        let loaded = copies.load(&store, SHARD).await.expect("an older one is whole");
        assert_eq!(loaded.copy.expect("a copy").position, position(10));
        assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
        assert!(loaded.warnings[1].contains("shard 4"), "{:?}", loaded.warnings);

        let never = copies.load(&store, ShardId(5)).await.expect("it begins empty");
        assert!(never.copy.is_none() && never.warnings.is_empty());

        for index in [9, 10] {
            let id = Uuid::from_u128(index.into());
            let position = position(index);
            let key = StateFile::key("c", SHARD, &StateKey { position, id });
            store.delete(&key).await.expect("deleted");
        }
        let now = Copies::list(&store, "c", &[SHARD, ShardId(5)])
            .await
            .expect("listed");
        assert!(now.has_same_states(&copies), "the newest is still there");
        let error = now
            .load(&store, SHARD)
            .await
            .map(|_| ())
            .expect_err("none is whole");
        assert!(
            matches!(error, RestoreError::NoState { ref damaged, .. } if damaged.len() == 2),
            "{error}"
        );
    }
}
