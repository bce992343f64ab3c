//! T-PART between daemons: the way from the daemon of one host to that of another is cut, or half open.
//! Who asks here for something there is told so in time, what runs there goes on, and all is as before
//! once the way is open again.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::{Flow, Proxy};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, rows, until};

/// The longest until an answer: a ping every five seconds, five seconds for its answer, five for another
/// handshake, and what a busy machine takes.
const BOUND: Duration = Duration::from_secs(20);

const ECHO: [&str; 3] = ["sh", "-c", "while read line; do echo \"you said: $line\"; done"];

/// How the way is broken.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Connections are reset, and new ones hear nothing.
    Reset,
    /// Nothing goes either way, and nobody is told.
    HalfOpen,
    /// What is asked arrives; the answers do not.
    OneWay,
}

/// Two hosts; the way from the near one to the far one is a wire.
struct Two {
    near: World,
    far: World,
    wire: Proxy,
    _database: TestPostgres,
}

impl Two {
    fn new() -> Self {
        let database = database();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let at = free.expect("a port is free");
        let wire = Proxy::tcp(at);
        let world = |node: &str| {
            let settings = database.settings(&database.socket_dir);
            let world = World::with_config(&format!("{settings}\nnode:\n{node}"));
            world.run(["daemon", "start"]).ok();
            world
        };
        let near = world("  listen: 127.0.0.1:0\n");
        let far = world(&format!("  listen: {at}\n  address: {}\n", wire.address()));
        near.run(["ca", "init"]).ok();
        let token = far.path("token");
        std::fs::write(&token, near.run(["nodes", "token"]).ok().stdout().trim()).unwrap();
        far.run(["nodes", "join", "--token-file", token.to_str().unwrap()]).ok();
        Self { near, far, wire, _database: database }
    }

    fn break_by(&self, fault: Fault) {
        self.wire.set(|wire| match fault {
            Fault::Reset | Fault::HalfOpen => {
                (wire.up.flow, wire.down.flow) = (Flow::Hold, Flow::Hold);
            }
            Fault::OneWay => wire.down.flow = Flow::Drop,
        });
        if let Fault::Reset = fault {
            self.wire.reset_all();
        }
    }

    /// What was lost of a stream does not come again: those who use one begin anew.
    fn heal(&self) {
        self.wire.heal();
        self.wire.reset_all();
    }

    /// Whether this command of the near side is told that the far one cannot be reached, in time.
    fn told(&self, command: &[&str]) -> Result<Duration, String> {
        let began = Instant::now();
        let ran = self.near.run(command.iter().chain(&["--format", "json"]));
        let (took, said) = (began.elapsed(), ran.everything());
        // What is typed waits ten seconds by itself, as long as the silence that gives a way up.
        let is_late = command[0] == "send" && said.contains("\"timeout\"") && ran.code() == 9;
        let is_told = said.contains("node_unreachable") && ran.code() == 6;
        match (is_told || is_late) && took < BOUND {
            true => Ok(took),
            false => Err(format!("{command:?}, after {took:?}: {said}")),
        }
    }

    fn said(&self, line: &str) {
        until("the near side sees what the far one printed", || {
            let logs = self.near.run(["logs", "far"]);
            if logs.stdout().contains(&format!("you said: {line}")) {
                Ok(())
            } else {
                Err(logs.everything())
            }
        });
    }
}

#[test]
fn t_part_a_way_between_daemons_that_is_broken_is_told_in_time() {
    let mut trial = Trial::new(
        "T-PART",
        "the way between two daemons is cut or half open: told in time, and then as before",
    );
    let mut dice = trial.dice();
    let two = Two::new();
    two.near.project("p");
    let nodes = two.far.json(&["nodes"]);
    let here = rows(&nodes).iter().find(|node| node["here"] == true).expect("it knows its node");
    let to = ["--node", here["id"].as_str().expect("it has an id")];
    let runner = two.near.launch_with("p", "far", &to, &ECHO);
    let process = two.far.process_of(&runner);
    two.near.run(["send", "far", "before"]).ok();
    two.said("before");
    let commands: [&[&str]; 2] = [&["send", "far", "lost"], &["logs", "far"]];
    for command in commands {
        trial.control(
            &format!("`{}` over a way that is open", command[0]),
            two.told(command).is_err(),
        );
    }
    let faults = [Fault::Reset, Fault::HalfOpen, Fault::OneWay];
    for round in 0..scale(1, 60) {
        let fault = faults[dice.below(faults.len())];
        two.break_by(fault);
        let told = std::thread::scope(|scope| {
            let asking = commands.map(|command| scope.spawn(|| two.told(command)));
            asking.map(|asking| asking.join().expect("it does not panic"))
        });
        for told in told {
            if let Ok(took) = told {
                trial.measured("told after", took);
            }
            trial.tried(told.map(drop).map_err(|found| format!("{fault:?}: {found}")));
        }
        // There all is as ever.
        two.far.run(["send", "far", &format!("there-{round}")]).ok();
        let alive = process.is_alive() && two.far.runner(&runner)["state"] == "running";
        trial.tried(if alive { Ok(()) } else { Err("what ran there is gone".into()) });
        two.heal();
        let began = Instant::now();
        until("what is asked here is done there again", || {
            let sent = two.near.run(["send", "far", &format!("after-{round}")]);
            if sent.code() == 0 { Ok(()) } else { Err(sent.everything()) }
        });
        trial.measured("as before after", began.elapsed());
        two.said(&format!("after-{round}"));
    }
    trial.end();
}
