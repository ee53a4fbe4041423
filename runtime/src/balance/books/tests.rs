use super::*;

const HOME: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GO: Move = Move { pid: 7, to: Some(OTHER), has: 250, ushered: false };

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn measured(running: f64) -> Measured {
    Measured { told: running, mean: running, processors: 100, util: 0, mem: 1 << 20, rmem: 0, tmem: 1 << 21 }
}

fn books(running: f64) -> Books {
    let mut books = Books::default();
    books.measure(measured(running), STANDARD_SPEED, Status::UP);
    books
}

/// The others, of which one has told `age` ago that nothing runs there.
fn view(books: &mut Books, now: f64, age: f64) -> View {
    let idle = measured(0.0).load(STANDARD_SPEED, Status::UP);
    books.view(at(now), HOME, [(HOME, idle, at(0.0)), (OTHER, idle, at(age))], false).unwrap()
}

fn job(pid: i32) -> Candidate {
    Candidate {
        pid,
        used: 10.0,
        runs: true,
        memory: 1000,
        calls: 0.0,
        io: false,
        away: None,
        since: Duration::MAX,
    }
}

#[test]
fn who_is_on_the_way_counts_there_until_that_node_shows_it() {
    let mut books = books(9.0);
    let first = view(&mut books, 100.0, 0.5);
    assert_eq!((first.home.running, first.others.len(), first.others[0].running), (9.0, 1, 0.0));
    let all: Vec<Candidate> = (1..=9).map(job).collect();
    let moves = books.decide(&first, &all);
    let offer = Offer { has: 111, memory: 1000, ushered: false };
    assert_eq!((moves.len(), moves[0].1), (4, offer), "half of them, less what would be the same");
    assert!(moves.iter().all(|(it, _)| !books.may_move(at(100.0), it.pid)));
    let next = view(&mut books, 100.1, 0.6);
    assert_eq!((next.home.running, next.others[0].running), (5.0, 4.0));
    for (it, _) in &moves {
        books.done(at(101.0), it, at(0.5));
    }
    // Told before they came, or too soon after.
    assert_eq!(view(&mut books, 102.0, 2.0).others[0].running, 4.0);
    assert_eq!(view(&mut books, 102.0, 0.3).others[0].running, 0.0);
    assert!(books.may_move(at(102.0), moves[0].0.pid));
    assert!((0.1..0.5).contains(&books.costs().base), "it was measured");
}

#[test]
fn who_has_left_a_node_does_not_count_there_any_more() {
    let mut books = books(0.0);
    let busy = |books: &mut Books, now: f64, age: f64| {
        let load = measured(3.0).load(STANDARD_SPEED, Status::UP);
        books.view(at(now), HOME, [(OTHER, load, at(age))], false).unwrap()
    };
    let there: Vec<Candidate> =
        (1..=3).map(|pid| Candidate { away: Some(OTHER), since: at(60.0), ..job(pid) }).collect();
    let first = busy(&mut books, 100.0, 0.5);
    let moves = books.decide(&first, &there);
    assert_eq!(moves.len(), 1, "the others have as much there as they would have here");
    let next = busy(&mut books, 100.3, 0.8);
    assert_eq!((next.home.running, next.others[0].running), (1.0, 2.0));
    books.done(at(100.5), &moves[0].0, at(0.5));
    // What is used here follows slowly, and what the other one tells as well.
    let next = busy(&mut books, 101.4, 0.5);
    assert_eq!((next.home.running, next.others[0].running), (1.0, 2.0));
    assert_eq!(books.decide(&next, &there[1..]), []);
    let next = busy(&mut books, 103.0, 0.5);
    assert_eq!(
        (next.home.running, next.others[0].running),
        (0.0, 3.0),
        "it has come by itself, or something else has"
    );
}

