use postbound_event::Action;
use std::collections::BTreeMap;

/// A target as the configuration describes it, to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Name of the target.
    pub name: String,
    /// Adapter that speaks its contract.
    pub adapter: String,
    /// Actions it wants.
    pub actions: Vec<Action>,
    /// Changes with this origin are not sent back to it.
    pub origin: String,
    /// Whether waiting states may be folded into the newest.
    pub fold: bool,
    /// Hash of its delivery settings.
    pub config_hash: String,
    /// Those settings by name, for people and without secrets. Empty: registered before they were kept.
    pub settings: BTreeMap<String, String>,
    /// Number of partition queues.
    pub partitions: u16,
}

impl Registration {
    /// Whether it asks for notices (`postbound.subscribes`).
    pub fn subscribes(&self) -> bool {
        self.settings.get("notices").is_some_and(|notices| notices.contains('"'))
    }

    /// The tenants it wants (`postbound.target.tenants`), sorted; empty: all. Settings that cannot be read leave none out:
    /// the worker looks again.
    pub fn tenants(&self) -> Vec<String> {
        let told = self.settings.get("tenants").and_then(|told| serde_json::from_str(told).ok());
        let mut tenants: Vec<String> = told.unwrap_or_default();
        tenants.sort_unstable();
        tenants
    }

    /// What is set otherwise here than in what was registered, for people; None: nothing is.
    pub fn difference(&self, registered: &Self) -> Option<String> {
        if self.config_hash == registered.config_hash {
            return None;
        }
        if registered.settings.is_empty() {
            return Some("which settings differ was not kept when it was registered".to_owned());
        }
        let names: std::collections::BTreeSet<_> =
            self.settings.keys().chain(registered.settings.keys()).collect();
        let told =
            |side: &Self, name: &str| side.settings.get(name).map_or("not set", String::as_str).to_owned();
        let differing: Vec<_> = names
            .into_iter()
            .filter(|name| self.settings.get(*name) != registered.settings.get(*name))
            .map(|name| format!("{name} is {} here, {} registered", told(self, name), told(registered, name)))
            .collect();
        Some(match differing.is_empty() {
            true => "url differs in a part that is not shown".to_owned(),
            false => differing.join("; "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(hash: &str, settings: &[(&str, &str)]) -> Registration {
        Registration {
            name: "crm".to_owned(),
            adapter: "crm-batch".to_owned(),
            actions: Vec::new(),
            origin: "crm".to_owned(),
            fold: true,
            config_hash: hash.to_owned(),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            partitions: 16,
        }
    }

    #[test]
    fn the_tenants_of_a_target_are_read_from_its_settings_and_all_where_it_names_none() {
        let check = |settings: &[(&str, &str)], tenants: &[&str]| {
            assert_eq!(registration("a", settings).tenants(), tenants, "{settings:?}");
        };
        check(&[("tenants", r#"["globex", "ac\"me"]"#)], &["ac\"me", "globex"]);
        check(&[("tenants", "[]")], &[]);
        check(&[("tenants", "acme")], &[]);
        check(&[], &[]);
    }

    #[test]
    fn a_difference_names_each_setting_with_both_values_and_none_that_agrees() {
        let registered = registration("a", &[("coalesce", "true"), ("origin", "crm"), ("url", "http://old")]);
        let check = |own: Registration, words: Option<&str>| {
            assert_eq!(own.difference(&registered).as_deref(), words);
        };
        check(registered.clone(), None);
        check(
            registration(
                "b",
                &[("coalesce", "false"), ("origin", "crm"), ("send_versions", "true"), ("url", "http://new")],
            ),
            Some(
                "coalesce is false here, true registered; send_versions is true here, not set registered; \
                 url is http://new here, http://old registered",
            ),
        );
        check(
            Registration { config_hash: "b".to_owned(), ..registered.clone() },
            Some("url differs in a part that is not shown"),
        );
        let unknown = registration("a", &[]);
        let said = registration("b", &[("url", "http://new")]).difference(&unknown);
        assert_eq!(said.as_deref(), Some("which settings differ was not kept when it was registered"));
    }
}
