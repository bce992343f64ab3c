//! A vault in a bucket: what is taken in is there and comes back, and what cannot be is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stratavore_testkit::model::Reply;
use stratavore_testkit::s3::{BUCKET, Fault, KEY, REGION, S3, SECRET};
use stratavore_testkit::world::{World, rows, until_within};

use crate::placement::{PATIENCE, Two};
use crate::vault::{ONE, TWO, put, transcript, world};

/// The settings of a vault in the bucket; its credentials are put into this file.
fn settings(server: &S3, credentials: &Path) -> String {
    fs::write(
        credentials,
        format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"),
    )
    .unwrap();
    fs::set_permissions(credentials, fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "vault:\n  url: s3://{BUCKET}/team\n  s3:\n    endpoint: {}\n    region: {REGION}\n    credentials_file: {}\n",
        server.url(),
        credentials.display()
    )
}

fn in_bucket(server: &S3) -> World {
    let world = world();
    let own = settings(server, &world.path("s3"));
    let config = world.path("stratavore.yaml");
    let before = fs::read_to_string(&config).unwrap_or_default();
    fs::write(&config, before + &own).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    world.project("demo");
    world
}

fn given_back(world: &World, session: &str) -> String {
    let out = world.path(&format!("out-{session}"));
    world.run(["sessions", "export", session, &out.display().to_string()]).ok();
    let mut files = fs::read_dir(out.join("transcripts")).unwrap();
    fs::read_to_string(files.next().unwrap().unwrap().path()).unwrap()
}

#[test]
fn conversations_are_kept_in_a_bucket_and_come_back() {
    let server = S3::start();
    let world = in_bucket(&server);
    let inside = transcript(ONE, &world.work(), "flaky heartbeat");
    put(&world, ONE, &inside);
    world.run(["import"]).ok();
    let keys = server.keys();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("team/node_")), "{keys:?}");
    assert_eq!(given_back(&world, ONE), inside);
    assert_eq!(server.refused(), [""; 0]);

    // What the server refuses is told, and taken in once it does not.
    let other = transcript(TWO, Path::new("/somewhere/else"), "crooked picture");
    put(&world, TWO, &other);
    server.fail("PUT", Fault::Status(403, "AccessDenied"));
    let told = world.run(["import"]).everything();
    assert!(told.contains("it answers 403 AccessDenied"), "{told}");
    let status = world.run(["status"]).everything();
    assert!(status.contains("the vault:") && status.contains("403 AccessDenied"), "{status}");
    world.run(["import"]).ok();
    assert_eq!(given_back(&world, TWO), other);
    let status = world.run(["status"]).everything();
    assert!(!status.contains("the vault:"), "{status}");
}

/// What one host has put into the bucket another one gives back, and goes on from if that host is gone. That
/// it would not without the bucket is in `placement.rs`.
#[test]
fn a_host_reads_what_another_has_put_into_the_bucket() {
    let server = S3::start();
    let files = tempfile::tempdir().unwrap();
    let two = Two::with(&settings(&server, &files.path().join("s3")));
    two.model.on_prompt("the word is walnut", [Reply::text("I shall keep it")]);
    let session = two.held_there();
    let path = two.transcript();
    let said = fs::read(&path).unwrap();
    let mut number = 0;
    let mut export = || {
        number += 1;
        let out = two.here().path(&format!("out-{number}"));
        let ran = two.here().run(["sessions", "export", &session, &out.display().to_string()]);
        let given = fs::read_dir(out.join("transcripts")).into_iter().flatten();
        let given: Vec<_> = given.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        (ran, given)
    };
    until_within(PATIENCE, "what is given out here is what was said there", || match export() {
        (ran, given) if ran.code() == 0 && given == [said.clone()] => Ok(()),
        (ran, given) => Err((ran.everything(), given.len())),
    });
    let prefix = format!("team/{}/", two.hosts.id(1));
    assert!(server.keys().iter().all(|key| key.starts_with(&prefix)), "{:?}", server.keys());

    // The control: what is damaged there is not given out here.
    let kept: Vec<_> = server.keys().into_iter().map(|key| (server.object(&key), key)).collect();
    for (_, key) in &kept {
        server.set(key, b"rubbish".to_vec());
    }
    let (ran, _) = export();
    assert!(ran.code() != 0 && ran.stderr().contains("is damaged"), "{}", ran.everything());
    for (bytes, key) in kept {
        server.set(&key, bytes.unwrap());
    }

    // That host is gone, with its files.
    fs::rename(&path, path.with_extension("away")).unwrap();
    two.there().kill_daemon();
    let resumed = until_within(PATIENCE, "it is resumed here", || {
        let resumed = two.here().run(["sessions", "resume", &session, "--format", "json"]);
        if resumed.code() == 0 { Ok(resumed) } else { Err(resumed.everything()) }
    });
    let told = resumed.stderr();
    assert!(told.contains(&format!("is what {} had kept of it at", two.hosts.id(1))), "{told}");
    let runner = rows(&resumed.json())[0].clone();
    assert_eq!(runner["node_id"], two.hosts.id(0).as_str());
    assert!(fs::read(&path).unwrap().starts_with(&said), "it is as it was there");
    two.knows_the_word(runner["id"].as_str().unwrap(), "say the word");
}
