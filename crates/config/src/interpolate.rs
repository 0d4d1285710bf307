use std::collections::BTreeMap;

use crate::errors::{ConfigError, Errors, Place};
use crate::tree::{Node, Value};

/// Fills `${VAR}` and `${VAR:-default}` into every string of the file; `$${` stands for `${` itself.
///
/// As in a shell, the default is taken when the variable is unset *or empty*. A value that cannot be filled in
/// is taken out of the tree, so that what follows does not complain about it a second time.
pub(crate) fn interpolate(root: &mut Node, environment: &BTreeMap<String, String>, errors: &mut Errors) {
    fill_node(root, &mut String::new(), environment, errors);
}

/// Whether the node may stay.
fn fill_node(
    node: &mut Node,
    key: &mut String,
    environment: &BTreeMap<String, String>,
    errors: &mut Errors,
) -> bool {
    match &mut node.value {
        Value::Table(entries) => entries.retain(|name, entry| {
            let length = key.len();
            if length > 0 {
                key.push('.');
            }
            key.push_str(name);
            let keep = fill_node(entry, key, environment, errors);
            key.truncate(length);
            keep
        }),
        Value::Array(items) => {
            let mut index = 0;
            items.retain_mut(|item| {
                let length = key.len();
                key.push_str(&format!("[{index}]"));
                index += 1;
                let keep = fill_node(item, key, environment, errors);
                key.truncate(length);
                keep
            });
        }
        Value::String(text) if text.contains("${") && matches!(node.place, Place::File { .. }) => {
            match fill(text, environment) {
                Ok(filled) => node.value = Value::Text(filled),
                Err((problem, mend)) => {
                    errors.push(ConfigError {
                        place: node.place.clone(),
                        key: key.clone(),
                        problem,
                        mend: Some(mend),
                    });
                    return false;
                }
            }
        }
        _ => {}
    }
    true
}

fn fill(text: &str, environment: &BTreeMap<String, String>) -> Result<String, (String, String)> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &reference[2..];
            continue;
        }
        filled.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err((
                "a `${` is not closed".to_owned(),
                "close it with `}`, or write `$${` for the two characters themselves".to_owned(),
            ));
        };
        filled.push_str(&look_up(&reference[2..end], environment)?);
        rest = &reference[end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

fn look_up(reference: &str, environment: &BTreeMap<String, String>) -> Result<String, (String, String)> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err((
            format!("`${{{name}}}` does not name a variable"),
            "write `${VAR}` or `${VAR:-default}`, or `$${` for the two characters themselves".to_owned(),
        ));
    }
    match (environment.get(name), default) {
        (Some(value), None) => Ok(value.clone()),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value.clone()),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the variable {name} is not set"),
            format!("set {name}, or give a default with `${{{name}:-...}}`"),
        )),
    }
}
