//! Where an axis has its ticks: round numbers, linear or logarithmic.

/// Round values within `low..=high`, about `wanted` of them, and the gap between them.
pub(crate) fn linear(low: f64, high: f64, wanted: usize) -> (Vec<f64>, f64) {
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let gap = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|gap| *gap >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (low / gap - 1e-9).ceil() as i64;
    let last = (high / gap + 1e-9).floor() as i64;
    (
        (first..=last).map(|index| index as f64 * gap).collect(),
        gap,
    )
}

/// Ticks for whole numbers such as steps: never a fraction.
pub(crate) fn whole(low: f64, high: f64, wanted: usize) -> (Vec<f64>, f64) {
    let (ticks, gap) = linear(low, high, wanted);
    if gap >= 1.0 && gap.fract() == 0.0 {
        (ticks, gap)
    } else {
        linear(
            low,
            high.max(low + 1.0),
            1.max((high - low) as usize).min(wanted),
        )
    }
}

/// Powers of ten within `low..=high` (both positive), with 2 and 5 between them where there is room.
pub(crate) fn logarithmic(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    for factors in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0][..], &[1.0][..]] {
        let ticks: Vec<f64> = decades
            .clone()
            .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
            .filter(|tick| *tick >= low * 0.999 && *tick <= high * 1.001)
            .collect();
        if ticks.len() <= wanted.max(2) {
            return ticks;
        }
    }
    let every = (*decades.end() - *decades.start()) / wanted.max(1) as i32 + 1;
    decades
        .step_by(every.max(1) as usize)
        .map(|power| 10f64.powi(power))
        .filter(|tick| *tick >= low && *tick <= high)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round_and_inside() {
        assert_eq!(linear(1.9, 8.6, 5), (vec![2.0, 4.0, 6.0, 8.0], 2.0));
        assert_eq!(linear(0.0, 1000.0, 4).0, [0.0, 250.0, 500.0, 750.0, 1000.0]);
        assert_eq!(linear(-1.0, 1.0, 4).0, [-1.0, -0.5, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn steps_are_never_fractions() {
        for high in [1.0, 2.0, 3.0, 7.0, 11.0] {
            let (ticks, _) = whole(0.0, high, 6);
            assert!(
                ticks.iter().all(|tick| tick.fract() == 0.0),
                "{high}: {ticks:?}"
            );
            assert!(ticks.len() >= 2);
        }
    }

    #[test]
    fn logarithmic_ticks_thin_out() {
        assert_eq!(logarithmic(0.15, 4.0, 6), [0.2, 0.5, 1.0, 2.0]);
        assert_eq!(
            logarithmic(0.001, 100.0, 6),
            [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
        );
        assert!(logarithmic(1e-12, 1e12, 5).len() <= 6);
    }
}
