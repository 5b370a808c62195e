//! What it costs to have two threads at one loop: the table in `docs/threads.md`.
//!
//! A *meeting* is a loop of two tasks that each wait for the other, so it lasts until both threads are there; an *empty*
//! loop has two tasks that do nothing, and shows what the caller pays when help is not worth waiting for. Before each loop
//! the caller is busy with something else for a while, the *gap*.

use std::hint::spin_loop;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use regard_memory::Indices;
use regard_threads::Pool;

const GAPS: [Duration; 4] =
    [Duration::ZERO, Duration::from_micros(20), Duration::from_micros(200), Duration::from_micros(2000)];

/// Two tasks: they wait for each other, or do nothing.
enum Tasks {
    Meet(AtomicUsize),
    Nothing,
}

impl Tasks {
    fn one(&self) {
        if let Self::Meet(arrived) = self {
            arrived.fetch_add(1, SeqCst);
            while arrived.load(SeqCst) < 2 {
                spin_loop();
            }
        }
    }
}

fn busy(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

/// Prints a row: median and 95th percentile in microseconds for each gap, meeting and empty.
fn row(name: &str, run: impl Fn(&Tasks)) {
    print!("| {name} |");
    for meet in [true, false] {
        for gap in GAPS {
            let loops = if gap < Duration::from_micros(100) { 3000 } else { 300 };
            let mut times: Vec<_> = (0..loops + 50)
                .map(|_| {
                    let tasks = if meet { Tasks::Meet(AtomicUsize::new(0)) } else { Tasks::Nothing };
                    busy(gap);
                    let start = Instant::now();
                    run(&tasks);
                    start.elapsed().as_secs_f64() * 1e6
                })
                .skip(50)
                .collect();
            times.sort_by(f64::total_cmp);
            print!(" {:.2} ({:.1}) |", times[loops / 2], times[loops * 95 / 100]);
        }
    }
    println!();
}

fn main() {
    print!("| µs: median (95 %) |");
    for kind in ["meet", "empty"] {
        for gap in GAPS {
            print!(" {kind}, gap {} |", gap.as_micros());
        }
    }
    println!("\n|{}", " --- |".repeat(1 + 2 * GAPS.len()));

    let ours = |name, pool: Pool| row(name, |tasks| pool.run(Indices(2), |_, ()| tasks.one()));
    ours("`Pool::new(2)`", Pool::new(2).expect("two threads"));
    ours("`Pool::with_spin(2, 0)`", Pool::with_spin(2, Duration::ZERO).expect("two threads"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    row("rayon 1.12, `join` from outside", |tasks| {
        pool.join(|| tasks.one(), || tasks.one());
    });
    row("rayon 1.12, `in_place_scope`", |tasks| {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| tasks.one());
            tasks.one();
        });
    });
    pool.install(|| {
        row("rayon 1.12, `join` from inside", |tasks| {
            rayon::join(|| tasks.one(), || tasks.one());
        });
    });
    drop(pool);
    row("`std::thread::scope`", |tasks| {
        std::thread::scope(|scope| {
            scope.spawn(|| tasks.one());
            tasks.one();
        });
    });
}
