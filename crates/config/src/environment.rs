use std::collections::BTreeMap;

use crate::config::{SECTIONS, section_keys};
use crate::decode::unknown_key;
use crate::errors::{ConfigError, Errors, Place};
use crate::tree::{Node, Value, parse_value};

/// Every override starts with it.
const PREFIX: &str = "POSTBOUND_";

/// The process's environment as [`Config::load`](crate::Config::load) takes it. Variables that are not UTF-8
/// are left out.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Puts `POSTBOUND_*` over the file: `POSTBOUND_TARGETS__CRM__CONCURRENCY=8` sets `targets.crm.concurrency`.
///
/// Two underscores part the levels. A variable without them is none of ours (orchestrators set
/// `POSTBOUND_RELAY_PORT` and the like for a service so named), unless its name is a key's but for the second
/// underscore: then it is refused, for it was surely meant to count.
pub(crate) fn override_from(root: &mut Node, environment: &BTreeMap<String, String>, errors: &mut Errors) {
    for (variable, value) in environment.range(PREFIX.to_owned()..) {
        let Some(path) = variable.strip_prefix(PREFIX) else { break };
        let place = Place::Variable(variable.clone());
        let levels: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        let refused = match levels.as_slice() {
            [_] => one_underscore_short(path).map(|meant| {
                ("two underscores part the levels".to_owned(), Some(format!("name it {PREFIX}{meant}")))
            }),
            levels if levels.iter().any(String::is_empty) => {
                Some(("a level of the key is empty".to_owned(), None))
            }
            [section, ..] if !SECTIONS.contains(&section.as_str()) => {
                Some(unknown_key(section, SECTIONS.to_vec()))
            }
            levels => put(root, levels, value, &place).err().map(|problem| (problem, None)),
        };
        if let Some((problem, mend)) = refused {
            let key = if levels.len() > 1 { levels.join(".") } else { String::new() };
            errors.push(ConfigError { place, key, problem, mend });
        }
    }
}

fn put(root: &mut Node, levels: &[String], value: &str, place: &Place) -> Result<(), String> {
    let mut node = root;
    for (depth, level) in levels.iter().enumerate() {
        let Value::Table(entries) = &mut node.value else {
            return Err(format!("{} is a value, not a section", levels[..depth].join(".")));
        };
        let key = key_for(entries, &levels[..depth], level);
        node = entries.entry(key).or_insert_with(|| Node::table(place.clone()));
    }
    // A table as a whole, such as `{ attempts = 5 }`; anything else gets its type from the key.
    node.value = match parse_value(value, place) {
        Some(table @ Value::Table(_)) => table,
        _ => Value::Text(value.to_owned()),
    };
    node.place = place.clone();
    Ok(())
}

/// The key a level stands for: one that is there already, `-` for `_` and any case; else, where users choose
/// the names (targets, headers), the name with `-`.
fn key_for(entries: &BTreeMap<String, Node>, parents: &[String], level: &str) -> String {
    let same = |key: &&String| key.replace('-', "_").eq_ignore_ascii_case(level);
    if let Some(key) = entries.keys().find(same) {
        return key.clone();
    }
    match parents {
        [targets] if targets == "targets" => level.replace('_', "-"),
        [ingress, named] if ingress == "ingress" && ["sources", "tokens"].contains(&named.as_str()) => {
            level.replace('_', "-")
        }
        [targets, _, headers] if targets == "targets" && headers == "headers" => level.replace('_', "-"),
        _ => level.to_owned(),
    }
}

/// `DATABASE_URL` was meant as `DATABASE__URL`.
fn one_underscore_short(path: &str) -> Option<String> {
    let path_lower = path.to_ascii_lowercase();
    SECTIONS.iter().find_map(|section| {
        let key = path_lower.strip_prefix(section)?.strip_prefix('_')?;
        let known = section_keys(section).contains(&key);
        known.then(|| format!("{}__{}", section.to_ascii_uppercase(), key.to_ascii_uppercase()))
    })
}
