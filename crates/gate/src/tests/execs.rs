//! Execs and relays.

use super::world::*;
use ::channel::{Control, ErrorKind, Event, ExecInfo, Exit, ExitCause, Kind, Reply, Request, Size};
use futures_util::{SinkExt, StreamExt};
use model::workspace::{Exec, ExecExit, ExecOutput, FromAgent};
use model::{Code, ExecId, Problem};
use std::sync::{Arc, Mutex};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn as_resources() {
    let (one, two) = (ExecId::new(), ExecId::new());
    let world = World::new(move |mut peer: Peer| async move {
        match peer.request().await {
            Request::Exec(exec) => {
                assert!(!exec.attach);
                assert_eq!(exec.argv, ["echo", "hi"]);
                let info = ExecInfo { id: exec.id, argv: vec!["cut".into()], pid: 9, tty: false, exit: None };
                peer.reply(Reply::Exec(info)).await;
            }
            Request::Execs => {
                let exit = Some(Exit { code: 137, cause: Some(ExitCause::Timeout) });
                let info = |id: String| ExecInfo { id, argv: vec!["x".into()], pid: 1, tty: false, exit };
                peer.reply(Reply::Execs {
                    execs: vec![info(one.to_string()), info("../x".into())],
                    more: true,
                })
                .await;
                peer.reply(Reply::Execs { execs: vec![info(two.to_string())], more: false }).await;
            }
            Request::Signal { id, signal } => {
                assert_eq!((id, signal), (one.to_string(), 15));
                peer.reply(Reply::Done).await;
            }
            Request::Forget { .. } => drop(peer.error(ErrorKind::NoSuchExec, "no such exec").await),
            other => panic!("{other:?}"),
        }
    })
    .await;
    let post = |rest: &str, body: serde_json::Value| {
        world.http.post(world.url(rest)).bearer_auth(world.token(&ALL)).json(&body).send()
    };
    let created = post("execs", serde_json::json!({"argv": ["echo", "hi"]})).await.unwrap();
    assert_eq!(created.status(), 201);
    let exec: Exec = created.json().await.unwrap();
    assert_eq!((exec.argv, exec.pid), (vec!["echo".to_owned(), "hi".into()], 9));

    let list: Vec<Exec> = world.get("execs").send().await.unwrap().json().await.unwrap();
    assert_eq!(
        list.iter().map(|exec| exec.id).collect::<Vec<_>>(),
        [one, two],
        "an id that is none is left out"
    );
    let exec: Exec = world.get(&format!("execs/{two}")).send().await.unwrap().json().await.unwrap();
    assert_eq!(exec.exit.unwrap(), ExecExit { code: 137, cause: Some(model::workspace::ExitCause::Timeout) });
    assert_eq!(problem(world.get(&format!("execs/{}", ExecId::new())).send().await.unwrap()).await.0, 404);

    let signal = post(&format!("execs/{one}/signal"), serde_json::json!({"signal": 15})).await.unwrap();
    assert_eq!(signal.status(), 204);
    let forget = world.http.delete(world.url(&format!("execs/{one}"))).bearer_auth(world.token(&ALL));
    let (status, problem) = problem(forget.send().await.unwrap()).await;
    assert_eq!((status, problem.field.as_deref()), (404, Some("exec")));
}

/// An init whose exec is `cat`, that says what control messages it got.
async fn cat(mut peer: Peer) {
    match peer.request().await {
        Request::Attach { id } => drop(peer.attached(id).await),
        Request::Exec(exec) => {
            assert!(exec.attach);
            peer.attached(exec.id).await;
        }
        other => panic!("{other:?}"),
    }
    peer.json(Kind::Event, &Event::Lost { bytes: 5 }).await;
    loop {
        match peer.frame().await {
            Some((Kind::Data0, data)) => drop(peer.send(Kind::Data1, &data).await),
            Some((Kind::End0, _)) => return peer.exited(3).await,
            Some((Kind::Control, payload)) => {
                let control: Control = serde_json::from_slice(&payload).unwrap();
                peer.send(Kind::Data2, format!("{control:?}").as_bytes()).await;
            }
            None => return,
            other => panic!("{other:?}"),
        }
    }
}

