use super::{counted, existing, hindrance::JobReport};
use crate::{exit::Exit, output::aside};
use indicatif::{ProgressBar, ProgressStyle};
use postbound_store::{JobRow, Store};
use std::{io::IsTerminal as _, time::Duration};

/// How often the job is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Shows on stderr how a job gets on until it ends: a bar on a terminal, else a line per change.
pub(super) async fn until_ended(store: &Store, job: JobRow) -> Result<JobRow, Exit> {
    let bar = std::io::stderr().is_terminal().then(|| progress_bar(&job));
    let mut shown = job;
    let mut last_said = String::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let report = JobReport::of(store, existing(store, shown.job_id).await?).await?;
        let said = format!("{}: {}{}", report.job.state, counted(&report.job.items), report.briefly());
        shown = report.job;
        match &bar {
            Some(bar) => {
                bar.set_length(shown.items.total().unsigned_abs());
                bar.set_position(shown.items.settled().unsigned_abs());
                bar.set_message(said);
            }
            None if said != last_said => {
                aside(format!("job {} {said}", shown.job_id));
                last_said = said;
            }
            None => {}
        }
        if shown.has_ended() {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            return Ok(shown);
        }
    }
}

fn progress_bar(job: &JobRow) -> ProgressBar {
    let bar = ProgressBar::new(job.items.total().unsigned_abs());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
