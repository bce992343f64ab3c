//! The stand-in for providers of models, with the real assistants.

mod headless;
mod interactive;
mod trouble;

/// All that a program said.
fn told(output: &std::process::Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}
