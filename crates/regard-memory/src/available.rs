//! What the system has left.

/// Bytes of memory that the system can give out without swapping, where it tells: `MemAvailable` of Linux.
///
/// ```
/// if let Some(bytes) = regard_memory::available() {
///     println!("{} MB are free", bytes / 1_000_000);
/// }
/// ```
pub fn available() -> Option<u64> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    parse(&facts)
}

fn parse(facts: &str) -> Option<u64> {
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says() {
        assert_eq!(parse("MemTotal: 5 kB\nMemAvailable:   23171 kB\n"), Some(23_727_104));
        assert_eq!(parse("MemTotal: 5 kB\n"), None);
        assert_eq!(parse("MemAvailable: many kB\n"), None);
    }
}
