//! The canonical user's JSON Schema (`schemas/user.schema.json`) against the documents' own examples.

use serde_json::{Value, json};

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../schemas/user.schema.json")).unwrap()
}

#[test]
fn the_documents_examples_are_canonical_users() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let examples = [
        json!({}),
        json!({
            "email": "user@example.com", "username": "johndoe", "displayName": "John Doe",
            "avatar": "https://example.com/avatar.jpg", "role": "user", "isActive": true
        }),
        json!({
            "kindeUserId": "kinde-user-id", "email": "user@company.com", "name": "User Full Name", "isActive": true,
            "isAdmin": false, "department": "Sales", "title": "Sales Manager",
            "lastActiveAt": "2025-08-19T10:00:00.000Z", "roles": ["user"], "permissions": ["read"],
            "allowedApplications": ["crm"], "subscriptionTier": "premium"
        }),
        json!({
            "firstName": "Max", "lastName": "Mustermann", "phone": "+49 123 456789", "source": "haffnet_website",
            "convexUserId": "convex_user_123", "registrationDate": "2025-11-23T06:29:19Z", "platform": "web",
            "authProvider": "email"
        }),
        json!({"email": null, "imageUrl": "https://img.clerk.com/x", "theme": "dark", "favouriteColour": ["blue"]}),
    ];
    for example in examples {
        assert!(validator.is_valid(&example), "{example}: {:?}", validator.iter_errors(&example).next());
    }
    for wrong in [json!([]), json!({"isActive": "yes"}), json!({"roles": "admin"}), json!({"email": 7})] {
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn every_field_names_the_contract_that_uses_it() {
    let schema = schema();
    for (name, property) in schema["properties"].as_object().unwrap() {
        let description = property["description"].as_str().unwrap_or_default();
        assert!(description.contains("Used by: S"), "{name}");
    }
}
