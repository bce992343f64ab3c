//! A private home for one real assistant, in which it talks to a stand-in on loopback and to nobody
//! else, and asks none of the questions of a first start.
//!
//! The user's own homes and logins are neither read nor written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::programs::{self, Program};

/// The key that assistants are given for the stand-in. It opens nothing.
pub const KEY: &str = "stand-in-key-0123456789abcdefghijklmnopqrstuvwxyz";

/// A way out for what looks for news outside in spite of everything: it refuses at once. The
/// stand-in is not behind it, as it does not speak TLS.
const NOWHERE: &str = "http://127.0.0.1:9";

/// A home with what one assistant needs in it.
#[derive(Debug)]
pub struct AssistantHome {
    program: Program,
    /// The stand-in's root.
    url: String,
    home: PathBuf,
    work: PathBuf,
    is_subscribed: bool,
    _directory: Option<tempfile::TempDir>,
}

impl AssistantHome {
    /// A home for it with a directory to work in, both gone when it is dropped.
    pub fn new(program: Program, url: &str) -> Self {
        let named = tempfile::Builder::new().prefix("stratavore-assistant-").tempdir();
        let directory = named.expect("a temporary directory");
        let (home, work) = (directory.path().join("home"), directory.path().join("work"));
        Self { _directory: Some(directory), ..Self::at(program, url, &home, &work) }
    }

    /// The same in directories that the test has, which may be those of a [`World`](crate::world::World).
    pub fn at(program: Program, url: &str, home: &Path, work: &Path) -> Self {
        fs::create_dir_all(work).expect("a directory to work in");
        fs::create_dir_all(home.join("tmp")).expect("a home");
        // Assistants know directories by their real names.
        let work = work.canonicalize().expect("the directory is there");
        let home = home.canonicalize().expect("the home is there");
        let url = url.to_owned();
        let own = Self { program, url, home, work, is_subscribed: false, _directory: None };
        match program {
            Program::Claude => own.claude(),
            Program::Codex => own.codex(),
            Program::Gemini => own.gemini(),
            Program::Opencode => own.opencode(),
        }
        own
    }

    pub fn program(&self) -> Program {
        self.program
    }

    /// Has it log in as a subscriber does, and not with a key.
    pub fn subscribe(&mut self) {
        self.is_subscribed = true;
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The directory that it trusts and works in.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The model that it is told to use.
    pub fn model(&self) -> &'static str {
        match self.program {
            Program::Claude => "claude-opus-4-8",
            Program::Codex => "gpt-5-codex",
            Program::Opencode => "model-a",
            Program::Gemini => "gemini-3.1-pro-preview",
        }
    }

    /// What it needs in its environment, besides `PATH` and `TERM`.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut set = |key: &str, value: &str| all.insert(key.to_owned(), value.to_owned());
        set("HOME", &self.home.to_string_lossy());
        set("LANG", "C.UTF-8");
        // What they leave behind goes with the home.
        set("TMPDIR", &self.home.join("tmp").to_string_lossy());
        match self.program {
            Program::Claude => {
                set("ANTHROPIC_BASE_URL", &self.url);
                let login = ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"];
                set(login[usize::from(self.is_subscribed)], KEY);
                set("DISABLE_AUTOUPDATER", "1");
                set("DISABLE_TELEMETRY", "1");
                set("DISABLE_ERROR_REPORTING", "1");
                set("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
                set("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1");
                set("CLAUDE_CODE_MAX_RETRIES", "3");
            }
            Program::Codex => {
                set("STAND_IN_KEY", KEY);
                set("HTTPS_PROXY", NOWHERE);
            }
            Program::Opencode => {
                set("OPENCODE_CONFIG_CONTENT", &self.opencode_config().to_string());
                set("OPENCODE_DISABLE_AUTOUPDATE", "1");
                set("OPENCODE_DISABLE_MODELS_FETCH", "1");
                set("OPENCODE_DISABLE_LSP_DOWNLOAD", "1");
            }
            Program::Gemini => {
                set("GEMINI_API_KEY", KEY);
                set("GOOGLE_GEMINI_BASE_URL", &self.url);
                set("GEMINI_CLI_NO_RELAUNCH", "true");
            }
        }
        all
    }

