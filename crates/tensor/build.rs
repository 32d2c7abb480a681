//! Compiles the native module (`native/*.cpp`) against the libtorch that torch-sys found, tells the
//! dependents' build scripts where that is, and lets this crate's own tests find it at run time.
#![allow(clippy::print_stdout)] // how a build script speaks to cargo

use std::path::{Path, PathBuf};

/// The instruction sets that the CPU kernels are compiled for; the best one is chosen at run time.
const X86_LEVELS: [(&str, &str); 2] = [("v3", "-march=x86-64-v3"), ("v4", "-march=x86-64-v4")];

fn main() {
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names the folder it links");
    println!("cargo:libtorch_lib={lib}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");

    compile_kernels();
    compile_shim(Path::new(&lib));
    println!("cargo:rustc-link-lib=gomp");
}

/// The plain C++ loops: no libtorch headers, so that each instruction set costs a second.
fn compile_kernels() {
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let mut levels = vec![("base", None)];
    if x86 {
        levels.extend(X86_LEVELS.map(|(name, flag)| (name, Some(flag))));
    }
    for (name, flag) in levels {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .debug(false)
            .opt_level(3)
            .file("native/kernels.cpp")
            // Vectors wider than the instruction set's are never passed between files.
            .flag_if_supported("-Wno-psabi")
            // NaN and infinity keep their meaning: the training step looks for them.
            .flags(["-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"])
            .define("ETUDE_ISA", name);
        if let Some(flag) = flag {
            build
                .flag(flag)
                .flag_if_supported("-mprefer-vector-width=512");
        }
        build.compile(&format!("etude_kernels_{name}"));
    }
}

/// The functions over `at::Tensor` that Rust calls. Without debug information, which for libtorch's
/// headers would be 80 MB in every program and every test.
fn compile_shim(lib: &Path) {
    let include: PathBuf = lib
        .parent()
        .expect("lib has a parent folder")
        .join("include");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .debug(false)
        .opt_level(2)
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .flag("-fopenmp")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .files([
            "native/optimizer.cpp",
            "native/layers.cpp",
            "native/attention.cpp",
            "native/linear.cpp",
            "native/loss.cpp",
            "native/lora.cpp",
            "native/decode.cpp",
        ]);
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        build.define("ETUDE_X86", None);
    }
    build.compile("etude_native");
}
