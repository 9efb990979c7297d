//! Files, archives, logs and lists.

use super::world::*;
use ::channel::{ErrorKind, FileInfo, FileKind, Kind, ProcessInfo, Reply, Request, User};
use model::Code;
use std::sync::{Arc, Mutex};

fn info(name: &str) -> FileInfo {
    let (kind, name) = (FileKind::File, name.to_owned());
    FileInfo { name, kind, size: 9, mode: 0o100_644, uid: 1000, gid: 1000, mtime: 1, target: None }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 31 / 7) as u8).collect()
}

#[tokio::test]
async fn content_comes_out() {
    let world = World::new(async |mut peer: Peer| {
        let request = peer.request().await;
        assert_eq!(
            request,
            Request::Read { path: "/a b".into(), offset: 0, length: None, user: Some(User::Root) }
        );
        peer.reply(Reply::File(info("a b"))).await;
        for piece in pattern(9 << 20).chunks(200_001) {
            assert!(peer.send(Kind::Data1, piece).await);
        }
        peer.send(Kind::End1, &[]).await;
    })
    .await;
    let answer = world.get("files?path=/a%20b&user=root").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.bytes().await.unwrap(), pattern(9 << 20));
}

#[tokio::test]
async fn content_goes_in() {
    let got = Arc::new(Mutex::new(Vec::new()));
    let seen = got.clone();
    let world = World::new(move |mut peer: Peer| {
        let seen = seen.clone();
        async move {
            let request = peer.request().await;
            assert_eq!(request, Request::Write { path: "/a".into(), mode: Some(0o750), user: None });
            loop {
                match peer.frame().await.unwrap() {
                    (Kind::Data0, data) => seen.lock().unwrap().extend(data),
                    (Kind::End0, _) => break,
                    (kind, _) => panic!("{kind:?}"),
                }
            }
            peer.reply(Reply::Done).await;
        }
    })
    .await;
    let url = world.url("files?path=/a&mode=750");
    let put = world.http.put(url).bearer_auth(world.token(&ALL)).body(pattern(9 << 20));
    assert_eq!(put.send().await.unwrap().status(), 204);
    assert!(*got.lock().unwrap() == pattern(9 << 20));
}

#[tokio::test]
async fn an_upload_that_is_refused_early_says_why() {
    let world = World::new(async |mut peer: Peer| {
        peer.request().await;
        peer.frame().await;
        peer.error(ErrorKind::DiskFull, "no\x1b[2Jspace\nleft").await;
    })
    .await;
    let put = world.http.put(world.url("tar?path=/a")).bearer_auth(world.token(&ALL)).body(pattern(20 << 20));
    let (status, problem) = problem(put.send().await.unwrap()).await;
    assert_eq!((status, problem.code), (507, Code::DiskFull));
    assert_eq!(problem.detail, "no\u{fffd}[2Jspace\u{fffd}left");
}

#[tokio::test]
async fn an_upload_that_breaks_off_has_no_end() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let world = World::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            peer.request().await;
            let mut ended = false;
            while let Some((kind, _)) = peer.frame().await {
                ended |= kind == Kind::End0;
            }
            tell.lock().unwrap().take().unwrap().send(ended).unwrap();
        }
    })
    .await;
    let head = format!(
        "PUT /v1/agents/{}/files?path=/a HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer {}\r\nContent-Length: 100\r\n\r\nhalf",
        world.agent,
        world.port,
        world.token(&ALL)
    );
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes()).await.unwrap();
    drop(socket);
    assert!(!told.await.unwrap(), "init must not take half a file for a whole one");
}

#[tokio::test]
async fn a_download_that_breaks_off_is_no_file() {
    for flaw in 0..4 {
        let world = World::new(move |mut peer: Peer| async move {
            peer.request().await;
            peer.reply(Reply::Streaming).await;
            peer.send(Kind::Data1, b"half").await;
            match flaw {
                0 => {}
                1 => drop(peer.error(ErrorKind::Internal, "disk").await),
                2 => drop(peer.bytes(&[1, 2, 3]).await),
                _ => drop(peer.send(Kind::Data2, b"wrong").await),
            }
        })
        .await;
        // The cut may come before the head of the answer left the gate.
        if let Ok(answer) = world.get("tar?path=/a").send().await {
            assert_eq!(answer.headers()["content-type"], "application/x-tar");
            assert!(answer.bytes().await.is_err(), "flaw {flaw}");
        }
    }
}

