//! The dry network: what leaves an agent arrives at its doors, and nowhere else; and what is not ours in it is seen.

use crate::{World, chain};
use model::agent::Level;
use model::evidence::{Control, Evidence, State};
use model::{AgentSpec, Driver};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sandbox::{Boundary, Doors};
use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// Does something in the agent's network.
fn inside<T: Send>(boundary: &Boundary, act: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", boundary.record().pid)).unwrap();
    let there = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    };
    // The thread ends there, and nobody else was ever in it.
    std::thread::scope(|scope| scope.spawn(there).join().unwrap())
}

fn listener(doors: &Doors) -> TcpListener {
    let listener = TcpListener::from(doors.tcp.try_clone().unwrap());
    listener.set_nonblocking(false).unwrap();
    listener
}

/// As a socket for both families says it.
fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::from((ip, address.port()))
}

/// Takes one question, and answers from the address that was asked; the question, and that address.
fn answer(doors: &Doors, with: &[u8]) -> (Vec<u8>, Ipv6Addr) {
    let mut polled = [rustix::event::PollFd::new(&doors.udp, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut polled, None).unwrap();
    let mut buffer = [0; 512];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut room = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let fd = doors.udp.as_raw_fd();
    let got = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut room), MsgFlags::empty()).unwrap();
    let info = got
        .cmsgs()
        .unwrap()
        .find_map(|message| match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        })
        .expect("which address was asked");
    let (from, length) = (got.address, got.bytes);
    let message = [ControlMessage::Ipv6PacketInfo(&info)];
    sendmsg(fd, &[IoSlice::new(with)], &message, MsgFlags::empty(), from.as_ref()).unwrap();
    (buffer[..length].to_vec(), Ipv6Addr::from(info.ipi6_addr.s6_addr))
}

fn specs(world: &World) -> Vec<AgentSpec> {
    let of = |level, driver| AgentSpec { driver, ..world.spec_at(level, None) };
    let systemd = sandbox::systemd_version().is_ok().then(|| of(Level::Process, Some(Driver::Systemd)));
    let there =
        |name: &str| sandbox::DIRECTORIES.iter().any(|dir| std::path::Path::new(dir).join(name).exists());
    let runc = there("runc").then(|| of(Level::Container, Some(Driver::Runc)));
    [of(Level::Process, None), of(Level::Container, None)].into_iter().chain(systemd).chain(runc).collect()
}

#[test]
fn what_leaves_an_agent_arrives_at_its_doors() {
    let Some(world) = World::new("what_leaves_an_agent_arrives_at_its_doors") else { return };
    let sandbox = world.sandbox();
    for spec in specs(&world) {
        eprintln!("level {} by {:?}", spec.level, spec.driver);
        let boundary = world.launch(&sandbox, &spec);
        let began = Instant::now();
        let doors = boundary.open_doors().unwrap().expect("it has doors");
        eprintln!("steered again, and doors made, in {:?}", began.elapsed());
        connections_arrive(&boundary, &doors);
        questions_arrive(&boundary, &doors);
        // Another node begins with new ones.
        assert!(boundary.open_doors().is_err(), "its ports are taken");
        drop(doors);
        let doors = boundary.open_doors().unwrap().expect("it has doors");
        doors.open().unwrap();
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
        // What is held of a dead boundary does no harm, and is heard of nothing.
        let listener = TcpListener::from(doors.tcp.try_clone().unwrap());
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        doors.shut().unwrap();
    }
    drop(sandbox);
    world.assert_clean();
}

