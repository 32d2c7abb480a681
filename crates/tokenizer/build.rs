//! Lets the tests of the feature `tensor` find libtorch at run time, as `../tensor/rpath.rs` does for
//! crates that always depend on it. Without the feature there is nothing to do.
#![allow(clippy::print_stdout)] // how a build script speaks to cargo

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(lib) = std::env::var("DEP_ETUDE_TENSOR_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
