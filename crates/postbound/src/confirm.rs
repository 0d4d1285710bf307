use crate::exit::{Exit, failed};
use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

/// Up to so many things are done without a question.
pub(crate) const HANDFUL: i64 = 10;

/// Asks before more than a handful is touched: `what` says what is about to happen, such as `replay 40000 letters`.
/// Where nobody can be asked, `--yes` is needed.
pub(crate) fn confirm_many(count: i64, what: &str, yes: bool) -> Result<(), Exit> {
    if count <= HANDFUL { Ok(()) } else { confirm(what, yes) }
}

/// Asks, whatever the number.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), Exit> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(unconfirmed(what));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "This will {what}. Go on? [y/N] ").and_then(|()| stderr.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Exit::failed("nothing was done")),
    }
}

/// What is said where nobody can be asked.
pub(crate) fn unconfirmed(what: &str) -> Exit {
    Exit::Usage(format!("this would {what}; to do it: {} --yes", command_line(std::env::args())))
}

/// The command as it was given, to be pasted into a shell.
fn command_line(args: impl IntoIterator<Item = String>) -> String {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let program = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    let words = program.into_iter().chain(args).map(|word| shell_word(&word));
    words.collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_repeat_survives_a_shell() {
        let args =
            ["/usr/bin/postbound", "dead-letters", "replay", "--text", "it's down; really", "--tenant", ""];
        assert_eq!(
            command_line(args.map(str::to_owned)),
            r"postbound dead-letters replay --text 'it'\''s down; really' --tenant ''"
        );
    }

    #[test]
    fn a_handful_needs_no_word() {
        assert!(confirm_many(HANDFUL, "replay", false).is_ok());
        assert!(confirm_many(1_000_000, "replay", true).is_ok());
    }
}
