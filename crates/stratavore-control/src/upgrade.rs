//! Replacing an agent's program while its runner runs.

use std::time::Duration;

use serde_json::json;
use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::runner::Runner;

use crate::control::Control;
use crate::error::Error;
use crate::links::AgentCommand;

/// How long an agent may take to come back, or to say why it stays.
const UPGRADE: Duration = Duration::from_secs(10);

impl Control {
    /// Has the runner's agent replace itself by the installed program. Answers once it has come
    /// back as that program, with its version.
    pub async fn upgrade_agent(
        &self,
        caller: &Caller,
        id: RunnerId,
    ) -> Result<(Runner, String), Error> {
        self.may_change(caller, "upgrade agents")?;
        let runner = self.inner.store.runner_get(id).await?;
        self.record(caller, "request.upgrade", json!({ "runner": id, "name": runner.name }))
            .await?;
        let program = self.inner.runtime.agent_program().display().to_string();
        let Some(outcome) = self.inner.links.begin_upgrade(id) else {
            return Err(Error::invalid(
                format!("the agent of {} is being upgraded already", runner.name),
                "wait for that: stratavore runners show",
            ));
        };
        if runner.is_terminal()
            || !self.inner.links.tell(id, AgentCommand::Upgrade { program: program.clone() })
        {
            return Err(Error::invalid(
                format!("the agent of {} is not connected", runner.name),
                "only a running runner's agent can be upgraded: stratavore runners show",
            ));
        }
        let stays = |why: &str| {
            Error::invalid(
                format!("the agent of {} goes on as it was: {why}", runner.name),
                format!("see that {program} is the program that it should be: stratavore doctor"),
            )
        };
        match tokio::time::timeout(UPGRADE, outcome).await {
            Ok(Ok(Ok(version))) => {
                let now = self.inner.store.runner_get(id).await?;
                match now.state.agent() {
                    // A line that broke by chance brings it back as well.
                    Some(agent) if !self.inner.runtime.runs_installed_program(agent) => {
                        Err(stays("it came back, and runs another program"))
                    }
                    Some(_) | None => Ok((now, version)),
                }
            }
            Ok(Ok(Err(why))) => Err(stays(&why)),
            Ok(Err(_)) => Err(Error::internal("an upgrade was forgotten")),
            Err(_) => Err(Error::Timeout {
                waited_for: format!(
                    "the agent of {} told, within {} s, whether it was upgraded",
                    runner.name,
                    UPGRADE.as_secs()
                ),
            }),
        }
    }
}
