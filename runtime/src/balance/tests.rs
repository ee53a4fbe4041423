use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1024 * 1024;

fn place(number: u8, speed: f64, running: f64) -> Place {
    let address = Ipv4Addr::new(10, 0, 0, number);
    Place { address, speed, processors: 1.0, running, free: 4 * GIB, memory: 8 * GIB, open: true }
}

fn job(pid: i32, used: f64) -> Candidate {
    let since = Duration::from_secs(60);
    Candidate { pid, used, runs: true, memory: 10_000, calls: 0.0, io: false, away: None, since }
}

fn view(home: f64, others: &[f64]) -> View {
    let others = others.iter().zip(2..).map(|(running, number)| place(number, 1.0, *running)).collect();
    View { home: place(1, 1.0, home), others, stay: false, left: HashSet::new() }
}

fn jobs(count: i32) -> Vec<Candidate> {
    (1..=count).map(|pid| job(pid, 10.0)).collect()
}

#[test]
fn a_batch_spreads_until_all_give_the_same() {
    let moves = decide(&view(32.0, &[0.0, 0.0, 0.0]), &jobs(32), &Costs::default(), 100);
    assert_eq!(moves.len(), 24);
    for number in 2..=4 {
        let there = moves.iter().filter(|it| it.to == Some(Ipv4Addr::new(10, 0, 0, number))).count();
        assert_eq!(there, 8);
    }
    assert_eq!(decide(&view(8.0, &[8.0, 8.0, 8.0]), &jobs(8), &Costs::default(), 100), []);
    assert_eq!(decide(&view(1.0, &[0.0, 0.0]), &jobs(1), &Costs::default(), 100), [], "nothing is gained");
}

#[test]
fn one_whose_user_asks_goes_where_it_has_most() {
    let of = view(4.0, &[3.0, 1.0]);
    let costs = Costs { base: 1000.0, ..Costs::default() };
    let best = |candidate| best_place(&of, &candidate, &costs).map(|address| address.octets()[3]);
    assert_eq!(best(job(1, 0.0)), Some(3), "however young it is");
    assert_eq!(best(Candidate { memory: 5 * GIB, ..job(1, 9.0) }), None, "there is no room");
    assert_eq!(best(Candidate { io: true, ..job(1, 9.0) }), None);
    let away = |number: u8| Some(Ipv4Addr::new(10, 0, 0, number));
    assert_eq!(best(Candidate { away: away(2), ..job(1, 9.0) }), Some(3));
    assert_eq!(best(Candidate { away: away(3), ..job(1, 9.0) }), Some(3));
    let of = view(0.0, &[3.0, 1.0]);
    assert_eq!(best_place(&of, &Candidate { away: away(2), ..job(1, 9.0) }, &costs), None, "home");
}

#[test]
fn faster_nodes_draw_more() {
    let mut of = view(14.0, &[]);
    of.others = vec![place(2, 2.0, 0.0), place(3, 4.0, 0.0)];
    let moves = decide(&of, &jobs(14), &Costs::default(), 100);
    let to = |number| moves.iter().filter(|it| it.to == Some(Ipv4Addr::new(10, 0, 0, number))).count();
    assert_eq!((to(2), to(3)), (4, 8));
    // Alone on a slow one it still goes.
    let moves = decide(&View { home: place(1, 1.0, 1.0), ..of }, &jobs(1), &Costs::default(), 100);
    assert_eq!(moves[0].to, Some(Ipv4Addr::new(10, 0, 0, 3)));
}

#[test]
fn the_young_the_talkative_and_the_heavy_stay() {
    let of = view(4.0, &[0.0]);
    let decided = |candidate: Candidate| decide(&of, &[candidate], &Costs::default(), 9).len();
    assert_eq!(decided(job(1, 10.0)), 1);
    assert_eq!(decided(job(1, 0.01)), 0);
    assert_eq!(decided(Candidate { calls: 50_000.0, ..job(1, 10.0) }), 0);
    assert_eq!(decided(Candidate { memory: 3 * GIB, ..job(1, 10.0) }), 0, "half a minute on the wire");
    assert_eq!(decided(Candidate { io: true, ..job(1, 10.0) }), 0);
    assert_eq!(decided(Candidate { runs: false, ..job(1, 10.0) }), 0);
    assert_eq!(decide(&View { stay: true, ..of }, &jobs(4), &Costs::default(), 9), []);
}

#[test]
fn one_that_is_away_comes_home_or_goes_on_where_it_is_better() {
    let away = Candidate { away: Some(Ipv4Addr::new(10, 0, 0, 2)), ..job(1, 10.0) };
    let decided =
        |of: &View, candidate| decide(of, &[candidate], &Costs::default(), 9).first().map(|it| it.to);
    assert_eq!(decided(&view(0.0, &[3.0]), away), Some(None));
    assert_eq!(decided(&view(3.0, &[3.0, 0.0]), away), Some(Some(Ipv4Addr::new(10, 0, 0, 3))));
    assert_eq!(decided(&view(3.0, &[3.0, 3.0]), away), None);
    let just_there = Candidate { since: Duration::from_secs(1), ..away };
    assert_eq!(decided(&view(0.0, &[3.0]), just_there), None);
    let talks = Candidate { calls: 100_000.0, runs: false, ..away };
    assert_eq!(decided(&view(0.0, &[1.0]), talks), Some(None));
    let waits = Candidate { runs: false, ..away };
    assert_eq!(decided(&view(0.0, &[3.0, 0.0]), waits), None, "it would gain nothing");
    let unknown = Candidate { away: Some(Ipv4Addr::new(10, 0, 0, 9)), ..away };
    assert_eq!(decided(&view(0.0, &[3.0]), unknown), None, "nothing is known of that node");
}

