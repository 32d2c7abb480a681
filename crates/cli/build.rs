//! Tells `etude doctor` which compiler built it, and lets the binary find libtorch at run time. The
//! second half is what `../tensor/rpath.rs` does for the crates that need no build script of their own.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_ETUDE_TENSOR_LIBTORCH_LIB")
        .expect("this crate depends on etude-tensor directly");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");

    let rustc = std::env::var("RUSTC").expect("Cargo names the compiler");
    let printed = Command::new(&rustc).arg("--version").output();
    let printed = printed.unwrap_or_else(|error| panic!("cannot run {rustc}: {error}"));
    let version = String::from_utf8_lossy(&printed.stdout);
    println!("cargo:rustc-env=ETUDE_RUSTC={}", version.trim());
    let target = std::env::var("TARGET").expect("Cargo names the target");
    println!("cargo:rustc-env=ETUDE_TARGET={target}");
}
