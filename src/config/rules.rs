//! Rules between keys.
//!
//! Promises that every rule that is broken is named once, with the key that somebody set.

use super::error::{Fault, Origin, Problem};
use super::values::Values;

/// Two keys of which the left must not exceed the right.
const NOT_ABOVE: [(&str, &str); 7] = [
    ("jobs.external_silent_ms", "jobs.external_forgotten_ms"),
    ("lanes.batch_records", "lanes.credit_lane_records"),
    ("lanes.batch_bytes", "lanes.credit_lane_bytes"),
    ("lanes.credit_lane_bytes", "lanes.credit_total_bytes"),
    ("lanes.flood_poison", "lanes.flood_records"),
    ("lanes.retry_initial_ms", "lanes.retry_limit_ms"),
    ("lanes.restart_initial_ms", "lanes.restart_limit_ms"),
];

/// Two keys of which the left must be less than the right: the reserve is a part of the limit, and restarts
/// whose delay exceeds their window would never spend the budget.
const BELOW: [(&str, &str); 2] = [
    ("store.disk_reserve_bytes", "store.disk_limit_bytes"),
    ("lanes.restart_limit_ms", "lanes.restart_window_ms"),
];

/// A key that is set to one of some values, and the keys that must then be set as well.
const DEMANDS: [(&str, &[&str], &[&str]); 3] = [
    ("store.engine", &["postgres"], &["postgres.url"]),
    ("event_log.kind", &["kafka"], &["kafka.bootstrap"]),
    ("kafka.security", &["sasl_plaintext", "sasl_tls"], &["kafka.sasl_user", "kafka.sasl_password"]),
];

/// Keys that are set together or not at all.
const TOGETHER: [(&str, &str); 1] = [("kafka.certificate_file", "kafka.key_file")];

/// Finds the rules between keys that do not hold. A key that has a problem already is left out: its default
/// stands in for it, and nobody chose that.
pub(super) fn broken_rules(values: &Values, known: &[Problem]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_known = |path: &str| known.iter().any(|problem| problem.key == path);
    let rules = NOT_ABOVE
        .iter()
        .map(|pair| (pair, "at most", false))
        .chain(BELOW.iter().map(|pair| (pair, "less than", true)));
    for ((left, right), words, is_strict) in rules {
        if is_known(left) || is_known(right) {
            continue;
        }
        let (low, high) = (values.number(left), values.number(right));
        if low > high || (is_strict && low == high) {
            // The key that somebody set is the one to blame; where both were, the left.
            let blamed = if *values.origin(left) == Origin::Default { right } else { left };
            problems.push(Problem {
                key: (*blamed).to_owned(),
                origin: values.origin(blamed).clone(),
                fault: Fault::Rule(format!(
                    "wanted `{left}` {words} `{right}`, got `{low}` and `{high}` ({})",
                    values.origin(if blamed == left { right } else { left })
                )),
            });
        }
    }
    problems.extend(missing_partners(values).filter(|problem| !is_known(&problem.key)));
    problems
}

/// Finds keys that are empty although another one demands them.
fn missing_partners(values: &Values) -> impl Iterator<Item = Problem> {
    let demanded = DEMANDS
        .into_iter()
        .filter(|(key, demanding, _)| demanding.contains(&values.text(key)))
        .flat_map(|(key, _, partners)| partners.iter().map(move |partner| (key, *partner)));
    let together = TOGETHER
        .into_iter()
        .flat_map(|(left, right)| [(left, right), (right, left)])
        .filter(|(key, _)| !values.text(key).is_empty());
    let missing = demanded.chain(together).filter(|(_, partner)| values.text(partner).is_empty());
    missing.map(|(key, partner)| Problem {
        key: partner.to_owned(),
        origin: values.origin(partner).clone(),
        fault: Fault::Rule(format!(
            "must be set where `{key}` is `{}` ({})",
            values.text(key),
            values.origin(key)
        )),
    })
}
