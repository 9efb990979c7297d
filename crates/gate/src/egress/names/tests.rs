use super::*;
use proptest::prelude::*;

#[test]
fn an_address_leads_back_to_its_name() {
    let mut names = Names::default();
    assert!(names.is_empty());
    let (first, new) = names.give("example.com").unwrap();
    assert!(new);
    assert_eq!(names.give("example.com"), Some((first, false)));
    let other = names.give("www.example.com").unwrap().0;
    assert!(first.v4 != other.v4 && first.v6 != other.v6);
    let check = |address: IpAddr, expected: Option<&str>| {
        assert_eq!(names.name(address).map(|name| &**name), expected, "{address}");
        assert!(is_synthetic(address));
    };
    check(first.v4.into(), Some("example.com"));
    check(first.v6.into(), Some("example.com"));
    check(first.v4.to_ipv6_mapped().into(), Some("example.com"));
    check(other.v6.into(), Some("www.example.com"));
    check("198.18.0.0".parse().unwrap(), None);
    check("fdcf:d::".parse().unwrap(), None);
    assert_eq!(names.len(), 2);
}

#[test]
fn only_these_addresses_stand_for_names() {
    let check =
        |text: &str, expected: bool| assert_eq!(is_synthetic(text.parse().unwrap()), expected, "{text}");
    for (text, expected) in [
        ("198.18.0.0", true),
        ("198.19.255.255", true),
        ("198.17.255.255", false),
        ("198.20.0.0", false),
        ("fdcf:d::1", true),
        ("fdcf:d::1:ffff", true),
        ("fdcf:d::2:0", false),
        ("fdcf:d::1:0:0", false),
        ("fdcf:c::1", false),
        ("::ffff:198.18.0.1", true),
        ("::198.18.0.1", false),
        ("127.0.0.1", false),
    ] {
        check(text, expected);
    }
}

#[test]
fn there_are_no_more_than_node_remembers() {
    let mut names = Names::restore((0..MOST + 5).map(|index| format!("host-{index}.example")));
    assert_eq!(names.len(), MOST);
    assert_eq!(names.give("one-more.example"), None);
    assert!(names.give("host-7.example").is_some_and(|(_, new)| !new));
    for index in 0..MOST {
        let name = format!("host-{index}.example");
        let (Synthetic { v4, v6 }, _) = names.give(&name).unwrap();
        assert_eq!(names.name(v4.into()).map(|own| &**own), Some(name.as_str()));
        assert_eq!(names.name(v6.into()).map(|own| &**own), Some(name.as_str()));
    }
}

#[test]
fn addresses_are_the_same_in_every_version() {
    // A gate of another version restores what this one gave.
    let mut names = Names::default();
    let given = names.give("example.com").unwrap().0;
    assert_eq!(
        (given.v4.to_string(), given.v6.to_string()),
        ("198.18.168.160".into(), "fdcf:d::a8a0".into())
    );
}

proptest! {
    #[test]
    fn the_same_names_in_the_same_order_have_the_same_addresses(
        list in proptest::collection::vec("[a-c]{1,3}\\.[a-c]{1,2}", 0..200),
    ) {
        let mut names = Names::default();
        let mut told = Vec::new();
        let given: Vec<Synthetic> = list.iter().map(|name| {
            let (synthetic, new) = names.give(name).unwrap();
            if new {
                told.push(name.clone());
            }
            synthetic
        }).collect();
        let mut restored = Names::restore(&told);
        for (name, synthetic) in list.iter().zip(given) {
            prop_assert_eq!(restored.give(name), Some((synthetic, false)));
            prop_assert!(synthetic.v4.to_string() != "198.18.0.0");
        }
    }
}
