//! Bodies and headers that the configuration describes: JSON whose strings may hold placeholders, so that a new target
//! needs no Rust.
//!
//! A placeholder is a JSON pointer (RFC 6901) in double braces: `{{/data/email}}`. A string that is nothing else becomes
//! the value itself, whatever its type; in the midst of text its words are put in. Templates are parsed as JSON before
//! anything is put in and rendered as JSON after it: no value can break out of its string.

use serde_json::{Map, Value};
use std::fmt;

/// What [`crate::AdapterSettings::Webhook`] offers to templates.
pub(crate) static ROOTS: &[&str] = &["id", "action", "version", "time", "user", "tenant", "data"];

/// A JSON body with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyTemplate(Node);

/// One line of text with placeholders, such as a header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTemplate(Vec<Part>);

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Fixed(Value),
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
    Value(Placeholder),
    Text(TextTemplate),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Placeholder {
    pointer: String,
    /// Written `{{/pointer?}}`: where there is no value, what holds it is left out. Else it is null.
    optional: bool,
}

impl BodyTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is no JSON, or a placeholder in it is none.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| TemplateError(format!("is not JSON: {error}")))?;
        Node::parse(json).map(Self)
    }

    /// The body for a document. Fields come in alphabetical order, so equal documents give equal bytes.
    pub(crate) fn render(&self, document: &Value) -> Vec<u8> {
        self.0.render(document).unwrap_or(Value::Null).to_string().into_bytes()
    }
}

impl TextTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// When a placeholder in it is none.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inner, after) = after.split_once("}}").ok_or_else(|| {
                TemplateError(format!("`{{{{{after}` does not end; write `}}}}` after the pointer"))
            })?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Value(Placeholder::parse(inner)?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text for a document.
    pub(crate) fn render(&self, document: &Value) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Value(placeholder) => match placeholder.of(document) {
                    None => {}
                    Some(Value::String(value)) => text.push_str(value),
                    Some(value) => text.push_str(&value.to_string()),
                },
            }
        }
        text
    }
}

impl fmt::Display for TextTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Value(Placeholder { pointer, optional }) => {
                    write!(f, "{{{{{pointer}{}}}}}", if *optional { "?" } else { "" })?;
                }
            }
        }
        Ok(())
    }
}

impl Node {
    fn parse(json: Value) -> Result<Self, TemplateError> {
        Ok(match json {
            Value::Object(fields) => {
                let field = |(name, value): (String, Value)| match name.contains("{{") {
                    true => {
                        Err(TemplateError(format!("placeholders stand in values, not in names: {name:?}")))
                    }
                    false => Ok((name, Self::parse(value)?)),
                };
                Self::Object(fields.into_iter().map(field).collect::<Result<_, _>>()?)
            }
            Value::Array(items) => Self::Array(items.into_iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::String(text) => {
                let TextTemplate(mut parts) = TextTemplate::parse(&text)?;
                match (parts.pop(), parts.is_empty()) {
                    (None, _) => Self::Fixed(Value::String(String::new())),
                    (Some(Part::Text(text)), true) => Self::Fixed(Value::String(text)),
                    (Some(Part::Value(placeholder)), true) => Self::Value(placeholder),
                    (Some(last), false) => {
                        parts.push(last);
                        Self::Text(TextTemplate(parts))
                    }
                }
            }
            fixed => Self::Fixed(fixed),
        })
    }

    /// None: left out.
    fn render(&self, document: &Value) -> Option<Value> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Object(fields) => {
                let rendered =
                    fields.iter().filter_map(|(name, node)| Some((name.clone(), node.render(document)?)));
                Some(Value::Object(rendered.collect::<Map<_, _>>()))
            }
            Self::Array(items) => {
                Some(Value::Array(items.iter().filter_map(|node| node.render(document)).collect()))
            }
            Self::Value(placeholder) => match placeholder.of(document) {
                Some(value) => Some(value.clone()),
                None => (!placeholder.optional).then_some(Value::Null),
            },
            Self::Text(template) => Some(Value::String(template.render(document))),
        }
    }
}

