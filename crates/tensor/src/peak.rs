//! The machine's own measure of speed: what a large matrix product reaches. Shares of it (model FLOPs
//! utilization, Chowdhery et al. 2022) say how well a training step uses the machine.

use std::time::Instant;

use tch::{Cuda, Device, Kind, Tensor};

/// The best of a few products of square matrices on `device` in `kind`, in floating-point operations a
/// second. Takes about 0.1 s.
pub fn matmul_peak(device: Device, kind: Kind) -> f64 {
    let side: i64 = if device.is_cuda() { 8192 } else { 1024 };
    let a = Tensor::ones([side, side], (kind, device));
    let b = Tensor::ones([side, side], (kind, device));
    let synchronize = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64); // sync
        }
    };
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        synchronize();
        let start = Instant::now();
        let _product = a.matmul(&b);
        synchronize();
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (side as f64).powi(3) / best
}

/// The best of a few sums over half a gigabyte on `device`, in bytes read a second: the bound of work that
/// touches each number once, such as making one token. Takes about 0.3 s.
pub fn read_bandwidth(device: Device) -> f64 {
    let numbers: i64 = 1 << 27;
    let values = Tensor::ones([numbers], (Kind::Float, device));
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        let _ = values.sum(Kind::Float).double_value(&[]); // sync
        best = best.min(start.elapsed().as_secs_f64());
    }
    4.0 * numbers as f64 / best
}