async fn text<T: serde::de::DeserializeOwned>(socket: &mut Socket) -> T {
    match socket.next().await.unwrap().unwrap() {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn drive(socket: &mut Socket) {
    assert_eq!(text::<FromAgent>(socket).await, FromAgent::Lost { bytes: 5 });
    socket.send(binary(0, b"hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(1, b"hello"));
    socket.send(Message::text(r#"{"type":"resize","rows":3,"cols":4}"#)).await.unwrap();
    let said = format!("{:?}", Control::Resize(Size { rows: 3, cols: 4 }));
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(2, said.as_bytes()));
    socket.send(Message::text(r#"{"type":"signal","signal":2}"#)).await.unwrap();
    let said = format!("{:?}", Control::Signal { signal: 2 });
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(2, said.as_bytes()));
    socket.send(binary(0, b"")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(1, b""));
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(2, b""));
    assert_eq!(text::<FromAgent>(socket).await, FromAgent::Exited(ExecExit { code: 3, cause: None }));
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1000),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn attached_to() {
    let world = World::new(cat).await;
    let mut socket = world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap();
    drive(&mut socket).await;
}

#[tokio::test]
async fn created_and_attached_to() {
    let world = World::new(cat).await;
    let mut socket = world.websocket("execs/attach").await.unwrap();
    socket.send(Message::text(r#"{"argv":["cat"],"stdin":true}"#)).await.unwrap();
    let exec: Exec = text(&mut socket).await;
    assert_eq!(exec.argv, ["cat"]);
    drive(&mut socket).await;
}

/// The last two messages of a socket that is refused.
async fn farewell(socket: &mut Socket) -> (Problem, u16) {
    let problem = text(socket).await;
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => (problem, frame.code.into()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_that_is_not_there() {
    let world = World::new(async |mut peer: Peer| {
        peer.request().await;
        peer.error(ErrorKind::CommandNotFound, "nope: not found").await;
    })
    .await;
    let mut socket = world.websocket("execs/attach").await.unwrap();
    socket.send(Message::text(r#"{"argv":["nope"]}"#)).await.unwrap();
    let (problem, close) = farewell(&mut socket).await;
    assert_eq!((problem.code, problem.field.as_deref(), close), (Code::NotFound, Some("argv"), 4404));
    // With the id in the path there is no socket at all, but an answer.
    let refusal = refused(world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap_err());
    assert_eq!(refusal.code, Code::NotFound);
}

#[tokio::test]
async fn clients_that_do_it_wrong() {
    let world = World::new(cat).await;
    let attach = format!("execs/{}/attach", ExecId::new());
    for message in [
        Message::text("{"),
        Message::text(r#"{"type":"signal","signal":99}"#),
        Message::text(r#"{"type":"resize","rows":1}"#),
        binary(1, b"not mine"),
        Message::Binary(Vec::new().into()),
    ] {
        let mut socket = world.websocket(&attach).await.unwrap();
        assert_eq!(text::<FromAgent>(&mut socket).await, FromAgent::Lost { bytes: 5 });
        socket.send(message.clone()).await.unwrap();
        let (problem, close) = farewell(&mut socket).await;
        assert_eq!((problem.code, close), (Code::Validation, 4400), "{message:?}");
    }
    let mut socket = world.websocket(&attach).await.unwrap();
    let _ = socket.send(binary(0, &vec![0; 2 << 20])).await;
    while let Some(Ok(message)) = socket.next().await {
        assert!(!matches!(message, Message::Binary(_)), "a message over the limit is not relayed");
    }
    for protocols in ["bearer.TOKEN", "cofferdam.v2, bearer.TOKEN"] {
        let protocols = protocols.replace("TOKEN", &world.token(&ALL));
        let refusal = refused(world.websocket_with(&attach, &protocols).await.unwrap_err());
        assert_eq!(refusal.code, Code::Validation);
    }
    let refusal = refused(world.websocket_with(&attach, "cofferdam.v1").await.unwrap_err());
    assert_eq!(refusal.code, Code::Unauthenticated);
}

#[tokio::test]
async fn a_client_that_leaves_detaches() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let world = World::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            let Request::Attach { id } = peer.request().await else { panic!() };
            peer.attached(id).await;
            let mut kinds = Vec::new();
            while let Some((kind, _)) = peer.frame().await {
                kinds.push(kind);
            }
            tell.lock().unwrap().take().unwrap().send(kinds).unwrap();
        }
    })
    .await;
    let socket = world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap();
    drop(socket);
    assert!(told.await.unwrap().is_empty(), "init saw the connection close, and no signal or end of input");
}

#[tokio::test]
async fn an_init_that_dies_is_told_apart_from_an_end() {
    let world = World::new(async |mut peer: Peer| {
        let Request::Attach { id } = peer.request().await else { panic!() };
        peer.attached(id).await;
    })
    .await;
    let mut socket = world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap();
    let (problem, close) = farewell(&mut socket).await;
    assert_eq!((problem.code, close), (Code::Unavailable, 4503));
}

#[tokio::test]
async fn a_port_is_relayed() {
    let world = World::new(async |mut peer: Peer| match peer.request().await {
        Request::Port { port: 81 } => drop(peer.error(ErrorKind::Refused, "nothing listens").await),
        Request::Port { .. } => {
            peer.reply(Reply::Streaming).await;
            while let Some((kind, data)) = peer.frame().await {
                match kind {
                    Kind::Data0 => drop(peer.send(Kind::Data1, &data).await),
                    _ => {
                        peer.send(Kind::End1, &[]).await;
                        return;
                    }
                }
            }
        }
        other => panic!("{other:?}"),
    })
    .await;
    let mut socket = world.websocket("ports/80").await.unwrap();
    socket.send(binary(0, b"ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(0, b"ping"));
    socket.send(binary(0, b"")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(0, b""));
    assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Close(_)));
    let refusal = refused(world.websocket("ports/81").await.unwrap_err());
    assert_eq!((refusal.code, refusal.field.as_deref()), (Code::Unavailable, Some("port")));
}

#[tokio::test]
async fn connections_to_one_agent_are_bounded() {
    let world = World::new(async |mut peer: Peer| {
        peer.request().await;
        peer.reply(Reply::Streaming).await;
        peer.closed().await;
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..crate::limits::CONNECTIONS_PER_AGENT {
        open.push(world.get("logs?follow=true").send().await.unwrap());
    }
    let (status, refusal) = problem(world.get("logs").send().await.unwrap()).await;
    assert_eq!((status, refusal.code), (429, Code::TooMany));
    drop(open);
}

async fn run(world: &World, rest: &str, body: serde_json::Value) -> reqwest::Response {
    world.http.post(world.url(rest)).bearer_auth(world.token(&ALL)).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn waited_for() {
    let world = World::new(async |mut peer: Peer| {
        let Request::Exec(exec) = peer.request().await else { panic!("an exec") };
        assert!(exec.attach && !exec.stdin);
        assert_eq!(exec.output_limit, Some(if exec.argv[0] == "few" { 7 } else { 1 << 20 }));
        peer.attached(exec.id).await;
        peer.send(Kind::Data1, b"hi\n").await;
        peer.send(Kind::Data2, &[0xff, 0]).await;
        if exec.argv[0] == "long" {
            return peer.closed().await;
        }
        peer.exited(3).await;
    })
    .await;
    for program in ["short", "few"] {
        let mut body = serde_json::json!({"argv": [program]});
        if program == "few" {
            body["output_limit"] = 7.into();
        }
        let answer = run(&world, "execs?wait=60s", body).await;
        assert_eq!(answer.status(), 201);
        let json: serde_json::Value = answer.json().await.unwrap();
        assert_eq!((&json["stdout"], &json["stderr"]["base64"]), (&"hi\n".into(), &"/wA=".into()));
        let output: ExecOutput = serde_json::from_value(json).unwrap();
        assert_eq!(output.exec.exit.unwrap().code, 3);
        assert_eq!(output.stderr.into_bytes().unwrap(), [0xff, 0]);
    }
    // It goes on, and what it wrote so far is here.
    let answer = run(&world, "execs?wait=1s", serde_json::json!({"argv": ["long"]})).await;
    let output: ExecOutput = answer.json().await.unwrap();
    assert_eq!((output.exec.exit, output.stdout.into_bytes().unwrap()), (None, b"hi\n".to_vec()));
    for (rest, body, field) in [
        ("execs?wait=2m", serde_json::json!({"argv": ["x"]}), "wait"),
        ("execs?wait=1s", serde_json::json!({"argv": {}}), "argv"),
        ("execs?wait=1s", serde_json::json!({}), "argv"),
        ("execs?wait=1s", serde_json::json!({"argv": ["x"], "tty": {"rows": 1}}), "tty.cols"),
        ("execs?wait=1s", serde_json::json!({"argv": ["x"], "more": 1}), "more"),
        ("execs?wait=soon", serde_json::json!({"argv": ["x"]}), "wait"),
        ("execs?wait=1s&wait=1s", serde_json::json!({"argv": ["x"]}), "wait"),
        ("execs?later=1s", serde_json::json!({"argv": ["x"]}), "later"),
        ("execs?wait=1s", serde_json::json!({"argv": ["x"], "stdin": true}), "stdin"),
    ] {
        let (status, problem) = problem(run(&world, rest, body).await).await;
        assert_eq!((status, problem.field.as_deref()), (400, Some(field)), "{rest}");
    }
}

#[tokio::test]
async fn an_init_that_floods_an_answer_is_cut() {
    let world = World::new(async |mut peer: Peer| {
        let Request::Exec(exec) = peer.request().await else { panic!("an exec") };
        peer.attached(exec.id).await;
        while peer.send(Kind::Data1, &vec![b'x'; 1 << 19]).await {}
    })
    .await;
    let (status, problem) =
        problem(run(&world, "execs?wait=60s", serde_json::json!({"argv": ["x"]})).await).await;
    assert_eq!((status, problem.code), (503, Code::Unavailable));
}
