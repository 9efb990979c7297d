//! A node that says what makes no sense ends the gate, as it does on the other socket.

use super::world::*;
use crate::{Error, SocketsError};
use model::gate_api::{ToGateSockets, Unconnected};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

async fn ended(world: World) -> Result<(), Error> {
    tokio::time::timeout(Duration::from_secs(5), world.running).await.expect("the gate goes on").unwrap()
}

#[tokio::test]
async fn packets_that_cannot_be_followed_end_the_gate() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp, udp) = (listener.as_fd(), udp.as_fd());
    let agent = model::AgentId::new();
    let json = |packet: &ToGateSockets| serde_json::to_vec(packet).unwrap();
    let doors = json(&ToGateSockets::Doors { agent });
    let cases: [(Vec<u8>, &[BorrowedFd<'_>]); 13] = [
        (b"nonsense".to_vec(), &[]),
        (br#"{"type":"doors"}"#.to_vec(), &[tcp, udp]),
        (br#"{"type":"windows"}"#.to_vec(), &[]),
        (vec![b' '; 2000], &[]),
        (doors.clone(), &[]),
        (doors.clone(), &[tcp]),
        (doors.clone(), &[tcp, udp, udp]),
        (doors.clone(), &[tcp, udp, udp, udp]),
        (doors.clone(), &[udp, tcp]),
        (doors, &[tcp, tcp]),
        (json(&ToGateSockets::Closed { agent }), &[tcp]),
        (json(&ToGateSockets::Connected { request: 1 }), &[]),
        (json(&ToGateSockets::Failed { request: 77, why: Unconnected::Slow }), &[]),
    ];
    for (packet, descriptors) in cases {
        let world = World::new(allow("a.example.com")).await;
        send_packet(&world.sockets, &packet, descriptors);
        let ended = ended(world).await;
        assert!(matches!(ended, Err(Error::Sockets(_))), "{} {ended:?}", packet.escape_ascii());
    }
    let world = World::new(allow("a.example.com")).await;
    say(&world.sockets, &ToGateSockets::Connected { request: 9 }, &[tcp]);
    assert!(matches!(ended(world).await, Err(Error::Sockets(SocketsError::Unasked(9)))));
}

#[tokio::test]
async fn the_gate_ends_with_nodes_end_of_the_socket() {
    let world = World::new(allow("a.example.com")).await;
    rustix::net::shutdown(&*world.sockets, rustix::net::Shutdown::Both).unwrap();
    assert!(ended(world).await.is_ok());
}
