//! From the tree to one struct: a `serde` deserialiser whose errors know key and line.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::errors::{ConfigError, Errors, Place, nearest};
use crate::tree::{Node, Value, parse_value};

/// Decodes one section, whose key is for the errors; a missing one has every default. Each value that is wrong
/// is reported, taken out and left at its default, until nothing is wrong any more.
///
/// `also_known` are keys that someone else takes from the section, to be suggested for a mistyped one.
pub(crate) fn section<T>(node: Option<&Node>, key: &str, also_known: &[&str], errors: &mut Errors) -> T
where
    T: Default + for<'de> Deserialize<'de>,
{
    let Some(mut node) = node.cloned() else { return T::default() };
    let mut taken_out: Vec<Vec<String>> = Vec::new();
    loop {
        let refused = match T::deserialize(&node) {
            Ok(section) => return section,
            Err(refused) => refused,
        };
        let path: Vec<String> = refused.path.iter().rev().map_while(Step::key).collect();
        // What is missing because its value was wrong has been reported.
        let missing = refused.missing().map(|key| [path.as_slice(), &[key.to_owned()]].concat());
        if !missing.is_some_and(|missing| taken_out.contains(&missing)) {
            errors.push(refused.into_config_error(key, node.place.clone(), also_known));
        }
        if node.remove(&path).is_none() {
            return T::default();
        }
        taken_out.push(path);
    }
}

/// The keys a section takes.
pub(crate) fn keys_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    struct Probe<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only a struct has keys"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut keys: &'static [&'static str] = &[];
    let _ = T::deserialize(Probe(&mut keys));
    keys
}

/// Why a value was refused; the path is gathered on the way out, innermost first.
#[derive(Debug)]
pub(crate) struct Refused {
    path: Vec<Step>,
    place: Option<Place>,
    reason: Reason,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn key(&self) -> Option<String> {
        match self {
            Self::Key(key) => Some(key.clone()),
            Self::Index(_) => None,
        }
    }
}

#[derive(Debug)]
enum Reason {
    UnknownKey { key: String, known: &'static [&'static str] },
    UnknownWord { word: String, known: &'static [&'static str] },
    Missing { key: &'static str },
    Other(String, Option<String>),
}

impl Refused {
    fn new(reason: Reason) -> Self {
        Self { path: Vec::new(), place: None, reason }
    }

    fn inside(mut self, step: Step, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self.path.push(step);
        self
    }

    /// The key that has to be there and is not.
    fn missing(&self) -> Option<&'static str> {
        match self.reason {
            Reason::Missing { key } => Some(key),
            _ => None,
        }
    }

    /// Without the text that was refused: it came from a variable, and may be a secret in the wrong place.
    fn unquoted(mut self, text: &str) -> Self {
        const VALUE: &str = "the variable's value";
        let text = text.trim();
        self.reason = match self.reason {
            Reason::UnknownWord { known, .. } => {
                Reason::Other(format!("{VALUE} is not known; expected {}", quoted(known)), None)
            }
            Reason::Other(problem, mend) => {
                let problem =
                    problem.replace(&format!("\"{text}\""), VALUE).replace(&format!("`{text}`"), VALUE);
                Reason::Other(problem, mend)
            }
            reason => reason,
        };
        self
    }

    fn into_config_error(self, section: &str, place: Place, also_known: &[&str]) -> ConfigError {
        let mut key = section.to_owned();
        for step in self.path.iter().rev() {
            match step {
                Step::Key(name) => key.extend([".", name]),
                Step::Index(index) => key.push_str(&format!("[{index}]")),
            }
        }
        let (problem, mend) = match self.reason {
            Reason::UnknownKey { key, known } => {
                // Keys of the section itself may be someone else's; those of a table inside it may not.
                let also = if self.path.len() == 1 { also_known } else { &[] };
                unknown_key(&key, known.iter().chain(also).copied().collect())
            }
            Reason::UnknownWord { word, known } => (
                format!("\"{word}\" is not known; expected {}", quoted(known)),
                nearest(&word, known.iter().copied()).map(|near| format!("did you mean \"{near}\"?")),
            ),
            Reason::Missing { key } => (format!("`{key}` is missing"), Some(format!("add `{key}`"))),
            Reason::Other(problem, mend) => (problem, mend),
        };
        ConfigError { place: self.place.unwrap_or(place), key, problem, mend }
    }
}

