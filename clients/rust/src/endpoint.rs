//! Where a server listens.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The port of `HOST` without a port.
pub const DEFAULT_PORT: u16 = 9092;

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// A name to resolve, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// The text is not `HOST` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{text}' is not a server address: {reason}; expected HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092"
)]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

impl Endpoint {
    /// An endpoint from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Reads a list such as `a:9092,b:9092`. Errors: the first address that cannot be read, or an empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EndpointError> {
        text.split(',').map(|part| part.trim().parse()).collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |reason| EndpointError {
            text: text.to_owned(),
            reason,
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest
                    .split_once(']')
                    .ok_or_else(|| error("the '[' is not closed"))?;
                match after {
                    "" => (host, None),
                    _ => (
                        host,
                        Some(
                            after
                                .strip_prefix(':')
                                .ok_or_else(|| error("what follows ']' is no port"))?,
                        ),
                    ),
                }
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(error("an IPv6 address needs brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(error("the host is empty"));
        }
        if host.contains(['/', ' ', '\t']) {
            return Err(error("the host has characters that no host name has"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(error("the port is not a number from 1 to 65535")),
            },
        };
        Ok(Self::new(host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_port() {
        for (text, host, port) in [
            ("a.example:1234", "a.example", 1234),
            ("a.example", "a.example", DEFAULT_PORT),
            ("[::1]:99", "::1", 99),
            ("[::1]", "::1", DEFAULT_PORT),
        ] {
            assert_eq!(text.parse(), Ok(Endpoint::new(host, port)), "{text}");
        }
        assert_eq!(Endpoint::new("::1", 99).to_string(), "[::1]:99");
        assert_eq!(Endpoint::parse_list("a:1, b:2").unwrap().len(), 2);
    }

    #[test]
    fn a_wrong_address_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "empty"),
            (":9092", "empty"),
            ("host:", "port"),
            ("host:0", "port"),
            ("host:70000", "port"),
            ("::1", "brackets"),
            ("[::1", "closed"),
            ("kafka://host", "port"),
            ("a b", "characters"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
