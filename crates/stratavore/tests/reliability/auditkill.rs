//! T-AUDITCOV under kills: what was changed is on the record, once, and what is on the record was changed;
//! who was refused is on it too.
//!
//! The oracle is what the clients asked for and were told: each request has a key, or makes a token, that
//! nobody else has, and the record keeps it. Beside it stand the rows themselves, which count their changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{
    ArchiveProject, CreateProject, EditProject, GetNode, InitCaRequest, JoinRequest,
    MintTokenRequest, Quota, RevokeTokenRequest, RotateRecordKey,
};
use stratavore_store::testing::{sqlite_execute, sqlite_number, sqlite_texts};
use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::postgres::TestPostgres;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::{client, fresh_key, new_project, new_runner, on_runtime};
use stratavore_testkit::world::{World, until};

/// Clients of each daemon.
const WRITERS: usize = 3;

/// What a client was told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    Refused,
    /// The daemon was killed before it answered.
    Nothing,
}

/// What was asked for, and what was said to it.
#[derive(Debug, Clone, Default)]
struct Oracle {
    /// Requests by their keys.
    keyed: BTreeMap<String, Told>,
    /// Requests that the record knows by the token: their kind, and the token; none for one that was not
    /// answered, and so may be of any.
    tokens: BTreeMap<&'static str, Vec<Option<String>>>,
    /// How often a node was removed, and how often nobody said whether it was.
    removed: (usize, usize),
    /// Which daemons refused something: the world, and which of its lives.
    refusing: BTreeSet<(usize, usize)>,
}

impl Oracle {
    fn asked(&self) -> usize {
        let tokens: usize = self.tokens.values().map(Vec::len).sum();
        self.keyed.len() + tokens + self.removed.0 + self.removed.1
    }

    fn count(&self, wanted: Told) -> u64 {
        let keyed = self.keyed.values().filter(|told| **told == wanted).count();
        let tokens = self.tokens.values().flatten();
        let others = match wanted {
            Told::Done => tokens.filter(|token| token.is_some()).count() + self.removed.0,
            Told::Nothing => tokens.filter(|token| token.is_none()).count() + self.removed.1,
            Told::Refused => 0,
        };
        (keyed + others) as u64
    }
}

fn told<T>(answer: Result<T, tonic::Status>) -> Told {
    match answer {
        Ok(_) => Told::Done,
        Err(status) => match problem(&status).code.as_str() {
            "quota_exceeded" | "budget_exceeded" => Told::Refused,
            "unavailable" | "internal" | "cancelled" => Told::Nothing,
            other => panic!("{other}: {}", status.message()),
        },
    }
}

/// The daemons, and the database behind them.
struct Ground {
    worlds: Vec<World>,
    /// How often each was killed.
    lives: Vec<usize>,
    database: Option<TestPostgres>,
}

impl Ground {
    fn alone() -> Self {
        let world = World::new();
        world.run(["daemon", "start"]).ok();
        Self { worlds: vec![world], lives: vec![0], database: None }
    }

    /// Three daemons on one PostgreSQL that people ask, and a fourth whose host comes and goes.
    fn shared() -> Self {
        let Hosts { database, worlds } = Hosts::apart(&["labels: []"; 4]);
        Self { lives: vec![0; worlds.len()], worlds, database: Some(database) }
    }

    /// The daemons whose clients write.
    fn asked(&self) -> &[World] {
        &self.worlds[..self.worlds.len().min(3)]
    }

    fn file(&self) -> std::path::PathBuf {
        self.worlds[0].path("state/stratavore.db")
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        match &self.database {
            Some(database) => database.query(sql).lines().map(str::to_owned).collect(),
            None => on_runtime(sqlite_texts(&self.file(), sql)),
        }
    }

    fn number(&self, sql: &str) -> i64 {
        match &self.database {
            Some(database) => database.query(sql).parse().expect("a number"),
            None => on_runtime(sqlite_number(&self.file(), sql)),
        }
    }

    fn execute(&self, sql: &str) {
        match &self.database {
            Some(database) => drop(database.query(sql)),
            None => drop(on_runtime(sqlite_execute(&self.file(), sql))),
        }
    }

    /// A text of a column of JSON.
    fn of(&self, column: &str, field: &str) -> String {
        match &self.database {
            Some(_) => format!("({column}::jsonb ->> '{field}')"),
            None => format!("json_extract({column}, '$.{field}')"),
        }
    }
}