#[test]
fn what_a_process_has_left_is_remembered_for_half_a_minute() {
    let mut books = books(9.0);
    let of = view(&mut books, 100.0, 0.0);
    let (it, _) = books.decide(&of, &[job(7)])[0];
    assert_eq!(view(&mut books, 100.5, 0.0).left.len(), 0, "it is under way");
    books.done(at(101.0), &it, at(0.5));
    assert!(view(&mut books, 130.9, 0.0).left.contains(&(7, None)));
    assert_eq!(view(&mut books, 131.1, 0.0).left.len(), 0);
    // What is not made leaves nothing behind.
    let of = view(&mut books, 140.0, 0.0);
    let (it, _) = books.decide(&of, &[job(8)])[0];
    books.failed(at(141.0), &it, Failed::Node);
    assert_eq!(view(&mut books, 141.0, 0.0).left.len(), 0);
}

#[test]
fn no_more_are_under_way_than_may_be() {
    let mut books = books(99.0);
    let of = view(&mut books, 1.0, 0.0);
    let all: Vec<Candidate> = (1..=99).map(job).collect();
    assert_eq!((books.decide(&of, &all).len(), books.decide(&of, &all).len()), (MOVES, 0));
}

#[test]
fn what_is_old_or_refuses_is_left_alone_for_a_time_that_doubles() {
    let mut books = books(1.0);
    let seen = |books: &mut Books, now: f64| view(books, now, 1.0).others.len() == 1;
    assert!(view(&mut books, 30.0, 20.5).others.is_empty());
    for (now, until) in [(30.0, 31.0), (31.0, 33.0), (33.0, 37.0)] {
        books.failed(at(now), &GO, Failed::Node);
        assert!(!seen(&mut books, until - 0.1) && seen(&mut books, until + 0.1), "{now}");
    }
    assert!(books.may_move(at(37.0), 7), "it is not the process's fault");
    books.failed(at(40.0), &GO, Failed::Process);
    assert!(!books.may_move(at(40.5), 7) && books.may_move(at(41.5), 7));
    books.failed(at(50.0), &GO, Failed::Gone);
    assert!(books.may_move(at(50.1), 7) && seen(&mut books, 50.1));
    // Long after that it begins anew.
    assert!(seen(&mut books, 500.0));
    books.failed(at(500.0), &GO, Failed::Node);
    assert!(seen(&mut books, 501.1));
}

#[test]
fn guests_that_no_count_shows_yet_count() {
    let mut books = books(0.0);
    let offer = Offer { has: 500, memory: 1000, ushered: false };
    assert_eq!(books.consider(at(5.0), &offer), Ok(()));
    assert_eq!(books.consider(at(5.1), &offer), Err("its load has changed"));
    assert_eq!(books.consider(at(5.7), &offer), Ok(()));
    assert!(Books::default().consider(at(5.0), &offer).is_err());
}

#[test]
fn what_is_away_is_there_since_it_came() {
    let mut books = books(0.0);
    let there = books.away(at(10.0), job(7), OTHER);
    assert_eq!((there.away, there.since, there.used), (Some(OTHER), Duration::ZERO, 10.0));
    let there = books.away(at(14.0), Candidate { runs: false, ..job(7) }, OTHER);
    assert_eq!((there.since, there.used, there.runs), (at(4.0), 14.0, true));
    assert_eq!(books.away(at(15.0), job(7), HOME).since, Duration::ZERO, "it went on");
    books.still_away(|_| false);
    assert_eq!(books.away(at(20.0), job(7), HOME).since, Duration::ZERO);
}

#[test]
fn what_a_process_uses_away_is_what_it_tells() {
    let mut books = books(0.0);
    books.used_away(at(11.0), 7, at(0.01), true);
    let there = books.away(at(11.0), job(7), OTHER);
    assert_eq!((there.used, there.runs), (10.01, true), "many run there");
    books.used_away(at(12.0), 7, at(0.5), false);
    assert!(books.away(at(12.5), job(7), OTHER).runs, "it was just not seen to");
    books.used_away(at(13.0), 7, at(0.5), false);
    let there = books.away(at(14.0), job(7), OTHER);
    assert_eq!((there.used, there.runs), (10.5, false), "it waits for something");
    books.used_away(at(15.0), 7, at(0.1), false);
    assert_eq!(books.away(at(15.0), job(7), HOME).used, 10.1, "it is somewhere else");
    books.still_away(|_| false);
    assert_eq!(books.away(at(20.0), job(7), HOME).used, 10.0);
}

