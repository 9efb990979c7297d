//! Every bound of the gate in one place.

use std::time::Duration;

/// Connections to one agent's channel at a time; each call, attach and relay holds one.
pub const CONNECTIONS_PER_AGENT: usize = 256;

/// Calls on one agent under way at a time, where a call and its conversation count apart. More than
/// [`CONNECTIONS_PER_AGENT`], so that what has no conversation yet, such as a slow body, is bounded too.
pub const CALLS_PER_AGENT: usize = 1024;

/// Threads that serve connections, if there are twice as many processors.
pub const THREADS: usize = 4;

/// TCP connections to the guard at a time, if the limit of descriptors allows so many.
pub const CLIENTS: usize = 8192;

/// Descriptors that are not there for clients: runtime, control socket, listener, standard streams.
pub const OWN_DESCRIPTORS: usize = 64;

/// A request's head: start line and all headers.
pub const HEAD_BYTES: usize = 32 << 10;

/// Headers of a request.
pub const HEADERS: usize = 64;

/// How long a client may take to send a request's head; also how long an idle connection is kept.
pub const HEAD_TIME: Duration = Duration::from_secs(30);

/// What is buffered of one TCP connection in each direction.
pub const CLIENT_BUFFER: usize = 256 << 10;

/// A JSON body. It becomes one channel frame, so it stays well below [`channel::MAX_PAYLOAD`].
pub const JSON_BODY: usize = 512 << 10;

/// How long a client may take to send a JSON body, or to send the next piece of a longer one.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// A WebSocket message from a client.
pub const MESSAGE: usize = 1 << 20;

/// A token; ours have about 600 bytes.
pub const TOKEN: usize = 4096;

/// Tokens whose signature is remembered as good.
pub const VERIFIED_TOKENS: usize = 1024;

/// How long a call with a good token waits for node to tell of an agent that is not known here: control may have told
/// the client of it first, while node still makes its boundary.
pub const COMING: Duration = Duration::from_secs(10);

/// Calls that wait for that at a time. One more is answered at once.
pub const CALLS_AHEAD: usize = 256;

/// Those of them that wait for one and the same agent.
pub const CALLS_AHEAD_OF_ONE: usize = 8;

/// Agents that went away and are remembered as such.
pub const GONE: usize = 1024;

/// What one exec may write that is waited for: all of it is held until the answer.
pub const CAPTURED: u64 = 1 << 20;

/// KiB that all execs together have for that.
pub const ALL_CAPTURED_KIB: usize = 128 << 10;

/// How long an exec is waited for.
pub const EXEC_WAIT: Duration = Duration::from_secs(60);

/// A path inside the agent, as Linux bounds it.
pub const PATH: usize = 4096;

/// How long init may take to accept a connection.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long init may take to answer what it can answer at once.
pub const REPLY_TIME: Duration = Duration::from_secs(30);

/// How long init may take for what works through many files.
pub const LONG_REPLY_TIME: Duration = Duration::from_secs(300);

/// All entries of one list together, in bytes of the channel.
pub const LIST_BYTES: usize = 64 << 20;

/// Parts of one list: an honest init fills them.
pub const LIST_PARTS: usize = 4096;

/// What is read from a channel at once while much comes.
pub const READ_LARGE: usize = 256 << 10;

/// What is read from a channel at once while little comes.
pub const READ_SMALL: usize = 8 << 10;

/// Between two pings to a WebSocket client.
pub const PING_EVERY: Duration = Duration::from_secs(20);

/// A WebSocket client that could have answered and was silent for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(60);

/// A client that takes no byte of what waits for it for so long is dropped. Longer than [`SILENCE`], because
/// a person may have stopped their terminal's output.
pub const STALL: Duration = Duration::from_secs(300);

/// How long a client may take to answer our close.
pub const CLOSE_TIME: Duration = Duration::from_secs(5);

/// How long the first message of `execs/attach` may take.
pub const FIRST_MESSAGE_TIME: Duration = Duration::from_secs(10);

/// Of a body that is refused while it still comes, so much is read so that the client sees the answer.
pub const REFUSED_BODY: usize = 64 << 20;

/// The same, in time.
pub const REFUSED_TIME: Duration = Duration::from_secs(5);

