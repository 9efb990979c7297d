use crate::blanks::Demand;
use model::ByteSize;
use proptest::prelude::*;
use sandbox::{Form, Shape};
use std::time::Duration;
use tokio::time::Instant;

fn shape(image: usize) -> Shape {
    Shape {
        level: model::agent::Level::Container,
        image_digest: Some(format!("sha256:{image:064}")),
        disk: ByteSize(1 << 30),
        memory: ByteSize(1 << 30),
        keep_scratch: false,
        owner: (1000, 1000),
        base_uid: None,
    }
}

fn ask(demand: &mut Demand, image: usize, at: Instant) {
    demand.ask(&Form::Whole(shape(image)), at);
}

#[test]
fn one_of_the_last_shape_and_one_bare_are_always_kept() {
    let mut demand = Demand::new(None);
    let now = Instant::now();
    assert_eq!(
        demand.wanted(now, 8).into_keys().collect::<Vec<_>>(),
        [Form::Bare(model::Resources::default().disk)]
    );
    ask(&mut demand, 1, now);
    ask(&mut demand, 2, now);
    let hours_later = now + Duration::from_secs(3 * 3600);
    let wanted = demand.wanted(hours_later, 8);
    let expected = [(Form::Bare(ByteSize(1 << 30)), 1), (Form::Whole(shape(2)), 1)];
    assert_eq!(wanted.into_iter().collect::<Vec<_>>(), expected, "what is long ago is forgotten");
}

#[test]
fn the_busiest_time_counts() {
    let mut demand = Demand::new(None);
    let start = Instant::now();
    for second in [0, 1, 2, 60, 120] {
        ask(&mut demand, 1, start + Duration::from_secs(second));
    }
    assert_eq!(demand.wanted(start + Duration::from_secs(121), 16)[&Form::Whole(shape(1))], 3);
    // The three came more than five minutes before.
    assert_eq!(demand.wanted(start + Duration::from_secs(303), 16)[&Form::Whole(shape(1))], 1);
}

proptest! {
    #[test]
    fn there_are_never_too_many(
        asks in proptest::collection::vec((0usize..20, 0u64..400), 0..300),
        most in 0usize..40,
    ) {
        let mut demand = Demand::new(None);
        let start = Instant::now();
        let mut times: Vec<_> = asks.iter().map(|(image, at)| (*at, *image)).collect();
        times.sort_unstable();
        for (at, image) in times {
            ask(&mut demand, image, start + Duration::from_secs(at));
        }
        let wanted = demand.wanted(start + Duration::from_secs(400), most);
        prop_assert!(wanted.values().sum::<usize>() <= most, "{wanted:?} of {most}");
        let kept = wanted.values().filter(|count| **count > 0).count();
        prop_assert!(kept >= wanted.len().min(most), "none goes short while another has more: {wanted:?} of {most}");
    }
}