#[tokio::test]
async fn errors_keep_their_meaning() {
    let check = async |kind: ErrorKind, code: Code, field: Option<&str>| {
        let world = World::new(move |mut peer: Peer| async move {
            peer.request().await;
            peer.error(kind, "why").await;
        })
        .await;
        for view in ["stat", "list", "content"] {
            let answer = world.get(&format!("files?path=/a&view={view}")).send().await.unwrap();
            let (status, problem) = problem(answer).await;
            assert_eq!(
                (status, problem.code, problem.field.as_deref()),
                (code.status(), code, field),
                "{kind:?}"
            );
            assert_eq!(problem.detail, "why");
        }
    };
    check(ErrorKind::NotFound, Code::NotFound, Some("path")).await;
    check(ErrorKind::PermissionDenied, Code::Forbidden, None).await;
    check(ErrorKind::IsADirectory, Code::Validation, Some("path")).await;
    check(ErrorKind::Exists, Code::NameTaken, None).await;
    check(ErrorKind::NotEmpty, Code::InUse, None).await;
    check(ErrorKind::TooMany, Code::TooMany, None).await;
    check(ErrorKind::CommandNotFound, Code::NotFound, Some("argv")).await;
    check(ErrorKind::NotExecutable, Code::Forbidden, Some("argv")).await;
    check(ErrorKind::Internal, Code::Unavailable, None).await;
}

#[tokio::test]
async fn changes() {
    let world = World::new(async |mut peer: Peer| {
        let path = "/a".to_owned();
        let user = None;
        let expected = match peer.request().await {
            request @ Request::Mkdir { .. } => request == Request::Mkdir { path, user },
            request @ Request::Move { .. } => request == Request::Move { path, to: "/b".into(), user },
            request @ Request::Remove { .. } => request == Request::Remove { path, recursive: true, user },
            _ => false,
        };
        assert!(expected);
        peer.reply(Reply::Done).await;
    })
    .await;
    let url = world.url("files?path=/a");
    let post =
        |body: serde_json::Value| world.http.post(&url).bearer_auth(world.token(&ALL)).json(&body).send();
    assert_eq!(post(serde_json::json!({"op": "mkdir"})).await.unwrap().status(), 204);
    assert_eq!(post(serde_json::json!({"op": "move", "to": "/b"})).await.unwrap().status(), 204);
    let delete = world.http.delete(format!("{url}&recursive=true")).bearer_auth(world.token(&ALL));
    assert_eq!(delete.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn lists_come_in_parts() {
    let world = World::new(async |mut peer: Peer| match peer.request().await {
        Request::List { .. } => {
            for part in 0..40 {
                let files = (0..500).map(|n| info(&format!("\"{part}\n{n}"))).collect();
                peer.reply(Reply::Files { files, more: part < 39 }).await;
            }
        }
        _ => {
            peer.reply(Reply::Processes { processes: Vec::<ProcessInfo>::new(), more: true }).await;
            peer.reply(Reply::Processes { processes: Vec::new(), more: false }).await;
        }
    })
    .await;
    let files: Vec<model::workspace::FileInfo> =
        world.get("files?path=/&view=list").send().await.unwrap().json().await.unwrap();
    assert_eq!((files.len(), files[0].mode), (20_000, 0o644));
    assert_eq!(files[19_999].name, "\"39\n499");
    let none: Vec<model::workspace::Process> =
        world.get("processes").send().await.unwrap().json().await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test]
async fn logs_follow() {
    let world = World::new(async |mut peer: Peer| {
        assert_eq!(peer.request().await, Request::Logs { follow: true, tail: Some(3) });
        peer.reply(Reply::Streaming).await;
        peer.send(Kind::Data1, b"one").await;
        peer.closed().await;
    })
    .await;
    let mut answer = world.get("logs?follow=true&tail=3").send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "one");
}
