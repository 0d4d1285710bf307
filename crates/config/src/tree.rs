use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::errors::{ConfigError, Errors, Place};

/// One value of the configuration and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// What a value is before anything is expected of it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    String(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// TOML has dates; no key of ours takes one.
    Date,
    /// From a variable, by override or by `${VAR}`: a string, number, boolean or list, as the key expects.
    Text(String),
}

impl Node {
    pub(crate) fn table(place: Place) -> Self {
        Self { value: Value::Table(BTreeMap::new()), place }
    }

    /// Reads TOML; on syntax errors, all of them.
    pub(crate) fn parse(text: &str, name: &Arc<str>, errors: &mut Errors) -> Option<Self> {
        let lines = Lines { text, name };
        let (table, wrong) = DeTable::parse_recoverable(text);
        for error in &wrong {
            errors.push(ConfigError {
                place: lines.place(error.span().map_or(0, |span| span.start)),
                key: String::new(),
                // The message alone: the rendered error quotes the line, which may hold a secret.
                problem: format!("not valid TOML: {}", error.message().replace('\n', "; ")),
                mend: None,
            });
        }
        let whole = Place::File { name: Arc::clone(name), line: 0 };
        wrong.is_empty().then(|| Self { value: lines.table(table.into_inner()), place: whole })
    }

    /// The node at a path of keys.
    pub(crate) fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Self> {
        path.into_iter().try_fold(self, |node, key| match &node.value {
            Value::Table(entries) => entries.get(key),
            _ => None,
        })
    }

    /// Where a key stands, or else the section around it.
    pub(crate) fn place<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Place {
        let mut node = self;
        for key in path {
            match &node.value {
                Value::Table(entries) if entries.contains_key(key) => node = &entries[key],
                _ => break,
            }
        }
        node.place.clone()
    }

    /// Takes a node out of the tree.
    pub(crate) fn remove(&mut self, path: &[String]) -> Option<Self> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(self, |node, key| match &mut node.value {
            Value::Table(entries) => entries.get_mut(key),
            _ => None,
        })?;
        match &mut parent.value {
            Value::Table(entries) => entries.remove(last),
            _ => None,
        }
    }
}

/// Tells the line of an offset.
struct Lines<'a> {
    text: &'a str,
    name: &'a Arc<str>,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place::File { name: Arc::clone(self.name), line }
    }

    fn table(&self, table: DeTable<'_>) -> Value {
        let entry = |(key, value): (Spanned<Cow<'_, str>>, Spanned<DeValue<'_>>)| {
            let place = self.place(key.span().start);
            (key.into_inner().into_owned(), Node { value: self.value(value.into_inner()), place })
        };
        Value::Table(table.into_iter().map(entry).collect())
    }

    fn value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.into_owned()),
            // The parser has checked the digits; what does not fit becomes the largest number.
            DeValue::Integer(number) => {
                Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX))
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| {
                        let place = self.place(item.span().start);
                        Node { value: self.value(item.into_inner()), place }
                    })
                    .collect(),
            ),
            DeValue::Table(table) => self.table(table),
        }
    }
}

/// A lone TOML value, as an environment variable or an interpolated string may hold one.
pub(crate) fn parse_value(text: &str, place: &Place) -> Option<Value> {
    let name: Arc<str> = Arc::from("");
    let value = DeValue::parse(text.trim()).ok()?;
    let mut value = Lines { text, name: &name }.value(value.into_inner());
    put_at(&mut value, place);
    Some(value)
}

fn put_at(value: &mut Value, place: &Place) {
    let inner: Vec<&mut Node> = match value {
        Value::Table(entries) => entries.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => return,
    };
    for node in inner {
        node.place = place.clone();
        put_at(&mut node.value, place);
    }
}