#[test]
fn nobody_goes_back_where_it_has_just_been() {
    let second = Some(Ipv4Addr::new(10, 0, 0, 2));
    let third = Some(Ipv4Addr::new(10, 0, 0, 3));
    let decided = |of: &View, candidate| {
        let moves = decide(of, &[candidate], &Costs::default(), 9);
        moves.first().map(|it| it.to)
    };
    let mut of = View { left: HashSet::from([(1, second)]), ..view(4.0, &[0.0, 1.0]) };
    assert_eq!(decided(&of, job(1, 10.0)), Some(third));
    assert_eq!(decided(&of, job(2, 10.0)), Some(second), "another one may");
    of.left.insert((1, third));
    assert_eq!(decided(&of, job(1, 10.0)), None);
    assert_eq!(best_place(&of, &job(1, 10.0), &Costs::default()), second, "but where its user wants it");
    let away = Candidate { away: second, ..job(1, 10.0) };
    let of = View { left: HashSet::from([(1, None)]), ..view(0.0, &[3.0, 1.0]) };
    assert_eq!(decided(&of, away), Some(third), "home would give more");
    let of = View { left: HashSet::from([(1, None)]), ..view(0.0, &[3.0]) };
    assert_eq!(decided(&of, away), None);
    let talks = Candidate { calls: 100_000.0, ..away };
    assert_eq!(decided(&of, talks), Some(None), "only home spares it its calls");
}

#[test]
fn memory_comes_before_load() {
    let mut of = view(1.0, &[9.0, 0.0]);
    of.home.free = GIB / 10;
    of.others[1].free = GIB;
    let candidates = [
        Candidate { memory: 2 * GIB, runs: false, ..job(1, 0.0) },
        Candidate { memory: GIB / 2, ..job(2, 100.0) },
    ];
    let moves = decide(&of, &candidates, &Costs::default(), 9);
    let first = moves[0];
    assert_eq!((first.pid, first.to, first.ushered), (1, Some(Ipv4Addr::new(10, 0, 0, 2)), true));
    assert!(moves[1..].iter().all(|it| !it.ushered), "with that there is enough: {moves:?}");
    // Too big for anyone: the next biggest goes.
    let candidates = [Candidate { memory: 7 * GIB, ..candidates[0] }, candidates[1]];
    assert_eq!(decide(&of, &candidates, &Costs::default(), 1)[0].pid, 2);
    of.stay = true;
    assert_eq!(decide(&of, &candidates, &Costs::default(), 1)[0].pid, 2, "before anything else");
}

#[test]
fn a_node_has_the_last_word() {
    let idle = place(2, 1.0, 0.0);
    assert!(would_take(&idle, 500, 1000, false));
    assert!(!would_take(&place(2, 1.0, 1.0), 500, 1000, false), "it would have no more there");
    assert!(would_take(&place(2, 1.0, 5.0), 0, 1000, true));
    assert!(!would_take(&Place { open: false, ..idle }, 0, 1000, true));
    assert!(!would_take(&idle, 500, 5 * GIB, true));
}

proptest! {
    #[test]
    fn no_move_is_made_back(
        home in 0_u8..40, others in proptest::collection::vec((0_u8..40, 1_u8..5, 1_u8..9, any::<bool>()), 0..20),
        used in 0.0_f64..100.0, memory in 0_u64..GIB,
    ) {
        let mut of = view(f64::from(home), &[]);
        of.others = others.iter().zip(2..).map(|((running, speed, processors, open), number)| Place {
            processors: f64::from(*processors), open: *open, ..place(number, f64::from(*speed), f64::from(*running))
        }).collect();
        let candidates: Vec<Candidate> =
            (1..=i32::from(home)).map(|pid| Candidate { memory, ..job(pid, used) }).collect();
        let costs = Costs::default();
        let moves = decide(&of, &candidates, &costs, 1000);
        // Each goes once, to a node that lets it in, and gets more there than it had, all moves done.
        let mut after = of.clone();
        let mut pids: Vec<i32> = moves.iter().map(|it| it.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        prop_assert_eq!(pids.len(), moves.len());
        after.home.running -= moves.len() as f64;
        for it in &moves {
            let target = after.others.iter_mut().find(|place| Some(place.address) == it.to).unwrap();
            prop_assert!(target.open);
            target.running += 1.0;
            target.free = target.free.saturating_sub(memory);
        }
        for it in &moves {
            let target = after.others.iter().find(|place| Some(place.address) == it.to).unwrap();
            prop_assert!(target.gives(0.0) > of.home.gives(0.0));
        }
        // And with that nobody wants to move any more, here or back.
        let stayed: Vec<Candidate> =
            candidates.iter().filter(|it| !pids.contains(&it.pid)).copied().collect();
        prop_assert_eq!(decide(&after, &stayed, &costs, 1000), []);
        let gone: Vec<Candidate> = moves.iter().map(|it| Candidate { away: it.to, ..candidates[usize::try_from(it.pid).unwrap() - 1] }).collect();
        prop_assert_eq!(decide(&after, &gone, &costs, 1000), []);
    }
}