/// What the clients of one round share.
struct Round<'g> {
    ground: &'g Ground,
    oracle: Mutex<Oracle>,
    done: AtomicUsize,
    over: AtomicBool,
}

impl Round<'_> {
    /// Writes it down; true: this client is to go on.
    fn goes_on(&self, told: Told, note: impl FnOnce(&mut Oracle)) -> bool {
        note(&mut self.oracle.lock().unwrap());
        self.done.fetch_add(usize::from(told != Told::Nothing), Ordering::Relaxed);
        told != Told::Nothing && !self.over.load(Ordering::Relaxed)
    }

    /// One change after the other, in a project of its own, until the daemon is gone.
    async fn write(&self, which: usize, mut dice: Dice) {
        let world = &self.ground.worlds[which];
        let life = (which, self.ground.lives[which]);
        let client = client(world).await;
        let name = fresh_key("p");
        let mut key = fresh_key("key");
        let quota = Some(Quota { runners: 2, ..Quota::default() });
        let own = CreateProject { quota, ..new_project(world, &name, key.clone()) };
        let mut answer = told(client.projects().create(own).await);
        let mut archived = false;
        while self.goes_on(answer, |oracle| {
            oracle.keyed.insert(key.clone(), answer);
            if answer == Told::Refused {
                oracle.refusing.insert(life);
            }
        }) {
            if self.ground.database.is_some() && dice.below(4) == 0 && !self.token(&client).await {
                return;
            }
            key = fresh_key("key");
            let idempotency_key = key.clone();
            let project = name.clone();
            answer = match dice.below(if archived { 1 } else { 5 }) {
                0 => {
                    let restore = archived;
                    let wish = ArchiveProject { idempotency_key, project, restore };
                    match client.projects().archive(wish).await {
                        Err(status) if problem(&status).code == "live_runners" => Told::Refused,
                        answer => {
                            archived = if answer.is_ok() { !archived } else { archived };
                            told(answer)
                        }
                    }
                }
                1 | 2 => {
                    let description = Some(format!("change {key}"));
                    let edit = EditProject {
                        idempotency_key,
                        project,
                        description,
                        ..EditProject::default()
                    };
                    told(client.projects().edit(edit).await)
                }
                3 => {
                    let mut wish = new_runner(&name, idempotency_key);
                    wish.args = vec!["true".into()];
                    told(client.runners().launch(wish).await)
                }
                // Over the quota, however many live.
                _ => {
                    let mut wish = new_runner(&name, idempotency_key);
                    wish.count = 3;
                    told(client.runners().launch(wish).await)
                }
            };
        }
    }

    /// Makes a join token, and makes it worth nothing.
    async fn token(&self, client: &Client) -> bool {
        let Some(minted) = self.mint(client).await else { return false };
        let accessor = minted.split('_').nth(1).unwrap().to_owned();
        let revoke = RevokeTokenRequest { accessor: accessor.clone() };
        let answer = client.nodes().revoke_token(revoke).await;
        self.noted("node.token_revoked", told(answer), accessor)
    }

    async fn mint(&self, client: &Client) -> Option<String> {
        let answer = client.nodes().mint_token(MintTokenRequest { ttl_ms: 0 }).await;
        let token = answer.as_ref().ok().map(|minted| minted.get_ref().token.clone());
        let accessor = token.as_deref().and_then(|token| token.split('_').nth(1));
        let accessor = accessor.unwrap_or_default().to_owned();
        let goes_on = self.noted("node.token_made", told(answer), accessor);
        token.filter(|_| goes_on)
    }

    fn noted(&self, kind: &'static str, told: Told, accessor: String) -> bool {
        let token = (told == Told::Done).then_some(accessor);
        self.goes_on(told, |oracle| oracle.tokens.entry(kind).or_default().push(token))
    }

    /// The last host joins, and is removed by one of the others, until one of them is gone.
    async fn come_and_go(&self, mut dice: Dice) {
        let guest = self.ground.worlds.last().unwrap();
        let node = std::fs::read_to_string(guest.path("state/node")).unwrap().trim().to_owned();
        let guest = client(guest).await;
        let mut others = Vec::new();
        for world in self.ground.asked() {
            others.push(client(world).await);
        }
        loop {
            let near = &others[dice.below(others.len())];
            let Some(token) = self.mint(near).await else { return };
            let accessor = token.split('_').nth(1).unwrap().to_owned();
            let joined = match guest.nodes().join(JoinRequest { token }).await {
                // It was done, and the way back was lost; or nobody signs just now.
                Err(status) if problem(&status).code == "node_unreachable" => Told::Nothing,
                answer => told(answer),
            };
            if !self.noted("node.joined", joined, accessor) {
                return;
            }
            let near = &others[dice.below(others.len())];
            let removed = told(near.nodes().remove(GetNode { node: node.clone() }).await);
            if !self.goes_on(removed, |oracle| match removed {
                Told::Done => oracle.removed.0 += 1,
                Told::Refused | Told::Nothing => oracle.removed.1 += 1,
            }) {
                return;
            }
        }
    }
}

