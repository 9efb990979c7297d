//! What filters or redirects packets in an agent's network namespace, read by netlink (`linux/netfilter/nf_tables.h`).
//! Starts no process; a socket is made there, and only the socket stays.

use crate::host::namespace::inside_network;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const GET_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 1 | 0x300;
const HEADER: usize = 16;

/// How many tables of nftables there are, and the names of those of iptables.
pub(crate) fn tables(pid: u32) -> io::Result<(usize, Vec<String>)> {
    let mut old = Vec::new();
    for family in ["ip", "ip6"] {
        // Without the module there is no such file.
        let names = fs::read_to_string(format!("/proc/{pid}/net/{family}_tables_names")).unwrap_or_default();
        old.extend(names.split_whitespace().map(str::to_owned));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER));
    match inside_network(pid, || Ok(open()?)) {
        Ok(socket) => Ok((count_tables(&socket)?, old)),
        // A kernel without netfilter has no tables.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok((0, old)),
        Err(error) => Err(error),
    }
}

fn count_tables(socket: &OwnedFd) -> io::Result<usize> {
    // A header, then `struct nfgenmsg` for all families.
    let mut question = Vec::with_capacity(HEADER + 4);
    question.extend_from_slice(&(HEADER as u32 + 4).to_ne_bytes());
    question.extend_from_slice(&GET_TABLE.to_ne_bytes());
    question.extend_from_slice(&DUMP.to_ne_bytes());
    question.extend_from_slice(&[0; 12]);
    send(socket, &question, SendFlags::empty())?;
    let (mut count, mut buffer) = (0, vec![0; 32 << 10]);
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        match read(&buffer[..length], &mut count) {
            Some(Ok(())) => return Ok(count),
            Some(Err(error)) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(0), // no nf_tables
            Some(Err(error)) => return Err(error),
            None => {}
        }
    }
}

/// Counts the tables of one datagram; `Some` at the end of all.
fn read(mut bytes: &[u8], count: &mut usize) -> Option<io::Result<()>> {
    let broken = || Some(Err(io::ErrorKind::InvalidData.into()));
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if length < HEADER || length > bytes.len() {
            return broken();
        }
        match kind {
            NEW_TABLE => *count += 1,
            NLMSG_DONE => return Some(Ok(())),
            NLMSG_ERROR => {
                let code = bytes.get(HEADER..HEADER + 4).map(|code| [code[0], code[1], code[2], code[3]]);
                return match code.map(i32::from_ne_bytes) {
                    Some(0) => Some(Ok(())),
                    Some(code) => Some(Err(io::Error::from_raw_os_error(-code))),
                    None => broken(),
                };
            }
            _ => {}
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER as u32 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn tables_are_counted_to_the_end() {
        let mut count = 0;
        let first = [message(NEW_TABLE, &[0; 8]), message(NEW_TABLE, &[0; 4])].concat();
        assert!(read(&first, &mut count).is_none());
        let last = [message(NEW_TABLE, &[]), message(NLMSG_DONE, &[0; 4])].concat();
        assert!(read(&last, &mut count).unwrap().is_ok());
        assert_eq!(count, 3);
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refused, &mut count).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let mut cut = message(NEW_TABLE, &[0; 8]);
        cut.pop();
        assert!(read(&cut, &mut count).unwrap().is_err());
    }
}
