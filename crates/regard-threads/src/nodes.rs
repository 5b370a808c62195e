//! NUMA nodes: which CPUs have their own memory, and threads that stay on them.

use std::{fs, io};

use crate::affinity::{Cpus, Thread};
use crate::cores::cpus;

/// The CPUs of each NUMA node that has any; one list of none where the system does not tell (anything but Linux).
///
/// ```
/// println!("{} nodes", regard_threads::nodes().len());
/// ```
#[must_use]
pub fn nodes() -> Vec<Vec<usize>> {
    let read = |name: &str| fs::read_to_string(format!("/sys/devices/system/node/{name}")).ok();
    let online = read("online").and_then(|list| cpus(list.trim())).unwrap_or_default();
    let of = |node: u16| cpus(read(&format!("node{node}/cpulist"))?.trim());
    let lists = online.into_iter().filter_map(of).filter(|list| !list.is_empty());
    let mut nodes: Vec<Vec<usize>> = lists.map(|list| list.into_iter().map(usize::from).collect()).collect();
    if nodes.is_empty() {
        nodes.push(Vec::new());
    }
    nodes
}

/// Keeps the calling thread on some CPUs, for as long as it lives.
///
/// # Errors
/// The system refuses, as it does where none of these CPUs may be used, or knows no way (anything but Linux).
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    Cpus::these(cpus).ok_or(io::ErrorKind::InvalidInput)?.hold(Thread::current())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no nodes")]
    fn every_cpu_is_of_one_node() {
        let all: Vec<usize> = nodes().concat();
        let mut distinct = all.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn a_pinned_thread_may_run_there_alone() {
        let allowed = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
            cpus(list).unwrap().into_iter().map(usize::from).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let before = allowed();
                let last = *before.last().unwrap();
                pin(&[last]).unwrap();
                assert_eq!(allowed(), [last]);
                assert!(pin(&[]).is_err() && pin(&[usize::MAX]).is_err());
                assert_eq!(allowed(), [last]);
            });
        });
    }
}
