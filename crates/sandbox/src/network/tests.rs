use super::netlink::{Attributes, Link, Order, attributes, message, same};
use super::routes::{look_at_text, raise};
use super::{Found, Links};
use crate::host::namespace::in_new_network;
use std::time::{Duration, Instant};

const V4: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
const OURS_V4: &str = "lo\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n";
const KERNELS_V6: &str = "\
00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";
const OURS_V6: &str = "\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 80000001       lo
";

#[test]
fn routes_are_ours_or_none() {
    let check = |v4: &str, v6: &str, expected: Option<Found>| {
        let found = look_at_text(&format!("{V4}{v4}"), v6);
        match expected {
            Some(expected) => assert_eq!(found, expected, "{v4}{v6}"),
            None => assert!(matches!(found, Found::Foreign(_)), "{v4}{v6}: {found:?}"),
        }
    };
    let ours_v6 = format!("{OURS_V6}{KERNELS_V6}");
    check("", "", Some(Found::None));
    check("", KERNELS_V6, Some(Found::None));
    check(OURS_V4, &ours_v6, Some(Found::Ours));
    // A kernel without IPv6.
    check(OURS_V4, "", Some(Found::Ours));
    check(OURS_V4, KERNELS_V6, None);
    check("", &ours_v6, None);
    check(&OURS_V4.repeat(2), &ours_v6, None);
    check(OURS_V4, &format!("{OURS_V6}{ours_v6}"), None);
    for other in [
        OURS_V4.replace("lo", "eth0"),
        OURS_V4.replacen("00000000", "007100CB", 1),
        OURS_V4.replace("\t0001\t", "\t0003\t"),
        "half a line".to_owned(),
    ] {
        check(&format!("{OURS_V4}{other}"), &ours_v6, None);
        check(&other, &ours_v6, None);
    }
    for other in
        [OURS_V6.replace("lo", "eth0"), OURS_V6.replace("00000400", "00000100"), "half a line".to_owned()]
    {
        check(OURS_V4, &format!("{ours_v6}{other}"), None);
    }
}

#[test]
fn what_is_read_back_is_what_was_sent() {
    let inner = |value| Attributes::default().number(1, value).text(2, "name");
    let sent = Attributes::default().text(1, "dry").nest(4, inner(7));
    // As the kernel says it: in another order, without the mark, with what it adds.
    let unmarked =
        |value: u32| Attributes::default().number(9, 1).put(4, inner(value).bytes()).text(1, "dry");
    let added = |kind, _: &[u8]| kind == 9;
    assert!(same(&sent, unmarked(7).bytes(), added).unwrap());
    assert!(!same(&sent, unmarked(8).bytes(), added).unwrap());
    assert!(!same(&sent, unmarked(7).bytes(), |_, _: &[u8]| false).unwrap());
    assert!(!same(&sent, Attributes::default().text(1, "dry").bytes(), added).unwrap());
    let twice = Attributes::default().text(1, "dry").text(1, "dry").nest(4, inner(7));
    assert!(!same(&sent, twice.bytes(), added).unwrap());
    let cut = unmarked(7);
    assert!(same(&sent, &cut.bytes()[..cut.bytes().len() - 5], added).is_err());
}

#[test]
fn broken_attributes_are_errors() {
    for bytes in [&[1, 0][..], &[3, 0, 1, 0], &[9, 0, 1, 0, 0, 0, 0, 0], &[0; 4]] {
        assert!(attributes(bytes).is_err(), "{bytes:?}");
    }
    // The padding of the last may be left out.
    assert_eq!(attributes(&[5, 0, 1, 0, 7]).unwrap().len(), 1);
}

#[test]
fn a_message_begins_with_its_length() {
    let bytes = message(24, Order::Make, &[2; 12], &Attributes::default().number(1, 5));
    assert_eq!(bytes.len(), 16 + 12 + 8);
    assert_eq!(bytes[..8], [36, 0, 0, 0, 24, 0, 0x05, 0x06]);
}

/// As it is done to every boundary that is made. Says how long it takes; nothing hangs on it.
#[test]
fn a_new_namespace_is_steered() {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "a_new_namespace_is_steered needs root");
    if !is_root {
        return eprintln!("skipped: a_new_namespace_is_steered needs root");
    }
    let mut took: Vec<Duration> = (0..100)
        .map(|_| {
            let steered = in_new_network(|| {
                raise(&Link::open(None).unwrap()).unwrap();
                let began = Instant::now();
                Links::open_here().unwrap().steer().unwrap();
                began.elapsed()
            });
            steered.unwrap()
        })
        .collect();
    took.sort();
    eprintln!("steered and compared: median {:?}, 90 % below {:?}", took[50], took[90]);
    super::try_out().unwrap();
}
