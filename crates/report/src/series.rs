//! What happens to a series between the log and the chart: gaps, smoothing, thinning.

/// Points of one curve: (step, value).
pub(crate) type Points = Vec<(f64, f64)>;

/// About how many points of a curve the page keeps.
pub(crate) const KEPT: usize = 1000;

/// Past so many gaps a curve is drawn through them; it would be dust otherwise.
const MOST_GAPS: usize = 100;

/// Splits a series where values are missing.
pub(crate) fn segments(series: impl Iterator<Item = (f64, Option<f64>)>) -> Vec<Points> {
    let mut parts: Vec<Points> = vec![Vec::new()];
    for (step, value) in series {
        match (value, parts.last_mut()) {
            (Some(value), Some(part)) => part.push((step, value)),
            (None, Some(part)) if !part.is_empty() => parts.push(Vec::new()),
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    if parts.len() > MOST_GAPS {
        vec![parts.concat()]
    } else {
        parts
    }
}

/// The half-width that smooths a series of so many points: about a fiftieth of it on each side.
pub(crate) fn smoothing(points: usize) -> usize {
    (points / 50).clamp(1, 200)
}

/// A centred moving average over `half` points on each side. Near the start, which is steep, the
/// window shrinks on both sides; near the end, which is flat and noisy, on the right side alone.
pub(crate) fn smooth(points: &[(f64, f64)], half: usize) -> Points {
    let mut sums = vec![0.0];
    for (_, value) in points {
        sums.push(sums[sums.len() - 1] + value);
    }
    let mean = |index: usize| {
        let reach = half.min(index);
        let (from, to) = (index - reach, (index + reach + 1).min(points.len()));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    points
        .iter()
        .enumerate()
        .map(|(index, (step, _))| (*step, mean(index)))
        .collect()
}

/// Smooths a series across its gaps, which stay gaps.
pub(crate) fn smooth_all(parts: &[Points]) -> Vec<Points> {
    let whole = parts.concat();
    let smoothed = smooth(&whole, smoothing(whole.len()));
    let mut rest = smoothed.as_slice();
    let mut out = Vec::with_capacity(parts.len());
    for part in parts {
        let (own, after) = rest.split_at(part.len());
        out.push(own.to_vec());
        rest = after;
    }
    out
}

/// Thins a curve to about `kept` points. Each bucket of neighbours keeps its least and its greatest
/// value, so no spike is lost; the first and last points always stay.
pub(crate) fn thin(points: &[(f64, f64)], kept: usize) -> Points {
    let buckets = (kept / 2).max(1);
    if points.len() <= kept || points.len() < 4 {
        return points.to_vec();
    }
    let inner = &points[1..points.len() - 1];
    let mut out = vec![points[0]];
    for bucket in 0..buckets {
        let part = &inner[bucket * inner.len() / buckets..(bucket + 1) * inner.len() / buckets];
        let by_value = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1.1.total_cmp(&b.1.1);
        let least = part.iter().enumerate().min_by(by_value);
        let greatest = part.iter().enumerate().max_by(by_value);
        if let (Some((low, _)), Some((high, _))) = (least, greatest) {
            out.push(part[low.min(high)]);
            if low != high {
                out.push(part[low.max(high)]);
            }
        }
    }
    out.push(points[points.len() - 1]);
    out
}

/// Thins every segment, sharing `kept` by their lengths.
pub(crate) fn thin_all(parts: &[Points], kept: usize) -> Vec<Points> {
    let total: usize = parts.iter().map(Vec::len).sum();
    parts
        .iter()
        .map(|part| thin(part, (kept * part.len() / total.max(1)).max(4)))
        .collect()
}

/// The middle value.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which the share `at` of the values lies.
pub(crate) fn quantile(values: impl Iterator<Item = f64>, at: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * at).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_split_and_end_points_survive_smoothing() {
        let series = [
            (1.0, Some(4.0)),
            (2.0, None),
            (3.0, None),
            (4.0, Some(2.0)),
            (5.0, Some(3.0)),
        ];
        assert_eq!(
            segments(series.into_iter()),
            [vec![(1.0, 4.0)], vec![(4.0, 2.0), (5.0, 3.0)]]
        );
        let line: Points = (0..9).map(|i| (f64::from(i), f64::from(i * 2))).collect();
        assert_eq!(smooth(&line, 3)[..6], line[..6]);
        assert_eq!(smooth(&line, 3)[8].1, (10.0 + 12.0 + 14.0 + 16.0) / 4.0);
        assert_eq!(smooth(&[(0.0, 0.0), (1.0, 6.0), (2.0, 0.0)], 1)[1].1, 2.0);
        assert!(smooth(&[], 3).is_empty());
    }

    #[test]
    fn smoothing_reaches_across_gaps_and_keeps_them() {
        let whole: Points = (0..200).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        let parts = [whole[..90].to_vec(), whole[91..].to_vec()];
        let smoothed = smooth_all(&parts);
        assert_eq!([smoothed[0].len(), smoothed[1].len()], [90, 109]);
        assert!((smoothed[1][0].1 - 3.0).abs() < 1.0);
    }

    #[test]
    fn thinning_keeps_spikes_ends_and_order() {
        let mut points: Points = (0..50_000).map(|i| (f64::from(i), 1.0)).collect();
        points[31_234].1 = 99.0;
        points[17].1 = -5.0;
        let thinned = thin(&points, KEPT);
        assert!(thinned.len() <= KEPT + 2, "{}", thinned.len());
        assert!(thinned.contains(&(31_234.0, 99.0)) && thinned.contains(&(17.0, -5.0)));
        assert_eq!(
            (thinned[0], thinned[thinned.len() - 1]),
            (points[0], points[49_999])
        );
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thin(&points[..10], KEPT), points[..10]);
    }

    #[test]
    fn quantiles_of_nothing_are_none() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
    }
}
