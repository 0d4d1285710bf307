//! Just enough HTTP/1.1 to tell one message from the next in a stream of bytes.

/// Longest message kept; a longer one ends the reading of its connection.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A request or an answer, whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    head: String,
    /// The body, chunks joined.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The first line.
    pub(crate) fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// A header's value; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    buffer: Vec<u8>,
    /// What came is not HTTP, or too long.
    lost: bool,
}

impl Framer {
    /// Takes bytes and gives the messages they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        if self.lost {
            return Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some((message, length)) = whole(&self.buffer) {
            self.buffer.drain(..length);
            messages.push(message);
        }
        if self.buffer.len() > MESSAGE_BYTES_MAX {
            self.lost = true;
            self.buffer = Vec::new();
        }
        messages
    }

    /// Whether no message has begun that is not whole.
    pub(crate) fn is_between(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// The message at the beginning, and its length in bytes.
fn whole(bytes: &[u8]) -> Option<(Message, usize)> {
    let head_length = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_length]).into_owned();
    let rest = &bytes[head_length..];
    if header(&head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        let (body, length) = chunks(rest)?;
        return Some((Message { head, body }, head_length + length));
    }
    let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = rest.get(..length)?.to_vec();
    Some((Message { head, body }, head_length + length))
}

fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let length = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
        let begin = at + line + 2;
        let end = begin.checked_add(length)?;
        body.extend_from_slice(bytes.get(begin..end)?);
        at = end + 2;
        bytes.get(end..at)?;
        if length == 0 {
            return Some((body, at));
        }
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_their_bytes_arrive() {
        let stream = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nX-Key: \"k\"\r\n\r\nabcPOST /b HTTP/1.1\r\n\
            transfer-encoding: chunked\r\n\r\n2\r\nde\r\n1;x=y\r\nf\r\n0\r\n\r\n";
        for piece in [1, 7, stream.len()] {
            let mut framer = Framer::default();
            let messages: Vec<Message> = stream.chunks(piece).flat_map(|bytes| framer.feed(bytes)).collect();
            let bodies: Vec<&[u8]> = messages.iter().map(|message| &*message.body).collect();
            assert_eq!(bodies, [b"abc", b"def"], "in pieces of {piece}");
            assert_eq!(messages[0].header("x-key"), Some("\"k\""));
            assert_eq!(messages[1].start_line(), "POST /b HTTP/1.1");
            assert!(framer.is_between());
        }
    }
}
