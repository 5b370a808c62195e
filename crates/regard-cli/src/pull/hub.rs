//! The Hugging Face Hub as a source: one file of a pinned revision, over HTTP with resume.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::pull::catalogue::HubFile;
use crate::pull::part::Part;
use crate::pull::source::{Failure, OFFLINE};

/// How long a connection may take before the Hub counts as out of reach.
const CONNECT: Duration = Duration::from_secs(3);
/// A transfer that was cut is taken up again this often, as long as each try brings something.
const TRIES: usize = 5;

/// How to reach the Hub, as its own client's environment variables say.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    pub(crate) token: Option<String>,
    pub(crate) offline: bool,
    /// For the whole answer to the first question (what is this file?).
    pub(crate) question: Duration,
    /// Between any two pieces of a transfer.
    pub(crate) silence: Duration,
    /// Before a cut transfer is taken up again.
    pub(crate) pause: Duration,
    /// A file of certificates to trust instead of the built-in roots.
    pub(crate) certificates: Option<PathBuf>,
}

impl Hub {
    /// The Hub that the environment describes: `HF_ENDPOINT`, `HF_TOKEN` (else the token that the Hub's own login
    /// saved, found through `HF_TOKEN_PATH` or `HF_HOME`, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`), `HF_HUB_OFFLINE`,
    /// `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT`, and for the certificates `REQUESTS_CA_BUNDLE` or
    /// `SSL_CERT_FILE`. The usual proxy variables hold as well.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Self {
        let set = |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let is_on = |name| {
            set(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let seconds = |name| {
            let value = set(name).and_then(|value| value.parse::<f64>().ok());
            value.and_then(|value| Duration::try_from_secs_f64(value).ok()).unwrap_or(Duration::from_secs(10))
        };
        let saved_token = || {
            if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
                return None;
            }
            let folder = || {
                set("HF_HOME")
                    .map(PathBuf::from)
                    .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("huggingface")))
                    .or_else(|| Some(home.clone()?.join(".cache").join("huggingface")))
            };
            let path = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(folder()?.join("token")))?;
            let token = fs::read_to_string(path).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        };
        Self {
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".into())
                .trim_end_matches('/')
                .into(),
            token: set("HF_TOKEN").or_else(saved_token),
            offline: is_on("HF_HUB_OFFLINE"),
            question: seconds("HF_HUB_ETAG_TIMEOUT"),
            silence: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
            pause: Duration::from_millis(300),
            certificates: set("REQUESTS_CA_BUNDLE").or_else(|| set("SSL_CERT_FILE")).map(PathBuf::from),
        }
    }

    /// Brings `part` to its end with the bytes of `file`, whose digest must be `sha256`, and verifies it.
    ///
    /// # Errors
    /// [`Failure::Source`] with the reason when the Hub does not deliver this very file.
    pub(crate) fn fetch(&self, file: &HubFile, sha256: &str, part: &mut Part) -> Result<(), Failure> {
        if self.offline {
            return Err(Failure::Unreachable(OFFLINE.into()));
        }
        let agent = self.agent()?;
        let url = format!("{}/{}/resolve/{}/{}", self.endpoint, file.repository, file.revision, file.path);
        self.ask(&agent, &url, sha256)?;
        let inherited = part.arrived() > 0;
        self.transfer(&agent, &url, part)?;
        match part.verify() {
            // The bytes of an earlier run may be the bad ones; from the start once more.
            Err(Failure::Source(_)) if inherited => {
                self.transfer(&agent, &url, part)?;
                part.verify()
            }
            result => result,
        }
    }

    /// Asks what the address holds. The Hub names a large file's digest without sending it, so another file is
    /// refused before it is paid for.
    fn ask(&self, agent: &Agent, url: &str, sha256: &str) -> Result<(), Failure> {
        let mut request = agent
            .head(url)
            .config()
            .timeout_global(Some(self.question))
            // The digest stands in the answer that redirects to the storage, not in the storage's own.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .header("accept-encoding", "identity");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(reason)?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refusal(status));
        }
        match header(&response, "x-linked-etag").map(|etag| etag.trim_matches('"').to_owned()) {
            Some(etag) if etag.len() == 64 && !etag.eq_ignore_ascii_case(sha256) => {
                Err(Failure::Source(format!("not it: the file there has SHA-256 {etag}")))
            }
            _ => Ok(()),
        }
    }

    /// Transfers what is missing, and goes on after a cut as long as that brings something.
    fn transfer(&self, agent: &Agent, url: &str, part: &mut Part) -> Result<(), Failure> {
        let mut tries = 0;
        while !part.is_complete() {
            let before = part.arrived();
            match self.transfer_once(agent, url, part) {
                Err(Failure::Cut(reason)) if part.arrived() == before || tries == TRIES => {
                    return Err(Failure::Source(format!("cut off after {} bytes: {reason}", part.arrived())));
                }
                Err(Failure::Cut(_)) => {
                    tries += 1;
                    thread::sleep(self.pause);
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn transfer_once(&self, agent: &Agent, url: &str, part: &mut Part) -> Result<(), Failure> {
        let mut request = agent.get(url).header("accept-encoding", "identity");
        if part.arrived() > 0 {
            request = request.header("range", format!("bytes={}-", part.arrived()));
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(reason)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if resumes_at(&response, part.arrived()) => {}
            StatusCode::PARTIAL_CONTENT => return Err(Failure::Source("answers another range than asked".into())),
            StatusCode::OK if part.arrived() == 0 => {}
            // The server knows no ranges, and sends everything again.
            StatusCode::OK => part.restart()?,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Failure::Source(format!("not it: the file there ends before byte {}", part.arrived())));
            }
            status => return Err(self.refusal(status)),
        }
        let mut body = response.into_body().into_reader();
        let mut block = vec![0; 1 << 16];
        loop {
            match body.read(&mut block) {
                Ok(0) if part.is_complete() => return Ok(()),
                Ok(0) => return Err(Failure::Cut("the connection was closed".into())),
                Ok(count) => part.write(&block[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Cut(error.to_string())),
            }
        }
    }

    fn agent(&self) -> Result<Agent, Failure> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &self.certificates {
            let pem = fs::read(path).map_err(|error| Failure::Source(format!("{}: {error}", path.display())))?;
            let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            tls = tls.root_certs(RootCerts::from(certificates));
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(self.silence))
            .timeout_recv_response(Some(self.silence))
            .user_agent(concat!("regard/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(config.new_agent())
    }

    fn refusal(&self, status: StatusCode) -> Failure {
        let text = match (status.as_u16(), &self.token) {
            (401 | 403, None) => "wants a token (HTTP 401 or 403): set HF_TOKEN".to_owned(),
            (401 | 403, Some(_)) => {
                format!("refuses the token of HF_TOKEN or of the Hub's login (HTTP {})", status.as_u16())
            }
            (404, _) => "has no such file (HTTP 404)".to_owned(),
            (code, _) => format!("answers HTTP {code}"),
        };
        Failure::Source(text)
    }
}

/// What kept a request from being answered, in a few words.
fn reason(error: ureq::Error) -> Failure {
    Failure::Unreachable(match error {
        ureq::Error::HostNotFound => "cannot be reached: no such host".to_owned(),
        ureq::Error::Timeout(what) => format!("cannot be reached in time ({what})"),
        ureq::Error::Io(error) => format!("cannot be reached: {error}"),
        other => return Failure::Source(format!("cannot be asked: {other}")),
    })
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Whether a partial answer starts at byte `start`.
fn resumes_at(response: &Response<Body>, start: u64) -> bool {
    header(response, "content-range").is_some_and(|range| {
        range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()) == Some(start.to_string().as_str())
    })
}
