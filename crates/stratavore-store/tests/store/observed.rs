//! What is read of conversations, taken in.

use stratavore_core::message::{Message, Place, Role};
use stratavore_core::name::Name;
use stratavore_core::observation::{Lineage, LineageKind, Observation, SessionSeen};
use stratavore_core::project::Project;
use stratavore_core::runner::Runner;
use stratavore_core::usage::{Priced, Purpose, Quality, Tokens, UsageRecord};
use stratavore_core::{NodeId, RunnerId, SessionId, Timestamp};
use stratavore_store::{
    FileIdentity, Follow, FollowStep, Observed, Recorded, SessionFilter, Store, StoreError,
    on_both_databases,
};

use crate::given::{self, at};
use crate::raw;

/// A millionth of a dollar for each token.
pub(crate) fn price(model: &str, tokens: &Tokens, _: Timestamp) -> Option<Priced> {
    let cost = i64::try_from(tokens.total()).unwrap();
    (model != "unknown").then(|| Priced { cost, version: "test".into() })
}

pub(crate) fn usage(session: &str, key: &str, output: u64) -> UsageRecord {
    UsageRecord {
        key: key.into(),
        session: session.into(),
        request_id: Some(format!("req-{key}")),
        message_id: None,
        model: "large".into(),
        purpose: Purpose::Main,
        tokens: Tokens { input: 10, output, ..Tokens::default() },
        reported_cost: None,
        quality: Quality::Exact,
        at: at(100),
        place: Place { file: "/t/a.jsonl".into(), offset: 7 },
    }
}

fn said(session: &str, role: Role, text: &str, second: i64) -> Observation {
    Observation::Message(Message {
        id: format!("{session}-{second}"),
        session: session.into(),
        role,
        at: at(second),
        model: (role == Role::Assistant).then(|| "large".into()),
        text: text.into(),
        place: Place { file: "/t/a.jsonl".into(), offset: 0 },
    })
}

fn current(session: &str) -> Observation {
    Observation::Session(SessionSeen {
        session: session.into(),
        directory: Some("/srv/work".into()),
        transcript: Some(format!("/t/{session}.jsonl")),
        is_current: true,
        ..SessionSeen::default()
    })
}

/// A runner in a project, whose assistant tells.
pub(crate) struct Teller<'s> {
    pub(crate) store: &'s Store,
    pub(crate) assistant: Name,
    pub(crate) node: NodeId,
    pub(crate) project: Project,
    pub(crate) runner: Option<RunnerId>,
}

impl<'s> Teller<'s> {
    pub(crate) async fn new(store: &'s Store) -> (Self, Runner) {
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let runner = given::runner(store, &project, node, "one").await;
        let assistant = runner.command.assistant.clone();
        (Self { store, assistant, node, project, runner: Some(runner.id) }, runner)
    }

    pub(crate) fn batch<'a>(&'a self, observations: &'a [Observation]) -> Observed<'a> {
        Observed {
            assistant: &self.assistant,
            node: self.node,
            project: Some(self.project.id),
            runner: self.runner,
            epoch: None,
            follow: None,
            observations,
            price: &price,
            now: at(1000),
        }
    }

    pub(crate) async fn tell(&self, observations: &[Observation]) -> Recorded {
        self.store.observed(&self.batch(observations), "agent").await.unwrap()
    }
}