#[test]
fn who_becomes_idle_is_told_once() {
    let mut books = Books::default();
    let mut turn = |running| books.measure(measured(running), STANDARD_SPEED, Status::UP);
    assert_eq!([0.0, 1.0, 0.6, 0.4, 0.1].map(&mut turn), [false, false, false, true, false]);
}

#[test]
fn what_a_user_has_sent_stays_there_for_a_while() {
    let mut books = books(1.0);
    books.by_hand(at(100.0), 7);
    assert!(!books.may_move(at(159.0), 7) && books.may_move(at(159.0), 8));
    assert!(books.may_move(at(160.1), 7));
    books.by_hand(at(200.0), 7);
    books.asked(7);
    assert!(books.may_move(at(200.0), 7));
}

#[test]
fn of_very_many_the_latest_are_looked_at_and_those_where_something_is() {
    let mut books = books(1.0);
    books.away(at(1.0), job(7), Ipv4Addr::new(10, 0, 2, 150));
    let load = measured(0.0).load(STANDARD_SPEED, Status::UP);
    let told =
        |number: u8| (Ipv4Addr::new(10, 0, 2, number), load, Duration::from_millis(100 * u64::from(number)));
    let view = books.view(at(50.0), HOME, (1..=150).map(told), false).unwrap();
    let mut seen: Vec<u8> = view.others.iter().map(|place| place.address.octets()[3]).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=32).chain([150]).collect::<Vec<_>>());
}

#[test]
fn what_moves_have_taken_counts() {
    let mut books = books(1.0);
    let sent = |books: &mut Books, octets| books.sent(octets, at(0.5), Duration::from_micros(440));
    sent(&mut books, 1 << 20);
    assert_eq!(books.costs().rate, Costs::default().rate, "it was little");
    assert!((books.costs().call - 140e-6).abs() < 1e-9);
    for _ in 0..100 {
        sent(&mut books, 20 << 20);
    }
    assert!((books.costs().rate - 40_960.0).abs() < 10.0 && (books.costs().call - 500e-6).abs() < 1e-6);
}

#[test]
fn memory_on_the_way_counts_until_it_shows() {
    let mut books = Books::default();
    let little = Measured { mem: 1 << 16, ..measured(1.0) };
    books.measure(little, STANDARD_SPEED, Status::UP);
    let large: Vec<Candidate> = (1..=3).map(|pid| Candidate { memory: 300_000, ..job(pid) }).collect();
    let first = view(&mut books, 100.0, 0.5);
    let moves = books.decide(&first, &large);
    assert!(matches!(&moves[..], [(Move { ushered: true, .. }, _)]), "one is enough: {moves:?}");
    let left: Vec<Candidate> = large.into_iter().filter(|it| it.pid != moves[0].0.pid).collect();
    let ushers = |books: &mut Books, now, age| {
        let of = view(books, now, age);
        (decide(&of, &left, &Costs::default(), 9).iter().any(|it| it.ushered), of.others[0].free)
    };
    let free = 1 << 20;
    assert_eq!(ushers(&mut books, 100.1, 0.1), (false, free - 300_000));
    books.done(at(101.0), &moves[0].0, at(0.5));
    assert_eq!(ushers(&mut books, 103.0, 1.0), (false, free - 300_000));
    assert_eq!(ushers(&mut books, 107.0, 0.5), (true, free), "it has shown by then, and was not enough");

    let mut taker = self::books(0.0);
    let offer = Offer { has: 0, memory: 500_000, ushered: true };
    assert!(taker.consider(at(200.0), &offer).is_ok());
    assert!(taker.consider(at(201.0), &offer).is_err(), "there is no room for both");
    assert!(taker.consider(at(203.5), &offer).is_ok());
}
