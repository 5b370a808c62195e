//! How many cores there are to use.

use std::collections::HashSet;
use std::fs;
use std::thread;

/// The physical cores that this process may use: its CPUs by affinity and by its container's quota, but no more than these
/// have cores. Two hardware threads of one core share its vector units, which one thread of dense arithmetic fills.
///
/// Where the system does not tell (anything but Linux), every CPU counts as a core.
#[must_use]
pub fn cores() -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    physical().map_or(cpus, |physical| physical.clamp(1, cpus))
}

/// The cores of the CPUs that this process may run on, if the system tells.
fn physical() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    distinct(allowed.trim(), |cpu| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    })
}

/// How many different answers `siblings` gives over the CPUs of a list; none if something is not known.
fn distinct(list: &str, siblings: impl Fn(u16) -> Option<String>) -> Option<usize> {
    let answers: Option<HashSet<String>> = cpus(list)?.into_iter().map(siblings).collect();
    answers.map(|answers| answers.len())
}

/// The numbers of a list such as `0-2,5`; none if it is no such list.
pub(crate) fn cpus(list: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_one_core() {
        // Four cores of two threads each; thread `c + 4` is the sibling of thread `c`.
        let siblings = |cpu: u16| (cpu < 8).then(|| format!("{},{}", cpu % 4, cpu % 4 + 4));
        assert_eq!(distinct("0-7", siblings), Some(4));
        assert_eq!(distinct("0-3", siblings), Some(4));
        assert_eq!(distinct("1,5", siblings), Some(1));
        assert_eq!(distinct("0-1,3-4,7", siblings), Some(3));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let siblings = |cpu: u16| (cpu < 8).then(|| cpu.to_string());
        assert_eq!(distinct("0-8", siblings), None);
        assert_eq!(distinct("", siblings), None);
        assert_eq!(distinct("0,x", siblings), None);
        assert_eq!(distinct("0-70000", siblings), None);
    }

    #[test]
    fn there_is_a_core_and_no_more_than_cpus() {
        assert!((1..=thread::available_parallelism().unwrap().get()).contains(&cores()));
    }
}
