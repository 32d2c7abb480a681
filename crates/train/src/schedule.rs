//! Learning-rate schedules: pure functions of the step.

use std::f64::consts::PI;

use crate::settings::{ScheduleKind, ScheduleSettings};

/// What every peak learning rate is multiplied with at `step` (counted from 0) of `steps`.
pub fn learning_rate_scale(step: u64, steps: u64, settings: &ScheduleSettings) -> f64 {
    let warmup = settings.warmup_steps;
    let warm = match step < warmup {
        true => (step + 1) as f64 / (warmup + 1) as f64,
        false => 1.0,
    };
    let floor = settings.final_scale;
    let down = |progress: f64| floor + (1.0 - floor) * progress;
    match settings.kind {
        ScheduleKind::Constant => warm,
        ScheduleKind::Cosine if step < warmup => warm,
        ScheduleKind::Cosine => {
            let progress = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
            down(0.5 * (1.0 + (PI * progress.min(1.0)).cos()))
        }
        ScheduleKind::Wsd => {
            let decay = settings.decay * steps as f64;
            let left = steps.saturating_sub(step) as f64;
            // The last step still moves: its rate is one part of the decay above the floor. A warm-up that reaches
            // into the decay gives way to it.
            if left >= decay {
                warm
            } else {
                warm.min(down(left / decay))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(kind: ScheduleKind, warmup_steps: u64, final_scale: f64) -> Vec<f64> {
        let settings = ScheduleSettings {
            kind,
            warmup_steps,
            decay: 0.5,
            final_scale,
        };
        (0..8)
            .map(|step| (learning_rate_scale(step, 8, &settings) * 1000.0).round() / 1000.0)
            .collect()
    }

    #[test]
    fn shapes_are_as_tabulated() {
        assert_eq!(
            table(ScheduleKind::Constant, 3, 0.0),
            [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
        assert_eq!(
            table(ScheduleKind::Wsd, 0, 0.0),
            [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        );
        assert_eq!(
            table(ScheduleKind::Wsd, 1, 0.2),
            [0.5, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4]
        );
        // The warm-up reaches into the decay.
        assert_eq!(
            table(ScheduleKind::Wsd, 6, 0.0),
            [0.143, 0.286, 0.429, 0.571, 0.714, 0.75, 0.5, 0.25]
        );
        assert_eq!(
            table(ScheduleKind::Cosine, 0, 0.0),
            [1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]
        );
        assert_eq!(
            table(ScheduleKind::Cosine, 4, 0.1),
            [0.2, 0.4, 0.6, 0.8, 1.0, 0.868, 0.55, 0.232]
        );
    }
}