/// Writers write until one of the daemons is killed, after as many answers as the dice say.
fn killed_while_asked(ground: &mut Ground, dice: &mut Dice, oracle: Oracle) -> Oracle {
    let (oracle, done, over) = (Mutex::new(oracle), AtomicUsize::new(0), AtomicBool::new(false));
    let round = Round { ground, oracle, done, over };
    let enough = 10 + dice.below(60);
    let victim = dice.below(ground.worlds.len());
    let seeds: Vec<u64> = (0..WRITERS * ground.asked().len()).map(|_| dice.number()).collect();
    let of_guest = Dice::of(dice.number());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            on_runtime(async {
                let writers = seeds.iter().enumerate();
                let writers = writers
                    .map(|(n, seed)| round.write(n % round.ground.asked().len(), Dice::of(*seed)));
                let guest = async {
                    if round.ground.database.is_some() {
                        round.come_and_go(of_guest).await;
                    }
                };
                futures_util::future::join(futures_util::future::join_all(writers), guest).await;
            });
        });
        until("so much is answered", || match round.done.load(Ordering::Relaxed) {
            found if found >= enough || writing.is_finished() => Ok(()),
            found => Err(format!("{found} of {enough}")),
        });
        round.ground.worlds[victim].kill_daemon();
        round.over.store(true, Ordering::Relaxed);
        writing.join().expect("the writers do not fail");
    });
    let oracle = round.oracle.into_inner().unwrap();
    ground.lives[victim] += 1;
    ground.worlds[victim].run(["daemon", "start"]).ok();
    oracle
}

/// Compares the record with what was asked for, both ways, and with the rows.
fn judge(ground: &Ground, oracle: &Oracle) -> Result<(), String> {
    let key = ground.of("origin", "key");
    let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
    let sql = format!("SELECT {key} FROM events WHERE decision = 'allowed' AND {key} LIKE 'key-%'");
    for key in ground.texts(&sql) {
        *recorded.entry(key).or_default() += 1;
    }
    for (key, told) in &oracle.keyed {
        match (told, recorded.get(key).copied().unwrap_or(0)) {
            (Told::Done, 1) | (Told::Refused, 0) | (Told::Nothing, 0 | 1) => {}
            (told, found) => return Err(format!("{key}: {told:?}, and {found} records")),
        }
    }
    if let Some(key) = recorded.keys().find(|key| !oracle.keyed.contains_key(*key)) {
        return Err(format!("{key} is on the record, and nobody asked for it"));
    }
    let token = ground.of("data", "token");
    for (kind, asked) in &oracle.tokens {
        let sql = format!("SELECT {token} FROM events WHERE kind = '{kind}' AND {token} <> ''");
        let recorded = ground.texts(&sql);
        let known: BTreeSet<&String> = recorded.iter().collect();
        let done: BTreeSet<&String> = asked.iter().flatten().collect();
        if known.len() != recorded.len() {
            return Err(format!("a token is on the record twice as {kind}"));
        }
        if let Some(missing) = done.difference(&known).next() {
            return Err(format!("{missing}: no {kind} on the record"));
        }
        if recorded.len() > asked.len() {
            return Err(format!("{} records of {kind}, asked for {}", recorded.len(), asked.len()));
        }
    }
    let removed = ground.number("SELECT count(*) FROM events WHERE kind = 'node.removed'") as usize;
    let (done, unknown) = oracle.removed;
    if !(done..=done + unknown).contains(&removed) {
        return Err(format!(
            "removed {done} times, perhaps {unknown} more, {removed} on the record"
        ));
    }
    for (what, sql) in unlike(&token) {
        match ground.number(&sql) {
            0 => {}
            found => return Err(format!("{found} {what}")),
        }
    }
    Ok(())
}

