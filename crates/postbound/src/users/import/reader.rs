use crate::exit::{Exit, failed};
use postbound_store::{ImportedUser, Store};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sqlx::{AssertSqlSafe, Row as _};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// As long as a line may be: a state of 256 KiB in its most wasteful spelling, and room for the id.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// As large as `emit` takes a state.
const DATA_BYTES_MAX: usize = 262_144;

/// Rows of a query read ahead.
const ROWS_AHEAD: usize = 1000;

/// A line or row, from 1, and the user in it or what is wrong with it.
type Numbered = (u64, Result<ImportedUser, String>);

/// A row as Postgres gives it: user_id and data.
type Row = (Option<String>, Option<String>);

/// Where users come from, and those that were read ahead.
pub(super) struct Source {
    origin: Origin,
    ahead: VecDeque<Numbered>,
}

enum Origin {
    /// A line each.
    Lines { reader: Box<dyn BufRead + Send>, length: Option<u64>, line: u64, bytes: u64 },
    /// A row each.
    Rows { rows: mpsc::Receiver<Result<Row, sqlx::Error>>, row: u64, reader: Option<JoinHandle<()>> },
}

impl Source {
    /// A file of one JSON object per line; `-` is standard input.
    pub(super) fn file(path: &Path) -> Result<Self, Exit> {
        if path == Path::new("-") {
            let reader = Box::new(BufReader::new(io::stdin()));
            return Ok(Self::of(Origin::Lines { reader, length: None, line: 0, bytes: 0 }));
        }
        let unreadable = |error| Exit::failed(format!("cannot read {}: {error}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().ok().map(|metadata| metadata.len());
        Ok(Self::of(Origin::Lines { reader: Box::new(BufReader::new(file)), length, line: 0, bytes: 0 }))
    }

    /// What a query of the operator's own gives, in a read-only transaction. Rows are passed on as they come.
    pub(super) async fn query(store: &Store, query: &str) -> Result<Self, Exit> {
        let query = query.trim().trim_end_matches(';');
        let mut tx = store.pool().begin().await.map_err(failed)?;
        sqlx::query("-- import_query_reads_only\nset transaction read only")
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        let statement = AssertSqlSafe(format!(
            "-- import_query\nselect q.user_id::text, q.data::text from (\n{query}\n) as q"
        ));
        let (send, rows) = mpsc::channel(ROWS_AHEAD);
        let reader = tokio::spawn(async move {
            let mut found = sqlx::query(statement).fetch(&mut *tx);
            while let Some(row) = futures_util::StreamExt::next(&mut found).await {
                let user = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
                let failed = user.is_err();
                // Whoever read them has gone, or there will be no more.
                if send.send(user).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self::of(Origin::Rows { rows, row: 0, reader: Some(reader) }))
    }

    fn of(origin: Origin) -> Self {
        Self { origin, ahead: VecDeque::new() }
    }

    /// Whether there are more users than so many; reads that far ahead.
    pub(super) async fn has_more_than(&mut self, users: usize) -> Result<bool, Exit> {
        while self.ahead.len() <= users {
            match self.origin.next().await? {
                Some(user) => self.ahead.push_back(user),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next user; None at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Numbered>, Exit> {
        match self.ahead.pop_front() {
            Some(user) => Ok(Some(user)),
            None => self.origin.next().await,
        }
    }

    /// Bytes, or rows, read so far.
    pub(super) fn position(&self) -> u64 {
        match &self.origin {
            Origin::Lines { bytes, .. } => *bytes,
            Origin::Rows { row, .. } => *row,
        }
    }

    /// Bytes in all, if known.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.origin {
            Origin::Lines { length, .. } => *length,
            Origin::Rows { .. } => None,
        }
    }
}

impl Origin {
    async fn next(&mut self) -> Result<Option<Numbered>, Exit> {
        match self {
            Self::Lines { reader, line, bytes, .. } => next_line(reader, line, bytes),
            Self::Rows { rows, row, reader } => {
                let Some(user) = rows.recv().await else {
                    // A reader that did not come to its end has not read them all.
                    return match reader.take() {
                        Some(reader) => reader
                            .await
                            .map(|()| None)
                            .map_err(|error| Exit::failed(format!("--query: {error}"))),
                        None => Ok(None),
                    };
                };
                let (user_id, data) = user.map_err(|error| Exit::failed(format!("--query: {error}")))?;
                *row += 1;
                Ok(Some((*row, checked(user_id.unwrap_or_default(), data.unwrap_or_default()))))
            }
        }
    }
}

fn next_line(reader: &mut dyn BufRead, line: &mut u64, bytes: &mut u64) -> Result<Option<Numbered>, Exit> {
    loop {
        let mut text = Vec::new();
        let mut bounded = (&mut *reader).take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut text).map_err(failed)? as u64;
        if read == 0 {
            return Ok(None);
        }
        *line += 1;
        *bytes += read;
        if read == LINE_BYTES_MAX && text.last() != Some(&b'\n') {
            *bytes += reader.skip_until(b'\n').map_err(failed)? as u64;
            return Ok(Some((*line, Err(format!("longer than {LINE_BYTES_MAX} bytes")))));
        }
        if !text.trim_ascii().is_empty() {
            return Ok(Some((*line, user_of_line(&text))));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    user_id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn user_of_line(text: &[u8]) -> Result<ImportedUser, String> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| without_content(&error))?;
    checked(line.user_id, line.data.get().to_owned())
}

/// The same checks as `emit`'s, so that a bad user is told by its line and does not fail the batch.
fn checked(user_id: String, data: String) -> Result<ImportedUser, String> {
    check_id("user_id", &user_id)?;
    // As a value: Postgres refuses numbers and characters that are JSON all the same.
    let value: Value =
        serde_json::from_str(&data).map_err(|error| format!("data: {}", without_content(&error)))?;
    if !value.is_object() {
        return Err("data is no JSON object".to_owned());
    }
    if has_nul(&value) {
        return Err("data contains the character U+0000, which Postgres does not store".to_owned());
    }
    // Whitespace aside, what is larger here is larger in Postgres; it has the last word.
    if value.to_string().len() > DATA_BYTES_MAX {
        return Err(format!("data is larger than {DATA_BYTES_MAX} bytes"));
    }
    Ok(ImportedUser { user_id, data })
}

/// What `postbound.check_id()` refuses.
pub(super) fn check_id(what: &str, id: &str) -> Result<(), String> {
    match id {
        "" => Err(format!("{what} is empty")),
        _ if id.len() > 256 => Err(format!("{what} is longer than 256 bytes")),
        _ if id.chars().any(char::is_control) => Err(format!("{what} contains a control character")),
        _ => Ok(()),
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// Where JSON is wrong, without quoting the user's data.
fn without_content(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "not an object with the keys user_id and data",
        _ => "not JSON",
    };
    format!("{what} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn bad_users_are_refused_with_a_reason_and_without_their_data() {
        let check = |line: &str, expected: Result<&str, &str>| {
            let user = user_of_line(line.as_bytes()).map(|user| user.user_id);
            assert_eq!(user.as_deref().map_err(String::as_str), expected, "{line}");
        };
        check(r#"{"user_id": "u1", "data": {"email": "ada@example.com"}}"#, Ok("u1"));
        check(r#"{"user_id": "", "data": {}}"#, Err("user_id is empty"));
        check(r#"{"user_id": "a\nb", "data": {}}"#, Err("user_id contains a control character"));
        check(r#"{"user_id": "u1", "data": []}"#, Err("data is no JSON object"));
        check(
            r#"{"user_id": "u1", "data": {"a": "\u0000"}}"#,
            Err("data contains the character U+0000, which Postgres does not store"),
        );
        check(r#"{"user_id": "u1", "data": {"a": 1e400}}"#, Err("data: not JSON (column 11)"));
        check(
            r#"{"user_id": "u1", "data": {}, "tenant": "t"}"#,
            Err("not an object with the keys user_id and data (column 38)"),
        );
        check(
            r#"{"user_id": 1, "data": {}}"#,
            Err("not an object with the keys user_id and data (column 13)"),
        );
        check("secret@example.com", Err("not JSON (column 1)"));
        let long = format!(r#"{{"user_id": "{}", "data": {{}}}}"#, "x".repeat(257));
        check(&long, Err("user_id is longer than 256 bytes"));
        let large = format!(r#"{{"user_id": "u", "data": {{"a": "{}"}}}}"#, "x".repeat(DATA_BYTES_MAX));
        check(&large, Err("data is larger than 262144 bytes"));
    }

    #[tokio::test]
    async fn lines_are_counted_over_empty_and_endless_ones() {
        let endless = "x".repeat(LINE_BYTES_MAX as usize + 10);
        let text = format!("\n{endless}\n\n{}", r#"{"user_id": "u1", "data": {}}"#);
        let length = text.len() as u64;
        let mut source = Source::of(Origin::Lines {
            reader: Box::new(Cursor::new(text)),
            length: None,
            line: 0,
            bytes: 0,
        });
        let (line, refused) = source.next().await.unwrap().unwrap();
        assert_eq!((line, refused.is_err()), (2, true));
        let (line, user) = source.next().await.unwrap().unwrap();
        assert_eq!((line, user.unwrap().user_id), (4, "u1".to_owned()));
        assert!(source.next().await.unwrap().is_none());
        assert_eq!(source.position(), length);
    }
}
