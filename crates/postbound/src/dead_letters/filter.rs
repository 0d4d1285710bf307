use crate::{exit::Exit, moment::parse_moment, operate::parse_name};
use postbound_store::LetterFilter;
use time::OffsetDateTime;

/// Which letters are meant. Conditions add up.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FilterArgs {
    /// Of this target
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    target: Option<String>,
    /// Of users of this tenant
    #[arg(long, value_name = "ID", value_parser = parse_name)]
    tenant: Option<String>,
    /// Of this user
    #[arg(long, value_name = "ID", value_parser = parse_name)]
    user: Option<String>,
    /// That died for this reason, as the summary names it (http_422, ...)
    #[arg(long, value_parser = parse_name)]
    reason: Option<String>,
    /// Of this class of failures
    #[arg(long, value_parser = ["transient", "unknown", "permanent", "diverged", "broker", "unreadable"])]
    class: Option<String>,
    /// Whose last answer had this HTTP status
    #[arg(long, value_parser = clap::value_parser!(i32).range(100..600))]
    status: Option<i32>,
    /// That failed last at or after this time (2026-11-21T22:00:00Z, 2026-11-21) or since this age (2h, 3d)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<OffsetDateTime>,
    /// That failed last before this time, or age
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<OffsetDateTime>,
    /// Where the target's own words contain this, in upper or lower case
    #[arg(long, value_parser = parse_name)]
    text: Option<String>,
}

impl FilterArgs {
    /// The filter, of these letters alone where any are named.
    pub(crate) fn filter(&self, letters: &[i64]) -> LetterFilter {
        let Self { target, tenant, user, reason, class, status, since, until, text } = self.clone();
        let letters = letters.to_vec();
        LetterFilter { target, tenant, user, reason, class, status, since, until, text, letters }
    }
}

/// The letters a command acts on.
#[derive(Debug, clap::Args)]
pub(crate) struct ChosenLetters {
    /// These letters
    letters: Vec<i64>,
    #[command(flatten)]
    conditions: FilterArgs,
    /// All open letters of the installation
    #[arg(long)]
    pub(crate) all: bool,
    /// So many letters at most, the oldest first
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

impl ChosenLetters {
    /// The filter; an empty one is refused unless all letters are asked for.
    pub(crate) fn filter(&self) -> Result<LetterFilter, Exit> {
        let filter = self.conditions.filter(&self.letters);
        refuse_empty(&filter, self.all)?;
        Ok(filter)
    }

    /// How many at most.
    pub(crate) fn limit(&self) -> Option<i64> {
        self.limit.map(i64::from)
    }
}

/// All letters are meant only by those who say so.
fn refuse_empty(filter: &LetterFilter, all: bool) -> Result<(), Exit> {
    match (filter.is_empty(), all) {
        (true, false) => Err(Exit::Usage(
            "the filter is empty: name letters, give a condition (--target, --tenant, --reason, ...), or say --all".to_owned(),
        )),
        (false, true) => Err(Exit::Usage("--all and a filter contradict one another".to_owned())),
        _ => Ok(()),
    }
}