/// What counts rows that are not as the record says.
fn unlike(token: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |what: &str, sql: String| all.push((what.to_owned(), sql));
    for (rows, entity) in [("projects", "project"), ("runners", "runner")] {
        add(
            &format!("{rows} and their records differ"),
            format!(
                "SELECT count(*) FROM {rows} AS r WHERE r.generation <>
                    (SELECT count(*) FROM events WHERE entity_id = r.id)
                 OR r.generation <> (SELECT max(seq) FROM events WHERE entity_id = r.id)"
            ),
        );
        add(
            &format!("records are of no {entity}"),
            format!(
                "SELECT count(*) FROM events WHERE entity = '{entity}'
                 AND entity_id NOT IN (SELECT id FROM {rows})"
            ),
        );
    }
    add(
        "join tokens are not as the record says",
        format!(
            "SELECT count(*) FROM join_tokens AS t WHERE
                (SELECT count(*) FROM events WHERE kind = 'node.token_made' AND {token} = t.accessor) <> 1
             OR (SELECT count(*) FROM events WHERE kind = 'node.token_revoked' AND {token} = t.accessor)
                <> CASE WHEN t.revoked_at IS NULL THEN 0 ELSE 1 END
             OR (SELECT count(*) FROM events WHERE kind = 'node.joined' AND {token} = t.accessor)
                <> CASE WHEN t.used_at IS NULL THEN 0 ELSE 1 END"
        ),
    );
    add(
        "records are of no join token",
        format!(
            "SELECT count(*) FROM events WHERE kind IN ('node.token_made', 'node.token_revoked')
             AND {token} NOT IN (SELECT accessor FROM join_tokens)"
        ),
    );
    add(
        "nodes are in the cluster or out of it, and not by the record",
        "SELECT count(*) FROM nodes AS n WHERE CASE WHEN n.key_digest IS NULL THEN 'node.removed'
            ELSE 'node.joined' END <> COALESCE((SELECT kind FROM events WHERE entity_id = n.id
                AND kind IN ('node.joined', 'node.removed') ORDER BY seq DESC LIMIT 1), 'node.removed')"
            .into(),
    );
    add(
        "clusters were founded, and not by the record",
        "SELECT count(*) FROM clusters WHERE
            (SELECT count(*) FROM events WHERE kind = 'node.ca_made') <> 1"
            .into(),
    );
    add(
        "records do not say where they are from",
        "SELECT count(*) FROM events WHERE origin IS NULL OR mac IS NULL".into(),
    );
    all
}

fn t_auditcov(mut trial: Trial, mut ground: Ground) {
    let mut dice = trial.dice();
    let mut all = Oracle::default();
    let mut rounds = 0;
    // Each daemon dies at least once.
    while all.asked() < scale(100, 10_000) || rounds < ground.worlds.len() {
        let before = all.asked();
        all = killed_while_asked(&mut ground, &mut dice, all);
        trial.tried_times(all.asked() - before, judge(&ground, &all));
        rounds += 1;
    }
    trial.counted("daemons killed", rounds as u64);
    // The first refusal that a daemon gives is written before it is told.
    let daemon = ground.of("origin", "daemon");
    let lives = format!(
        "SELECT count(DISTINCT {daemon}) FROM events
        WHERE kind = 'request.refused' AND decision = 'refused' AND reason <> ''"
    );
    let (found, refusing) = (ground.number(&lives) as usize, all.refusing.len());
    trial.tried(match found >= refusing {
        true => Ok(()),
        false => {
            Err(format!("{refusing} daemons refused something, and {found} of them recorded it"))
        }
    });
    trial.tried(match ground.worlds[0].run(["audit", "verify"]).code() {
        0 => Ok(()),
        code => Err(format!("the record does not stand: exit {code}")),
    });
    trial.counted("done", all.count(Told::Done));
    trial.counted("refused", all.count(Told::Refused));
    trial.counted("not answered", all.count(Told::Nothing));
    for (kind, tokens) in &all.tokens {
        trial.counted(kind, tokens.iter().flatten().count() as u64);
    }

    let mut lied = all.clone();
    lied.keyed.insert("key-of-nobody".into(), Told::Done);
    trial.control("a change that was told and never made", judge(&ground, &lied).is_err());
    let mut silent = all.clone();
    let done = all.keyed.iter().find(|(_, told)| **told == Told::Done);
    silent.keyed.remove(done.expect("something was done").0);
    trial.control("a record of what nobody asked for", judge(&ground, &silent).is_err());
    for world in &ground.worlds {
        world.run(["daemon", "stop"]).ok();
    }
    if ground.database.is_some() {
        ground.execute("UPDATE join_tokens SET used_at = created_at WHERE used_at IS NULL");
        trial.control("a token that was used without a record", judge(&ground, &all).is_err());
        ground.execute("UPDATE join_tokens SET used_at = NULL WHERE node_id IS NULL");
        judge(&ground, &all).expect("it is as it was");
        ground.execute("UPDATE nodes SET key_digest = NULL");
        trial.control("a host that is out without a record", judge(&ground, &all).is_err());
    } else {
        ground.execute("UPDATE projects SET generation = generation + 1");
        trial.control("a change without its record", judge(&ground, &all).is_err());
    }
    trial.end();
}

