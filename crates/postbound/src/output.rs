use crate::exit::{Exit, failed};
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use std::io::{self, Write as _};

/// Prints the answer of a command. A reader that has gone (`postbound status | head`) is no error: it has enough, and the
/// command still does all it was asked for.
pub(crate) fn print(text: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()).ok();
}

/// Prints the answer of a command for scripts.
pub(crate) fn print_json(answer: &impl Serialize) -> Result<(), Exit> {
    print(serde_json::to_string_pretty(answer).map_err(failed)?);
    Ok(())
}

/// Says something to people while a command works, apart from its answer.
pub(crate) fn aside(text: impl AsRef<str>) {
    // Not eprintln!, which panics when nobody reads it.
    writeln!(io::stderr(), "{}", text.as_ref()).ok();
}

/// A table without lines.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    table
}

/// A table as text, without the padding at its edges.
pub(crate) fn lines(table: &Table) -> String {
    let text = table.to_string();
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

/// A number or text for people; `-` where there is none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