on_both_databases! {
    async fn the_session_of_a_runner_gets_its_name_and_story(db: TestStore) {
        let (teller, runner) = Teller::new(db.store()).await;
        let titled = SessionSeen { session: "c1".into(), title: Some("Mend \u{0} it".into()), ..SessionSeen::default() };
        let told = teller.tell(&[
            current("c1"),
            said("c1", Role::User, "  please mend it ", 50),
            said("c1", Role::Tool, "ls", 55),
            said("c1", Role::Assistant, "done", 60),
            Observation::Session(titled),
            Observation::Usage(usage("c1", "k1", 5)),
        ]).await;
        let id = runner.session.unwrap();
        assert_eq!(told.sessions["c1"], id);
        assert_eq!((told.now_holds, told.held_by_another), (None, None));
        let session = db.store().session_get(id).await.unwrap();
        assert_eq!(session.external_id.as_deref(), Some("c1"));
        assert_eq!(session.title.as_deref(), Some("Mend \u{fffd} it"));
        assert_eq!(session.first_prompt.as_deref(), Some("please mend it"));
        assert_eq!((session.messages.user, session.messages.assistant, session.messages.tool), (1, 1, 1));
        assert_eq!(session.models, ["large"]);
        assert_eq!((session.started_at, session.ended_at), (Some(at(50)), Some(at(100))));
        assert_eq!(session.runner, Some(runner.id));
        assert_eq!(told.deltas.len(), 1);
        assert_eq!((told.deltas[0].change.tokens.total(), told.deltas[0].change.cost), (15, 15));

        for text in ["c1", &id.to_string(), &id.to_string()[..8], &id.to_string()[4..10]] {
            assert_eq!(db.store().session_find(text).await.unwrap().id, id, "{text}");
        }
        let filter = |text: &str| SessionFilter { text: Some(text.into()), ..SessionFilter::default() };
        assert_eq!(db.store().session_list(&filter("MEND")).await.unwrap().len(), 1);
        assert_eq!(db.store().session_list(&filter("%")).await.unwrap().len(), 0);
        let kinds = "SELECT kind FROM events WHERE entity = 'session' ORDER BY seq";
        assert_eq!(raw::texts(&db, kinds).await, ["session.created"]);
    }

    async fn an_assistant_goes_on_to_another_conversation_by_itself(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        teller.tell(&[current("c1")]).await;
        let told = teller.tell(&[current("c2"), Observation::Usage(usage("c2", "k", 1))]).await;
        let second = told.sessions["c2"];
        assert_eq!(told.now_holds, Some(second));
        let now = store.runner_get(runner.id).await.unwrap();
        assert_eq!((now.session, now.generation), (Some(second), runner.generation + 1));
        assert_eq!(store.session_get(second).await.unwrap().runner, Some(runner.id));
        let first = store.session_show(runner.session.unwrap()).await.unwrap();
        assert_eq!(first.session.runner, None);
        assert_eq!(first.held.len(), 1);
        assert_eq!(store.session_show(second).await.unwrap().held[0].runner, runner.id);

        // Another live runner holds what a third one wants to go on with.
        let other = given::runner(store, &teller.project, teller.node, "two").await;
        let third = Teller { runner: Some(other.id), project: teller.project.clone(), assistant: teller.assistant.clone(), ..teller };
        let told = third.tell(&[current("c2")]).await;
        assert_eq!(told.held_by_another, Some((second, runner.id)));
        assert_eq!(store.runner_get(other.id).await.unwrap().session, other.session);
        // Each event has its place, and whoever saw the runner before is told.
        let seqs = "SELECT kind FROM events WHERE entity_id = (SELECT id FROM runners WHERE name = 'one') ORDER BY seq";
        assert_eq!(raw::texts(&db, seqs).await, ["runner.accepted", "runner.session_changed"]);
        let (next, event) = given::ended(&runner);
        let stale = store.runner_write(&runner, &next, event, "agent", None).await;
        assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    }

    async fn what_an_earlier_start_held_is_history(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        teller.tell(&[current("c1")]).await;
        let (mut next, event) = given::activity(&runner);
        next.epoch = 2;
        store.runner_write(&runner, &next, event, "daemon", None).await.unwrap();
        let late = [current("c0")];
        let batch = Observed { epoch: Some(1), ..teller.batch(&late) };
        let told = store.observed(&batch, "agent").await.unwrap();
        assert_eq!(told.now_holds, None);
        assert_eq!(store.runner_get(runner.id).await.unwrap().session, runner.session);
        let held = store.session_show(told.sessions["c0"]).await.unwrap().held;
        assert_eq!((held.len(), held[0].epoch), (1, 1));
        let held = store.session_show(runner.session.unwrap()).await.unwrap().held;
        assert_eq!(held.iter().map(|held| held.epoch).collect::<Vec<_>>(), [2, 1]);
        // The control: the start that is now goes on with it.
        let batch = Observed { epoch: Some(2), ..teller.batch(&late) };
        let told = store.observed(&batch, "agent").await.unwrap();
        assert_eq!(told.now_holds, Some(told.sessions["c0"]));
    }

    async fn a_session_is_where_its_files_are(db: TestStore) {
        let store = db.store();
        let (here, _) = Teller::new(store).await;
        let session = here.tell(&[current("c1")]).await.sessions["c1"];
        let node = async || store.session_get(session).await.unwrap().node;
        assert_eq!(node().await, Some(here.node));
        let elsewhere = given::node(store).await;
        assert_ne!(elsewhere, here.node);
        let there = Teller { node: elsewhere, runner: None, assistant: here.assistant.clone(), project: here.project.clone(), store };
        // A copy that is taken in there moves nothing.
        let copied = SessionSeen { session: "c1".into(), at: Some(at(50)), ..SessionSeen::default() };
        there.tell(&[Observation::Session(copied)]).await;
        assert_eq!(node().await, Some(here.node));
        there.tell(&[current("c1")]).await;
        assert_eq!(node().await, Some(elsewhere));
    }

    async fn a_session_is_held_last_by_whoever_went_on_with_it(db: TestStore) {
        let store = db.store();
        let (teller, one) = Teller::new(store).await;
        let session = teller.tell(&[current("c1")]).await.sessions["c1"];
        // Told of and never current: nothing else names its file when a daemon comes that was not told.
        let within = SessionSeen {
            session: "c1-within".into(),
            transcript: Some("/t/within.jsonl".into()),
            lineage: Some(Lineage { parent: "c1".into(), kind: LineageKind::Subagent }),
            ..SessionSeen::default()
        };
        let forked = SessionSeen {
            session: "c1-forked".into(),
            lineage: Some(Lineage { parent: "c1".into(), kind: LineageKind::Forked }),
            ..SessionSeen::default()
        };
        let told = [within, forked].map(Observation::Session);
        let sessions = teller.tell(&told).await.sessions;
        let (within, forked) = (sessions["c1-within"], sessions["c1-forked"]);
        let held_last = async |runner| {
            let filter = SessionFilter { last_held_by: Some(runner), ..SessionFilter::default() };
            let found = store.session_list(&filter).await.unwrap();
            let has = |id| found.iter().any(|found| found.id == id);
            assert_eq!((has(within), has(forked)), (has(session), false));
            has(session)
        };
        given::end(store, &store.runner_get(one.id).await.unwrap()).await;
        assert!(held_last(one.id).await, "the end of a runner changes nothing");
        let two = given::runner(store, &teller.project, teller.node, "two").await;
        let teller = Teller { runner: Some(two.id), ..teller };
        let goes_on = [current("c1")];
        let later = Observed { now: at(2000), ..teller.batch(&goes_on) };
        assert_eq!(store.observed(&later, "agent").await.unwrap().now_holds, Some(session));
        assert!(held_last(two.id).await && !held_last(one.id).await);
    }

    async fn a_fork_has_its_parent_and_takes_nothing_of_it(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        teller.tell(&[current("c1"), Observation::Usage(usage("c1", "k1", 5))]).await;
        let forked = SessionSeen {
            session: "c2".into(),
            lineage: Some(Lineage { parent: "c1".into(), kind: LineageKind::Forked }),
            ..SessionSeen::default()
        };
        let other = given::runner(store, &teller.project, teller.node, "two").await;
        let teller = Teller { runner: Some(other.id), ..teller };
        let told = teller.tell(&[
            Observation::Session(forked),
            Observation::Usage(usage("c2", "k1", 5)),
            Observation::Usage(usage("c2", "k2", 6)),
        ]).await;
        assert_eq!(told.deltas.len(), 1);
        assert_eq!(told.deltas[0].belongs.session, Some(told.sessions["c2"]));
        let story = store.session_show(told.sessions["c2"]).await.unwrap();
        assert_eq!(story.parent.map(|parent| parent.id), runner.session);
        assert_eq!(story.session.lineage, Some(LineageKind::Forked));
        assert_eq!(store.session_show(runner.session.unwrap()).await.unwrap().children.len(), 1);
        let kept = "SELECT key || ' ' || runner_id FROM usage_records ORDER BY key";
        assert_eq!(raw::texts(&db, kept).await, [format!("k1 {}", runner.id), format!("k2 {}", other.id)]);
    }

    async fn a_piece_of_a_file_is_taken_in_once(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        let identity = FileIdentity { device: "1".into(), inode: "2".into() };
        let seen: [Observation; 2] = [current("c1"), Observation::Usage(usage("c1", "k1", 5))];
        let step = |seen: Option<&'static Follow>, to| FollowStep { path: "/t/a", seen, read_to: to, memory: "{}", identity: &identity };
        let begin = Observed { follow: Some(step(None, 10)), ..teller.batch(&seen) };
        store.observed(&begin, "agent").await.unwrap();
        let again = store.observed(&begin, "agent").await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        let follow = store.follow_get(teller.node, "/t/a").await.unwrap().unwrap();
        assert_eq!((follow.read_to, follow.runner), (10, Some(runner.id)));

        let more = [Observation::Usage(usage("c1", "k2", 5))];
        let step = FollowStep { path: "/t/a", seen: Some(&follow), read_to: 20, memory: "{\"a\":1}", identity: &identity };
        let next = Observed { follow: Some(step), ..teller.batch(&more) };
        let (one, two) = tokio::join!(store.observed(&next, "agent"), store.observed(&next, "agent"));
        let conflicts = [&one, &two].into_iter().filter(|done| matches!(done, Err(StoreError::Conflict { .. })));
        assert_eq!(conflicts.count(), 1, "{one:?} {two:?}");
        let follow = store.follow_list(teller.node, runner.id).await.unwrap().remove(0);
        assert_eq!((follow.read_to, &*follow.memory), (20, "{\"a\":1}"));
        assert_eq!(raw::number(&db, "SELECT count(*) FROM usage_records").await, 2);

        // A file of another identity has the path now, and is read from its beginning.
        let other = FileIdentity { inode: "3".into(), ..identity.clone() };
        let stale = Follow { identity: other.clone(), ..follow.clone() };
        let step = FollowStep { path: "/t/a", seen: Some(&stale), read_to: 5, memory: "{}", identity: &other };
        let wrong = store.observed(&Observed { follow: Some(step), ..teller.batch(&[]) }, "agent").await;
        assert!(matches!(wrong, Err(StoreError::Conflict { .. })), "{wrong:?}");
        let step = FollowStep { seen: Some(&follow), ..step };
        store.observed(&Observed { follow: Some(step), ..teller.batch(&[]) }, "agent").await.unwrap();
        assert_eq!(store.follow_get(teller.node, "/t/a").await.unwrap().unwrap().identity, other);
    }

    async fn what_is_imported_belongs_to_a_session_and_to_no_runner(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        let import = Teller { runner: None, ..teller };
        let told = import.tell(&[said("old", Role::User, "hello", 1), Observation::Usage(usage("old", "k1", 5))]).await;
        let session = told.sessions["old"];
        assert_eq!((told.deltas[0].belongs.session, told.deltas[0].belongs.runner), (Some(session), None));
        let kept = store.session_get(session).await.unwrap();
        assert_eq!((kept.runner, kept.updated_at), (None, at(100)));
        // Nobody knows of whose project: only the usage is kept, until somebody does.
        let lines = [Observation::Usage(usage("x", "k2", 1))];
        let nobodys = Observed { project: None, ..import.batch(&lines) };
        let told = store.observed(&nobodys, "import").await.unwrap();
        assert_eq!((told.sessions.len(), told.deltas[0].belongs.project), (0, None));
        let import = Teller { runner: Some(runner.id), ..import };
        let told = import.tell(&lines).await;
        assert_eq!(told.deltas.len(), 2, "it is moved: {:?}", told.deltas);
        assert_eq!(told.deltas[0].change.messages + told.deltas[1].change.messages, 0);
        assert_eq!(told.deltas[1].belongs.session, Some(told.sessions["x"]));
    }

    async fn a_session_is_removed_and_its_usage_stays(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        teller.tell(&[current("c1"), said("c1", Role::User, "secret", 5), Observation::Usage(usage("c1", "k1", 5))]).await;
        let id = runner.session.unwrap();
        let busy = store.session_remove(id, "ada", at(2000), None).await;
        assert!(matches!(busy, Err(StoreError::SessionBusy { .. })), "{busy:?}");
        given::end(store, &runner).await;
        store.session_remove(id, "ada", at(2000), None).await.unwrap();
        let gone = store.session_remove(id, "ada", at(2000), None).await;
        assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
        assert_eq!(store.session_list(&SessionFilter::default()).await.unwrap(), []);
        assert!(store.session_find("c1").await.is_err());
        assert_eq!(store.session_get(id).await.unwrap().first_prompt, None);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM usage_records").await, 1);
        // What is told late brings nothing back; an assistant that goes on with it does.
        teller.tell(&[said("c1", Role::User, "secret", 6)]).await;
        assert_eq!(store.session_get(id).await.unwrap().first_prompt, None);
        teller.tell(&[current("c1"), said("c1", Role::User, "again", 7)]).await;
        assert_eq!(store.session_find("c1").await.unwrap().first_prompt.as_deref(), Some("again"));
        let unknown = store.session_remove(SessionId::from_entropy([1; 16]), "ada", at(1), None).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "{unknown:?}");
    }
}