#[test]
fn t_auditcov_what_was_changed_is_on_the_record_and_nothing_else() {
    let promise = "kill -9 under clients that change at random: each change has its record, and each record its change";
    t_auditcov(Trial::new("T-AUDITCOV", promise), Ground::alone());
}

#[test]
fn t_auditcov_of_three_daemons_that_are_killed_each_change_is_on_the_record() {
    let promise = "3 daemons on PostgreSQL, and a host that comes and goes, kill -9 under clients that change at random: each change has its record, and each record its change";
    t_auditcov(Trial::new("T-AUDITCOV", promise), Ground::shared());
}

/// What is done, the rows that it makes, and the records of it.
const DEEDS: [(&str, &str, &str); 4] = [
    ("ca init", "clusters", "node.ca_made"),
    ("token", "join_tokens", "node.token_made"),
    ("revoke", "join_tokens WHERE revoked_at IS NOT NULL", "node.token_revoked"),
    ("rotate", "audit_keys WHERE change IS NOT NULL", "node.record_key_changed"),
];

/// Asks once: the command line would ask again for some seconds.
fn ask(world: &World, deed: &str, accessor: &str) -> Result<(), tonic::Status> {
    on_runtime(async {
        let client = client(world).await;
        let accessor = accessor.to_owned();
        match deed {
            "ca init" => client.nodes().init_ca(InitCaRequest {}).await.map(drop),
            "token" => client.nodes().mint_token(MintTokenRequest::default()).await.map(drop),
            "revoke" => {
                client.nodes().revoke_token(RevokeTokenRequest { accessor }).await.map(drop)
            }
            _ => client.audit().rotate(RotateRecordKey {}).await.map(drop),
        }
    })
}

#[test]
fn a_daemon_that_dies_between_a_change_and_its_record_has_made_both_or_neither() {
    let database = stratavore_testkit::postgres::database();
    let mut world = World::with_config(&database.settings(&database.socket_dir));
    world.run(["daemon", "start"]).ok();
    let counted = |of: &str| -> u32 {
        database.query(&format!("SELECT count(*) FROM {of}")).parse().unwrap()
    };
    let both =
        |rows: &str, kind: &str| (counted(rows), counted(&format!("events WHERE kind = '{kind}'")));
    let restarted = |world: &mut World, failpoints: &str| {
        world.set_env("STRATAVORE_FAILPOINTS", failpoints);
        if world.daemon_pid().is_some() {
            world.run(["daemon", "stop"]).ok();
        }
        world.run(["daemon", "start"]).ok();
    };
    for (deed, rows, kind) in DEEDS {
        let accessor = "SELECT accessor FROM join_tokens WHERE revoked_at IS NULL LIMIT 1";
        let accessor = database.query(accessor);
        let before = both(rows, kind);
        assert_eq!(before.0, before.1, "{deed}");
        restarted(&mut world, "node_event=abort");
        ask(&world, deed, &accessor).expect_err("the daemon dies of it");
        // Nobody waits until the dead one's duty is over.
        database.query("UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'audit'");
        restarted(&mut world, "");
        assert_eq!(both(rows, kind), before, "{deed} was done, and is not on the record");
        // The control: it is counted where it is done.
        ask(&world, deed, &accessor).unwrap();
        assert_eq!(both(rows, kind), (before.0 + 1, before.1 + 1), "{deed}");
    }
    // After the commit both are there, and the next daemon goes on with the new key.
    let (deed, rows, kind) = DEEDS[3];
    let before = both(rows, kind);
    restarted(&mut world, "key_added=abort");
    ask(&world, deed, "").expect_err("the daemon dies of it");
    assert_eq!(both(rows, kind), (before.0 + 1, before.1 + 1));
    restarted(&mut world, "");
    ask(&world, "token", "").unwrap();
    world.run(["audit", "verify"]).ok();
}
