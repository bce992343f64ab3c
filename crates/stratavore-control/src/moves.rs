//! Moving runners off a node that is drained.
//!
//! The node that a runner leaves and the one that takes it never talk: each says its part in the store, and
//! does what it can do from what the other has said. So whoever dies in between is waited for, or another
//! node takes its place, and what was decided stays decided.
//!
//! 1. The node that is drained says whether a runner may go.
//! 2. Another one looks whether it has all that it takes (room, the directory, the program, the very bytes
//!    of the conversation), and says that it takes it, or why not.
//! 3. The first one stops it, if it rests still, and reads it to its end.
//! 4. The other one admits its successor, of which a runner has one at most.
//!
//! Invariant: nothing is stopped before a node has said that it can go on with it.
//! Invariant: it is not carried on before all that it has written is kept, and is there byte for byte.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use stratavore_assistants as assistants;
use stratavore_core::caller::{By, Origin};
use stratavore_core::moving::{MOVE_STOPPER, Move, MoveView, Stage};
use stratavore_core::node::{NodeView, Scheduling, Wish, place, unfit};
use stratavore_core::runner::{After, EnvValue, Input, Outcome, Runner, RunnerState, Stop};
use stratavore_core::session::Session;
use stratavore_core::{NodeId, RunnerId};
use stratavore_runtime::failpoint;
use stratavore_store::{NameWish, NewRunner, StoreError};

use crate::command::has_begun;
use crate::control::Control;
use crate::error::Error;
use crate::launch::resolve_directory;
use crate::supervisor::chain;
use crate::vault::Care;

