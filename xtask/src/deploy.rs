//! What is under `deploy/`, held against the tools and schemas it is for: promtool, Kubernetes' and Grafana's schemas, systemd.
//!
//! Images and the Compose file are started for real instead, as docs/operations.md says; that takes a Docker Engine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use postbound_testbed::packages;
use tokio::process::Command;

use crate::check::Arguments;
use crate::commands::{target, workspace};

/// Version of Kubernetes whose schemas count, and of the package that bears them.
const KUBERNETES: &str = "1.33.0";
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";
/// Has Grafana's schema; the last part of the version is Grafana's.
const GRAFANA_SDK: &str = "grafana-foundation-sdk==1769699379!11.6.0";
/// Tenths of what `systemd-analyze security` says of a unit at most.
const EXPOSURE_MAX: &str = "20";

/// The names of the checks that fail, of those that are asked for.
pub(crate) async fn check(arguments: &Arguments) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for name in ["prometheus", "grafana", "kubernetes", "systemd"] {
        if !arguments.ask_for(name) {
            continue;
        }
        eprintln!("check: {name}");
        let outcome = match name {
            "prometheus" => prometheus().await,
            "grafana" => grafana().await,
            "kubernetes" => kubernetes().await,
            _ => systemd().await,
        };
        if let Err(error) = outcome {
            eprintln!("check: {name}: {error:#}");
            failed.push(name);
        }
    }
    failed
}

/// Rules and scrape configurations are read by promtool, and rules tested by it.
async fn prometheus() -> Result<()> {
    if packages::program("promtool").is_none() {
        packages::ensure(&["prometheus"])?;
    }
    let promtool = packages::program("promtool").context("no promtool in Debian's package prometheus")?;
    let folder = workspace().join("deploy/prometheus");
    let rules = files(&folder.join("rules"), "yml")?;
    run(Command::new(&promtool).args(["check", "rules"]).args(rules)).await?;
    // Not kubernetes.yml: Debian 12 builds Prometheus without Kubernetes' discovery.
    let configuration = folder.join("prometheus.yml");
    run(Command::new(&promtool).args(["check", "config", "--syntax-only"]).arg(configuration)).await?;
    run(Command::new(&promtool).args(["test", "rules"]).arg(folder.join("tests.yml"))).await
}

/// Every key and value of the dashboard is one that Grafana knows.
async fn grafana() -> Result<()> {
    let python = python_tools("grafana", GRAFANA_SDK).await?.join("python");
    run(Command::new(python).arg(workspace().join("deploy/grafana/check.py"))).await
}

/// Every manifest that is Kubernetes' own: unknown fields count. KEDA's kinds it has no schema for.
async fn kubernetes() -> Result<()> {
    let validate = python_tools("kubernetes", KUBERNETES_VALIDATE).await?.join("kubernetes-validate");
    let folder_of_all = workspace().join("deploy/kubernetes");
    let mut manifests = Vec::new();
    for folder in [".", "settings", "base", "migrate", "overlays/production", "overlays/trial"] {
        manifests.extend(files(&folder_of_all.join(folder), "yaml")?);
    }
    manifests.retain(|path| !path.ends_with("kustomization.yaml"));
    ensure!(!manifests.is_empty(), "no manifests in {}", folder_of_all.display());
    // Debian has no kubectl that is new enough.
    if let Some(kubectl) = packages::program("kubectl") {
        for folder in ["migrate", "overlays/production", "overlays/trial"] {
            run(Command::new(&kubectl).arg("kustomize").arg(folder_of_all.join(folder))).await?;
        }
    }
    run(Command::new(validate)
        .args(["--kubernetes-version", KUBERNETES, "--strict", "--quiet", "--no-warn"])
        .args(manifests))
    .await
}

/// Units without the program, which is not installed here.
async fn systemd() -> Result<()> {
    packages::ensure(&["systemd"])?;
    let folder = target().join("deploy-check");
    std::fs::create_dir_all(&folder)?;
    for unit in files(&workspace().join("deploy/systemd"), "service")? {
        let name = unit.file_name().and_then(|name| name.to_str()).context("a unit has a name")?;
        let copy = folder.join(name.replace("@.", "@relay."));
        let text = std::fs::read_to_string(&unit)?;
        std::fs::write(&copy, text.replace("/usr/local/bin/postbound", "/bin/true"))?;
        run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg(&copy))
            .await?;
        run(Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold", EXPOSURE_MAX])
            .arg(&copy))
        .await?;
    }
    Ok(())
}

/// A folder of programs: a Python of its own with one package, installed if it is not there yet.
async fn python_tools(name: &str, package: &str) -> Result<PathBuf> {
    let folder = target().join("tools").join(name);
    let installed = folder.join("installed");
    if !std::fs::read_to_string(&installed).is_ok_and(|there| there == package) {
        packages::ensure(&["python3", "python3-venv"])?;
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).await?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", package])).await?;
        std::fs::write(installed, package)?;
    }
    Ok(folder.join("bin"))
}

