//! `stratavore status` beside `tmux ls`.

use std::time::Instant;

use crate::Lab;
use crate::home::{Home, succeed};
use crate::peer::Tmux;
use crate::report::{Row, Target};
use crate::sample::{in_turns, ms_since};

const SESSIONS: u32 = 20;

pub(crate) fn wall(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let tmux = Tmux::new()?;
    let argv = ["sleep", "100000"];
    for runner in home.launch(&client, SESSIONS, &argv)? {
        home.wait(&client, &runner.id, &["running"])?;
    }
    for number in 1..SESSIONS {
        tmux.session(&format!("s{number}"), &argv)?;
    }
    let [ours, by_tmux] = in_turns(
        lab.rounds.max(20),
        [
            &mut || {
                let began = Instant::now();
                succeed(&mut home.cli(["status"]))?;
                Ok(ms_since(began))
            },
            &mut || {
                let began = Instant::now();
                tmux.run(&["ls"])?;
                Ok(ms_since(began))
            },
        ],
    )?;
    Ok(vec![
        Row::new(format!("`stratavore status`, {SESSIONS} runners"), "ms", &ours)
            .against(format!("`tmux ls`, {SESSIONS} sessions"), &by_tmux)
            .target(Target::AtMost(1.5)),
    ])
}