/// Problem and mend of a key nobody takes.
pub(crate) fn unknown_key(key: &str, mut known: Vec<&str>) -> (String, Option<String>) {
    let mend = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            known.sort_unstable();
            format!("known here: {}", known.join(", "))
        }
    };
    ("unknown key".to_owned(), Some(mend))
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.reason)
    }
}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Reason::Other(message.to_string(), None))
    }

    // Never the value itself: it may be a secret.
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let (problem, expected) = (kind(&unexpected), plain(expected));
        let mend = match unexpected {
            Unexpected::Str(_) if expected != "a table" => Some("write the value without quotes".to_owned()),
            _ if expected == "a string" => Some("put the value in quotes".to_owned()),
            _ => None,
        };
        Self::new(Reason::Other(format!("{problem} where {expected} is expected"), mend))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let range = match expected.as_str() {
            "u16" => format!(" from 0 to {}", u16::MAX),
            "u32" => format!(" from 0 to {}", u32::MAX),
            "u64" | "usize" => " of 0 or more".to_owned(),
            _ => String::new(),
        };
        let problem = match unexpected {
            Unexpected::Signed(number) => format!("{number} is out of range"),
            Unexpected::Unsigned(number) => format!("{number} is out of range"),
            other => format!("{} is not valid", kind(&other)),
        };
        Self::new(Reason::Other(format!("{problem}; expected {}{range}", plain(&expected.as_str())), None))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Reason::UnknownWord { word: word.to_owned(), known })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Reason::UnknownKey { key: key.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Reason::Missing { key })
    }
}

fn kind(unexpected: &Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a fraction",
        Unexpected::Str(_) | Unexpected::Char(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        Unexpected::Other(_) => "a date",
        _ => "another kind of value",
    }
}

/// What `serde` expects, in the words of the configuration.
fn plain(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        text if text.starts_with("struct ") => "a table".to_owned(),
        text if text.starts_with("enum ") => "a string".to_owned(),
        _ => expected,
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let Value::Text(text) = &self.value else { return self.deserialize_any(visitor) };
            match text.trim().parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                // Not the text itself: it came from a variable and may be a secret put in the wrong place.
                Err(_) => Err(Refused::new(Reason::Other(
                    format!("the variable does not hold {}", $expected),
                    None,
                ))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.value {
            Value::Table(entries) => visitor.visit_map(Entries { rest: entries.iter(), current: None }),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.iter().enumerate() }),
            Value::String(text) => visitor.visit_str(text),
            Value::Text(text) => visitor.visit_str(text).map_err(|refused: Refused| refused.unquoted(text)),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Date => Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
        }
    }

    number! {
        deserialize_i8 visit_i64 i64, "a whole number";
        deserialize_i16 visit_i64 i64, "a whole number";
        deserialize_i32 visit_i64 i64, "a whole number";
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u8 visit_i64 i64, "a whole number";
        deserialize_u16 visit_i64 i64, "a whole number";
        deserialize_u32 visit_i64 i64, "a whole number";
        deserialize_u64 visit_i64 i64, "a whole number";
        deserialize_f32 visit_f64 f64, "a number";
        deserialize_f64 visit_f64 f64, "a number";
        deserialize_bool visit_bool bool, "`true` or `false`";
    }

    // An empty string is no value: `api_key = "${KEY:-}"` asks for none when KEY is unset.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.value {
            Value::String(text) | Value::Text(text) if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    // A variable holds a list as TOML (`["1s", "2s"]`) or with commas (`1s,2s`).
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Value::Text(text) = &self.value else { return self.deserialize_any(visitor) };
        let items = match parse_value(text, &self.place) {
            Some(Value::Array(items)) => items,
            _ => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Node { value: Value::Text(item.to_owned()), place: self.place.clone() })
                .collect(),
        };
        visitor.visit_seq(Items { rest: items.iter().enumerate() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        match &self.value {
            Value::String(text) | Value::Text(text) => {
                let word: StrDeserializer<'_, Refused> = text.as_str().into_deserializer();
                visitor.visit_enum(word).map_err(|refused| match &self.value {
                    Value::Text(text) => refused.unquoted(text),
                    _ => refused,
                })
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

/// The entries of a table.
struct Entries<'a> {
    rest: std::collections::btree_map::Iter<'a, String, Node>,
    current: Option<(&'a String, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.current = self.rest.next();
        let Some((key, node)) = self.current else { return Ok(None) };
        let name: StrDeserializer<'_, Refused> = key.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|refused| refused.inside(Step::Key(key.clone()), &node.place))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        let Some((key, node)) = self.current else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(node).map_err(|refused| refused.inside(Step::Key(key.clone()), &node.place))
    }
}

/// The items of a list.
struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        let Some((index, node)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(node).map(Some).map_err(|refused| refused.inside(Step::Index(index), &node.place))
    }
}
