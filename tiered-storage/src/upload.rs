//! A bundle's way into the bucket: written, then read back before anybody relies on it.

use bytes::Bytes;
use thiserror::Error;

use crate::bundle::{self, Bundle, BundleError, Footer, Frame, HEAD_BYTES};
use crate::store::{Store, StoreError};

/// What of an uploaded bundle is read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadBack {
    /// Its length and its footer: the object is whole, and ours. That its bytes are right rests on the store, which
    /// checks a signature over them on S3.
    Footer,
    /// Every byte, against the frames' checksums.
    #[default]
    Whole,
}

/// A bundle that is not known to lie in the bucket. Nothing may be committed; what lies there is an orphan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UploadError {
    /// The store failed. When it is retriable, upload the same bundle under the same key again, or a new one later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read back is not what was written. Upload under a new key; the store loses or changes data.
    #[error("{key} was read back wrong: {error}")]
    ReadBack {
        /// The object.
        key: String,
        /// What is wrong with it.
        error: BundleError,
    },
}

impl UploadError {
    /// Whether the same upload may succeed later without anybody doing something.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retriable())
    }
}

/// Writes a bundle and reads it back. Repeating it with the same bundle and key does no harm.
pub async fn upload(
    store: &Store,
    key: &str,
    bundle: &Bundle,
    read_back: ReadBack,
) -> Result<(), UploadError> {
    store.put(key, bundle.parts.clone()).await?;
    check(store, key, bundle, read_back).await
}

/// Reads back a bundle that was written.
pub async fn check(
    store: &Store,
    key: &str,
    bundle: &Bundle,
    read_back: ReadBack,
) -> Result<(), UploadError> {
    let wrong = |error| UploadError::ReadBack {
        key: key.to_owned(),
        error,
    };
    let bytes = store.head(key).await?;
    if bytes != bundle.bytes {
        return Err(wrong(BundleError::Truncated {
            need_bytes: bundle.bytes,
            have_bytes: bytes,
        }));
    }
    let tail = store.get_range(key, bundle.footer_at..bundle.bytes).await?;
    let footer = Footer::decode(&tail, bundle.footer_place()).map_err(wrong)?;
    if read_back == ReadBack::Footer {
        return Ok(());
    }
    let head = store.get_range(key, 0..HEAD_BYTES).await?;
    bundle::check_head(&head).map_err(wrong)?;
    for window in bundle::windows(footer.frames()) {
        let (first, last) = (&window[0], &window[window.len() - 1]);
        let start = first.at;
        let stored = store.get_range(key, start..last.range().end).await?;
        check_window(window, start, &stored).map_err(wrong)?;
    }
    Ok(())
}

fn check_window(window: &[Frame], start: u64, stored: &Bytes) -> Result<(), BundleError> {
    for frame in window {
        let range = frame.range();
        bundle::check_stored(
            frame,
            &stored[(range.start - start) as usize..(range.end - start) as usize],
        )?;
    }
    Ok(())
}
