//! From rules to classic BPF (`linux/filter.h`, seccomp(2)): a balanced search over ranges of numbers.

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter,
};
use std::collections::BTreeMap;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It fails with this `errno`; with 0 it seems to succeed.
    Errno(i32),
    /// The process ends.
    Kill,
    /// Whoever holds the filter's listener says (seccomp_unotify(2)). Without one it fails with ENOSYS.
    Ask,
}

/// A question about one argument. Those of 32 bits look at the lower half alone, as the kernel itself does for `int`
/// arguments; what the upper half holds would otherwise hide a value.
#[derive(Debug, Clone, Copy)]
pub enum Test {
    /// The lower half equals.
    Is(u32),
    /// The lower half has one of these bits.
    HasAny(u32),
    /// All 64 bits are zero.
    IsNull,
}

/// How a verdict is found.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Without looking.
    Return(Verdict),
    /// By an argument, counted from 0.
    If(u32, Test, &'static Rule, &'static Rule),
}

#[cfg(target_arch = "x86_64")]
pub const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
pub const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// The lowest number of the x32 table, which shares the architecture's name on x86-64. No architecture has numbers so
/// high otherwise.
pub const FOREIGN_TABLE: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

fn verdict_value(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(number) => libc::SECCOMP_RET_ERRNO | number as u32 & 0xffff,
        Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        Verdict::Ask => libc::SECCOMP_RET_USER_NOTIF,
    }
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn answer(verdict: Verdict) -> sock_filter {
    statement(BPF_RET | BPF_K, verdict_value(verdict))
}

/// `if (accumulator OP k) { yes } else { no }`, whatever the length of either.
fn branch(out: &mut Vec<sock_filter>, operation: u32, k: u32, yes: &[sock_filter], no: &[sock_filter]) {
    let code = (BPF_JMP | operation | BPF_K) as u16;
    match u8::try_from(no.len()) {
        Ok(over) => out.push(sock_filter { code, jt: over, jf: 0, k }),
        // A conditional jump reaches 255 instructions, an unconditional one everything.
        Err(_) => {
            out.push(sock_filter { code, jt: 0, jf: 1, k });
            out.push(statement(BPF_JMP | BPF_JA, no.len() as u32));
        }
    }
    out.extend_from_slice(no);
    out.extend_from_slice(yes);
}

fn compile_rule(rule: &Rule) -> Vec<sock_filter> {
    let mut out = Vec::new();
    match rule {
        Rule::Return(verdict) => out.push(answer(*verdict)),
        Rule::If(argument, test, then, otherwise) => {
            let (yes, no) = (compile_rule(then), compile_rule(otherwise));
            let low = ARGUMENTS + argument * 8;
            out.push(load(low));
            match test {
                Test::Is(value) => branch(&mut out, BPF_JEQ, *value, &yes, &no),
                Test::HasAny(bits) => branch(&mut out, BPF_JSET, *bits, &yes, &no),
                Test::IsNull => {
                    let mut high = vec![load(low + 4)];
                    branch(&mut high, BPF_JEQ, 0, &yes, &no);
                    branch(&mut out, BPF_JEQ, 0, &high, &no);
                }
            }
        }
    }
    out
}

/// Numbers from `start` up to the next range.
struct Range {
    start: u32,
    code: Vec<sock_filter>,
}

fn search(ranges: &[Range]) -> Vec<sock_filter> {
    if let [range] = ranges {
        return range.code.clone();
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let mut out = Vec::new();
    branch(&mut out, BPF_JGE, upper[0].start, &search(upper), &search(lower));
    out
}

/// A program that answers by `rules`; with `denied` for other numbers up to `newest`, with ENOSYS above.
///
/// Little-endian machines only: the lower half of an argument comes first there.
pub fn compile(rules: &BTreeMap<u32, Rule>, denied: Verdict, newest: u32) -> Vec<sock_filter> {
    const { assert!(cfg!(target_endian = "little")) };
    let denied = Rule::Return(denied);
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |start: u32, rule: &Rule| {
        let code = compile_rule(rule);
        let same = |last: &Range| {
            let parts = |code: &[sock_filter]| -> Vec<_> {
                code.iter().map(|line| (line.code, line.jt, line.jf, line.k)).collect()
            };
            parts(&last.code) == parts(&code)
        };
        if !ranges.last().is_some_and(same) {
            ranges.push(Range { start, code });
        }
    };
    for number in 0..=newest {
        add(number, rules.get(&number).unwrap_or(&denied));
    }
    add(newest + 1, &Rule::Return(Verdict::Errno(libc::ENOSYS)));
    add(FOREIGN_TABLE, &Rule::Return(Verdict::Kill));

    let mut out = vec![load(ARCH)];
    let mut native = vec![load(NUMBER)];
    native.extend(search(&ranges));
    branch(&mut out, BPF_JEQ, ARCHITECTURE, &native, &[answer(Verdict::Kill)]);
    out
}