fn connections_arrive(boundary: &Boundary, doors: &Doors) {
    let targets: Vec<SocketAddr> =
        ["192.0.2.1:443", "198.18.0.7:80", "[2001:db8::1]:8443", "[fdcf:d::1]:443", "10.0.0.1:15001"]
            .map(|target| target.parse().unwrap())
            .to_vec();
    let refused = |when: &str| {
        for target in &targets {
            let began = Instant::now();
            let error = inside(boundary, || TcpStream::connect(target)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{target} {when}");
            assert!(began.elapsed() < Duration::from_millis(500), "{target} {when}");
        }
        // A port of node's, which nobody takes meanwhile, however willing to share.
        let taken = inside(boundary, || TcpListener::bind("[::]:15001")).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse, "{when}");
    };
    refused("before they are open");
    for round in 0..2 {
        doors.open().unwrap();
        let listener = listener(doors);
        let mut kept = Vec::new();
        for target in &targets {
            let mut client = inside(boundary, || TcpStream::connect(target)).unwrap();
            let (mut server, peer) = listener.accept().unwrap();
            assert_eq!(server.local_addr().unwrap(), mapped(*target));
            assert_eq!(mapped(client.local_addr().unwrap()), peer);
            client.write_all(b"there").unwrap();
            server.write_all(b"back").unwrap();
            let mut heard = [0; 5];
            server.read_exact(&mut heard).unwrap();
            client.read_exact(&mut heard[..4]).unwrap();
            assert_eq!(&heard, b"backe");
            kept.push((client, server));
        }
        own_servers_work(boundary, &listener);
        // Ours end first, and so they are what the ports are remembered for.
        kept.into_iter().for_each(|(client, server)| drop((server, client)));
        doors.shut().unwrap();
        doors.shut().unwrap();
        refused(if round == 0 { "once they are shut" } else { "once they are shut again" });
    }
}

/// While others' connections to the same port are open.
fn own_servers_work(boundary: &Boundary, doors: &TcpListener) {
    for address in ["0.0.0.0:443", "[::]:443", "127.0.0.1:80", "[::1]:8443"] {
        let own = inside(boundary, || TcpListener::bind(address)).unwrap();
        let port = own.local_addr().unwrap().port();
        let targets = match own.local_addr().unwrap().is_ipv4() {
            true => vec![SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([127, 0, 0, 9], port))],
            false => vec![SocketAddr::from((Ipv6Addr::LOCALHOST, port))],
        };
        for target in targets
            .into_iter()
            .filter(|target| !address.starts_with("127") || target.ip() == own.local_addr().unwrap().ip())
        {
            let client = inside(boundary, || TcpStream::connect(target)).unwrap();
            let (_, peer) = own.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
    }
    doors.set_nonblocking(true).unwrap();
    assert_eq!(doors.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "none of them came to the door");
    doors.set_nonblocking(false).unwrap();
}