    /// The arguments that it needs whatever it does.
    pub fn arguments(&self) -> Vec<String> {
        let words: &[&str] = match self.program {
            Program::Claude | Program::Codex | Program::Opencode => &[],
            // A model of its own choice costs a request more.
            Program::Gemini => &["--skip-trust", "-m", self.model()],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// A command that runs it at home, in its directory, with nothing of our environment but the
    /// `PATH`, and with the arguments that it always needs.
    #[track_caller]
    pub fn command(&self) -> Command {
        let mut command = programs::command(self.program, &self.program.path());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment())
            .args(self.arguments())
            .current_dir(&self.work);
        command
    }

    /// The same for one prompt and no terminal, with every tool allowed, and events as JSON lines.
    #[track_caller]
    pub fn headless(&self, prompt: &str) -> Command {
        let mut command = self.command();
        match self.program {
            Program::Claude => command
                .args(["-p", prompt, "--output-format", "stream-json", "--verbose"])
                .args(["--permission-mode", "acceptEdits", "--allowedTools", "Bash"]),
            Program::Codex => command
                .args(["exec", "--json", "--skip-git-repo-check", "-s", "danger-full-access"])
                .arg(prompt),
            Program::Opencode => {
                command.args(["run", "--format", "json", "--title", "scripted", "--auto", prompt])
            }
            Program::Gemini => command.args(["-y", "-o", "stream-json", "-p", prompt]),
        };
        command.stdin(std::process::Stdio::null());
        command
    }

    /// The same on a terminal, where it begins with this prompt and asks a person before it runs
    /// what the model calls outside of a sandbox.
    #[track_caller]
    pub fn interactive(&self, prompt: &str) -> Command {
        let mut command = self.command();
        match self.program {
            Program::Claude => command.arg(prompt),
            Program::Codex => command
                .args(["--no-daemon", "-a", "on-request", "-s", "workspace-write"])
                .arg(prompt),
            Program::Opencode => command.args(["--prompt", prompt]),
            Program::Gemini => command.args(["-i", prompt]),
        };
        command
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.home.join(name);
        let directory = path.parent().expect("a file is in a directory");
        fs::create_dir_all(directory).expect("the home can be written to");
        fs::write(&path, text).expect("the home can be written to");
    }

    fn claude(&self) {
        let settings = json!({
            "hasCompletedOnboarding": true,
            "theme": "dark",
            // A key is known by its end.
            "customApiKeyResponses": { "approved": [&KEY[KEY.len() - 20..]] },
            "projects": { self.work.to_string_lossy(): { "hasTrustDialogAccepted": true } },
        });
        self.file(".claude.json", &settings.to_string());
    }

    fn codex(&self) {
        // JSON's strings are TOML's too.
        let (url, work) = (json!(format!("{}/v1", self.url)), json!(self.work));
        let settings = format!(
            r#"model = "{model}"
model_provider = "stand-in"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
apps = false
plugins = false

[model_providers.stand-in]
name = "stand-in"
base_url = {url}
wire_api = "responses"
env_key = "STAND_IN_KEY"

[projects.{work}]
trust_level = "trusted"
"#,
            model = self.model(),
        );
        self.file(".codex/config.toml", &settings);
    }

    fn opencode(&self) {
        // A plugin's own package, which opencode fetches into every home that does not say so. Until
        // it has it, no plugin is loaded.
        let lock = json!({
            "lockfileVersion": 3,
            "packages": { "": { "dependencies": {
                "@opencode-ai/plugin": Program::Opencode.version(),
            } } },
        });
        self.file(".config/opencode/package-lock.json", &lock.to_string());
        let modules = self.home.join(".config/opencode/node_modules");
        fs::create_dir_all(modules).expect("the home can be written to");
    }

    /// What it is told by a variable.
    pub fn opencode_config(&self) -> Value {
        let model = format!("stand-in/{}", self.model());
        json!({
            "autoupdate": false,
            "share": "disabled",
            "model": model,
            "small_model": model,
            "enabled_providers": ["stand-in"],
            // Of itself it asks for nothing.
            "permission": { "bash": "ask" },
            "provider": { "stand-in": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "stand-in",
                "options": { "baseURL": format!("{}/v1", self.url), "apiKey": KEY },
                "models": { self.model(): {
                    "name": self.model(),
                    "limit": { "context": 200_000, "output": 8_000 },
                    "cost": { "input": 1, "output": 2, "cache_read": 0.1 },
                } },
            } },
        })
    }

    fn gemini(&self) {
        let settings = json!({
            "security": { "auth": { "selectedType": "gemini-api-key" } },
            "general": {
                "enableAutoUpdate": false,
                "enableAutoUpdateNotification": false,
                // Else it tries for minutes what it is told to leave.
                "maxAttempts": 2,
                "sessionRetention": { "enabled": false },
            },
            "privacy": { "usageStatisticsEnabled": false },
        });
        self.file(".gemini/settings.json", &settings.to_string());
    }
}
