//! Which instructions this CPU has: found once, forced by one setting.

use std::fmt;
use std::sync::OnceLock;

use crate::{Portable, Simd};

/// An instruction set that this CPU has; holding the value is the proof.
///
/// ```
/// use regard_simd::Isa;
///
/// println!("{}", Isa::best()); // for instance "avx512-bf16"
/// assert!(Isa::available().any(|isa| isa == Isa::best()));
/// assert!(Isa::named("sse9").unwrap_err().to_string().contains("portable"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Isa(Kind);

/// In the order of preference; a variant is only constructed where `Kind::supported` says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Kind {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Kind {
    const ALL: &[Kind] = &[
        Kind::Portable,
        #[cfg(target_arch = "aarch64")]
        Kind::Neon,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// Whether CPU and operating system have it. Under Miri only the portable code runs.
    fn supported(self) -> bool {
        if cfg!(miri) {
            return self == Kind::Portable;
        }
        #[cfg(target_arch = "x86_64")]
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        #[cfg(target_arch = "x86_64")]
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match self {
            Kind::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => {
                avx512 && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16")
            }
        }
    }
}

/// `REGARD_ISA`, or whoever asks, names an instruction set that this CPU does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    name: String,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction set {:?} is not one that this CPU has; it has:", self.name)?;
        Isa::available().try_for_each(|isa| write!(f, " {isa}"))
    }
}

impl std::error::Error for IsaError {}

/// An algorithm written once for every instruction set.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// The algorithm. Must be `#[inline(always)]`, and so must be what it calls.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

impl Isa {
    /// The best that this CPU has, or the one that the environment variable `REGARD_ISA` names (`portable`, `avx2`,
    /// `avx512`, `avx512-vnni`, `avx512-bf16`, `neon`). Read once.
    ///
    /// # Errors
    /// `REGARD_ISA` names an instruction set that this CPU does not have.
    pub fn from_environment() -> Result<Isa, IsaError> {
        static CHOICE: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
        CHOICE
            .get_or_init(|| match std::env::var_os("REGARD_ISA") {
                Some(name) => Isa::named(&name.to_string_lossy()),
                None => Ok(Isa::available().max().unwrap_or(Isa(Kind::Portable))),
            })
            .clone()
    }

    /// [`Isa::from_environment`], where a wrong setting is fatal.
    ///
    /// # Panics
    /// `REGARD_ISA` names an instruction set that this CPU does not have.
    pub fn best() -> Isa {
        Isa::from_environment().unwrap_or_else(|error| panic!("REGARD_ISA: {error}"))
    }

    /// All that this CPU has, from the plainest to the best.
    pub fn available() -> impl Iterator<Item = Isa> {
        Kind::ALL.iter().copied().filter(|kind| kind.supported()).map(Isa)
    }

    /// The one of this name.
    ///
    /// # Errors
    /// No such instruction set on this CPU.
    pub fn named(name: &str) -> Result<Isa, IsaError> {
        Isa::available().find(|isa| isa.name() == name).ok_or_else(|| IsaError { name: name.to_string() })
    }

    /// Its name, as [`Isa::named`] takes it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether [`Simd::dot_bf16`] is one instruction.
    pub fn has_bf16_dots(self) -> bool {
        self.name() == "avx512-bf16"
    }

    /// Runs a kernel with this instruction set. It is compiled once for the whole AVX-512 family: a kernel that gains from
    /// the instructions for bf16 goes through [`Isa::run_bf16`], one of dot products of bytes through [`Isa::run_bytes`].
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Isa` exists only where the CPU has its instructions.
        unsafe {
            match self.0 {
                Kind::Portable => run_as::<Portable, K>(kernel),
                #[cfg(target_arch = "aarch64")]
                Kind::Neon => run_as::<crate::Neon, K>(kernel),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => run_as::<crate::Avx2, K>(kernel),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Avx512Vnni | Kind::Avx512Bf16 => run_as::<crate::Avx512, K>(kernel),
            }
        }
    }

    /// [`Isa::run`] for a kernel that uses [`Simd::dot_bf16`], or rounds to bf16.
    pub fn run_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: an `Isa` exists only where the CPU has its instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => unsafe { run_as::<crate::Avx512Bf16, K>(kernel) },
            _ => self.run(kernel),
        }
    }

    /// [`Isa::run`] for a kernel that uses [`Simd::dot_u8_i8`].
    pub fn run_bytes<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: an `Isa` exists only where the CPU has its instructions; those of bf16 come with those of bytes.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni | Kind::Avx512Bf16 => unsafe { run_as::<crate::Avx512Vnni, K>(kernel) },
            _ => self.run(kernel),
        }
    }
}

/// # Safety
/// The CPU has the instructions of `S`.
unsafe fn run_as<S: Simd, K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: promised by the caller.
    let s = unsafe { S::assume() };
    s.vectorize(
        #[inline(always)]
        || kernel.run(s),
    )
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
