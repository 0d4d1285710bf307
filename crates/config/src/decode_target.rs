use std::collections::BTreeMap;

use serde::Deserialize;

use crate::adapter::{Adapter, AdapterKind};
use crate::decode::{self, keys_of};
use crate::errors::{ConfigError, Errors, nearest};
use crate::target::{Action, Target};
use crate::tree::{Node, Value};

/// Decodes every `[targets.<name>]`; one without a usable adapter is reported and left out.
pub(crate) fn decode_targets(root: &Node, errors: &mut Errors) -> BTreeMap<String, Target> {
    let Some(node) = root.at(["targets"]) else { return BTreeMap::new() };
    let Value::Table(targets) = &node.value else {
        errors.push(ConfigError {
            place: node.place.clone(),
            key: "targets".to_owned(),
            problem: "a table per target is expected".to_owned(),
            mend: Some("write `[targets.<name>]`".to_owned()),
        });
        return BTreeMap::new();
    };
    targets
        .iter()
        .filter_map(|(name, node)| Some((name.clone(), decode_target(name, node, errors)?)))
        .collect()
}

/// The adapter comes first, for it says which keys there are.
fn decode_target(name: &str, node: &Node, errors: &mut Errors) -> Option<Target> {
    let key = format!("targets.{name}");
    let kind = adapter_kind(node, &key, errors)?;
    let own_keys = kind.keys();
    let mut common = node.clone();
    let own = split_off(&mut common, own_keys);
    for foreign in AdapterKind::ALL.into_iter().filter(|foreign| *foreign != kind) {
        let Value::Table(misplaced) = split_off(&mut common, foreign.keys()).value else { continue };
        errors.extend(misplaced.into_iter().map(|(name, node)| ConfigError {
            place: node.place,
            key: format!("{key}.{name}"),
            problem: format!("`{name}` is for {} targets; this one is {}", foreign.as_str(), kind.as_str()),
            mend: Some(format!("remove it, or set `adapter = \"{}\"`", foreign.as_str())),
        }));
    }
    split_off(&mut common, &["adapter"]);
    let wants_all = common.at(["actions"]).is_none();
    let adapter = match kind {
        AdapterKind::BackendSync => Adapter::BackendSync(decode::section(Some(&own), &key, &[], errors)),
        AdapterKind::CrmBatch => Adapter::CrmBatch(decode::section(Some(&own), &key, &[], errors)),
        AdapterKind::Webhook => Adapter::Webhook(decode::section(Some(&own), &key, &[], errors)),
        AdapterKind::WorkflowTrigger => {
            Adapter::WorkflowTrigger(decode::section(Some(&own), &key, &[], errors))
        }
    };
    let also_known: Vec<&str> = own_keys.iter().copied().chain(["adapter"]).collect();
    let target: Target = decode::section(Some(&common), &key, &also_known, errors);
    let origin = if target.origin.is_empty() { name.to_owned() } else { target.origin };
    let target = Target { name: name.to_owned(), adapter, origin, ..target };
    Some(match kind {
        AdapterKind::WorkflowTrigger => as_trigger(target, &common, wants_all, errors),
        // An event that is told once more under a new id is another one; nothing older can come after it.
        AdapterKind::Webhook if !target.coalesce => Target { guards_versions: true, ..target },
        AdapterKind::BackendSync | AdapterKind::CrmBatch | AdapterKind::Webhook => target,
    })
}

/// What a trigger is by its nature: each event is one, of registrations unless told otherwise, and nothing is sent once
/// more under a new key, which would be another one.
fn as_trigger(target: Target, common: &Node, wants_all: bool, errors: &mut Errors) -> Target {
    if let (true, Some(node)) = (target.coalesce, common.at(["coalesce"])) {
        errors.push(ConfigError {
            place: node.place.clone(),
            key: format!("targets.{}.coalesce", target.name),
            problem: "a workflow-trigger target gets every event".to_owned(),
            mend: Some("remove it".to_owned()),
        });
    }
    let actions = if wants_all { [Action::Created].into() } else { target.actions };
    Target { actions, coalesce: false, guards_versions: true, ..target }
}

fn adapter_kind(node: &Node, key: &str, errors: &mut Errors) -> Option<AdapterKind> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Kind {
        adapter: Option<AdapterKind>,
    }
    if !matches!(node.value, Value::Table(_)) {
        errors.push(ConfigError {
            place: node.place.clone(),
            key: key.to_owned(),
            problem: "a table is expected".to_owned(),
            mend: Some(format!("write `[{key}]`")),
        });
        return None;
    }
    let before = errors.len();
    let kind: Kind = decode::section(Some(&split_off(&mut node.clone(), &["adapter"])), key, &[], errors);
    if kind.adapter.is_some() || errors.len() > before {
        return kind.adapter;
    }
    if let Some((mistyped, node)) = mistyped_adapter(node) {
        let (problem, mend) = decode::unknown_key(mistyped, vec!["adapter"]);
        errors.push(ConfigError {
            place: node.place.clone(),
            key: format!("{key}.{mistyped}"),
            problem,
            mend,
        });
        return None;
    }
    let key = format!("{key}.adapter");
    if !errors.mention(&key) {
        errors.push(ConfigError {
            place: node.place.clone(),
            key,
            problem: "a target needs an adapter".to_owned(),
            mend: Some(format!(
                "set `adapter` to one of {}",
                AdapterKind::ALL.map(|kind| format!("\"{}\"", kind.as_str())).join(", ")
            )),
        });
    }
    None
}

/// A key that nobody takes and that is nearest to `adapter`.
fn mistyped_adapter(node: &Node) -> Option<(&String, &Node)> {
    let Value::Table(entries) = &node.value else { return None };
    let of_adapters = AdapterKind::ALL.iter().flat_map(|kind| kind.keys());
    let known: Vec<&str> =
        keys_of::<Target>().iter().chain(of_adapters).copied().chain(["adapter"]).collect();
    entries.iter().find(|(key, _)| {
        !known.contains(&key.as_str()) && nearest(key, known.iter().copied()) == Some("adapter")
    })
}

/// Moves some keys of a table into one of their own.
fn split_off(node: &mut Node, keys: &[&str]) -> Node {
    let mut part = Node::table(node.place.clone());
    if let (Value::Table(entries), Value::Table(taken)) = (&mut node.value, &mut part.value) {
        taken.extend(keys.iter().filter_map(|&key| entries.remove_entry(key)));
    }
    part
}
