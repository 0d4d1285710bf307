//! One connection: HTTP/1.1 requests one after the other, each with a length, each answered.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{self, Contract};
use crate::arrivals::{Arrival, Recorder, now_us};

/// Headers a request may have.
const HEADERS_MAX: usize = 48;
/// Bytes a request may have; a full CRM batch has some 60 KiB.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Who is behind the door, for one connection.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) door: u8,
    pub(super) contract: Contract,
    pub(super) recorder: Arc<Recorder>,
    pub(super) connection: usize,
}

/// The part of a request's head that matters.
struct Head {
    bytes: usize,
    body_bytes: usize,
    version: u32,
}

/// Answers until the client goes.
pub(super) async fn serve(mut stream: TcpStream, visit: Visit) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    let mut arrivals = Vec::new();
    loop {
        let head = loop {
            if let Some(head) = parse(&buffer)? {
                break head;
            }
            if fill(&mut stream, &mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let whole = head.bytes + head.body_bytes;
        while buffer.len() < whole {
            if fill(&mut stream, &mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let Visit { door, recorder, connection, .. } = &visit;
        recorder.request(usize::from(*door));
        let body = &buffer[head.bytes..whole];
        arrivals.clear();
        let at_us = now_us();
        let answer = answer::answer(visit.contract, body, |person, version| {
            let version = version.unwrap_or(head.version);
            arrivals.push(Arrival { at_us, person, version, door: *door });
        })?;
        recorder.record(*connection, &arrivals);
        buffer.drain(..whole);
        stream.write_all(&answer).await?;
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<usize> {
    if buffer.len() >= REQUEST_BYTES_MAX {
        bail!("a request is larger than {REQUEST_BYTES_MAX} bytes");
    }
    Ok(stream.read_buf(buffer).await?)
}

/// Reads a head, if it is there whole.
fn parse(buffer: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(bytes) = request.parse(buffer)? else { return Ok(None) };
    let mut head = Head { bytes, body_bytes: 0, version: 0 };
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            head.body_bytes = number(header.value)?;
        } else if header.name.eq_ignore_ascii_case("postbound-user-version") {
            head.version = number(header.value)?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("a body without length is not understood");
        }
    }
    Ok(Some(head))
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Result<T> {
    std::str::from_utf8(value)?.trim().parse().ok().context("a header is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text =
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nPostbound-User-Version: 12\r\n\r\nhello";
        let head = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((head.bytes, head.body_bytes, head.version), (text.len() - 5, 5, 12));
        assert!(parse(&text.as_bytes()[..40]).unwrap().is_none());
        assert!(parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
