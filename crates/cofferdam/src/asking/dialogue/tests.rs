use super::*;
use std::future::pending;
use tokio::sync::{mpsc, watch};

fn question(host: &str, seconds: i64) -> OpenQuestion {
    let now = OffsetDateTime::now_utc();
    OpenQuestion {
        id: QuestionId::new(),
        agent: model::AgentId::new(),
        name: "worker".parse().unwrap(),
        host: host.to_owned(),
        port: 443,
        asked: now,
        until: now + time::Duration::seconds(seconds),
    }
}

/// Somebody at a question, and what is on their terminal.
struct Person {
    question: OpenQuestion,
    keys: mpsc::Sender<Vec<u8>>,
    keyboard: Keyboard,
    open: watch::Sender<Vec<OpenQuestion>>,
    watch: Watch,
    out: Vec<u8>,
}

const RAW: Manner = Manner { raw: true, shared: true };
const AT_ONCE: Duration = Duration::ZERO;

impl Person {
    fn at(question: OpenQuestion) -> Self {
        let (keys, pieces) = mpsc::channel(16);
        let (open, watched) = watch::channel(vec![question.clone()]);
        Self {
            question,
            keys,
            keyboard: Keyboard::Pieces(pieces),
            open,
            watch: Watch::of(watched),
            out: Vec::new(),
        }
    }

    async fn ask(&mut self, reading: Duration, ended: impl Future<Output = After>) -> Ended {
        let Self { question, keyboard, watch, out, .. } = self;
        ask(question, RAW, reading, keyboard, watch, ended, out).await.unwrap()
    }

    /// Waits for the prompt, and types then.
    async fn answers(&mut self, typed: &[&str]) -> Ended {
        let keys = self.keys.clone();
        let typed: Vec<Vec<u8>> = typed.iter().map(|piece| piece.as_bytes().to_vec()).collect();
        let typing = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            for piece in typed {
                keys.send(piece).await.unwrap();
            }
        });
        let ended = self.ask(AT_ONCE, pending()).await;
        typing.await.unwrap();
        ended
    }

    fn sees(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }
}

#[tokio::test]
async fn what_is_typed_at_the_prompt_decides() {
    for (typed, expected) in [
        (&["o\r"][..], Ended::Decided(Decision::Once)),
        (&["a", "\r"], Ended::Decided(Decision::Agent)),
        (&["\r", "what?\r", "always\r"], Ended::Decided(Decision::Always)),
        (&["\x1b[A", "d\r"], Ended::Decided(Decision::Deny)),
        (&["al\x03"], Ended::By(After::Interrupted)),
        (&["s\r"], Ended::By(After::Stop)),
    ] {
        let mut person = Person::at(question("api.example.com", 60));
        assert_eq!(person.answers(typed).await, expected, "{typed:?}");
        let seen = person.sees();
        assert!(seen.contains("cofferdam: worker wants to connect to api.example.com:443"), "{seen}");
        assert!(seen.contains("(o)nce"), "{seen}");
    }
}

#[tokio::test]
async fn what_was_typed_before_the_prompt_does_not_count() {
    let mut person = Person::at(question("api.example.com", 60));
    for piece in ["a\r", "always\r"] {
        person.keys.send(piece.as_bytes().to_vec()).await.unwrap();
    }
    let ended =
        tokio::time::timeout(Duration::from_millis(300), person.ask(Duration::from_millis(100), pending()));
    assert!(ended.await.is_err(), "it was answered by what was meant for something else");
    assert!(person.sees().ends_with("asking here? "), "{}", person.sees());
}

#[tokio::test]
async fn a_question_that_waits_no_longer_is_not_asked_on() {
    let mut person = Person::at(question("api.example.com", 60));
    let open = person.open.clone();
    let settled = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        open.send_replace(vec![question("other.example.com", 60)]);
    });
    assert_eq!(person.ask(AT_ONCE, pending()).await, Ended::Gone);
    settled.await.unwrap();
    // The process ended, or the keyboard is gone.
    let mut person = Person::at(question("api.example.com", 60));
    let ended = async { After::Stop };
    assert_eq!(person.ask(AT_ONCE, ended).await, Ended::By(After::Stop));
    let mut person = Person::at(question("api.example.com", 60));
    person.keys = mpsc::channel(1).0;
    assert_eq!(person.ask(AT_ONCE, pending()).await, Ended::By(After::Stop));
}

#[tokio::test]
async fn an_agent_cannot_paint_the_question() {
    let mut person = Person::at(question("a\x1b[2Jb\r\ncofferdam: allowed\u{202e}", 60));
    person.answers(&["d\r"]).await;
    let seen = person.sees();
    assert!(seen.starts_with(PLAIN), "whatever was begun on the terminal is ended first");
    let rest = &seen[PLAIN.len()..];
    assert!(!rest.contains(['\x1b', '\u{202e}']) && rest.contains("a\\u{1b}[2Jb\\r\\n"), "{rest:?}");
}

#[test]
fn clocks_that_differ_do_not_lengthen_a_wait() {
    let mut late = question("api.example.com", 120);
    late.asked += time::Duration::hours(1);
    late.until += time::Duration::hours(1);
    assert_eq!(left(&late), Duration::from_secs(120));
    let mut over = question("api.example.com", 120);
    over.until -= time::Duration::hours(1);
    assert_eq!(left(&over), Duration::ZERO);
}
