//! The stand-in for the providers of models as a program, to try an assistant by hand.
//!
//! ```text
//! model-stand-in [DIRECTORY]
//! ```
//!
//! It writes its URL to its output, answers what prompts ask for (`[[shell:echo hello]]`) until its
//! input ends, and then writes its bill. In DIRECTORY it keeps each request as it came.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::json;
use stratavore_testkit::model::StandIn;

/// How often requests that have come are written down.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let model = StandIn::start();
    let mut output = io::stdout();
    writeln!(output, "{}", model.url())?;
    let (over, ended) = channel();
    thread::spawn(move || {
        // Whatever is typed means nothing; only the end does.
        io::stdin().read_to_end(&mut Vec::new()).ok();
        over.send(())
    });
    let mut written = 0;
    let mut told = 0;
    loop {
        let ended = !matches!(ended.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout));
        let all = model.asked();
        for asked in &all[written..] {
            writeln!(
                output,
                "{} {:?} {:?} {}",
                asked.number, asked.protocol, asked.purpose, asked.model
            )?;
            if let Some(directory) = &directory {
                let text = json!({
                    "path": asked.path, "headers": asked.headers, "body": asked.body,
                });
                fs::write(directory.join(format!("{:06}.json", asked.number)), text.to_string())?;
            }
        }
        written = all.len();
        let others = model.others();
        for other in &others[told..] {
            writeln!(output, "- {} {} {}", other.method, other.path, other.status)?;
        }
        told = others.len();
        if ended {
            break;
        }
    }
    for fault in model.faults() {
        writeln!(output, "fault: {fault}")?;
    }
    write!(output, "{}", model.bill())
}
