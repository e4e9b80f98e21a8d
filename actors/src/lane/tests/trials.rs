//! Events that kill the process (design D6): each is found after the expected number of deaths, its neighbours
//! are applied, and processes that are killed from outside convict nobody.
//!
//! A process is a world over shared data whose store stops answering; its actors go with their runtime.

use std::collections::HashSet;
use std::time::Duration;

use actix::Addr;
use proptest::prelude::*;

use super::world::{Deadly, LIMIT, Options, World, event, event_id, group, lane_of, neighbours, run};
use crate::clock::Randomness;
use crate::command::{Command, CommandKind, ParkedKeyId, Principal};
use crate::ids::{CommandId, CorrelationId, JobId, LaneKey, Offset, Topic};
use crate::lane::environment::LaneSettings;
use crate::ports::query::{QueryStore, StoredDeadLetter};
use crate::ports::store::{JobStore, LaneStore, ParkedWish, WishAnswer};
use crate::supervisor::Supervisor;
use crate::supervisor::message::StopAll;
use crate::testkit::{DeathSide, MemoryStore, SeededRandomness, wait_until};
use crate::trial::{DEATHS_BEFORE_POISON, UNCLEAN_ENDS_BEFORE_TRIALS};

/// Deaths until one deadly thing is convicted: those before the lane is careful, and those in its trial.
const DEATHS_EACH: u32 = UNCLEAN_ENDS_BEFORE_TRIALS + DEATHS_BEFORE_POISON;

/// Processes that are killed from outside: `HORIZONS_TEST_CORE_KILLS`, else so many.
const RANDOM_KILLS: u32 = 40;

/// One case of the property stands for so many processes that are killed from outside.
const KILLS_PER_CASE: u32 = 10;

/// Reads how many processes are killed.
fn random_kills() -> u32 {
    match std::env::var("HORIZONS_TEST_CORE_KILLS") {
        Ok(text) => text.parse().expect("`HORIZONS_TEST_CORE_KILLS` is a number"),
        Err(_) => RANDOM_KILLS,
    }
}

/// Lives that no test needs.
const LIVES_MAX: u32 = 100;

fn options() -> Options {
    // A short window, because every process reads it back.
    let settings = LaneSettings { duplicate_window_records: 20, ..LaneSettings::default() };
    Options { settings, timer_delay: Duration::from_millis(500), ..Options::default() }
}

/// Makes events, payloads and timers deadly.
fn deadly(events: &[(&str, u64)], timers: &[&str]) -> impl Fn() -> Deadly + use<> {
    let events: HashSet<_> = events.iter().map(|(job, sequence)| event_id(job, *sequence)).collect();
    let timers: HashSet<_> = timers.iter().map(|job| (*job).to_owned()).collect();
    move || Deadly { events: events.clone(), timers: timers.clone(), ..Deadly::default() }
}

/// Tells whether every lane is at its end, no timer is set and nothing is released.
fn is_settled(world: &World) -> bool {
    Topic::JobLifecycle.all_partitions().all(|partition| {
        let lane = LaneKey { group: group(), topic_partition: partition };
        let next = world.store.progress_of(&lane).and_then(|progress| progress.next).unwrap_or_default();
        next >= world.end(partition) && world.store.timers_of(&lane).is_empty()
    })
}

/// Drops what a process has left in memory; it writes nothing any more.
async fn end(tree: Addr<Supervisor>) {
    // An answer that does not come is a tree that is gone.
    let _gone = tree.send(StopAll { within: Duration::ZERO }).await;
}

/// Lets processes live and die until one settles; answers how many died.
fn live_until_settled(store: &MemoryStore, deadly: impl Fn() -> Deadly) -> u32 {
    live_with_witness(store, deadly, false)
}

/// The same; whoever comes next may hear what the dead one was thinking about.
fn live_with_witness(store: &MemoryStore, deadly: impl Fn() -> Deadly, has_witness: bool) -> u32 {
    let mut deaths = 0;
    let mut is_over = false;
    while !is_over {
        assert!(deaths < LIVES_MAX, "nobody was convicted");
        let over = &mut is_over;
        run(|| async {
            let world = World::of_process(store, deaths + 1, options());
            *world.panics.deadly.lock().unwrap() = Deadly { victim: Some(world.store.clone()), ..deadly() };
            let tree = world.start();
            wait_until("an end", LIMIT, || world.store.is_dead() || is_settled(&world)).await;
            *over = !world.store.is_dead();
            if has_witness {
                store.as_new_process().acquit(world.process, world.witness.thought()).await.unwrap();
            }
            end(tree).await;
        });
        deaths += u32::from(!is_over);
    }
    deaths
}