fn questions_arrive(boundary: &Boundary, doors: &Doors) {
    for asked in ["192.0.2.53:53", "8.8.8.8:53", "[2001:db8::53]:53", "127.0.0.1:53"] {
        let asked: SocketAddr = asked.parse().unwrap();
        let any = if asked.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = inside(boundary, || UdpSocket::bind(any)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"who", asked).unwrap();
        let (question, address) = answer(doors, b"nobody");
        assert_eq!((&*question, IpAddr::V6(address)), (&b"who"[..], mapped(asked).ip()));
        let mut heard = [0; 16];
        let (length, from) = client.recv_from(&mut heard).unwrap();
        assert_eq!((&heard[..length], from), (&b"nobody"[..], asked));
    }
    for address in ["0.0.0.0:53", "[::]:53", "127.0.0.1:53", "192.0.2.53:53"] {
        let taken = inside(boundary, || UdpSocket::bind(address)).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse, "{address}");
    }
    // Whatever else is sent by UDP reaches nobody.
    let client = inside(boundary, || UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.connect("8.8.8.8:123").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = client.send(b"what time is it");
    assert_eq!(client.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn in_the_hosts_network_there_are_no_doors() {
    let Some(world) = World::new("in_the_hosts_network_there_are_no_doors") else { return };
    let sandbox = world.sandbox();
    let boundary = world.launch(&sandbox, &world.spec_at(Level::Workspace, None));
    assert!(boundary.open_doors().unwrap().is_none());
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}

fn network(evidence: Vec<Evidence>) -> Evidence {
    evidence.into_iter().find(|found| found.control == Control::NetworkNamespace).unwrap()
}

/// Changes to the namespace by the host's root, with what takes them back; and whether a look without the rules sees it.
const FOREIGN: [(&str, &str, bool); 9] = [
    ("nft add rule inet dry pre counter", "nft delete rule inet dry pre handle HANDLE", false),
    ("nft insert rule inet dry pre udp dport 53 accept", "nft delete rule inet dry pre handle HANDLE", false),
    ("nft add chain inet dry post", "nft delete chain inet dry post", false),
    ("nft add set inet dry some { type ipv4_addr; }", "nft delete set inet dry some", false),
    ("nft add table ip other", "nft delete table ip other", false),
    ("ip route add 203.0.113.0/24 dev lo", "ip route delete 203.0.113.0/24 dev lo", true),
    ("ip -6 route add 2001:db8:1::/48 dev lo", "ip -6 route delete 2001:db8:1::/48 dev lo", true),
    (
        "ip route add local 203.0.113.0/24 dev lo table 7",
        "ip route delete local 203.0.113.0/24 dev lo table 7",
        false,
    ),
    ("ip rule add from all lookup 7 priority 5", "ip rule delete from all lookup 7 priority 5", false),
];

fn as_host(boundary: &Boundary, command: &str) -> String {
    let pid = boundary.record().pid.to_string();
    let mut nsenter = Command::new("nsenter");
    let output = nsenter.args(["--net", "--target", &pid]).args(["sh", "-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The handle of the rule that was made last.
fn newest(boundary: &Boundary) -> String {
    let rules = as_host(boundary, "nft --handle list table inet dry");
    let handles =
        rules.lines().filter(|line| !line.contains('{')).filter_map(|line| line.split_once("# handle "));
    let newest: u64 = handles.map(|(_, handle)| handle.trim().parse().unwrap()).max().unwrap();
    newest.to_string()
}

#[test]
fn routes_and_rules_that_are_not_ours_are_seen() {
    let Some(world) = World::new("routes_and_rules_that_are_not_ours_are_seen") else { return };
    let sandbox = world.sandbox();
    let boundary = world.launch(&sandbox, &world.spec(None));
    // Those that were made with it; a node that takes it over makes others.
    drop(boundary.open_doors().unwrap());
    let holds = || {
        for evidence in [boundary.inspect(), boundary.inspect_whole()] {
            let found = network(evidence);
            assert!(found.state == State::Observed, "{found:?}");
            assert!(found.detail.contains("routes: all to lo"), "{found:?}");
        }
    };
    holds();
    eprintln!("{}", network(boundary.inspect_whole()).detail);
    for (make, take_back, at_a_glance) in FOREIGN {
        as_host(&boundary, make.replace("{ ", "'{ ").replace(" }", " }'").as_str());
        let found = network(boundary.inspect_whole());
        eprintln!("{make}: {}", found.detail);
        assert_eq!(found.state, State::Missing, "{make}");
        assert_eq!(network(boundary.inspect()).state == State::Missing, at_a_glance, "{make}");
        // Nothing goes out by it, and nothing of it is put right in silence.
        let error = boundary.open_doors().expect_err(make);
        assert!(chain(&error).contains("its network namespace has"), "{make}: {}", chain(&error));
        let handle = if take_back.contains("HANDLE") { newest(&boundary) } else { String::new() };
        as_host(&boundary, &take_back.replace("HANDLE", &handle));
        holds();
    }
    // One of ours less.
    let handle = newest(&boundary);
    as_host(&boundary, &format!("nft delete rule inet dry pre handle {handle}"));
    assert_eq!(network(boundary.inspect_whole()).state, State::Missing);
    assert!(boundary.open_doors().is_err());
    as_host(&boundary, "nft add rule inet dry pre meta l4proto tcp tproxy to :15001");
    holds();
    as_host(&boundary, "ip -6 route delete local default dev lo table main");
    assert_eq!(network(boundary.inspect()).state, State::Missing);
    // All of it gone is no danger, and a node that takes the agent over makes it anew.
    as_host(&boundary, "ip route delete local default dev lo table main; nft delete table inet dry");
    let found = network(boundary.inspect_whole());
    assert!(found.state == State::Observed && found.detail.contains("no routes"), "{found:?}");
    assert!(boundary.open_doors().unwrap().is_some());
    holds();
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}

/// What is due at every start may take no time that anybody notices. Says how long it takes; nothing hangs on it.
#[test]
fn steering_takes_no_time() {
    let Some(world) = World::new("steering_takes_no_time") else { return };
    let sandbox = world.sandbox();
    let boundary = world.launch(&sandbox, &world.spec(None));
    let median = |what: &str, rounds: usize, before: &dyn Fn()| {
        let mut took: Vec<Duration> = (0..rounds)
            .map(|_| {
                before();
                let began = Instant::now();
                let doors = boundary.open_doors().unwrap();
                let made = began.elapsed();
                drop(doors);
                made
            })
            .collect();
        took.sort();
        eprintln!("{what}, and doors made: median {:?}", took[rounds / 2]);
    };
    median("compared", 200, &|| {});
    let clear = "ip route delete local default dev lo table main; \
                 ip -6 route delete local default dev lo table main; nft delete table inet dry";
    median("steered and compared", 40, &|| drop(as_host(&boundary, clear)));
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}
