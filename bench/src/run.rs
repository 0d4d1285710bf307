//! A run from the command line to the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postbound_testbed::{ENDPOINTS_VARIABLE, Endpoints, Services};
use tokio::signal::unix::{SignalKind, signal};

use crate::machine::Machine;
use crate::plot;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::site::{Options, Site, Size};

/// What to measure, and how.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Scenario>,
    /// A tenth of everything, one pair each: has anything become worse?
    #[arg(long)]
    quick: bool,
    /// A two-hundredth: does the bench work?
    #[arg(long, hide = true, conflicts_with = "quick")]
    smoke: bool,
    /// An earlier build of it, to compare with instead of the bare loop: what a change has gained
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Pairs per measurement [default: 3, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    repeats: Option<u32>,
    /// Worker processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Minutes the sibling is dead
    #[arg(long, default_value_t = 3.0)]
    sibling_minutes: f64,
    /// Let workers log every delivery, as they do by default
    #[arg(long)]
    log_deliveries: bool,
    /// Say after each drained backlog or stream which SQL statements took Postgres' time
    #[arg(long)]
    statements: bool,
    /// Write the report there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Render the report into docs/benchmarks.md and docs/benchmarks.svg
    #[arg(long)]
    docs: bool,
    /// The program to measure
    #[arg(long, value_name = "FILE", env = "POSTBOUND_BIN", default_value = "target/release/postbound")]
    postbound: PathBuf,
}

/// `postbound-bench run`
#[expect(clippy::print_stdout, reason = "the table is the answer")]
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let size = match (arguments.quick, arguments.smoke) {
        (_, true) => Size::Smoke,
        (true, _) => Size::Quick,
        _ => Size::Full,
    };
    let options = Options {
        postbound: std::path::absolute(&arguments.postbound)?,
        before: arguments.before.as_ref().map(std::path::absolute).transpose()?,
        repeats: arguments.repeats.unwrap_or(if size == Size::Full { 3 } else { 1 }),
        workers: arguments.workers.into(),
        size,
        sibling_minutes: arguments.sibling_minutes,
        log_deliveries: arguments.log_deliveries,
        statements: arguments.statements,
    };
    for program in options.before.iter().chain([&options.postbound]) {
        ensure!(program.is_file(), "there is no {}: `cargo xtask bench` builds it", program.display());
    }
    let (services, endpoints) = servers(&options).await?;
    let measured = tokio::select! {
        measured = measure(endpoints, options, &arguments.only) => measured,
        () = asked_to_stop() => Err(anyhow::anyhow!("stopped")),
    };
    if let Some(services) = services {
        services.stop().await;
    }
    let (report, failed) = measured?;
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        write_json(&report, path)?;
    }
    if arguments.docs {
        render_report(&report)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Those of the test run we are part of, or ones of our own.
async fn servers(options: &Options) -> Result<(Option<Services>, Endpoints)> {
    if std::env::var_os(ENDPOINTS_VARIABLE).is_some() {
        return Ok((None, Endpoints::from_env()?));
    }
    let settings = [
        // No checkpoint but those the bench asks for between measurements.
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "1h"),
        // What a server of this size would be given; PostgreSQL starts with 128 MB.
        ("shared_buffers", "2GB"),
        ("shared_preload_libraries", if options.statements { "pg_stat_statements" } else { "" }),
    ];
    let options = postbound_testbed::Options {
        postgres_settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..postbound_testbed::Options::default()
    };
    eprintln!("bench: starting a private PostgreSQL and RabbitMQ");
    let services = tokio::select! {
        services = Services::start(options) => services?,
        () = asked_to_stop() => anyhow::bail!("stopped"),
    };
    let endpoints = services.endpoints();
    Ok((Some(services), endpoints))
}

/// Runs the scenarios; one that fails does not keep the others from running.
async fn measure(endpoints: Endpoints, options: Options, only: &[Scenario]) -> Result<(Report, bool)> {
    use clap::ValueEnum as _;
    let mut folder = tempfile::Builder::new().prefix("postbound-bench-").tempdir()?;
    let run = told(&options);
    let mut site = Site::open(endpoints, options, folder.path().to_owned()).await?;
    let mut report = Report { machine: Machine::look(&site).await?, run, rows: Vec::new() };
    let mut failed = false;
    for scenario in Scenario::value_variants() {
        if !only.is_empty() && !only.contains(scenario) {
            continue;
        }
        let (name, started) = (scenario.name(), Instant::now());
        eprintln!("bench: {name}");
        match Box::pin(scenario.run(&mut site)).await {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                failed = true;
                folder.disable_cleanup(true);
                eprintln!("bench: {name} failed: {error:#}; the logs are in {}", folder.path().display());
            }
        }
        eprintln!("bench: {name} took {:.0} s", started.elapsed().as_secs_f64());
    }
    site.close().await?;
    Ok((report, failed))
}

fn told(options: &Options) -> String {
    let Options { repeats, workers, size, log_deliveries, .. } = options;
    let size = match size {
        Size::Full => "full size",
        Size::Quick => "a tenth of the full size",
        Size::Smoke => "tiny: the figures mean nothing",
    };
    let log = if *log_deliveries { "on" } else { "off" };
    format!(
        "1 relay, {workers} worker(s), {repeats} pair(s) of each measurement, {size}, log of each delivery {log}"
    )
}

fn write_json(report: &Report, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// `postbound-bench render`
pub(crate) fn render(json: &Path) -> Result<()> {
    let text = std::fs::read(json).with_context(|| format!("cannot read {}", json.display()))?;
    render_report(&serde_json::from_slice(&text).context("not a report of this version")?)
}

/// Puts the table between the markers of docs/benchmarks.md, and the plot beside it.
fn render_report(report: &Report) -> Result<()> {
    const MARKERS: [&str; 2] = ["<!-- results -->\n", "<!-- end of results -->"];
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = docs.join("benchmarks.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let [before, rest] = split(&text, MARKERS[0]).context("docs/benchmarks.md has no marker for results")?;
    let [_, after] = split(rest, MARKERS[1]).context("docs/benchmarks.md has no marker after results")?;
    let results = report.markdown();
    std::fs::write(&page, format!("{before}{}{results}\n{}{after}", MARKERS[0], MARKERS[1]))?;
    std::fs::write(docs.join("benchmarks.svg"), plot::svg(report))?;
    Ok(())
}

fn split<'a>(text: &'a str, marker: &str) -> Option<[&'a str; 2]> {
    text.split_once(marker).map(|(before, after)| [before, after])
}

async fn asked_to_stop() {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let mut waiting = tokio::task::JoinSet::new();
    for mut signal in signals.into_iter().flatten() {
        waiting.spawn(async move { signal.recv().await });
    }
    if waiting.is_empty() {
        tokio::time::sleep(Duration::MAX).await;
    }
    waiting.join_next().await;
}