fn publish(store: &MemoryStore, job: &str, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        store.append(event(job, sequence).record()).unwrap();
    }
}

/// Reads what is stored, outside of any process.
fn read<T>(store: &MemoryStore, ask: impl AsyncFnOnce(MemoryStore) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask(store.as_new_process()))
}

fn applied(store: &MemoryStore, job: &str) -> Vec<u64> {
    let timeline =
        read(store, async |store| store.timeline(JobId::parse(job).unwrap(), usize::MAX).await.unwrap());
    timeline.into_iter().map(|entry| entry.sequence.0).collect()
}

fn letters(store: &MemoryStore) -> Vec<StoredDeadLetter> {
    read(store, async |store| store.dead_letters(None, None, 100).await.unwrap().rows)
}

fn convicted(store: &MemoryStore) -> Vec<(Offset, String, String)> {
    let letters = letters(store);
    letters.into_iter().map(|letter| (letter.record.offset, letter.reason, letter.state)).collect()
}

fn wish(store: &MemoryStore, job: &str, wish: ParkedWish) {
    let key = ParkedKeyId { lane: lane_of(job), key: job.to_owned().into() };
    let command = Command {
        command_id: CommandId(uuid::Uuid::nil()),
        correlation_id: CorrelationId(uuid::Uuid::nil()),
        principal: Principal { user_id: "ada".parse().unwrap() },
        reason: None,
        idempotency_key: None,
        requested_at: crate::clock::Timestamp::from_millis(0),
        kind: CommandKind::ReleaseKey(key.clone()),
    };
    let audit = crate::testkit::EventBuilder::audit_action_recorded().record();
    let answer =
        read(store, async |store| store.set_parked_wish(command, key, wish, u32::MAX, audit).await.unwrap());
    assert_eq!(answer, WishAnswer::Stored);
}

#[test]
fn event_that_kills_is_convicted_and_its_neighbours_are_applied() {
    let store = MemoryStore::new();
    let (jobs, other) = neighbours(3);
    for job in &jobs {
        publish(&store, job, 1..=4);
    }
    publish(&store, &other, 1..=4);

    let deaths = live_until_settled(&store, deadly(&[(&jobs[1], 2)], &[]));

    assert_eq!(deaths, DEATHS_EACH);
    assert_eq!(convicted(&store), [(Offset(5), "process_died".to_owned(), "parked".to_owned())]);
    assert_eq!(applied(&store, &jobs[0]), [1, 2, 3, 4]);
    assert_eq!(applied(&store, &jobs[1]), [1]);
    assert_eq!(applied(&store, &jobs[2]), [1, 2, 3, 4]);
    assert_eq!(applied(&store, &other), [1, 2, 3, 4]);
    let key = jobs[1].clone().into();
    assert_eq!(store.parked_of(&lane_of(&jobs[1]), &key).len(), 3);
}

#[test]
fn event_that_kills_the_decoder_is_never_decoded_again() {
    let store = MemoryStore::new();
    publish(&store, "job-0", 1..=3);
    let record = event("job-0", 2).record();
    let payload = record.payload.unwrap();
    let bomb = move || Deadly { payloads: HashSet::from([payload.clone()]), ..Deadly::default() };

    let deaths = live_until_settled(&store, &bomb);
    // The duplicate window of every later process is read back over the bomb.
    let later = [(); 3].map(|()| live_until_settled(&store, &bomb));

    assert_eq!((deaths, later), (DEATHS_EACH, [0, 0, 0]));
    assert_eq!(convicted(&store).len(), 1);
}

#[test]
fn events_that_kill_in_two_lanes_are_both_convicted() {
    let store = MemoryStore::new();
    let (jobs, other) = neighbours(2);
    for job in [&jobs[0], &jobs[1], &other] {
        publish(&store, job, 1..=3);
    }

    let deaths = live_until_settled(&store, deadly(&[(&jobs[0], 2), (&other, 1)], &[]));

    assert!((DEATHS_EACH..=2 * DEATHS_EACH).contains(&deaths), "{deaths} deaths");
    let mut lanes: Vec<_> = letters(&store).into_iter().map(|letter| letter.lane).collect();
    lanes.sort();
    let mut wanted = vec![lane_of(&jobs[0]), lane_of(&other)];
    wanted.sort();
    assert_eq!(lanes, wanted);
    assert_eq!(applied(&store, &jobs[1]), [1, 2, 3]);
    assert_eq!((applied(&store, &jobs[0]), applied(&store, &other)), (vec![1], vec![]));
}

