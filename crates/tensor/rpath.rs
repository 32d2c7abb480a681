//! The build script of every crate whose programs or tests load libtorch: it puts the folder that
//! libtorch was found in into their run-time search path. Cargo does not hand a dependency's link
//! arguments on to a binary, so each such crate names this file as its `build`.
#![allow(clippy::print_stdout)] // how a build script speaks to cargo

fn main() {
    println!("cargo:rerun-if-changed=../tensor/rpath.rs");
    let lib = std::env::var("DEP_ETUDE_TENSOR_LIBTORCH_LIB")
        .expect("a crate that uses this build script depends on etude-tensor directly");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
