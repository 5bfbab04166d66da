//! Which version of an API a client and a server have in common.

use std::collections::BTreeMap;

use meridian_wire::{ApiKey, ApiVersionsResponse, Versions};

/// The APIs and versions a server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerVersions {
    ranges: BTreeMap<i16, Versions>,
}

impl ServerVersions {
    /// Reads what the server said.
    pub fn new(response: &ApiVersionsResponse) -> Self {
        let ranges = response
            .api_keys
            .iter()
            .map(|api| {
                (
                    api.api_key,
                    Versions {
                        first: api.min_version,
                        last: api.max_version,
                    },
                )
            })
            .collect();
        Self { ranges }
    }

    /// What it serves of `api`; [`Versions::NONE`] if nothing.
    pub fn range(&self, api: ApiKey) -> Versions {
        self.ranges.get(&api.code()).copied().unwrap_or(Versions::NONE)
    }

    /// The highest common version.
    pub fn common(&self, api: ApiKey) -> Option<i16> {
        let (server, client) = (self.range(api), client_versions(api));
        let version = server.last.min(client.last);
        (server.contains(version) && client.contains(version)).then_some(version)
    }
}

/// What this client speaks. Below the codec's own highest where the next version names topics by id: with
/// names a client works against every server, and an id is of no use to a client that was given a name.
pub fn client_versions(api: ApiKey) -> Versions {
    let all = api.versions();
    let last = match api {
        ApiKey::Produce | ApiKey::Fetch => 12,
        ApiKey::OffsetCommit | ApiKey::OffsetFetch => 9,
        _ => all.last,
    };
    Versions {
        first: all.first,
        last: all.last.min(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_wire::messages::api_versions::ApiVersion;

    fn server(ranges: &[(i16, i16, i16)]) -> ServerVersions {
        ServerVersions::new(&ApiVersionsResponse {
            api_keys: ranges
                .iter()
                .map(|&(api_key, min_version, max_version)| ApiVersion {
                    api_key,
                    min_version,
                    max_version,
                })
                .collect(),
            ..ApiVersionsResponse::default()
        })
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        let server = server(&[(0, 0, 99), (3, 0, 5), (19, 8, 9)]);
        assert_eq!(server.common(ApiKey::Produce), Some(12));
        assert_eq!(server.common(ApiKey::Metadata), Some(5));
        assert_eq!(
            server.common(ApiKey::CreateTopics),
            None,
            "the server's are all newer"
        );
        assert_eq!(server.common(ApiKey::Fetch), None, "the server has none");
    }
}