/// How long node may take to answer.
pub const NODE_TIME: Duration = Duration::from_secs(5);

/// How long node may take to read the logs of an agent that does not run: its volume may be in use for a moment more.
pub const LOGS_TIME: Duration = Duration::from_secs(15);

/// A line from node.
pub const NODE_LINE: usize = 16 << 20;

/// Characters of a text from inside that goes into a problem.
pub const INSIDE_TEXT: usize = 300;

/// Connections out of all agents at a time, if the limit of descriptors allows so many.
pub const FLOWS: usize = 16_384;

/// Those of one agent.
pub const FLOWS_PER_AGENT: usize = 1024;

/// Descriptors that one of them may take: its two ends, and in each direction a pipe that its receiver does not empty.
pub const FLOW_DESCRIPTORS: usize = 6;

/// New connections of one agent in a second; more wait in the kernel's queue.
pub const ARRIVALS_PER_SECOND: u32 = 4000;

/// How long a connection waits for somebody to decide on it.
pub const HOLD: Duration = Duration::from_secs(2 * 60);

/// Connections that wait for one and the same decision.
pub const HELD_PER_QUESTION: usize = 64;

/// Those of one agent that wait for any.
pub const HELD_PER_AGENT: usize = 256;

/// New questions of one agent in a second, once so many are used up as may come at once. What would be one more is refused.
pub const ASKED_PER_SECOND: u32 = 1;

/// New questions of one agent that may come at once.
pub const ASKED_AT_ONCE: u32 = 64;

/// For how long a host that somebody refused is refused without a question.
pub const DENIED: Duration = Duration::from_secs(10 * 60);

/// Hosts of one agent for which that is remembered.
pub const DENIED_HOSTS: usize = 256;

/// How long what waits may change before node is told of it once more.
pub const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long the gate may take to tell node what is left when it ends.
pub const LAST_WORDS: Duration = Duration::from_secs(2);

/// Records of one agent's connections in a second, once so many are used up as may come at once. Further ones are added up.
pub const RECORDS_PER_SECOND: u32 = 50;

/// Records of one agent's connections that may come at once.
pub const RECORDS_AT_ONCE: u32 = 500;

/// The same of what never was a connection: however much of it there is, it leaves the connections their records.
pub const REFUSALS_PER_SECOND: u32 = 20;

/// The same at once.
pub const REFUSALS_AT_ONCE: u32 = 200;

/// Records of one agent that wait for node, and how many of them may be of what never was a connection.
pub const RECORDS_WAITING: usize = 512;

/// The second of the two.
pub const REFUSALS_WAITING: usize = 256;

/// How long equal refusals are one record.
pub const FOLD: Duration = Duration::from_secs(10);

/// A name is asked for more than once for one and the same attempt: for each family, and of each server. How long that may take.
pub const SAME_QUESTION: Duration = Duration::from_secs(1);

/// Different records of one agent that are counted at a time, of what passed and of what did not. Beyond that there is only the
/// number of what was lost.
pub const FOLDS: usize = 256;

/// Questions of DNS of one agent in a second; more are not answered.
pub const QUESTIONS_PER_SECOND: u32 = 4000;

/// What is done for one agent's door before others have their turn.
pub const DOOR_TURN: u32 = 32;

/// A question of DNS in a datagram.
pub const QUESTION: usize = 1500;

/// Questions that are answered on one connection.
pub const QUESTIONS_PER_CONNECTION: usize = 1000;

/// How long the next question on a connection may take.
pub const QUESTION_TIME: Duration = Duration::from_secs(10);

/// Requests to node for connections that are under way.
pub const DIALS: usize = 256;

/// Those of one agent.
pub const DIALS_PER_AGENT: usize = 32;

/// How long node may take to connect, and to begin with it.
pub const DIAL_TIME: Duration = Duration::from_secs(30);

/// How long the next address waits for the one that was tried before it (RFC 8305, section 5).
pub const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
pub const ADDRESSES: usize = 6;

/// How long a client may say nothing before the server is given the word.
pub const SERVER_FIRST: Duration = Duration::from_millis(250);

/// How long a client may take to say what it speaks.
pub const OPENING_TIME: Duration = Duration::from_secs(10);

/// What of it is looked at.
pub const OPENING_BYTES: usize = 64 << 10;