/// How often it is looked what moves. One question to the store, while nothing does.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Control {
    /// What is known of moves from all nodes.
    pub async fn moves(&self) -> Result<Vec<MoveView>, Error> {
        Ok(self.inner.store.move_list().await?)
    }

    /// The task: gives away what is to leave this node, and takes what leaves others.
    pub(crate) async fn move_runners(&self) -> Result<String, Error> {
        if !self.has_host() {
            return Ok("another daemon has this host".into());
        }
        let moves = self.moves().await?;
        let Some(here) = self.node_by_id(self.here()).await? else {
            return Ok("this node was removed".into());
        };
        if moves.is_empty() && here.moving.is_none() {
            return Ok("nothing moves".into());
        }
        let nodes = self.nodes().await?;
        let (mut done, mut failed) = (0, None);
        let mut tell = |id: RunnerId, looked: Result<bool, Error>| match looked {
            Ok(did) => done += usize::from(did),
            Err(error) => {
                tracing::warn!(runner = %id, error = %chain(&error), "could not see to a move; will try again");
                failed = Some(error);
            }
        };
        let live = self.live_here().await?;
        if let Some(asked_by) = &here.moving {
            for runner in &live {
                let known = moves.iter().find(|view| view.of.runner == runner.id);
                tell(runner.id, self.look_at_leaving(runner, asked_by, known, &nodes).await);
            }
        }
        let live: BTreeSet<RunnerId> = live.iter().map(|runner| runner.id).collect();
        for view in &moves {
            let id = view.of.runner;
            if view.of.from == here.id && !live.contains(&id) {
                tell(id, self.look_at_left(view).await);
            }
            if view.of.from == here.id && here.moving.is_none() {
                tell(id, self.look_at_staying(view).await);
            }
            // What has ended may go on here again, if this node was opened meanwhile.
            let may_come = view.of.from != here.id || view.has_ended;
            if may_come && here.scheduling == Scheduling::Open && view.successor.is_none() {
                tell(id, self.look_at_coming(view, &here, &nodes).await);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(format!("{done} steps of moves")),
        }
    }

    /// Says whether a runner of this node may go, and stops it if another node takes it.
    async fn look_at_leaving(
        &self,
        runner: &Runner,
        asked_by: &str,
        known: Option<&MoveView>,
        nodes: &[NodeView],
    ) -> Result<bool, Error> {
        if matches!(&runner.state, RunnerState::Stopping { stop, .. } if stop.by == MOVE_STOPPER) {
            return Ok(false);
        }
        let stays = self.stays_because(runner).await?;
        let store = &self.inner.store;
        let Some(known) = known else {
            let new = Move {
                runner: runner.id,
                from: self.here(),
                asked_by: asked_by.into(),
                stays,
                to: None,
                refused: Default::default(),
                is_read: false,
                since: self.now(),
            };
            store.move_begin(&new).await?;
            return Ok(true);
        };
        let to = known.of.to.filter(|to| stays.is_none() && takes(nodes, *to));
        if stays != known.of.stays || to != known.of.to {
            store
                .move_change(runner.id, |of| {
                    of.stays = stays.clone();
                    // Another one may have come in its place.
                    if of.to == known.of.to {
                        of.to = to;
                    }
                })
                .await?;
        }
        if to.is_none() {
            return Ok(false);
        }
        self.stop_to_move(runner, &known.of).await
    }

    async fn stop_to_move(&self, runner: &Runner, of: &Move) -> Result<bool, Error> {
        let grace_ms = self.inner.settings.grace.as_millis() as u64;
        let stop = Stop { by: MOVE_STOPPER.into(), grace_ms, force: false, after: After::End };
        let input = Input::Move { epoch: runner.epoch, stop };
        let Outcome::Changed(next, event) = runner.apply(input, self.now(), &self.backoff())?
        else {
            return Ok(false);
        };
        failpoint("move_stop");
        let by = self.moving_for(&of.asked_by);
        match self.inner.store.runner_write(runner, &next, event, &by, None).await {
            Ok(written) => {
                failpoint("move_stopped");
                self.changed(&written);
                Ok(true)
            }
            // It does something again: it is looked at anew.
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Why a runner of this node is not moved as it is now; `None`: it may be.
    async fn stays_because(&self, runner: &Runner) -> Result<Option<String>, Error> {
        let assistant = &runner.command.assistant;
        let adapter = assistants::adapter(assistant);
        let is_found_again = adapter.transcript_home(&self.env_seen(&runner.command)).is_some();
        if !adapter.proves().resume || !is_found_again {
            return Ok(Some(format!(
                "{assistant} cannot go on with a conversation on another host"
            )));
        }
        if runner.command.bare {
            return Ok(Some("it is not observed".into()));
        }
        if let Some(why) = runner.is_busy_because() {
            return Ok(Some(why));
        }
        match self.is_watched(runner.id) {
            None => {
                return Ok(Some("its agent has not told yet whether somebody is attached".into()));
            }
            Some(true) => return Ok(Some("somebody is attached to it".into())),
            Some(false) => {}
        }
        let session = self.session_held(runner).await?;
        let begun = session.filter(|session| has_begun(session) && session.transcript.is_some());
        if begun.and_then(|session| session.external_id).is_none() {
            return Ok(Some(
                "nothing was said in it yet that another node could go on with".into(),
            ));
        }
        Ok(None)
    }

    async fn session_held(&self, runner: &Runner) -> Result<Option<Session>, Error> {
        match runner.session {
            Some(session) => Ok(Some(self.inner.store.session_get(session).await?)),
            None => Ok(None),
        }
    }

    /// Reads what was stopped to its end, and says so. What ended by something else goes nowhere.
    async fn look_at_left(&self, view: &MoveView) -> Result<bool, Error> {
        let id = view.of.runner;
        let store = &self.inner.store;
        if view.successor.is_some() || view.of.is_read {
            return Ok(false);
        }
        let runner = store.runner_get(id).await?;
        if !runner.is_terminal() {
            return Ok(false);
        }
        if !runner.has_left() {
            store.move_forget(id).await?;
            return Ok(true);
        }
        self.follow_one(id).await?;
        let Some(session) = self.session_held(&runner).await? else {
            return Err(Error::internal("a runner without a session was to be moved"));
        };
        let Some(path) = &session.transcript else {
            return Err(Error::internal("a conversation without a file was to be moved"));
        };
        self.vault_take_in_all(session.id, &session.assistant, Path::new(path), Care::ToItsEnd)
            .await?;
        failpoint("move_read");
        store.move_change(id, |of| of.is_read = true).await?;
        Ok(true)
    }

    /// The node moves nothing any more: what has not begun to leave stays, and what was done is history. What
    /// was stopped goes on, here or there.
    async fn look_at_staying(&self, view: &MoveView) -> Result<bool, Error> {
        let is_over = match view.stage() {
            Stage::Moved => true,
            Stage::Stays | Stage::Sought | Stage::Leaves => {
                let runner = self.inner.store.runner_get(view.of.runner).await?;
                !runner.is_terminal() && !matches!(runner.state, RunnerState::Stopping { .. })
            }
            Stage::Between => false,
        };
        if is_over {
            self.inner.store.move_forget(view.of.runner).await?;
        }
        Ok(is_over)
    }

    /// Says whether this node can take a runner of another one, and takes it once it is there to be taken.
    async fn look_at_coming(
        &self,
        view: &MoveView,
        here: &NodeView,
        nodes: &[NodeView],
    ) -> Result<bool, Error> {
        let of = &view.of;
        let is_free = of.to.is_none_or(|to| to == here.id || !takes(nodes, to));
        if !is_free || (of.stays.is_some() && !view.has_ended) {
            return Ok(false);
        }
        let store = &self.inner.store;
        let runner = store.runner_get(of.runner).await?;
        if view.has_ended && self.was_gone_on_with(&runner).await? {
            store.move_forget(of.runner).await?;
            return Ok(true);
        }
        let is_over = view.has_ended && of.is_read;
        let why = self.cannot_take(&runner, here, is_over).await?;
        let is_told = why.as_ref() == of.refused.get(&here.id);
        if let Some(why) = why {
            if !is_told || of.to == Some(here.id) {
                self.refuse(of.runner, here.id, &why).await?;
            }
            return Ok(false);
        }
        if !is_told {
            store.move_change(of.runner, |of| drop(of.refused.remove(&here.id))).await?;
        }
        if of.to != Some(here.id) {
            let wish = Wish { labels: runner.command.labels.clone(), node: None };
            let others = nodes.iter().filter(|node| {
                node.id == here.id || (node.id != of.from && !of.refused.contains_key(&node.id))
            });
            let others: Vec<NodeView> = others.cloned().collect();
            if place(&wish, of.from, 1, &others) != Ok(here.id) {
                return Ok(false);
            }
            store
                .move_change(of.runner, |now| {
                    if now.to == of.to {
                        now.to = Some(here.id);
                    }
                })
                .await?;
            return Ok(true);
        }
        match is_over && runner.has_left() {
            true => self.carry_on(&runner, of).await,
            false => Ok(false),
        }
    }

    /// True if somebody went on with its conversation by hand.
    async fn was_gone_on_with(&self, runner: &Runner) -> Result<bool, Error> {
        let Some(session) = runner.session else { return Ok(false) };
        let story = self.inner.store.session_show(session).await?;
        Ok(story.held.first().is_some_and(|last| last.runner != runner.id))
    }

    async fn refuse(&self, runner: RunnerId, here: NodeId, why: &str) -> Result<(), Error> {
        let refuse = |of: &mut Move| {
            of.refused.insert(here, why.into());
            of.to = of.to.filter(|to| *to != here);
        };
        self.inner.store.move_change(runner, refuse).await?;
        Ok(())
    }

    /// Why this node cannot go on with a runner of another one; `None`: it can.
    async fn cannot_take(
        &self,
        runner: &Runner,
        here: &NodeView,
        is_over: bool,
    ) -> Result<Option<String>, Error> {
        let name = &here.hostname;
        let command = &runner.command;
        let wish = Wish { labels: command.labels.clone(), node: None };
        if let Some(why) = unfit(&wish, 1, here) {
            return Ok(Some(format!("{name} {why}")));
        }
        let looked = resolve_directory(Path::new(&command.directory))
            .and_then(|_| self.check_variables(command))
            .and_then(|()| self.check_program(command))
            .and_then(|()| self.room_to_launch());
        if let Err(error) = looked {
            return Ok(Some(format!("{name}: {error}")));
        }
        for (key, value) in &command.env {
            let gone = match value {
                EnvValue::Literal(_) | EnvValue::Daemon(_) => false,
                EnvValue::File(path) => !Path::new(path).exists(),
            };
            if gone {
                return Ok(Some(format!("{name} does not have the file of {key}")));
            }
        }
        let differs = self.transcripts_differ(runner, is_over).await?;
        Ok(differs.map(|why| format!("{name} {why}")))
    }

    /// Admits the successor. It is the one that a runner may have, whoever else tries.
    async fn carry_on(&self, left: &Runner, of: &Move) -> Result<bool, Error> {
        let store = &self.inner.store;
        let Some(session) = left.session else {
            return Err(Error::internal("a runner without a session was to be moved"));
        };
        let new = NewRunner {
            id: RunnerId::from_entropy(self.entropy()),
            project: left.project,
            name: NameWish::Numbered(left.name.clone()),
            node: self.here(),
            bounded: self.inner.settings.profile.capacity.is_some(),
            command: left.command.clone(),
            limits: left.limits,
            restart: left.restart,
            session,
            continues: true,
            forks: None,
            successor_of: Some(left.id),
        };
        failpoint("move_admit");
        let by = self.moving_for(&of.asked_by);
        match store.runners_admit(vec![new], &by, self.now(), None).await {
            Ok(admitted) => {
                failpoint("move_admitted");
                admitted.iter().for_each(|runner| self.changed(runner));
                Ok(true)
            }
            Err(StoreError::AlreadySucceeded { .. }) => Ok(false),
            // A person went on with it.
            Err(StoreError::SessionBusy { .. }) => {
                store.move_forget(left.id).await?;
                Ok(true)
            }
            Err(error) if error.is_for_want_of_a_place() => {
                self.refuse(left.id, self.here(), &error.to_string()).await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// By whom a move is: the daemon does it, and somebody has asked for it.
    fn moving_for(&self, asked_by: &str) -> By {
        let origin = Origin { daemon: Some(self.inner.daemon.id), ..Origin::default() };
        By { name: format!("daemon, moving it for {asked_by}"), origin }
    }
}

/// True if a node may get runners still.
fn takes(nodes: &[NodeView], id: NodeId) -> bool {
    nodes.iter().any(|node| node.id == id && node.ready && node.scheduling == Scheduling::Open)
}
