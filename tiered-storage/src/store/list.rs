//! Listings.

use futures::stream::{BoxStream, StreamExt};
use meridian_types::TimestampMs;
use object_store::ObjectMeta;
use tokio::time::timeout;

use super::error::answered;
use super::{Operation, Store, StoreError};

/// Stores list so many keys with one request.
const PAGE_KEYS: u64 = 1000;

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key, below the store's prefix.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: TimestampMs,
}

impl Store {
    /// Lists every object whose key begins with `prefix` and a `/`; all of them for an empty one. In no order.
    ///
    /// A listing that fails in the middle ends with the error; begin again later.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<Listed, StoreError>> {
        let operation = Operation::List;
        let key = prefix.trim_matches('/').to_owned();
        let path = match self.path(operation, &key) {
            Ok(path) => path,
            Err(error) => return futures::stream::once(async { Err(error) }).boxed(),
        };
        let store = self.clone();
        let listing = store.shared.objects.list(Some(&path));
        let listing = Listing {
            listing,
            store,
            key,
            listed: 0,
            is_over: false,
        };
        futures::stream::unfold(listing, |mut listing| async move {
            let next = listing.next().await?;
            Some((next, listing))
        })
        .boxed()
    }

    /// Names of what keys below `prefix` have up to their next `/`, as if those were directories. In no order.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let operation = Operation::List;
        let key = prefix.trim_matches('/');
        let path = self.path(operation, key)?;
        self.attempts(operation, key, || async {
            let listing = self.shared.objects.list_with_delimiter(Some(&path));
            let listing = timeout(self.deadline(0), listing).await;
            let listing = answered(operation, key, listing)?;
            let names = listing
                .common_prefixes
                .iter()
                .filter_map(|path| path.filename().map(str::to_owned))
                .collect();
            Ok((names, 0))
        })
        .await
    }
}

/// A listing under way.
struct Listing {
    listing: BoxStream<'static, object_store::Result<ObjectMeta>>,
    store: Store,
    key: String,
    listed: u64,
    is_over: bool,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<Listed, StoreError>> {
        if self.is_over {
            return None;
        }
        let counters = &self.store.shared.counters;
        let began = counters.begin();
        let next = match timeout(self.store.deadline(0), self.listing.next()).await {
            Ok(None) => {
                self.is_over = true;
                if self.listed == 0 {
                    counters.end(Operation::List, began, Ok(0));
                }
                return None;
            }
            Ok(Some(next)) => answered(Operation::List, &self.key, Ok(next)),
            Err(late) => answered(Operation::List, &self.key, Err(late)),
        };
        let meta = match next {
            Ok(meta) => meta,
            Err(failure) => {
                self.is_over = true;
                counters.end(Operation::List, began, Err(()));
                return Some(Err(failure.given_up(Operation::List, &self.key, 1)));
            }
        };
        // The client asks for the next page by itself; the first key of each has waited for it.
        if self.listed.is_multiple_of(PAGE_KEYS) {
            counters.end(Operation::List, began, Ok(0));
        }
        self.listed += 1;
        Some(Ok(Listed {
            key: self.store.key_of(&meta.location),
            bytes: meta.size,
            modified: TimestampMs(meta.last_modified.timestamp_millis()),
        }))
    }
}
