//! Where a process listens, as a person or a fact of the region names it.

use std::fmt;
use std::str::FromStr;

/// A host, by name or by its address in digits, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// Port of TCP.
    pub port: u16,
}

impl HostPort {
    /// The place `host:port`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

/// The text is no `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPortError(String);

impl fmt::Display for HostPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no address: expected HOST:PORT, such as node-1.example:9190, 10.0.0.7:9190 or [::1]:9190",
            self.0.escape_debug()
        )
    }
}

impl std::error::Error for HostPortError {}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let wrong = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
            // Without brackets nobody can tell where an IPv6 address ends and its port begins.
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["node-1.example:9190", "10.0.0.7:1", "[fe80::1]:65535"] {
            let parsed: HostPort = text.parse().expect("an address");
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!("[::1]:7".parse(), Ok(HostPort::new("::1", 7)));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_text() {
        for text in [
            "",
            "host",
            "host:",
            ":9190",
            "host:65536",
            "::1:9190",
            "[::1:9190",
            "a b:1",
        ] {
            let error = text.parse::<HostPort>().expect_err("no address");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
