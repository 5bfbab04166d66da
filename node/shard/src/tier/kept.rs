//! Documents of which only the newest few are kept in the bucket.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;
use meridian_tiered_storage::store::{Store, StoreError};

/// Documents kept: who began to read one may still read it when the next two are there.
const KEPT: usize = 3;

/// Keys below one prefix, which sort by age.
#[derive(Debug)]
pub(super) struct Kept {
    prefix: String,
    /// Oldest first; `None` until they were listed.
    keys: Option<VecDeque<String>>,
}

impl Kept {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, keys: None }
    }

    /// Writes the newest.
    pub(super) async fn put(
        &mut self,
        store: &Store,
        key: String,
        parts: Vec<Bytes>,
    ) -> Result<(), StoreError> {
        store.put(&key, parts).await?;
        if let Some(keys) = &mut self.keys {
            keys.push_back(key);
        }
        Ok(())
    }

    /// Deletes the oldest; also those that earlier leaders left.
    pub(super) async fn prune(&mut self, store: &Store) -> Result<(), StoreError> {
        let keys = match &mut self.keys {
            Some(keys) => keys,
            None => {
                let mut found = Vec::new();
                let mut listing = store.list(&self.prefix);
                while let Some(listed) = listing.next().await {
                    found.push(listed?.key);
                }
                found.sort_unstable();
                self.keys.insert(found.into())
            }
        };
        while keys.len() > KEPT {
            store.delete(&keys[0]).await?;
            keys.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meridian_tiered_storage::store::StoreSettings;

    use super::*;

    async fn keys(store: &Store) -> Vec<String> {
        let mut keys: Vec<String> = store
            .list("")
            .map(|listed| listed.expect("a listing").key)
            .collect()
            .await;
        keys.sort_unstable();
        keys
    }

    #[tokio::test]
    async fn the_newest_three_are_kept_across_leaders() {
        let store = Store::open(&StoreSettings::new("memory:///")).expect("a store");
        for leader in 0..2 {
            let mut kept = Kept::new("c/topics/".to_owned());
            for n in 0..4 {
                let key = format!("c/topics/{leader}{n}.json");
                let parts = vec![Bytes::from_static(b"{}")];
                kept.put(&store, key, parts).await.expect("written");
                kept.prune(&store).await.expect("deleted");
            }
        }
        assert_eq!(
            keys(&store).await,
            ["c/topics/11.json", "c/topics/12.json", "c/topics/13.json"]
        );
    }
}