/// Runs a command; what it says is shown only if it fails.
async fn run(command: &mut Command) -> Result<()> {
    let output = command.output().await.with_context(|| format!("cannot start {:?}", command.as_std()))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "{:?} failed:\n{}{}",
        command.as_std(),
        said(&output.stdout),
        said(&output.stderr)
    );
    Ok(())
}

fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == ending))
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(path: &str) -> String {
        std::fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Words of a text that begin with `prefix`.
    fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':')
            .filter(move |word| word.starts_with(prefix) && word.len() > prefix.len())
    }

    /// The numbers that follow `key` in a text, wherever it stands.
    fn numbers(text: &str, key: &str) -> Vec<u32> {
        text.split(key)
            .skip(1)
            .filter_map(|rest| rest.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok())
            .collect()
    }

    #[test]
    fn nobody_is_killed_before_the_drain_ends() {
        let drain = numbers(&text("deploy/kubernetes/settings/postbound.toml"), "drain_deadline = \"");
        let [drain] = drain[..] else { panic!("one drain_deadline: {drain:?}") };
        for (path, key) in [
            ("deploy/kubernetes/base/relay.yaml", "terminationGracePeriodSeconds: "),
            ("deploy/kubernetes/base/worker-backend.yaml", "terminationGracePeriodSeconds: "),
            ("deploy/kubernetes/base/worker-crm.yaml", "terminationGracePeriodSeconds: "),
            ("deploy/systemd/postbound@.service", "TimeoutStopSec="),
            ("docker-compose.yml", "drain is never cut short.\n  stop_grace_period: "),
        ] {
            let graces = numbers(&text(path), key);
            assert!(!graces.is_empty() && graces.iter().all(|grace| *grace > drain), "{path}: {graces:?} s");
        }
    }

    #[test]
    fn no_more_workers_are_asked_for_than_there_are_partitions() {
        let partitions = numbers(&text("deploy/kubernetes/settings/postbound.toml"), "partitions = ");
        let workers =
            numbers(&text("deploy/kubernetes/overlays/production/scaling.yaml"), "maxReplicaCount: ");
        assert!(
            !workers.is_empty() && workers.iter().max() <= partitions.first(),
            "{workers:?}, {partitions:?}"
        );
    }

    #[test]
    fn the_example_of_secrets_has_every_secret_that_is_mounted() {
        let example = text("deploy/kubernetes/secrets.example.yaml");
        let mut mounted = 0;
        for path in [
            "migrate/job",
            "base/relay",
            "base/worker-backend",
            "base/worker-crm",
            "base/ingress",
            "base/operator",
        ] {
            let manifest = text(&format!("deploy/kubernetes/{path}.yaml"));
            for key in ["secretName: ", "secret: {name: ", "- secret:\n                  name: "] {
                for rest in manifest.split(key).skip(1) {
                    let name = rest.split([',', '}', '\n']).next().unwrap_or_default();
                    assert!(
                        example.contains(&format!("metadata: {{name: {name}, ")),
                        "{path}: no example of {name}"
                    );
                    mounted += 1;
                }
            }
        }
        assert_eq!(mounted, 9, "each manifest mounts some");
    }

    #[test]
    fn every_alert_has_a_section_in_the_runbook() {
        let runbook = text("docs/runbook.md");
        let alerts = text("deploy/prometheus/rules/alerts.yml");
        let names: Vec<&str> =
            alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(!names.is_empty());
        for name in names {
            assert!(runbook.lines().any(|line| line == format!("### {name}")), "no section on {name}");
            let link = format!("runbook_url: docs/runbook.md#{}", name.to_lowercase());
            assert!(alerts.contains(&link), "{name} does not link to its section");
        }
    }

    #[test]
    fn rules_and_dashboard_ask_for_metrics_there_are() {
        let names = text("crates/telemetry/src/names.rs");
        let metrics: BTreeSet<&str> =
            names.split('"').filter(|part| part.starts_with("postbound_")).collect();
        let recorded = text("deploy/prometheus/rules/recording.yml");
        let records: BTreeSet<&str> =
            recorded.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
        for path in [
            "deploy/prometheus/rules/recording.yml",
            "deploy/prometheus/rules/alerts.yml",
            "deploy/prometheus/tests.yml",
            "deploy/grafana/postbound.json",
            "deploy/kubernetes/overlays/production/scaling.yaml",
        ] {
            let text = text(path);
            for word in words(&text, "postbound_") {
                let of_histogram =
                    ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
                let known = metrics.contains(word) || of_histogram.is_some_and(|name| metrics.contains(name));
                assert!(known, "{path} asks for {word}, which nobody exports");
            }
            for word in words(&text, "postbound:") {
                assert!(records.contains(word), "{path} asks for {word}, which no rule records");
            }
        }
    }
}
