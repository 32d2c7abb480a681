//! Whether there is memory for what training keeps beside the weights. Where there is not, the system would end the
//! process without a word.

use anyhow::Result;
use etude_data::DataError;
use etude_model::Decoder;
use etude_tensor::{Device, memory};

use crate::settings::{OptimizerKind, OptimizerSettings};

/// Refuses to train on the processor where gradients and the optimizer's state alone take more than is left.
///
/// # Errors
/// What they take, what is free, and what to do.
pub(crate) fn require(decoder: &Decoder, settings: &OptimizerSettings) -> Result<()> {
    let free = memory::available().map(|free| free + memory::swap().unwrap_or(0));
    match (decoder.device(), free) {
        (Device::Cpu, Some(free)) => must_fit(kept(decoder, settings), free),
        _ => Ok(()),
    }
}

/// The least that is kept, in bytes: a gradient, and what the optimizer keeps of each number, both in float32.
fn kept(decoder: &Decoder, settings: &OptimizerSettings) -> u64 {
    let moments = match settings.kind {
        OptimizerKind::Adamw => 2,
        OptimizerKind::Muon => 1, // of matrices; the others have two
    };
    let numbers: usize = decoder.trainable().map(|param| param.tensor.numel()).sum();
    4 * numbers as u64 * (1 + moments)
}

fn must_fit(kept: u64, free: u64) -> Result<()> {
    if kept <= free {
        return Ok(());
    }
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    Err(DataError::input(
        format!(
            "gradients and the optimizer's state take {:.2} GB beside the weights, and {:.2} GB of memory are free",
            gigabytes(kept),
            gigabytes(free)
        ),
        "end other programs, train a smaller model, or, of a published one, an adapter (base.method = \"lora\")",
    )
    .into())
}

#[cfg(test)]
mod tests {
    use etude_tensor::Kind;

    use super::*;
    use crate::forecast::ModelBytes;
    use crate::{ModelSettings, Optimizer};

    #[test]
    fn what_cannot_fit_is_refused_with_figures() {
        assert!(must_fit(5, 5).is_ok());
        let error = must_fit(2_150_000_000, 960_000_000).expect_err("is refused");
        let told = error.to_string();
        assert!(
            told.contains("take 2.15 GB beside the weights, and 0.96 GB of memory are free")
                && told.contains("base.method"),
            "{told}"
        );
    }

    #[test]
    fn it_is_counted_as_the_optimizer_keeps_it() {
        let config = ModelSettings::default().config(300).expect("possible");
        let decoder = Decoder::new(config, Kind::Float, Device::Cpu).expect("possible");
        let settings = OptimizerSettings::default();
        let bytes = ModelBytes::of(&decoder, &Optimizer::new(&decoder, &settings));
        let (kept, beside) = (kept(&decoder, &settings), bytes.gradients + bytes.optimizer);
        assert!(kept <= beside && beside < kept + 64, "{kept} {beside}");
    }
}