impl Placeholder {
    fn parse(inner: &str) -> Result<Self, TemplateError> {
        let inner = inner.trim();
        let (pointer, optional) = match inner.strip_suffix('?') {
            Some(pointer) => (pointer, true),
            None => (inner, false),
        };
        let root = pointer.strip_prefix('/').map(|rest| rest.split('/').next().unwrap_or_default());
        match root {
            Some(root) if ROOTS.contains(&root) => Ok(Self { pointer: pointer.to_owned(), optional }),
            _ => Err(TemplateError(format!(
                "`{{{{{inner}}}}}` points at nothing; pointers begin with /{}",
                ROOTS.join(", /")
            ))),
        }
    }

    /// Its value; null counts as none.
    fn of<'d>(&self, document: &'d Value) -> Option<&'d Value> {
        document.pointer(&self.pointer).filter(|value| !value.is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "id": "e-1", "action": "updated", "version": 7, "time": "2025-08-19T10:00:00Z", "user": "u\"1",
            "tenant": { "id": "acme", "name": null },
            "data": { "email": "a@example.com", "roles": ["x", "y"], "isActive": true, "a/b": 1, "phone": null,
                      "evil": "\", \"role\": \"admin" },
        })
    }

    #[test]
    fn a_placeholder_alone_is_the_value_and_within_text_its_words() {
        let check = |template: &str, expected: Value| {
            let body = BodyTemplate::parse(template).unwrap().render(&document());
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected, "{template}");
        };
        check(r#"{"a": "{{/data/email}}"}"#, json!({ "a": "a@example.com" }));
        check(r#"{"a": "{{ /data/roles }}"}"#, json!({ "a": ["x", "y"] }));
        check(
            r#"["{{/version}}", "{{/data/isActive}}", "v{{/version}} of {{/user}}"]"#,
            json!([7, true, "v7 of u\"1"]),
        );
        check(r#"{"a": "<{{/data/phone}}> {{/data/roles}}"}"#, json!({ "a": "<> [\"x\",\"y\"]" }));
        check(
            r#"{"a": "{{/data/phone}}", "b": "{{/data/phone?}}", "c": "{{/tenant/name?}}"}"#,
            json!({ "a": null }),
        );
        check(r#"["{{/data/none?}}", 1]"#, json!([1]));
        check(
            r#"{"a": "{{/data/a~1b}}", "b": "", "c": null, "d": 1.5}"#,
            json!({ "a": 1, "b": "", "c": null, "d": 1.5 }),
        );
        check(r#"{"a": "say {{/data/evil}}"}"#, json!({ "a": "say \", \"role\": \"admin" }));
        check(r#""{{/data}}""#, document()["data"].clone());
    }

    #[test]
    fn what_is_no_template_is_refused_with_a_way_to_mend_it() {
        let check = |template: &str, words: &str| {
            let error = BodyTemplate::parse(template).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check("{", "is not JSON");
        check(r#"{"a": "{{/data"}"#, "does not end");
        check(r#"{"a": "{{data}}"}"#, "pointers begin with /id, /action");
        check(r#"{"a": "{{/dta/email}}"}"#, "points at nothing");
        check(r#"{"{{/data/email}}": 1}"#, "not in names");
    }

    #[test]
    fn a_text_template_is_shown_as_it_was_written() {
        for text in ["", "plain", "{{/user}}", "a{{/data/email?}}b{{/id}}"] {
            assert_eq!(TextTemplate::parse(text).unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn no_value_breaks_out_of_its_string(value in ".*") {
            let document = json!({ "data": { "v": value } });
            let body = BodyTemplate::parse(r#"{"a": "<{{/data/v}}>", "b": "{{/data/v}}"}"#).unwrap().render(&document);
            let expected = json!({ "a": format!("<{value}>"), "b": value });
            prop_assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        }
    }
}
