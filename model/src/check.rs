use stateright::{Checker as _, Expectation, HasDiscoveries, Model};
use std::{
    collections::HashMap,
    fmt::{self, Debug},
    hash::{BuildHasher as _, Hash, RandomState},
    time::{Duration, Instant},
};

/// A model all of whose states hold all properties.
#[derive(Debug, Clone, Copy)]
pub struct Explored {
    /// States that differ.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Length of the longest of the shortest ways to a state.
    pub depth: usize,
    /// Time it took.
    pub took: Duration,
}

/// The shortest way to a state that breaks a property.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Name of the property.
    pub property: &'static str,
    /// The steps, in order.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "not so: {}", self.property)?;
        self.trace.iter().enumerate().try_for_each(|(place, step)| writeln!(f, "{:>3}. {step}", place + 1))
    }
}

/// Goes through every state.
///
/// # Errors
/// A shortest way to a violation; always the same one. Without steps: what should be found somewhere is nowhere.
pub fn explore<M>(model: &M) -> Result<Explored, Violation>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let mut explored = explore_to(model.clone(), usize::MAX);
    // The checker goes on for a while after it has found one: it is asked again for shorter ones.
    while let Err(Violation { trace, .. }) = &explored
        && !trace.is_empty()
        && let Err(shorter) = explore_to(model.clone(), trace.len())
        && !shorter.trace.is_empty()
    {
        explored = Err(shorter);
    }
    explored
}

/// Looks at states fewer than so many steps away.
fn explore_to<M>(model: M, steps_max: usize) -> Result<Explored, Violation>
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let started = Instant::now();
    // One thread, breadth first: the same way each time.
    let checker = model.checker().threads(1).target_max_depth(steps_max.saturating_add(1));
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = checker.discoveries();
    let mut violations = Vec::new();
    for property in checker.model().properties() {
        let path = found.remove(property.name);
        let trace = match (property.expectation, path) {
            (Expectation::Sometimes, None) => Vec::new(),
            (Expectation::Sometimes, Some(_)) | (_, None) => continue,
            (_, Some(path)) => path.into_actions().iter().map(|action| format!("{action:?}")).collect(),
        };
        violations.push(Violation { property: property.name, trace });
    }
    // One that has a trace first: the others may only not have been found yet.
    match violations.into_iter().min_by_key(|violation| (violation.trace.is_empty(), violation.trace.len())) {
        Some(violation) => Err(violation),
        None => Ok(Explored {
            states: checker.unique_state_count(),
            steps: checker.state_count(),
            depth: checker.max_depth(),
            took: started.elapsed(),
        }),
    }
}

/// Whether every run comes to an end: no state is reached again from itself.
///
/// What is asked of states in which nothing is left to do is then asked of every run.
///
/// # Errors
/// The way into a circle and once around it.
pub fn ends<M>(model: &M) -> Result<usize, Violation>
where
    M: Model,
    M::State: Hash,
    M::Action: Debug + Clone,
{
    let hasher = RandomState::new();
    let following = |state: &M::State| {
        let mut actions = Vec::new();
        model.actions(state, &mut actions);
        let next = |action: M::Action| Some((action.clone(), model.next_state(state, action)?));
        actions.into_iter().filter_map(next).collect::<Vec<_>>()
    };
    // Whether the way to it is still being walked.
    let mut on_the_way: HashMap<u64, bool> = HashMap::new();
    for first in model.init_states() {
        let mut trace = Vec::new();
        let mut way = vec![(hasher.hash_one(&first), following(&first))];
        on_the_way.insert(way[0].0, true);
        while let Some((state, rest)) = way.last_mut() {
            let Some((action, next)) = rest.pop() else {
                on_the_way.insert(*state, false);
                way.pop();
                trace.pop();
                continue;
            };
            let hash = hasher.hash_one(&next);
            match on_the_way.get(&hash) {
                Some(true) => {
                    trace.push(format!("{action:?}"));
                    return Err(Violation { property: "every run ends", trace });
                }
                Some(false) => {}
                None => {
                    on_the_way.insert(hash, true);
                    trace.push(format!("{action:?}"));
                    way.push((hash, following(&next)));
                }
            }
        }
    }
    Ok(on_the_way.len())
}
