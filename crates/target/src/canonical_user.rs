use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The fields of the canonical user (`schemas/user.schema.json`) that targets want, borrowed from its raw JSON.
///
/// Parsed once per delivery; values go into bodies as they stand. Null counts as absent. What the producer gave is not
/// checked here: a target that minds a wrong type says so itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CanonicalUser<'a> {
    #[serde(borrow)]
    pub(crate) email: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) username: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) display_name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) first_name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) last_name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) avatar: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) role: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) is_active: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) is_admin: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) kinde_user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) department: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) title: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) last_active_at: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) roles: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) permissions: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) allowed_applications: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) subscription_tier: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) phone: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) source: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) platform: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) auth_provider: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) convex_user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) registration_date: Option<&'a RawValue>,
}

impl<'a> CanonicalUser<'a> {
    /// Reads the fields; `None` when the data is no object.
    pub(crate) fn parse(data: &'a RawValue) -> Option<Self> {
        // A derived struct would take an array as well, field by field.
        if !data.get().trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(data.get()).ok()
    }

    /// First and last name, as far as there are any.
    pub(crate) fn full_name(&self) -> Option<Field<'a>> {
        let parts = [self.first_name, self.last_name].map(|part| part.and_then(text));
        match parts {
            [Some(first), Some(last)] => Some(Field::Text(Cow::Owned(format!("{first} {last}")))),
            [Some(only), None] | [None, Some(only)] => Some(Field::Text(only)),
            [None, None] => None,
        }
    }

    /// The picture by its own name, else by Clerk's.
    pub(crate) fn picture(&self) -> Option<Field<'a>> {
        filled(self.avatar).or_else(|| filled(self.image_url))
    }
}

/// A value of a body: as it came in the data, or made here.
#[derive(Debug, Clone)]
pub(crate) enum Field<'a> {
    Raw(&'a RawValue),
    Text(Cow<'a, str>),
    Flag(bool),
}

impl<'a> Field<'a> {
    pub(crate) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Raw(raw) => raw.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
        }
    }
}

/// A value that is not a blank string: blank names and pictures give way to the next candidate.
pub(crate) fn filled(value: Option<&RawValue>) -> Option<Field<'_>> {
    let raw = value?;
    let blank = raw.get().strip_prefix('"').is_some_and(|rest| rest.trim_end_matches('"').trim().is_empty());
    (!blank).then_some(Field::Raw(raw))
}

/// A string's content, unless blank.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text: Cow<'_, str> = match serde_json::from_str::<&str>(raw.get()) {
        Ok(plain) => Cow::Borrowed(plain),
        // A string with escapes cannot be borrowed.
        Err(_) => Cow::Owned(serde_json::from_str(raw.get()).ok()?),
    };
    (!text.trim().is_empty()).then_some(text)
}