#[test]
fn parked_head_that_kills_when_released_is_parked_again_and_can_be_discarded() {
    let store = MemoryStore::new();
    let bomb = || deadly(&[("job-0", 2)], &[]);
    publish(&store, "job-0", 1..=3);
    live_until_settled(&store, bomb());

    // It is known to kill, so that a release is a trial from the start.
    wish(&store, "job-0", ParkedWish::Release);
    publish(&store, "job-0", 4..=4);
    let mut deaths = 0;
    while read(&store, async |store| store.parked_keys(1).await.unwrap())[0].wish != ParkedWish::Wait {
        deaths += one_life(&store, bomb());
    }
    let after_release = convicted(&store);
    wish(&store, "job-0", ParkedWish::DiscardHead);
    let after_discard = one_life(&store, bomb());

    assert_eq!((deaths, after_discard), (DEATHS_BEFORE_POISON, 0));
    assert_eq!(after_release, [(Offset(1), "process_died".to_owned(), "parked".to_owned())]);
    assert_eq!(applied(&store, "job-0"), [1, 3, 4]);
    assert_eq!(convicted(&store)[0].2, "discarded");
}

/// Lets one process live until it dies or has carried out every wish; answers whether it died.
fn one_life(store: &MemoryStore, deadly: impl Fn() -> Deadly) -> u32 {
    let mut died = 0;
    let dead = &mut died;
    let number = u32::try_from(uuid_number(store)).unwrap();
    run(|| async {
        let world = World::of_process(store, number, options());
        *world.panics.deadly.lock().unwrap() = Deadly { victim: Some(world.store.clone()), ..deadly() };
        let tree = world.start();
        let has_wish = async || {
            let keys = store.as_new_process().parked_keys(10).await.unwrap();
            keys.iter().any(|key| key.wish != ParkedWish::Wait)
        };
        while !world.store.is_dead() && (has_wish().await || !is_settled(&world)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        *dead = u32::from(world.store.is_dead());
        end(tree).await;
    });
    died
}

/// Numbers processes over the openings that the store has seen, beyond those of [`live_until_settled`].
fn uuid_number(store: &MemoryStore) -> u64 {
    u64::from(LIVES_MAX) + store.faults().calls(crate::testkit::StoreCall::OpenLane)
}

#[test]
fn released_head_that_kills_is_found_while_its_partition_goes_on() {
    let store = MemoryStore::new();
    let (jobs, _) = neighbours(2);
    // Parked for a reason that is gone, and deadly since.
    let mut record = event(&jobs[0], 1).record();
    let good = record.payload.replace(bytes::Bytes::from_static(b"\xffnot an event"));
    assert!(good.is_some());
    store.append(record).unwrap();
    publish(&store, &jobs[0], 2..=3);
    assert_eq!(one_life(&store, deadly(&[], &[])), 0);
    let bomb = || deadly(&[(&jobs[0], 2)], &[]);

    wish(&store, &jobs[0], ParkedWish::DiscardHead);
    let mut deaths = 0;
    for sequence in 1..=20 {
        // Every process moves the position before it dies of what is parked.
        publish(&store, &jobs[1], [sequence]);
        deaths += one_life(&store, bomb());
    }

    // The process before the first one did not end in order either.
    assert_eq!(deaths, DEATHS_EACH - 1);
    assert_eq!(applied(&store, &jobs[1]), (1..=20).collect::<Vec<_>>());
    let poison: Vec<_> = convicted(&store).into_iter().map(|(offset, reason, _)| (offset, reason)).collect();
    assert_eq!(poison[1], (Offset(1), "process_died".to_owned()));
    assert_eq!(applied(&store, &jobs[0]), Vec::<u64>::new());
}

#[test]
fn timer_that_kills_is_removed_while_its_partition_goes_on() {
    let store = MemoryStore::new();
    let (jobs, _) = neighbours(3);
    for job in &jobs[..2] {
        store.append(event(job, 1).user("timer").record()).unwrap();
    }

    let deaths = live_until_settled(&store, deadly(&[], &[&jobs[0]]));

    assert_eq!(deaths, DEATHS_EACH);
    let cleaned: Vec<_> = store.orders().into_iter().map(|(order, _)| order.job_id.to_string()).collect();
    assert_eq!(cleaned, [jobs[1].clone()], "the other timer was answered, once");
    assert_eq!(convicted(&store), []);
}

/// Kills processes between a thought and the note that takes it back, whatever they tried; gives what was convicted.
fn killed_behind_their_thoughts(has_witness: bool) -> Vec<(Offset, String, String)> {
    const LIVES: u32 = 12;
    let store = MemoryStore::new();
    publish(&store, "job-0", 1..=3);
    for process in 1..=LIVES {
        run(|| async {
            let world = World::of_process(&store, process, options());
            // Every lane is opened, then the first trial is noted; nothing comes after that.
            let calls = u64::from(Topic::JobLifecycle.partitions()) + 1;
            world.store.die_after_calls(calls, DeathSide::Before);
            let tree = world.start();
            wait_until("a death", LIMIT, || world.store.is_dead()).await;
            assert_eq!(world.witness.thought(), None);
            if has_witness {
                store.as_new_process().acquit(world.process, world.witness.thought()).await.unwrap();
            }
            end(tree).await;
        });
    }
    assert_eq!(live_until_settled(&store, deadly(&[], &[])), 0);
    convicted(&store)
}

#[test]
fn process_killed_behind_its_thought_is_charged_only_without_a_witness() {
    let found = killed_behind_their_thoughts(false);
    assert_eq!(found.first().map(|(_, reason, _)| reason.as_str()), Some("process_died"), "{found:?}");

    assert_eq!(killed_behind_their_thoughts(true), []);
}

#[test]
fn event_that_kills_before_a_witness_is_convicted_as_without() {
    let store = MemoryStore::new();
    publish(&store, "job-0", 1..=3);

    let deaths = live_with_witness(&store, deadly(&[("job-0", 2)], &[]), true);

    assert_eq!(deaths, DEATHS_EACH);
    assert_eq!(convicted(&store), [(Offset(1), "process_died".to_owned(), "parked".to_owned())]);
}

#[test]
fn careful_lane_takes_whole_batches_again() {
    let store = MemoryStore::new();
    for process in 1..=UNCLEAN_ENDS_BEFORE_TRIALS + 1 {
        publish(&store, "job-0", [u64::from(process)]);
        run(|| async {
            let world = World::of_process(&store, process, options());
            world.store.die_after_calls(u64::from(Topic::JobLifecycle.partitions()), DeathSide::Before);
            let tree = world.start();
            wait_until("a death", LIMIT, || world.store.is_dead()).await;
            end(tree).await;
        });
    }
    publish(&store, "job-0", 5..=60);

    run(|| async {
        let settings = LaneSettings { trial_records: 8, ..LaneSettings::default() };
        let world = World::of_process(&store, LIVES_MAX, Options { settings, ..options() });
        let tree = world.start();
        world.settle().await;
        end(tree).await;
    });

    let single = store.journal().into_iter().map(|one| one.next.0 - one.from.map_or(0, |from| from.0));
    let single: Vec<u64> = single.collect();
    assert_eq!(single[..8], [1; 8]);
    assert!(single[8..].iter().any(|records| *records > 1), "{single:?}");
    assert_eq!(applied(&store, "job-0"), (1..=60).collect::<Vec<_>>());
}

#[test]
fn lanes_that_end_in_order_are_never_careful() {
    let store = MemoryStore::new();
    for process in 1..=6 {
        run(|| async {
            let world = World::of_process(&store, process, options());
            let tree = world.start();
            wait_until("every lane to be open", LIMIT, || world.board.lanes().len() == 10).await;
            let stop = StopAll { within: Duration::from_secs(1) };
            wait_until("every lane to run", LIMIT, || {
                let is_open = |lane: &crate::lane::status::LaneStatus| {
                    lane.state() == crate::snapshot::ActorState::Running
                };
                world.board.lanes().iter().all(|(_, lane)| is_open(lane))
            })
            .await;
            tree.send(stop).await.unwrap();
        });
    }

    let calls = store.faults().calls(crate::testkit::StoreCall::EndLane);
    publish(&store, "job-0", 1..=20);
    assert_eq!(live_until_settled(&store, deadly(&[], &[])), 0);
    assert_eq!(calls, 60);
    assert_eq!(store.faults().calls(crate::testkit::StoreCall::WriteTrial), 0);
}

/// Reports whether the next death may convict: a third one in a row inside the same thought should, whoever kills.
fn next_death_convicts(store: &MemoryStore) -> bool {
    most_deaths(store) + 1 >= DEATHS_BEFORE_POISON
}

/// Gives the most deaths that anything would be charged with if the process died now.
fn most_deaths(store: &MemoryStore) -> u32 {
    let lanes = Topic::JobLifecycle.all_partitions();
    let trials =
        lanes.flat_map(|topic_partition| store.trials_of(&LaneKey { group: group(), topic_partition }));
    trials.map(|trial| trial.deaths).max().unwrap_or_default()
}

#[test]
fn processes_killed_at_random_convict_nobody() {
    let wanted = random_kills();
    let random = SeededRandomness::new(20_261_121);
    let store = MemoryStore::new();
    let (jobs, other) = neighbours(2);
    let openings = u64::from(Topic::JobLifecycle.partitions());
    let (mut sequence, mut process, mut kills, mut charges) = (0, 0, 0, 0);
    while kills < wanted {
        sequence += 1;
        for job in [&jobs[0], &jobs[1], &other] {
            publish(&store, job, [sequence]);
        }
        let mut is_settled_now = false;
        while !is_settled_now {
            process += 1;
            let side = if random.next_u64().is_multiple_of(2) { DeathSide::Before } else { DeathSide::After };
            // Mostly just behind the openings, where trials are.
            let at = match random.next_u64() % 4 {
                0 => random.next_u64() % openings,
                1 => random.next_u64() % 60,
                _ => openings + random.next_u64() % 12,
            };
            let is_spared = next_death_convicts(&store);
            let settled = &mut is_settled_now;
            run(|| async {
                let world = World::of_process(&store, process, options());
                if !is_spared {
                    world.store.die_after_calls(at, side);
                }
                let tree = world.start();
                wait_until("an end", LIMIT, || world.store.is_dead() || is_settled(&world)).await;
                *settled = !world.store.is_dead();
                end(tree).await;
            });
            kills += u32::from(!is_settled_now);
            charges += u32::from(!is_settled_now && most_deaths(&store) > 0);
        }
    }

    assert_eq!(convicted(&store), []);
    for job in [&jobs[0], &jobs[1], &other] {
        assert_eq!(applied(&store, job), (1..=sequence).collect::<Vec<_>>());
    }
    assert!(charges > wanted / 50, "hardly any kill met a trial: {charges} of {kills}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: random_kills() / KILLS_PER_CASE, ..ProptestConfig::default() })]

    #[test]
    fn deadly_event_among_random_kills_is_the_only_one_convicted(
        at in 1..=12_u64,
        kills in proptest::collection::vec((0..60_u64, any::<bool>()), 0..12),
    ) {
        let store = MemoryStore::new();
        let (jobs, other) = neighbours(2);
        for sequence in 1..=12 {
            for job in [&jobs[0], &jobs[1], &other] {
                publish(&store, job, [sequence]);
            }
        }
        let bomb = deadly(&[(&jobs[0], at)], &[]);
        for (number, (calls, is_before)) in kills.iter().enumerate() {
            let side = if *is_before { DeathSide::Before } else { DeathSide::After };
            let is_spared = next_death_convicts(&store);
            run(|| async {
                let number = LIVES_MAX + u32::try_from(number).unwrap();
                let world = World::of_process(&store, number, options());
                let victim = Some(world.store.clone());
                *world.panics.deadly.lock().unwrap() = Deadly { victim, ..bomb() };
                if !is_spared {
                    world.store.die_after_calls(*calls, side);
                }
                let tree = world.start();
                wait_until("an end", LIMIT, || world.store.is_dead() || is_settled(&world)).await;
                end(tree).await;
            });
        }

        let deaths = live_until_settled(&store, &bomb);

        prop_assert!(deaths <= DEATHS_EACH, "{} deaths", deaths);
        let poison: Vec<_> = letters(&store).into_iter().map(|letter| letter.record.key).collect();
        prop_assert_eq!(poison, vec![Some(jobs[0].clone().into())]);
        prop_assert_eq!(applied(&store, &jobs[0]), (1..at).collect::<Vec<_>>());
        prop_assert_eq!(applied(&store, &jobs[1]), (1..=12).collect::<Vec<_>>());
        prop_assert_eq!(applied(&store, &other), (1..=12).collect::<Vec<_>>());
    }
}
