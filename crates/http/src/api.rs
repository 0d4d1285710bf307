use std::collections::BTreeMap;

use axum::Router;
use axum::body::Bytes;
use axum::handler::Handler;
use axum::http::{StatusCode, header};
use axum::routing::{MethodRouter, delete, get, post, put};
use serde_json::{Map, Value, json};

use crate::Operation;
use crate::operation::problem_schema;

/// Where a server publishes its document.
const PATH: &str = "/openapi.json";

/// Routes and what they are described as, declared together so that neither is there without the other.
pub struct ApiRouter<S = ()> {
    router: Router<S>,
    paths: BTreeMap<String, Map<String, Value>>,
    schemas: BTreeMap<String, Value>,
}

/// What a document says beside its operations.
#[derive(Debug, Clone)]
pub struct ApiInfo<'a> {
    /// The server's name.
    pub title: &'a str,
    /// What it is for.
    pub description: &'a str,
    /// How callers prove who they are: security scheme objects by the names operations use.
    pub security_schemes: Value,
}

impl<S: Clone + Send + Sync + 'static> ApiRouter<S> {
    /// No routes.
    pub fn new() -> Self {
        Self { router: Router::new(), paths: BTreeMap::new(), schemas: BTreeMap::new() }
    }

    /// Adds a route's GET.
    #[must_use]
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("get", path, get(handler), operation)
    }

    /// Adds a route's POST.
    #[must_use]
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("post", path, post(handler), operation)
    }

    /// Adds a route's PUT.
    #[must_use]
    pub fn put<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("put", path, put(handler), operation)
    }

    /// Adds a route's DELETE.
    #[must_use]
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("delete", path, delete(handler), operation)
    }

    /// Takes another's routes in.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        for (path, operations) in other.paths {
            self.paths.entry(path).or_default().extend(operations);
        }
        self.schemas.extend(other.schemas);
        self.router = self.router.merge(other.router);
        self
    }

    /// Changes the routes themselves: gives them their state, a layer or a fallback.
    #[must_use]
    pub fn map<S2>(self, change: impl FnOnce(Router<S>) -> Router<S2>) -> ApiRouter<S2> {
        let Self { router, paths, schemas } = self;
        ApiRouter { router: change(router), paths, schemas }
    }

    /// The routes, and `GET /openapi.json` that tells them and itself.
    pub fn publish(mut self, info: &ApiInfo<'_>) -> Router<S> {
        let schema = json!({"type": "object", "required": ["openapi", "info", "paths"]});
        let operation = Operation::new("getOpenApi", "This document").tag("operation");
        self.describe("get", PATH, operation.answers_as(StatusCode::OK, "OpenAPI 3.1", schema));
        let document = Bytes::from(self.document(info).to_string());
        let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
        self.router.route(PATH, get(answer))
    }

    /// The routes alone, told to nobody.
    pub fn unpublished(self) -> Router<S> {
        self.router
    }

    fn add(mut self, method: &str, path: &str, route: MethodRouter<S>, operation: Operation) -> Self {
        self.describe(method, path, operation);
        self.router = self.router.route(path, route);
        self
    }

    fn describe(&mut self, method: &str, path: &str, operation: Operation) {
        let (operation, schemas) = operation.into_parts();
        self.paths.entry(path.to_owned()).or_default().insert(method.to_owned(), operation);
        self.schemas.extend(schemas);
    }

    fn document(&self, info: &ApiInfo<'_>) -> Value {
        let mut schemas = self.schemas.clone();
        schemas.insert("Problem".to_owned(), problem_schema());
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": info.title,
                "description": info.description,
                "version": env!("CARGO_PKG_VERSION"),
                "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
            },
            "paths": self.paths,
            "components": {"schemas": schemas, "securitySchemes": info.security_schemes},
        })
    }
}

impl<S: Clone + Send + Sync + 'static> Default for ApiRouter<S> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Problem;
    use axum::extract::Path;
    use utoipa::ToSchema;

    /// One user.
    #[derive(serde::Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        user_id: String,
        last_seen: Option<i64>,
    }

    async fn show(Path(user): Path<String>) -> Result<axum::Json<Shown>, Problem> {
        Ok(axum::Json(Shown { user_id: user, last_seen: None }))
    }

    #[test]
    fn what_is_routed_is_described() {
        let operation = Operation::new("getUser", "One user")
            .segment("user", "the user's id")
            .answers::<Shown>(StatusCode::OK, "the user")
            .refuses(&[404, 503]);
        let api = ApiRouter::<()>::new().get("/users/{user}", show, operation);
        let document = api.document(&ApiInfo { title: "t", description: "d", security_schemes: json!({}) });
        let answers = &document["paths"]["/users/{user}"]["get"]["responses"];
        assert_eq!(
            answers["200"]["content"]["application/json"]["schema"]["$ref"],
            "#/components/schemas/Shown"
        );
        assert_eq!(answers["503"]["headers"]["Retry-After"]["required"], true);
        let shown = &document["components"]["schemas"]["Shown"];
        assert_eq!(shown["required"], json!(["userId"]));
        assert_eq!(shown["properties"]["lastSeen"]["type"], json!(["integer", "null"]));
        assert!(document["components"]["schemas"]["Problem"].is_object());
    }
}
