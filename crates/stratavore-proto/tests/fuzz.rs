//! T-FUZZ for the wire: whatever bytes come in, they cost an error and no more.

use std::collections::BTreeSet;

use bytes::{Buf, BytesMut};
use prost::Message;
use stratavore_core::runner::{AgentIdentity, ProcessIdentity};
use stratavore_proto::frame::{FRAME_MAX, FrameCodec};
use stratavore_proto::runner_dir::RunnerDir;
use stratavore_proto::v1;
use stratavore_testkit::fuzz::{Corpus, bears, fuzz, peak_memory};
use stratavore_testkit::trial::{Dice, Trial, scale};
use tokio_util::codec::{Decoder, Encoder};

/// The most memory that this whole test program may ever have.
const MEMORY_MAX: u64 = 512 << 20;

/// What a daemon and an agent say, as bytes.
fn said() -> Vec<Vec<u8>> {
    use v1::{agent_report::What, from_agent, to_agent, to_agent_socket};
    let hello = v1::AgentHello {
        version_min: 1,
        version_max: 1,
        runner_id: "run_gtahd3byntevc3nhsp5v".into(),
        epoch: 3,
        identity: Some(v1::AgentIdentity {
            boot_id: "b".repeat(36),
            pid: 4711,
            start_time: 99,
            nonce: "0f".repeat(16),
        }),
        key: vec![7; 32].into(),
        join_token: vec![8; 32].into(),
        program_version: "0.1.0".into(),
        started: true,
    };
    let exit = v1::Exit { cause: r#"{"exit":0}"#.into(), at_us: 1_700_000_000_000_000 };
    let report = v1::AgentReport { seq: 9, what: Some(What::Exited(exit)), ..Default::default() };
    let from_agent = |kind| v1::FromAgent { kind: Some(kind) }.encode_to_vec();
    let socket_hello = v1::SocketHello {
        version_min: 1,
        version_max: 1,
        who: "me".into(),
        wish: Some(v1::socket_hello::Wish::Attach(v1::Attach {
            columns: 80,
            rows: 24,
            ..Default::default()
        })),
    };
    let launch = v1::LaunchRunners {
        project: "demo".into(),
        args: vec!["-c".into(), "exit 0".into()],
        ..Default::default()
    };
    vec![
        from_agent(from_agent::Kind::Hello(hello)),
        from_agent(from_agent::Kind::Report(report)),
        from_agent(from_agent::Kind::Heartbeat(v1::AgentHeartbeat {
            memory: u64::MAX,
            ..Default::default()
        })),
        v1::ToAgent { kind: Some(to_agent::Kind::Ack(5)) }.encode_to_vec(),
        v1::ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(socket_hello)) }
            .encode_to_vec(),
        v1::ToAgentSocket { kind: Some(to_agent_socket::Kind::Input(vec![0; 100].into())) }
            .encode_to_vec(),
        launch.encode_to_vec(),
        Vec::new(),
        // Groups in groups, a field of every wire type, a length beyond the end, field 0.
        vec![0x0b; 1000],
        vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x00, 0x00],
    ]
}

macro_rules! messages {
    ($($name:ident)*) => {
        const MESSAGES: &[&str] = &[$(stringify!($name)),*];

        /// Decodes the bytes as every message there is; what can be decoded can be encoded again.
        fn decode_all(bytes: &[u8]) -> Result<(), String> {
            $(if let Ok(message) = v1::$name::decode(bytes) {
                let again = v1::$name::decode(&message.encode_to_vec()[..]);
                // Not a number is not equal to itself.
                if format!("{message:?}") != format!("{:?}", again.map_err(|e| e.to_string())?) {
                    return Err(format!("{} comes back as another", stringify!($name)));
                }
            })*
            Ok(())
        }
    };
}

