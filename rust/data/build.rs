//! Compiles `src/jpeg.c` against the headers of the very libjpeg-turbo that turbojpeg-sys builds.

fn main() {
    println!("cargo::rerun-if-changed=src/jpeg.c");
    let mut build = cc::Build::new();
    // turbojpeg-sys hands its include folders (one when vendored) to the crates that depend on it.
    if let Ok(folders) = std::env::var("DEP_TURBOJPEG_INCLUDE") {
        build.includes(folders.split(','));
    }
    build.file("src/jpeg.c").warnings(true).extra_warnings(true).compile("barlow_jpeg");
}
