//! Compiles the proto files without `protoc`, and finds out what is being built.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from("proto");
    let files: Vec<PathBuf> = std::fs::read_dir(root.join("stratavore/v1"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .bytes(".")
        // It is larger than what comes before it, and comes once.
        .boxed(".stratavore.v1.RunProgress.kind.result")
        .compile_fds(descriptors)?;

    println!("cargo:rerun-if-changed=proto");
    version()?;
    Ok(())
}

/// The version is the manifest's; the commit and the time tell two builds of it apart.
fn version() -> Result<(), Box<dyn Error>> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=STRATAVORE_COMMIT={commit}");
    println!("cargo:rustc-env=STRATAVORE_TARGET={}", std::env::var("TARGET")?);
    // Reproducible builds set this; others get the time of the commit's build.
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => std::fs::metadata(std::env::var("OUT_DIR")?)?
            .modified()?
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs()
            .to_string(),
    };
    println!("cargo:rustc-env=STRATAVORE_BUILD_SECONDS={seconds}");
    // A release names the very commit. A developer's build names the one at which this was last
    // compiled: to follow every commit would compile every crate anew after each of them.
    if std::env::var("PROFILE")? == "release" {
        for path in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", path]) {
                println!("cargo:rerun-if-changed={path}");
            }
        }
    }
    Ok(())
}