messages! {
    AddItem AddNotify AgentHeartbeat AgentHello AgentIdentity AgentReport AllowBudget
    AllowedBudget AnswerAsk AnswerHook ArchiveProject Ask Attach Budget BudgetDetail
    BudgetHistory BudgetHistoryOf BudgetList BudgetPeriod BudgetShare BudgetStep Ca ChangeItem
    ConnectFrame CreateProject DaemonStatus DeadLetter DeadLetterList DeleteProject Destination
    Doing Done EditProject Ended EnvVariable Event EventFilter EventList Exit ExplainUsage
    Explanation ExportFile ExportPart ExportRecord ExportSessionRequest FindRequest ForgetDestination
    ForgottenDestination FoundMessage
    FoundMessages FromAgent FromAgentSocket GetCaRequest GetItem GetNode GetProject GetRunner
    GetSession Go Hook HookAnswer ImportManifest ImportPart ImportRequest ImportStep
    ImportedFile ImportedSession InboxList InitCaRequest JoinRequest JoinTokenInfo JoinTokenList
    Lagged LaunchRunners Limits LimitsEdit ListBudgets ListDeadLetters ListEvents ListInbox
    ListItems ListMessages ListNodes ListNotify ListProjects ListRecordKeys ListRunners
    ListSessions ListTokensRequest ListWindows LocalUser Message MessageList MintTokenRequest
    MintedToken Move Node NodeList NotCovered Notification NotifyAttempt NotifyDestination
    NotifyHistory NotifyList NotifyRules OnBehalfOf OutboxStatus OutboxStatusRequest Output
    OutputChunk OutputGap OutputWish PauseRunner Poke Pong Problem ProcessIdentity Project
    ProjectList Prompt PromptRunner QueueItem QueueItemList QueueSettings Quota QuotaEdit
    ReadOutputRequest ReconcileReport ReconcileRequest RecordKey RecordKeys RecordLines
    RecoverRunners Rejected RemoveBudget RemoveNotify RemoveSession RemovedNotify RenewRequest
    ReportUsage Resize RestartRunner RetryDeadLetters RetryNotify RetryNotifyReply RetryReply
    RevokeTokenRequest RevokedToken RotateRecordKey RunProgress RunResult RunStep RunSteps
    RunUsage Runner RunnerList ScheduleNode Screen ScreenWish SendInput SendToRunner Sent
    Session SessionDetails SessionHolder SessionList SetBudget SetPaused SetQueue ShowBudget
    ShowNotify ShutdownReply ShutdownRequest SignRequest SignalRead SignedCertificate
    SnippetPiece SocketHello SocketRefused SocketWelcome StatusRequest Steal StopAssistant
    StopRunner StoreStatus SubscribeEvents SwitchNotify TaskStatus TestNotify ToAgent
    ToAgentSocket Upgrade UpgradeAgentRequest UpgradedAgent Usage UsageExplained UsageFilter
    UsageGroup UsageReport UsageRow UsageSums VaultStatus VaultStatusRequest WaitRunner Waiting
    WatchRun Welcome Window WindowList Writer Yield
}

#[test]
fn every_message_is_tried() {
    let mut written = BTreeSet::new();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/stratavore/v1");
    for entry in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("message "));
        written.extend(names.filter_map(|name| Some(name.split_whitespace().next()?.to_owned())));
    }
    let tried: BTreeSet<String> = MESSAGES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(written, tried, "a message that is in one and not in the other");
}

#[test]
fn t_fuzz_no_bytes_break_the_decoding_of_a_message() {
    let mut trial = Trial::new("T-FUZZ messages", "whatever bytes come, a message or an error");
    let mut dice = trial.dice();
    fuzz(&mut trial, &mut dice, scale(1500, 200_000), &Corpus::new(said()), |bytes| {
        decode_all(bytes)?;
        // The conversions take whatever is in a message.
        if let Ok(identity) = v1::AgentIdentity::decode(bytes) {
            let back = v1::AgentIdentity::from(AgentIdentity::from(identity.clone()));
            if back != identity {
                return Err("an identity comes back as another".into());
            }
        }
        if let Ok(process) = v1::ProcessIdentity::decode(bytes) {
            let back = v1::ProcessIdentity::from(ProcessIdentity::from(process));
            if back != process {
                return Err("a process comes back as another".into());
            }
        }
        Ok(())
    });
    // The controls: whoever believes that it is a message, and a message that loses its end on the way.
    let believes = |bytes: &[u8]| {
        v1::ToAgent::decode(bytes).expect("a message");
        Ok(())
    };
    trial.control("a decoder that believes all", !all_borne(&mut dice, believes));
    let loses = |bytes: &[u8]| match v1::LaunchRunners::decode(bytes) {
        Ok(message) if !message.args.is_empty() => {
            let all = message.encode_to_vec();
            let again = v1::LaunchRunners::decode(&all[..all.len() - 1]);
            if again.is_ok_and(|again| again == message) { Ok(()) } else { Err("another".into()) }
        }
        Ok(_) | Err(_) => Ok(()),
    };
    trial.control("a message that loses its end", !all_borne(&mut dice, loses));
    let peak = peak_memory();
    trial.most("peak of memory, bytes", peak);
    trial.tried(if peak <= MEMORY_MAX { Ok(()) } else { Err(format!("{peak} bytes")) });
    trial.end();
}

/// Whether some inputs of the kind that messages are tried with are borne: the controls'.
fn all_borne(dice: &mut Dice, take: impl Fn(&[u8]) -> Result<(), String>) -> bool {
    let corpus = Corpus::new(said());
    (0..2000).all(|_| bears(&corpus.input(dice), &take).is_ok())
}

