//! Naming a device in a recipe or on the command line, and saying what is wrong when it is not there.

use tch::{Cuda, Device};

/// A device that was asked for and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is none that Etude knows.
    #[error("device `{0}` is not known: use `auto`, `cpu`, `cuda`, `cuda:N` or `mps`")]
    Unknown(String),
    /// CUDA was named, and libtorch sees none.
    #[error(
        "device `{name}` is not there: {reason}; use `cpu`, or see `etude doctor` for what is missing"
    )]
    Missing {
        /// The name as it was given.
        name: String,
        /// What libtorch reports.
        reason: String,
    },
}

/// Turns `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that is there. `auto` takes the first
/// CUDA device, then the CPU.
///
/// # Errors
/// [`DeviceError`] when the name is unknown or the device is missing.
pub fn parse_device(name: &str) -> Result<Device, DeviceError> {
    let missing = |reason: String| DeviceError::Missing {
        name: name.to_owned(),
        reason,
    };
    match name {
        "auto" => Ok(Device::cuda_if_available()),
        "cpu" => Ok(Device::Cpu),
        "mps" if tch::utils::has_mps() => Ok(Device::Mps),
        "mps" => Err(missing("this libtorch was built without Metal".to_owned())),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
                None => None,
            };
            let index = index.ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
            let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
            if !tch::utils::has_cuda() || count == 0 {
                return Err(missing("libtorch sees no CUDA device".to_owned()));
            }
            if index >= count {
                return Err(missing(format!(
                    "there are {count} CUDA devices, numbered from 0"
                )));
            }
            Ok(Device::Cuda(index))
        }
    }
}

/// `cpu`, `cuda:0` or `mps`: the name that [`parse_device`] takes.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".to_owned(),
        Device::Vulkan => "vulkan".to_owned(),
        Device::Cpu => "cpu".to_owned(),
    }
}

/// Sets the number of threads that a CPU operation may use; 0 leaves libtorch's choice.
pub fn set_threads(threads: usize) {
    if threads > 0 {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }
}

/// The number of threads that a CPU operation uses.
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nonsense_is_refused() {
        assert_eq!(parse_device("cpu").expect("cpu"), Device::Cpu);
        assert_eq!(device_name(Device::Cuda(3)), "cuda:3");
        for bad in ["gpu", "cuda:", "cuda:x", "cudax", ""] {
            assert!(
                matches!(parse_device(bad), Err(DeviceError::Unknown(_))),
                "{bad}"
            );
        }
        if tch::Cuda::device_count() == 0 {
            assert!(matches!(
                parse_device("cuda:0"),
                Err(DeviceError::Missing { .. })
            ));
        }
    }
}
