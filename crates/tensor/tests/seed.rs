//! Drawing under a seed while other threads seed. A program of its own: the unit tests draw without the lock,
//! and libtorch's generator belongs to the whole process.

use etude_tensor::{Device, Kind, Tensor, seed_everything, with_seed};

#[test]
fn what_is_made_under_a_seed_is_not_disturbed_by_other_threads() {
    let draw = || {
        let options = (Kind::Float, Device::Cpu);
        let parts: Vec<_> = (0..200).map(|_| Tensor::randn([8], options)).collect();
        Tensor::cat(&parts, 0)
    };
    let alone = with_seed(7, draw);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..2000).for_each(seed_everything));
        for _ in 0..20 {
            assert_eq!(with_seed(7, draw), alone);
        }
    });
}
