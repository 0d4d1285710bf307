use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::ParameterIn;
use utoipa::{IntoParams, ToSchema};

/// What one method of a route takes and answers, as an operation object of OpenAPI 3.1.
#[derive(Debug, Clone)]
pub struct Operation {
    about: Map<String, Value>,
    parameters: Vec<Value>,
    responses: BTreeMap<u16, Value>,
    schemas: BTreeMap<String, Value>,
}

#[expect(clippy::needless_pass_by_value, reason = "schemas and examples are written where they are passed")]
impl Operation {
    /// An operation by its unique id, and what it does in half a sentence.
    pub fn new(id: &str, summary: &str) -> Self {
        let mut about = Map::new();
        about.insert("operationId".to_owned(), id.into());
        about.insert("summary".to_owned(), summary.into());
        Self { about, parameters: Vec::new(), responses: BTreeMap::new(), schemas: BTreeMap::new() }
    }

    /// What else there is to know.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.about.insert("description".to_owned(), text.into());
        self
    }

    /// The part of the document it stands in.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.about.insert("tags".to_owned(), json!([tag]));
        self
    }

    /// Who may call: any one of these, each a list of security schemes that are all needed. None: anyone.
    #[must_use]
    pub fn security(mut self, alternatives: &[&[&str]]) -> Self {
        let all = |schemes: &[&str]| -> Value {
            schemes.iter().map(|scheme| ((*scheme).to_owned(), json!([]))).collect::<Map<_, _>>().into()
        };
        let alternatives: Vec<Value> = alternatives.iter().map(|schemes| all(schemes)).collect();
        self.about.insert("security".to_owned(), alternatives.into());
        self
    }

    /// A segment of the path.
    #[must_use]
    pub fn segment(mut self, name: &str, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": {"type": "string", "minLength": 1},
        }));
        self
    }

    /// The query's parameters.
    #[must_use]
    pub fn query<P: IntoParams>(mut self) -> Self {
        for parameter in P::into_params(|| Some(ParameterIn::Query)) {
            let mut parameter = json_of(parameter);
            // A query knows no null.
            if let Some(kinds) = parameter.pointer_mut("/schema/type")
                && let Some(kind) =
                    kinds.as_array().and_then(|kinds| kinds.iter().find(|kind| **kind != "null"))
            {
                *kinds = kind.clone();
            }
            self.parameters.push(parameter);
        }
        self
    }

    /// A header of the request.
    #[must_use]
    pub fn header(mut self, name: &str, required: bool, description: &str, schema: Value) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "header", "required": required, "description": description, "schema": schema,
        }));
        self
    }

    /// A JSON body of this type.
    #[must_use]
    pub fn takes<T: ToSchema>(mut self, required: bool) -> Self {
        let schema = self.named::<T>();
        self.takes_as(required, schema)
    }

    /// A JSON body of this schema.
    #[must_use]
    pub fn takes_as(mut self, required: bool, schema: Value) -> Self {
        let content = json!({"application/json": {"schema": schema}});
        self.about.insert("requestBody".to_owned(), json!({"required": required, "content": content}));
        self
    }

    /// A body to be tried, after what it takes.
    #[must_use]
    pub fn example(mut self, name: &str, value: Value) -> Self {
        let content =
            self.about.get_mut("requestBody").and_then(|body| body.pointer_mut("/content/application~1json"));
        if let Some(content) = content {
            content["examples"][name] = json!({"value": value});
        }
        self
    }

    /// An answer in JSON of this type.
    #[must_use]
    pub fn answers<T: ToSchema>(mut self, status: StatusCode, description: &str) -> Self {
        let schema = self.named::<T>();
        self.answers_as(status, description, schema)
    }

    /// An answer in JSON of this schema.
    #[must_use]
    pub fn answers_as(mut self, status: StatusCode, description: &str, schema: Value) -> Self {
        let content = json!({"application/json": {"schema": schema}});
        self.responses.insert(status.as_u16(), json!({"description": description, "content": content}));
        self
    }

    /// An answer in plain text.
    #[must_use]
    pub fn answers_text(mut self, status: StatusCode, description: &str) -> Self {
        let content = json!({"text/plain": {"schema": {"type": "string"}}});
        self.responses.insert(status.as_u16(), json!({"description": description, "content": content}));
        self
    }

    /// An answer without a body.
    #[must_use]
    pub fn answers_nothing(mut self, status: StatusCode, description: &str) -> Self {
        self.responses.insert(status.as_u16(), json!({"description": description}));
        self
    }

    /// A header that an answer may bear, after the answer itself.
    #[must_use]
    pub fn answer_header(mut self, status: StatusCode, name: &str, description: &str, schema: Value) -> Self {
        if let Some(response) = self.responses.get_mut(&status.as_u16()) {
            response["headers"][name] = json!({"description": description, "schema": schema});
        }
        self
    }

    /// Refusals, each a problem.
    #[must_use]
    pub fn refuses(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            self.responses.insert(*status, refusal(*status, meaning(*status)));
        }
        self
    }

    /// A refusal that means something of its own here.
    #[must_use]
    pub fn refuses_as(mut self, status: u16, description: &str) -> Self {
        self.responses.insert(status, refusal(status, description));
        self
    }

    /// A schema that others of the operation refer to by `#/components/schemas/{name}`.
    #[must_use]
    pub fn schema(mut self, name: &str, schema: Value) -> Self {
        self.schemas.insert(name.to_owned(), schema);
        self
    }

    /// The operation object, and the schemas it refers to.
    pub(crate) fn into_parts(self) -> (Value, BTreeMap<String, Value>) {
        let mut about = self.about;
        if !self.parameters.is_empty() {
            about.insert("parameters".to_owned(), self.parameters.into());
        }
        let responses = self.responses.into_iter().map(|(status, response)| (status.to_string(), response));
        about.insert("responses".to_owned(), responses.collect::<Map<_, _>>().into());
        (about.into(), self.schemas)
    }

    fn named<T: ToSchema>(&mut self) -> Value {
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        self.schemas.extend(schemas.into_iter().map(|(name, schema)| (name, json_of(schema))));
        self.schemas.insert(T::name().into_owned(), schema_of::<T>());
        json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }
}

/// The schema of a type, for use within another.
pub fn schema_of<T: ToSchema>() -> Value {
    json_of(T::schema())
}

/// The problem every refusal is.
pub(crate) fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457 problem details. Some kinds have further members.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "pattern": "^/problems/", "description": "tells kinds of problems apart"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "what is wrong with this request"},
        },
    })
}

fn refusal(status: u16, description: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    let mut refusal =
        json!({"description": description, "content": {"application/problem+json": {"schema": schema}}});
    match status {
        401 => {
            refusal["headers"]["WWW-Authenticate"] =
                json!({"description": "how to authenticate", "required": true, "schema": {"type": "string"}});
        }
        409 | 429 | 503 => {
            refusal["headers"]["Retry-After"] = json!({
                "description": "seconds to wait before the next try", "required": status != 409,
                "schema": {"type": "integer", "minimum": 0},
            });
        }
        _ => {}
    }
    refusal
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "the request is malformed",
        401 => "the caller is not authenticated",
        403 => "the caller may not do this",
        404 => "there is no such thing",
        409 => "the state does not allow it",
        413 => "the body is longer than accepted",
        415 => "the body is not declared as JSON",
        422 => "the form is right, the content is not acceptable",
        429 => "too many requests",
        500 => "a fault that the same request would meet again",
        503 => "the same request may succeed later",
        _ => "refused",
    }
}

/// These are objects of plain data, which JSON can always hold.
fn json_of(object: impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
