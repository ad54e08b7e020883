//! Compiles the C files of `src` against the headers of the very libjpeg-turbo that turbojpeg-sys builds.

fn main() {
    for file in ["jpeg.c", "huffman.c", "huffman.h"] {
        println!("cargo::rerun-if-changed=src/{file}");
    }
    let mut build = cc::Build::new();
    // turbojpeg-sys hands its include folders (one when vendored) to the crates that depend on it.
    if let Ok(folders) = std::env::var("DEP_TURBOJPEG_INCLUDE") {
        build.includes(folders.split(','));
    }
    build.file("src/jpeg.c").file("src/huffman.c").warnings(true).extra_warnings(true).compile("barlow_jpeg");
}
