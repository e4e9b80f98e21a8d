//! Medians, and the lines that are printed. Pure.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

/// A figure beside what it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// Its stable name.
    pub(super) figure: Cow<'static, str>,
    /// The measured value: of several rounds, the median.
    pub(super) value: f64,
    /// Its unit.
    pub(super) unit: &'static str,
    /// What it is compared with.
    pub(super) limit: &'static str,
    /// The value of that, in the same unit: of several rounds, the median.
    pub(super) limit_value: f64,
    /// The value by the limit's: of several rounds, the median of the rounds' ratios.
    pub(super) ratio: f64,
    /// From the lowest to the highest ratio of the rounds, as a part of the median.
    pub(super) spread: f64,
}

impl Figure {
    /// Compares rounds with the limits of the same rounds.
    pub(super) fn of_rounds(
        figure: impl Into<Cow<'static, str>>,
        unit: &'static str,
        limit: &'static str,
        rounds: &[(f64, f64)],
    ) -> Self {
        let ratios: Vec<f64> = rounds.iter().map(|(value, limit)| ratio(*value, *limit)).collect();
        let middle = median(&ratios);
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self {
            figure: figure.into(),
            value: median(&rounds.iter().map(|(value, _)| *value).collect::<Vec<_>>()),
            unit,
            limit,
            limit_value: median(&rounds.iter().map(|(_, limit)| *limit).collect::<Vec<_>>()),
            ratio: middle,
            spread: ratio(highest - lowest, middle),
        }
    }

    /// Shows a time as a part of another.
    pub(super) fn share(
        figure: impl Into<Cow<'static, str>>,
        spent: Duration,
        limit: &'static str,
        whole: Duration,
    ) -> Self {
        Self::single(figure, "s", spent.as_secs_f64(), limit, whole.as_secs_f64())
    }

    /// Compares a value that was measured once with another.
    pub(super) fn single(
        figure: impl Into<Cow<'static, str>>,
        unit: &'static str,
        value: f64,
        limit: &'static str,
        limit_value: f64,
    ) -> Self {
        let ratio = ratio(value, limit_value);
        Self { figure: figure.into(), value, unit, limit, limit_value, ratio, spread: 0.0 }
    }

    /// Gives the object of `--json`.
    pub(super) fn json(&self) -> Value {
        json!({
            "figure": self.figure,
            "value": rounded(self.value),
            "unit": self.unit,
            "limit": self.limit,
            "limit_value": rounded(self.limit_value),
            "ratio": rounded(self.ratio),
            "spread": rounded(self.spread),
        })
    }

    /// Gives the line for people.
    pub(super) fn line(&self) -> String {
        let Self { figure, value, unit, limit, limit_value, ratio, .. } = self;
        let decimals = if *value < 1_000.0 { 3 } else { 0 };
        format!(
            "{figure:<32} {value:>12.decimals$} {unit:<12} {ratio:>6.3} of {limit} ({limit_value:.decimals$})"
        )
    }
}

/// Gives the middle value, of an even number the mean of the two middle ones; nothing has the middle zero.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    if sorted.len().is_multiple_of(2) && middle > 0 {
        (at(middle - 1) + at(middle)) / 2.0
    } else {
        at(middle)
    }
}

/// Gives how many there were in a second.
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    ratio(count as f64, time.as_secs_f64())
}

fn ratio(value: f64, limit: f64) -> f64 {
    if limit == 0.0 { 0.0 } else { value / limit }
}

/// Six decimals: more than any of this is good for.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_any_count_is_the_middle() {
        let table = [
            (vec![], 0.0),
            (vec![3.0], 3.0),
            (vec![3.0, 1.0], 2.0),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![9.0, 1.0, 2.0, 4.0], 3.0),
        ];

        for (values, wanted) in table {
            assert_eq!(median(&values), wanted, "{values:?}");
        }
    }

    #[test]
    fn figure_of_rounds_takes_the_median_of_ratios() {
        let figure =
            Figure::of_rounds("one", "records/s", "bare", &[(50.0, 100.0), (60.0, 200.0), (80.0, 100.0)]);

        assert_eq!((figure.value, figure.limit_value, figure.ratio), (60.0, 100.0, 0.5));
        assert!((figure.spread - 1.0).abs() < 1e-9, "{figure:?}");
    }

    #[test]
    fn figure_json_has_the_documented_fields() {
        let figure = Figure::share("part", Duration::from_millis(500), "wall", Duration::from_secs(2));

        assert_eq!(
            figure.json(),
            json!({"figure": "part", "value": 0.5, "unit": "s", "limit": "wall", "limit_value": 2.0, "ratio": 0.25, "spread": 0.0})
        );
    }
}
