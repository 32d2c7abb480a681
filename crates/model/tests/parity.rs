//! The decoder against Transformers: logits, loss, gradients of every parameter and greedy continuations
//! on tiny random models (tests/goldens, made by scripts/goldens/model.py).
//!
//! `ETUDE_TEST_DEVICE=cuda` runs all that computes on that device (scripts/gpu_check.sh does).

use std::path::{Path, PathBuf};

use etude_model::hf::{self, LoadedModel};
use etude_model::{Decoder, Input, KvCache, supervised_places};
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Tensor, no_grad, parse_device};

const FAMILIES: [&str; 14] = [
    "gpt2",
    "gpt2_bare",
    "llama",
    "llama_bias_scaled",
    "llama_f16",
    "llama_linear",
    "llama_sharded",
    "llama_tied",
    "mistral",
    "nanochat",
    "olmo2",
    "qwen2",
    "qwen2_bf16",
    "qwen3",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

/// A golden's tensors, on the device of the model that it is compared with.
struct Golden {
    file: SafetensorsFile,
    device: Device,
}

impl Golden {
    fn find(&self, name: &str) -> Option<Tensor> {
        self.file
            .tensor(name)
            .ok()
            .map(|tensor| tensor.to_device(self.device))
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.find(name)
            .unwrap_or_else(|| panic!("the golden holds {name}"))
    }
}

/// Where the comparisons run: the CPU, or what ETUDE_TEST_DEVICE names.
fn device() -> Device {
    let name = std::env::var("ETUDE_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    parse_device(&name).expect("ETUDE_TEST_DEVICE names a device that is there")
}

/// How far float32 may be off: the goldens were made on a CPU, and another device adds up in another order.
fn tolerance() -> f64 {
    if device() == Device::Cpu { 1e-4 } else { 1e-3 }
}

fn open_on(name: &str, kind: Kind, device: Device) -> (LoadedModel, Golden) {
    let model = hf::load(&folder(name), kind, device).expect("the golden folder loads");
    let file =
        SafetensorsFile::open(&folder(name).join("golden.safetensors")).expect("the golden opens");
    (model, Golden { file, device })
}

fn open(name: &str, kind: Kind) -> (LoadedModel, Golden) {
    open_on(name, kind, device())
}

fn largest(tensor: Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

fn loss(decoder: &Decoder, golden: &Golden) -> Tensor {
    let ids = golden.tensor("input_ids");
    let targets = golden.tensor("targets");
    let flat: Vec<i64> = Vec::try_from(targets.reshape([-1])).expect("int64");
    let places = supervised_places(&flat);
    assert!(places.len() < flat.len(), "the golden masks some targets");
    decoder.loss_sum(Input::plain(&ids), &targets, &places) / places.len() as f64
}

#[test]
fn logits_equal_transformers() {
    for name in FAMILIES {
        let (model, golden) = open(name, Kind::Float);
        let ids = golden.tensor("input_ids");
        let logits = no_grad(|| {
            model
                .decoder
                .logits(&model.decoder.hidden(Input::plain(&ids), None))
        });
        let difference = largest(logits - golden.tensor("logits"));
        assert!(
            difference < tolerance(),
            "{name}: logits differ by {difference}"
        );
    }
}

#[test]
fn loss_and_every_gradient_equal_transformers() {
    for name in FAMILIES {
        let (model, golden) = open(name, Kind::Float);
        let value = loss(&model.decoder, &golden);
        let expected = golden.tensor("loss").double_value(&[]);
        let off = (value.double_value(&[]) - expected).abs();
        assert!(
            off < tolerance() / 10.0,
            "{name}: loss {value:?}, not {expected}"
        );
        value.backward();
        let shapes = golden.file.shapes().expect("shapes");
        let gradients = shapes
            .iter()
            .filter(|(tensor, _)| tensor.starts_with("grad."))
            .count();
        let mut compared = 0;
        for param in model.decoder.params().entries() {
            for ours in hf::hf_tensors(model.decoder.config(), param, &param.tensor.grad()) {
                let Some(theirs) = golden.find(&format!("grad.{}", ours.name)) else {
                    continue;
                };
                let relative = largest(&ours.tensor - &theirs) / largest(theirs).max(1e-6);
                assert!(
                    relative < tolerance(),
                    "{name}: gradient of {} differs by {relative}",
                    ours.name
                );
                compared += 1;
            }
        }
        assert_eq!(
            compared, gradients,
            "{name}: every gradient of the golden has a counterpart"
        );
    }
}

#[test]
fn float64_agrees_to_the_last_digits() {
    let (model, golden) = open("gpt2", Kind::Double);
    let ids = golden.tensor("input_ids");
    let logits = no_grad(|| {
        model
            .decoder
            .logits(&model.decoder.hidden(Input::plain(&ids), None))
    });
    assert!(largest(logits - golden.tensor("logits_f64")) < 1e-10);
    let expected = golden.tensor("loss_f64").double_value(&[]);
    assert!((loss(&model.decoder, &golden).double_value(&[]) - expected).abs() < 1e-11);
}

#[test]
fn greedy_continuations_with_a_cache_equal_transformers() {
    for name in FAMILIES {
        let (model, golden) = open(name, Kind::Float);
        let decoder = &model.decoder;
        let expected: Vec<i64> = Vec::try_from(golden.tensor("greedy")).expect("int64");
        let mut next = golden.tensor("prompt").unsqueeze(0);
        let mut cache = KvCache::new(decoder.config(), 1, 32, Kind::Float, device());
        let mut made = Vec::new();
        no_grad(|| {
            while made.len() < expected.len() {
                let hidden = decoder.hidden(Input::plain(&next), Some(&mut cache));
                let t = hidden.size()[1];
                next = decoder
                    .logits(&hidden.narrow(1, t - 1, 1))
                    .argmax(-1, false);
                made.push(next.int64_value(&[0, 0]));
            }
        });
        assert_eq!(made, expected, "{name}");
    }
}

#[test]
fn the_newest_position_alone_is_the_last_of_all() {
    for name in FAMILIES {
        let (model, golden) = open(name, Kind::Double);
        let decoder = &model.decoder;
        let room = |rows| KvCache::new(decoder.config(), rows, 64, Kind::Double, device());
        let ids = golden.tensor("input_ids");
        let [rows, t] = ids.size()[..] else {
            panic!("(B, T)")
        };
        let padding = Tensor::from_slice(&vec![2i64; rows as usize]).to_device(device());
        for padding in [None, Some(padding)] {
            let cache = || match &padding {
                Some(padding) => room(rows).with_left_padding(padding.shallow_clone()),
                None => room(rows),
            };
            let (mut one, mut all) = (cache(), cache());
            // A prompt, then two more positions at once.
            for (first, length) in [(0, t - 2), (t - 2, 2)] {
                let here = ids.narrow(1, first, length);
                let (newest, whole) = no_grad(|| {
                    let newest = decoder.newest_hidden(Input::plain(&here), &mut one);
                    let whole = decoder.hidden(Input::plain(&here), Some(&mut all));
                    (newest, whole.select(1, length - 1))
                });
                assert!(largest(newest - whole) < 1e-12, "{name}");
            }
        }
    }
}

#[test]
fn folders_come_back_bit_for_bit_whole_and_in_shards() {
    for name in FAMILIES {
        let (model, _) = open_on(name, Kind::Float, Device::Cpu);
        for max_bytes in [hf::MAX_SHARD_BYTES, 10_000] {
            let target = tempfile::tempdir().expect("a folder");
            let files = hf::save_sharded(&model.decoder, &model.ids, target.path(), max_bytes)
                .expect("saves");
            assert_eq!(
                files.len() > 3,
                max_bytes < hf::MAX_SHARD_BYTES,
                "{name}: {files:?}"
            );
            let again = hf::load(target.path(), Kind::Float, Device::Cpu).expect("loads");
            assert_eq!(again.decoder.config(), model.decoder.config(), "{name}");
            assert_eq!(again.ids, model.ids, "{name}");
            for (a, b) in again
                .decoder
                .params()
                .iter()
                .zip(model.decoder.params().iter())
            {
                assert_eq!(a.0, b.0);
                assert!(a.1.equal(b.1), "{name}: {}", a.0);
            }
        }
    }
}

#[test]
fn documents_in_one_row_are_as_if_alone() {
    for name in FAMILIES {
        let (model, golden) = open(name, Kind::Double);
        let ids = golden.tensor("input_ids").narrow(0, 0, 1);
        let options = (Kind::Int64, device());
        let (first, second) = (6, 11);
        let positions = Tensor::cat(
            &[
                Tensor::arange(first, options),
                Tensor::arange(second, options),
            ],
            0,
        )
        .unsqueeze(0);
        let documents = Tensor::cat(
            &[
                Tensor::zeros([first], options),
                Tensor::ones([second], options),
            ],
            0,
        )
        .unsqueeze(0);
        let decoder = &model.decoder;
        let packed = Input {
            ids: &ids,
            positions: Some(&positions),
            documents: Some(&documents),
            lengths: None,
            places: None,
        };
        let alone = ids.narrow(1, first, second);
        for lengths in [None, Some(&[first, second][..])] {
            let packed = Input { lengths, ..packed };
            let difference = no_grad(|| {
                let packed = decoder.hidden(packed, None).narrow(1, first, second);
                largest(packed - decoder.hidden(Input::plain(&alone), None))
            });
            assert!(difference < 1e-9, "{name}: {difference}");
        }
    }
}

#[test]
fn some_places_alone_are_those_of_all() {
    for name in FAMILIES {
        let (model, golden) = open(name, Kind::Double);
        let decoder = &model.decoder;
        let ids = golden.tensor("input_ids");
        let last = ids.numel() as i64 - 1;
        let index = Tensor::from_slice(&[0, 3, 4, last]).to_device(device());
        let (some, all) = no_grad(|| {
            let input = Input::plain(&ids);
            (
                decoder.hidden_at(input, &index),
                decoder.hidden(input, None),
            )
        });
        assert_eq!(some.size(), [4, decoder.config().n_embd]);
        let expected = all.flatten(0, 1).index_select(0, &index);
        assert!(largest(some - expected) < 1e-12, "{name}");
    }
}

#[test]
fn a_model_in_bf16_that_is_asked_answers_as_in_float32_to_the_last_bit() {
    for name in FAMILIES {
        let (model, golden) = open_on(name, Kind::BFloat16, Device::Cpu);
        let folder = tempfile::tempdir().expect("a folder");
        hf::save(&model.decoder, &model.ids, folder.path()).expect("saves");
        let wide = hf::load(folder.path(), Kind::Float, Device::Cpu).expect("loads");
        let kept = hf::load_to_ask(folder.path(), Device::Cpu).expect("loads");
        assert!(kept.decoder.params().tensors().all(|tensor| {
            let narrow = if tensor.dim() == 2 {
                Kind::BFloat16
            } else {
                Kind::Float
            };
            tensor.kind() == narrow
        }));
        let ids = golden.tensor("input_ids").to_device(Device::Cpu);
        let logits = |decoder: &Decoder, ids: &Tensor| {
            no_grad(|| decoder.logits(&decoder.hidden(Input::plain(ids), None)))
        };
        // All at once, in many rows; and a few, as when text is made.
        for ids in [&ids, &ids.narrow(0, 0, 1).narrow(1, 0, 3)] {
            let (wide, kept) = (logits(&wide.decoder, ids), logits(&kept.decoder, ids));
            assert_eq!(kept.kind(), Kind::Float);
            assert!(wide.equal(&kept), "{name}: {}", largest(&wide - &kept));
        }
        assert!(ids.numel() > 32, "the golden has many rows");
    }
}
