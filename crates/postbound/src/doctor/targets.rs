use super::{Finding, postgres::ask, some_of};
use crate::roles;
use postbound_config::Config;
use postbound_store::{RegisteredTarget, Registration, Store};

const CHECK: &str = "targets";

/// What Postgres knows of targets, against the configuration.
pub(super) struct Registry {
    /// How the two differ.
    pub(super) findings: Vec<Finding>,
    /// Targets that are both configured and registered.
    pub(super) in_use: Vec<RegisteredTarget>,
}

/// Reads the registered targets and compares them.
pub(super) async fn look(config: &Config, store: &Store) -> Registry {
    let registered = match ask(CHECK, store.registered_targets()).await {
        Ok(registered) => registered,
        Err(finding) => return Registry { findings: vec![finding], in_use: Vec::new() },
    };
    let wanted: Vec<_> = config.enabled_targets().map(|target| roles::registration(config, target)).collect();
    let findings = judge(&wanted, &registered);
    let is_wanted = |known: &RegisteredTarget| wanted.iter().any(|want| want.name == known.registration.name);
    let in_use = registered.into_iter().filter(|known| !known.retired && is_wanted(known)).collect();
    Registry { findings, in_use }
}

fn judge(wanted: &[Registration], registered: &[RegisteredTarget]) -> Vec<Finding> {
    let mut findings: Vec<_> = wanted
        .iter()
        .filter_map(|want| {
            let known = registered.iter().find(|known| known.registration.name == want.name);
            compare(want, known.filter(|known| !known.retired))
        })
        .collect();
    let gone = registered
        .iter()
        .filter(|known| !known.retired && !wanted.iter().any(|want| want.name == known.registration.name));
    for known in gone {
        let name = &known.registration.name;
        findings.push(
            Finding::problem(
                CHECK,
                format!("{name}: registered, but not in this configuration: its changes are published, and pile up"),
            )
            .mend(format!("retire it with: postbound topology apply --prune; or put targets.{name} back")),
        );
    }
    if findings.is_empty() {
        let names: Vec<_> = wanted.iter().map(|want| &want.name).collect();
        findings.push(Finding::ok(CHECK, format!("registered as configured: {}", some_of(&names))));
    }
    findings
}

fn compare(want: &Registration, known: Option<&RegisteredTarget>) -> Option<Finding> {
    let name = &want.name;
    let Some(known) = known else {
        let what = format!("{name}: configured, but not registered: nothing is published to it");
        return Some(Finding::problem(CHECK, what).mend("postbound topology apply"));
    };
    let partitions = known.registration.partitions;
    if want.partitions != partitions {
        let what = format!("{name}: topology.partitions is {}, registered are {partitions}", want.partitions);
        return Some(
            Finding::problem(CHECK, what).mend(format!(
                "put topology.partitions back to {partitions}, or change it with: postbound topology apply --repartition"
            )),
        );
    }
    if let Some(difference) = want.difference(&known.registration) {
        let what = format!(
            "{name}: registered with other settings, workers with this configuration do not serve it: {difference}"
        );
        return Some(
            Finding::problem(CHECK, what).mend("postbound topology apply; then restart the workers"),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn registration(name: &str, config_hash: &str, partitions: u16) -> Registration {
        Registration {
            name: name.to_owned(),
            adapter: "backend-sync".to_owned(),
            actions: Vec::new(),
            origin: name.to_owned(),
            fold: true,
            config_hash: config_hash.to_owned(),
            settings: Default::default(),
            partitions,
        }
    }

    #[test]
    fn a_target_is_well_only_if_registered_as_configured() {
        let want = [registration("crm", "a", 16)];
        let known = |hash, partitions, retired| {
            vec![RegisteredTarget {
                registration: registration("crm", hash, partitions),
                generation: 1,
                draining: None,
                relay_moved_on: true,
                retired,
            }]
        };
        let check = |wanted: &[Registration], registered: Vec<RegisteredTarget>, level, words: &str| {
            let findings = judge(wanted, &registered);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].level, level, "{findings:?}");
            let text = format!("{} {}", findings[0].what, findings[0].mend.as_deref().unwrap_or_default());
            assert!(text.contains(words), "{text}");
        };
        check(&want, known("a", 16, false), Level::Ok, "crm");
        check(&want, Vec::new(), Level::Problem, "not registered");
        check(&want, known("a", 16, true), Level::Problem, "not registered");
        check(&want, known("b", 16, false), Level::Problem, "restart the workers");
        check(&want, known("a", 8, false), Level::Problem, "back to 8");
        check(&[], known("a", 16, false), Level::Problem, "--prune");
        check(&[], known("a", 16, true), Level::Ok, "");
    }
}
