//! Verifying an export of the record, beside hashing the same bytes.

use std::time::Instant;

use anyhow::ensure;
use sha2::{Digest, Sha256};
use stratavore_audit::{
    Chain, Checkpoint, Checks, Content, Line, PrivateKey, Record, Verifier, line, record_line,
};

use crate::Lab;
use crate::report::{Row, Target};
use crate::sample::in_turns;

/// Records, and how many lie between two checkpoints.
const RECORDS: u64 = 200_000;
const BETWEEN: u64 = 1000;
const ORIGIN: &str = "stratavore/bench";

/// An export of as many launches, as a daemon writes it.
fn export(key: &PrivateKey) -> Vec<u8> {
    let mut chain = Chain::new(ORIGIN);
    let mut head = line(&Line::StratavoreRecord { origin: ORIGIN.into() });
    let mut lines = Vec::new();
    let mac = format!("26ec3eab.20778:{}", "ab".repeat(32));
    for position in 1..=RECORDS {
        let data = format!(
            "{{\"assistant\":\"generic\",\"epoch\":1,\"name\":\"sleep-{position}\",\
             \"session\":\"ses_7k3m9x0000000000000a\",\"state\":\"pending\",\"successor_of\":null}}"
        );
        let content = Content {
            id: &format!("evt_{position:020}"),
            entity: "runner",
            entity_id: "run_7k3m9x0000000000000a",
            name: "sleep",
            project: Some("prj_00000000000000000000"),
            seq: 1,
            kind: "runner.accepted",
            at_us: 1_767_225_600_000_000 + position as i64,
            by: "ann",
            origin: Some(
                "{\"door\":\"unix\",\"auth\":\"peer\",\"uid\":1000,\"pid\":1849,\
                 \"request\":\"req_fkat59fx4kx35g28m4z9\",\"key\":\"0b729f03b92586ae60a8fda03544414a\",\
                 \"daemon\":\"dmn_px5wzhfjjby0fwe79pjw\"}",
            ),
            decision: Some("allowed"),
            reason: None,
            data: &data,
        };
        let content = content.canonical();
        let hash = chain.append(&content, mac.as_bytes());
        let record = Record { position, hash, mac: mac.as_bytes(), content: &content };
        record_line(&mut lines, &record);
        if position % BETWEEN == 0 {
            let (origin, size, root) = (ORIGIN.into(), chain.size(), chain.root());
            let signed = Checkpoint { origin, size, root }.signed(key);
            head.push_str(&line(&Line::Checkpoint(signed)));
        }
    }
    [head.into_bytes(), lines].concat()
}

pub(crate) fn verify(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let key = PrivateKey::new(ORIGIN, [1; 32]).expect("the name can stand in a note");
    let export = export(&key);
    let checks = Checks { keys: vec![key.public().clone()], ..Checks::default() };
    let cores = std::thread::available_parallelism()?.get();
    let megabytes = export.len() as f64 / 1e6;
    let [ours, bare] = in_turns(
        lab.rounds,
        [
            &mut || {
                let began = Instant::now();
                let report = Verifier::export(&export[..], &checks, cores)??;
                let took = began.elapsed().as_secs_f64();
                ensure!(report.records == RECORDS, "{report:?}");
                ensure!(report.checkpoints == RECORDS / BETWEEN, "{report:?}");
                Ok(megabytes / took)
            },
            &mut || {
                let began = Instant::now();
                std::thread::scope(|scope| {
                    for part in export.chunks(export.len().div_ceil(cores)) {
                        scope.spawn(move || std::hint::black_box(Sha256::digest(part)));
                    }
                });
                Ok(megabytes / began.elapsed().as_secs_f64())
            },
        ],
    )?;
    let what = format!("verify an export of {RECORDS} records, on {cores} cores");
    let row = Row::new(what, "MB/s", &ours)
        .against("SHA-256 of the same bytes, on the same cores", &bare)
        .target(Target::AtLeast(0.5));
    Ok(vec![row])
}
