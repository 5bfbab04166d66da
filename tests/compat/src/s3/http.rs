//! HTTP/1.1 messages, as far as S3 clients and servers use it among themselves.

use std::io::{self, BufRead, Read, Write};

/// Longest start line and headers together.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Largest body: bundles are 64 MiB.
const BODY_BYTES_MAX: usize = 256 << 20;

/// A request or a response, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Request line or status line.
    pub(super) start: String,
    /// Names as they were sent.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// A response of our own.
    pub(super) fn response(status: u16, reason: &str, body: Vec<u8>) -> Self {
        let mut message = Self {
            start: format!("HTTP/1.1 {status} {reason}"),
            headers: Vec::new(),
            body,
        };
        message.set("Content-Length", &message.body.len().to_string());
        message
    }

    /// An error as S3 puts it.
    pub(super) fn error(status: u16, reason: &str, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        let mut response = Self::response(status, reason, body.into_bytes());
        response.set("Content-Type", "application/xml");
        response
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    /// Method, and path with query, of a request.
    pub(super) fn target(&self) -> Option<(&str, &str)> {
        let mut words = self.start.split(' ');
        Some((words.next()?, words.next()?))
    }

    /// Status of a response.
    pub(super) fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }

    /// Reads a request; `None` when the client has closed the connection.
    pub(super) fn read_request(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(mut message) = Self::read_head(from)? else {
            return Ok(None);
        };
        message.read_body(from, false)?;
        Ok(Some(message))
    }

    /// Reads the answer to a request of this method.
    pub(super) fn read_response(from: &mut impl BufRead, method: &str) -> io::Result<Self> {
        let mut message =
            Self::read_head(from)?.ok_or_else(|| invalid("the server closed the connection"))?;
        let has_body = method != "HEAD" && !matches!(message.status(), Some(100..=199 | 204 | 304));
        if has_body {
            message.read_body(from, true)?;
        }
        Ok(message)
    }

    fn read_head(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = from.take(HEAD_BYTES_MAX as u64);
        let mut line = || {
            let mut line = Vec::new();
            head.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return Ok(None);
            }
            let text = String::from_utf8(line).map_err(|_| invalid("a header is not text"))?;
            Ok::<_, io::Error>(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        };
        let Some(start) = line()? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let line = line()?.ok_or_else(|| invalid("the headers do not end"))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid("a header has no colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Some(Self {
            start,
            headers,
            body: Vec::new(),
        }))
    }

    /// `until_end`: a body of unknown length goes up to the end of the connection.
    fn read_body(&mut self, from: &mut impl BufRead, until_end: bool) -> io::Result<()> {
        let is_chunked = self
            .header("Transfer-Encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let length = self.header("Content-Length").map(str::parse::<usize>);
        self.body = match (is_chunked, length) {
            (true, _) => read_chunks(from)?,
            (false, Some(Ok(length))) if length <= BODY_BYTES_MAX => {
                let mut body = vec![0; length];
                from.read_exact(&mut body)?;
                body
            }
            (false, Some(_)) => return Err(invalid("a body of impossible length")),
            (false, None) if until_end => {
                let mut body = Vec::new();
                from.take(BODY_BYTES_MAX as u64).read_to_end(&mut body)?;
                body
            }
            (false, None) => Vec::new(),
        };
        if is_chunked || (until_end && self.header("Content-Length").is_none()) {
            self.remove("Transfer-Encoding");
            let length = self.body.len().to_string();
            self.set("Content-Length", &length);
        }
        Ok(())
    }

    /// Start line and headers, as they go over the wire.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes)?;
        to.flush()
    }
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.by_ref().take(256).read_line(&mut line)?;
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(digits, 16).map_err(|_| invalid("a chunk has no length"))?;
        if body.len().saturating_add(length) > BODY_BYTES_MAX {
            return Err(invalid("a body of impossible length"));
        }
        let start = body.len();
        body.resize(start + length, 0);
        from.read_exact(&mut body[start..])?;
        let mut end = String::new();
        from.by_ref().take(256).read_line(&mut end)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let mut message = Message {
            start: "PUT /b/k?x=1 HTTP/1.1".to_owned(),
            headers: vec![("Host".to_owned(), "h:1".to_owned())],
            body: b"body".to_vec(),
        };
        message.set("content-length", "4");
        let mut bytes = Vec::new();
        message.write(&mut bytes).unwrap();
        let mut from = &bytes[..];
        assert_eq!(Message::read_request(&mut from).unwrap(), Some(message.clone()));
        assert_eq!(Message::read_request(&mut from).unwrap(), None);
        assert_eq!(message.target(), Some(("PUT", "/b/k?x=1")));
        assert_eq!(message.header("HOST"), Some("h:1"));
    }

    #[test]
    fn a_body_in_chunks_becomes_one_with_a_length() {
        let mut from =
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nrest"
                [..];
        let response = Message::read_response(&mut from, "GET").unwrap();
        assert_eq!(
            (response.status(), &response.body[..]),
            (Some(200), &b"abcde"[..])
        );
        assert_eq!(response.header("Content-Length"), Some("5"));
        assert_eq!(from, b"rest");
    }

    #[test]
    fn an_answer_to_head_has_a_length_and_no_body() {
        let mut from = &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"[..];
        let response = Message::read_response(&mut from, "HEAD").unwrap();
        assert_eq!(
            (response.body.len(), response.header("content-length")),
            (0, Some("9"))
        );
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for bytes in ["GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET / HTTP/1.1\r\nA: b"] {
            Message::read_request(&mut bytes.as_bytes()).unwrap_err();
        }
        let huge = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        Message::read_request(&mut huge.as_bytes()).unwrap_err();
    }
}
