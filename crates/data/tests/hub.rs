//! Fetching from a hub, against a small server on this machine that breaks off in the middle of a file.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use etude_data::{Hub, Progress};
use sha2::{Digest, Sha256};

const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model. It notes each request as `PATH RANGE TOKEN`.
struct Server {
    endpoint: String,
    seen: Arc<Mutex<Vec<String>>>,
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weights() -> Vec<u8> {
    (0..100_000u32)
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

impl Server {
    /// `listed` is the SHA-256 that is said of the weights.
    fn start(listed: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let weights = weights();
        let listing = serde_json::json!({
            "sha": REVISION,
            "siblings": [
                {"rfilename": "config.json", "blobId": "a".repeat(40), "size": 2},
                {"rfilename": "pytorch_model.bin", "blobId": "b".repeat(40), "size": 9},
                {"rfilename": "../evil.json", "blobId": "c".repeat(40), "size": 2},
                {"rfilename": "model.safetensors", "blobId": "d".repeat(40), "size": 130,
                 "lfs": {"sha256": listed, "size": weights.len(), "pointerSize": 130}},
            ],
        });
        let files = HashMap::from([
            (
                "/api/models/org/name/revision/main?blobs=true".to_owned(),
                listing.to_string().into_bytes(),
            ),
            (
                format!("/org/name/resolve/{REVISION}/config.json"),
                b"{}".to_vec(),
            ),
            ("/elsewhere".to_owned(), weights),
        ]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &files, &notes);
            }
        });
        Self { endpoint, seen }
    }
}

/// One request a connection. Weights are redirected, and their first answer breaks off half way.
fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut from, mut token) = (0, String::new());
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        let lower = line.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        } else if lower.starts_with("authorization: ") {
            token = line["authorization: ".len()..].to_owned();
        }
    }
    let broken_before = {
        let mut seen = seen.lock().unwrap();
        seen.push(format!("{path} {from} {token}"));
        seen.iter()
            .filter(|note| note.starts_with("/elsewhere"))
            .count()
            > 1
    };
    let head =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n");
    if path.ends_with("model.safetensors") {
        let moved = head("302 Found", "Location: /elsewhere\r\nContent-Length: 0\r\n");
        stream.write_all(moved.as_bytes()).unwrap();
        return;
    }
    let Some(whole) = files.get(&path) else {
        let missing = head("404 Not Found", "Content-Length: 0\r\n");
        stream.write_all(missing.as_bytes()).unwrap();
        return;
    };
    let rest = &whole[from.min(whole.len())..];
    let status = if from > 0 {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let length = format!("Content-Length: {}\r\n", rest.len());
    stream.write_all(head(status, &length).as_bytes()).unwrap();
    let sent = if path == "/elsewhere" && !broken_before {
        &rest[..rest.len() / 2]
    } else {
        rest
    };
    // The other side may have heard enough.
    let _ = stream.write_all(sent);
}

#[test]
fn a_broken_download_goes_on_and_the_cache_is_used() {
    let server = Server::start(&sha256(&weights()));
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::new(&server.endpoint, home.path(), Some("secret".to_owned()));
    let folder = hub.fetch("org/name", &Progress::Silent).unwrap();
    assert_eq!(
        fs::read(folder.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        2,
        "no pickle, no stranger"
    );
    let model = home.path().join("hub/models--org--name");
    assert!(folder.ends_with(format!("hub/models--org--name/snapshots/{REVISION}")));
    assert_eq!(
        fs::read_to_string(model.join("refs/main")).unwrap(),
        REVISION
    );

    let seen = server.seen.lock().unwrap().clone();
    let half = weights().len() / 2;
    let went_on = seen
        .iter()
        .any(|note| note.starts_with(&format!("/elsewhere {half} ")));
    assert!(went_on, "{seen:?}");
    assert!(seen[0].ends_with(" Bearer secret"), "{seen:?}");

    // The second time only the list is asked for.
    hub.fetch("org/name", &Progress::Silent).unwrap();
    let again = server.seen.lock().unwrap().len();
    assert_eq!(again, seen.len() + 1);
    assert!(!format!("{hub:?}").contains("secret"));

    // Without a network what is here is taken, if it is all.
    let offline = Hub::new(&dead(), home.path(), None);
    let kept = offline.fetch("org/name", &Progress::Silent).unwrap();
    assert_eq!(kept, folder);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let error = offline.fetch("org/name", &Progress::Silent).unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

/// An endpoint where nobody listens: its port was free a moment ago.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn what_is_not_what_was_listed_is_refused() {
    let server = Server::start(&sha256(b"other"));
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::new(&server.endpoint, home.path(), None);
    let error = hub.fetch("org/name", &Progress::Silent).unwrap_err();
    assert!(error.to_string().contains("another SHA-256"), "{error}");
    let error = hub.fetch("org/other", &Progress::Silent).unwrap_err();
    assert!(error.to_string().contains("no such model"), "{error}");
}

#[test]
fn names_are_checked_and_a_dead_hub_is_named() {
    for good in ["org/name", "HuggingFaceTB/SmolLM2-135M", "a/b.c@v1.0"] {
        assert!(Hub::is_name(good), "{good}");
    }
    for bad in [
        "name", "a/b/c", "../x", "a/..", "a/b@", "a/b@../x", "a b/c", "/b",
    ] {
        assert!(!Hub::is_name(bad), "{bad}");
    }
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::new(&dead(), home.path(), None);
    let error = hub.fetch("org/name", &Progress::Silent).unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}
