//! T-FUZZ for the configuration: whatever stands in a file, it is read or refused in one line.

use std::os::unix::fs::PermissionsExt;

use stratavore_config::{Config, Environment, Sources};
use stratavore_testkit::fuzz::{Corpus, bears, fuzz, peak_memory};
use stratavore_testkit::trial::{Trial, scale};

/// The most memory that this whole test program may ever have.
const MEMORY_MAX: u64 = 512 << 20;

fn corpus() -> Corpus {
    let deep =
        |open: &str, close: &str| format!("store: {}{}", open.repeat(2000), close.repeat(2000));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let below = format!("*a{}", n - 1);
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", [below.as_str(); 9].join(", ")));
    }
    bomb.push_str("store: *a11\n");
    Corpus::new([
        "store:\n  url: sqlite\ndaemon:\n  log: json\nrunner:\n  launch_timeout: 20s\n  grace: 1s\n".to_owned(),
        "agent:\n  binary: /x\n  heartbeat: 5s\n  output_max: 64MiB\nattach:\n  detach_key: ctrl-]\n".into(),
        "assistants:\n  claude:\n    env_pass: [A, B]\n    command: claude\n".into(),
        deep("[", "]"),
        deep("{a: ", "}"),
        bomb,
        "<<: *nothing\n? [complex, key]\n: value\n--- \n...\n---\n!!binary aGVsbG8=\n".into(),
        "store: &self\n  again: *self\n".into(),
        "runner:\n  grace: 99999999999999999999999h\n  launch_timeout: -1s\n".into(),
        "runner:\n  grace: .nan\n  grace: 1e309\n".into(),
        "\u{feff}store:\t\"\\u0000\\x1b[2J\u{202e}\"\n# \u{85}\u{2028}".into(),
        "store: |+9\n      text\n  >-\n".into(),
        String::new(),
    ])
}

#[test]
fn t_fuzz_no_file_breaks_the_reading_of_the_configuration() {
    let mut trial = Trial::new(
        "T-FUZZ configuration",
        "whatever a file holds, it is read or refused in one line",
    );
    let mut dice = trial.dice();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("stratavore.yaml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let environment = Environment::new();
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).map_err(|error| error.to_string())?;
        let file = Some(path.clone());
        let sources =
            Sources { files: Vec::new(), file, environment: &environment, flags: Vec::new() };
        match Config::load(&sources) {
            Ok(loaded) => drop(loaded.rows()),
            Err(error) => {
                let said = error.to_string();
                if said.chars().any(char::is_control) || said.len() > 10_000 {
                    return Err(format!("{} bytes are said: {}", said.len(), said.escape_debug()));
                }
            }
        }
        Ok(())
    };
    fuzz(&mut trial, &mut dice, scale(100, 20_000), &corpus(), load);
    let peak = peak_memory();
    trial.most("peak of memory, bytes", peak);
    trial.tried(if peak <= MEMORY_MAX { Ok(()) } else { Err(format!("{peak} bytes")) });
    let believed = bears(b"\x1b[2J", |bytes| {
        match String::from_utf8_lossy(bytes).chars().any(char::is_control) {
            true => Err("said as it is".into()),
            false => Ok(()),
        }
    });
    trial.control("a refusal that repeats what it read as it is", believed.is_err());
    trial.end();
}