/// What of it is read at once.
pub const OPENING_PART: usize = 4 << 10;

/// A connection out of which and into which nothing moves for so long is over.
pub const FLOW_IDLE: Duration = Duration::from_secs(60 * 60);

/// The same once one side said all that it will.
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(10 * 60);

/// How long a connection of HTTP is kept between two requests, and how long a request's head may take.
pub const NEXT_REQUEST_TIME: Duration = Duration::from_secs(120);

/// How long a client of HTTP/2 may take to leave once it was told to, if it asks for nothing any more.
pub const GOODBYE_TIME: Duration = Duration::from_secs(10);

/// What is buffered of a connection of HTTP in each direction; a head has to fit.
pub const HTTP_BUFFER: usize = 64 << 10;

/// Headers of a request or an answer that passes through.
pub const HTTP_HEADERS: usize = 128;

/// Requests of one connection of HTTP/2 at a time.
pub const STREAMS: u32 = 100;

/// Requests of one agent at a time, on all connections whose requests are looked at: as many as it has connections.
pub const REQUESTS_PER_AGENT: usize = FLOWS_PER_AGENT;

/// Requests of one connection of HTTP/2 that a client may take back before they were seen; one more ends it.
pub const UNSEEN_RESETS: usize = 20;

/// Those with faults that it may send: each is reset, and one more ends it.
pub const FAULTY_STREAMS: usize = 100;

/// Those in a second that it may give up before they were answered, once so many are used up as may come at once. One more ends it.
pub const GIVEN_UP_PER_SECOND: u32 = 20;

/// The same at once.
pub const GIVEN_UP_AT_ONCE: u32 = 1000;

/// The headers of a request or an answer of HTTP/2 that passes through, as RFC 9113 (section 6.5.2) counts their bytes.
pub const HEADER_LIST: u32 = 64 << 10;

/// What an agent may send on a connection of HTTP/2 before it was passed on, and for one request of it.
pub const CLIENT_WINDOW: u32 = 256 << 10;

/// The second of the two.
pub const CLIENT_STREAM_WINDOW: u32 = 64 << 10;

/// What a server may: it is further away.
pub const SERVER_WINDOW: u32 = 1 << 20;

/// The second of the two.
pub const SERVER_STREAM_WINDOW: u32 = 512 << 10;

/// What is buffered of one request of HTTP/2 in each direction, beside what the windows let come.
pub const STREAM_BUFFER: usize = 16 << 10;

/// Connections of one agent whose TLS is looked into: each takes memory for two sides of TLS.
pub const LOOKED_INTO_PER_AGENT: usize = 256;

/// One of so many connections out of all agents may be looked into.
pub const LOOKED_INTO_SHARE: usize = 8;

/// How long each side of TLS may take to begin.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Names that an agent was shown certificates for and that are remembered.
pub const LEAVES: usize = 64;

/// How long such a certificate is valid; half of it, it is shown.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest credential that is put into a request: no head of one holds much more.
pub const CREDENTIAL: usize = 16 << 10;

/// The longest body that a credential is put into.
pub const PUT_BODY: usize = 1 << 20;

/// How long it may take to come, and then how long the server may take for it.
pub const PUT_BODY_TIME: Duration = Duration::from_secs(30);

/// Such bodies at a time, of all agents.
pub const PUT_BODIES: usize = 64;

/// Those of one agent.
pub const PUT_BODIES_PER_AGENT: usize = 8;

/// What is read at once from a connection inside of TLS that agreed on another protocol.
pub const RELAY_BUFFER: usize = 16 << 10;

/// How long the resolver may take.
pub const RESOLVE_TIME: Duration = Duration::from_secs(5);

/// An answer of the resolver, as long as one of DNS can be.
pub const RESOLVED_BYTES: usize = 0xffff;

/// Questions to the resolver that are under way at a time.
pub const LOOKUPS: usize = 512;

/// Names whose addresses are remembered.
pub const RESOLVED: usize = 4096;

/// For how long: shorter than most records say, so that this need not be looked at.
pub const RESOLVED_TIME: Duration = Duration::from_secs(15);

/// For how long it is remembered that a name has no address.
pub const UNRESOLVED_TIME: Duration = Duration::from_secs(2);
