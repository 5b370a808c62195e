//! Where and how a run took place: what stands beside every figure.

use std::fmt;
use std::fs;

use regard_kernels::peak::{Machine, Unit};
use regard_simd::Isa;
use regard_threads::cores;

/// How often a limit is measured for the line that says it.
const TIMES: usize = 10;

/// A machine and a command.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The processor, in words.
    pub(crate) processor: String,
    pub(crate) isa: Isa,
    pub(crate) threads: usize,
    /// This program's version and, where it is known, its commit.
    pub(crate) version: String,
    pub(crate) command: String,
    /// The file of the model that is measured, if one is.
    pub(crate) model: Option<String>,
    f32: f64,
    bf16: f64,
    int8: f64,
    read: f64,
}

impl Setting {
    /// Measures the machine's limits.
    pub(crate) fn measure(machine: &Machine, isa: Isa, model: Option<String>) -> Self {
        let best = |unit| machine.best(isa, unit, TIMES);
        let arguments = std::env::args().skip(1);
        Setting {
            processor: processor(),
            isa,
            threads: machine.threads(),
            version: match option_env!("REGARD_COMMIT") {
                Some(commit) => format!("regard {} ({commit})", env!("CARGO_PKG_VERSION")),
                None => format!("regard {}", env!("CARGO_PKG_VERSION")),
            },
            command: arguments.fold("regard".to_owned(), |line, argument| line + " " + &quoted(argument)),
            model,
            f32: best(Unit::F32),
            bf16: best(Unit::Bf16),
            int8: best(Unit::Int8),
            read: best(Unit::Read),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { processor, isa, threads, f32, bf16, int8, read, .. } = self;
        if let Some(model) = &self.model {
            write!(f, "{model}; ")?;
        }
        write!(
            f,
            "{processor}; {isa}, {threads} {}: {:.0} GFLOP/s f32, {:.0} bf16, {:.0} GOP/s int8, {:.1} GB/s read",
            if *threads == 1 { "thread" } else { "threads" },
            f32 / 1e9,
            bf16 / 1e9,
            int8 / 1e9,
            read / 1e9,
        )
    }
}

/// The processor's name and cores, as far as the system tells.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let count = cores();
    format!("{}, {count} {}", name(&info), if count == 1 { "core" } else { "cores" })
}

/// A virtual machine may call its processor by half a name; family and model say which it is.
fn name(info: &str) -> String {
    let field = |name: &str| {
        let (_, value) = info.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
        Some(value.trim())
    };
    match (field("model name"), field("cpu family"), field("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        (Some(name), ..) => name.to_owned(),
        _ => format!("{} processor", std::env::consts::ARCH),
    }
}

/// An argument as a shell would take it.
fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_named_as_exactly_as_the_system_does() {
        let info = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n";
        assert_eq!(name(info), "AMD EPYC (family 26, model 2)");
        assert_eq!(name("model name : Some Core\n"), "Some Core");
        assert!(name("").ends_with("processor"));
    }

    #[test]
    fn a_command_can_be_typed_again() {
        assert_eq!(quoted("--only".into()), "--only");
        assert_eq!(quoted("my model.gguf".into()), "'my model.gguf'");
        assert_eq!(quoted("it's".into()), "'it'\\''s'");
        assert_eq!(quoted(String::new()), "''");
    }
}