/// Gives a decoder the bytes in pieces, as a connection would. Complains of a buffer that grows
/// beyond the largest frame.
fn read_in_pieces<D>(mut decoder: D, bytes: &[u8]) -> Result<(), String>
where
    D: Decoder,
    D::Error: std::fmt::Debug,
{
    let mut buffer = BytesMut::new();
    for piece in bytes.chunks(1 + bytes.len() / 7) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(_)) if buffer.len() < before => {}
                Ok(Some(_)) => return Err("a frame of nothing, for ever".into()),
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
        if buffer.capacity() > FRAME_MAX + 4 + bytes.len() {
            return Err(format!("{} bytes are reserved", buffer.capacity()));
        }
    }
    Ok(())
}

/// The control: believes every length.
struct Gullible;

impl Decoder for Gullible {
    type Item = BytesMut;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, std::io::Error> {
        let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(4);
        Ok(Some(buffer.split_to(length)))
    }
}

#[test]
fn t_fuzz_no_stream_breaks_the_reading_of_frames() {
    let mut trial = Trial::new(
        "T-FUZZ frames",
        "whatever stream comes, frames or an error, and no more memory",
    );
    let mut dice = trial.dice();
    let mut streams = Vec::new();
    for message in said() {
        let mut stream = (message.len() as u32).to_be_bytes().to_vec();
        stream.extend(&message);
        streams.push(stream);
    }
    streams.push(streams.concat());
    for length in [1, FRAME_MAX as u32, FRAME_MAX as u32 + 1, 1 << 31, u32::MAX] {
        streams.push([&length.to_be_bytes()[..], b"and no more"].concat());
    }
    let corpus = Corpus::new(streams);
    fuzz(&mut trial, &mut dice, scale(5000, 1_000_000), &corpus, |bytes| {
        read_in_pieces(FrameCodec::<v1::FromAgent, v1::ToAgent>::default(), bytes)?;
        read_in_pieces(FrameCodec::<v1::ToAgentSocket, v1::FromAgentSocket>::default(), bytes)
    });
    let large = [&(64u32 << 20).to_be_bytes()[..], b"x"].concat();
    let caught = bears(&large, |bytes| read_in_pieces(Gullible, bytes)).is_err();
    trial.control("a decoder without the limit of length", caught);
    trial.end();
}

#[test]
fn a_frame_over_the_limit_is_not_written_either() {
    let mut buffer = BytesMut::new();
    let output = v1::Output { offset: 0, data: vec![0; FRAME_MAX].into() };
    assert!(FrameCodec::<v1::Output, v1::Output>::default().encode(output, &mut buffer).is_err());
    assert!(buffer.is_empty(), "half a frame would be read as something else");
}

#[test]
fn t_fuzz_no_file_in_a_runners_directory_breaks_whoever_reads_it() {
    let mut trial =
        Trial::new("T-FUZZ runner directory", "whatever a file holds, a record or an error");
    let mut dice = trial.dice();
    let home = tempfile::tempdir().unwrap();
    let dir = RunnerDir::at(home.path().join("run_gtahd3byntevc3nhsp5v"));
    dir.create().unwrap();
    let corpus = Corpus::new([
        r#"{"epoch":1,"exit":{"cause":{"exit":0},"at":"2024-01-01T00:00:00Z"}}"#.as_bytes().to_vec(),
        r#"{"epoch":1,"identity":{"boot_id":"b","pid":1,"start_time":2,"nonce":"n"},"program_version":"0","process":null,"cgroups":["/sys"]}"#.as_bytes().to_vec(),
        vec![b'['; 50_000],
        b"{\"epoch\":99999999999999999999999}".to_vec(),
        b"{\"epoch\":1e308,\"epoch\":2}".to_vec(),
        b"\xff\xfe\0\0".to_vec(),
    ]);
    fuzz(&mut trial, &mut dice, scale(500, 50_000), &corpus, |bytes| {
        for name in ["spec.json", "agent.json", "exit.json"] {
            std::fs::write(dir.path().join(name), bytes).map_err(|error| error.to_string())?;
        }
        let _read = (dir.spec(), dir.agent(), dir.exit());
        Ok(())
    });
    // The control: whoever believes that a file is whole.
    let believes = |bytes: &[u8]| {
        std::fs::write(dir.path().join("exit.json"), bytes).map_err(|error| error.to_string())?;
        dir.exit().expect("a record").expect("a file");
        Ok(())
    };
    let borne = (0..2000).all(|_| bears(&corpus.input(&mut dice), believes).is_ok());
    trial.control("a reader that believes all", !borne);
    trial.end();
}
