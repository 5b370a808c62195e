//! Which instruction sets there are, what they are called, and the setting that forces one.

use regard_simd::{Isa, Kernel, Simd};

#[test]
fn names_round_trip() {
    for isa in Isa::available() {
        assert_eq!(Isa::named(isa.name()), Ok(isa));
        assert_eq!(isa.to_string(), isa.name());
    }
    let error = Isa::named("AVX2").unwrap_err().to_string();
    assert!(error.contains("\"AVX2\"") && error.contains("portable"), "{error}");
}

#[test]
fn they_come_from_the_plainest_to_the_best() {
    let all: Vec<Isa> = Isa::available().collect();
    assert!(all.is_sorted() && all[0].name() == "portable");
    let lanes = |isa: &Isa| {
        struct Lanes;
        impl Kernel for Lanes {
            type Output = (usize, usize);
            fn run<S: Simd>(self, _: S) -> (usize, usize) {
                (S::LANES, size_of::<S::F32>())
            }
        }
        let (lanes, bytes) = isa.run(Lanes);
        assert_eq!(bytes, 4 * lanes);
        lanes
    };
    assert!(all.iter().map(lanes).is_sorted());
}

/// Only reports: it is what the other tests start as a process of its own.
#[test]
fn report() {
    match Isa::from_environment() {
        Ok(isa) => println!("took <{isa}>"),
        Err(error) => println!("refused <{error}>"),
    }
}

/// The setting is read once by a process: each value takes a process of its own, which Miri does not start.
#[cfg(not(miri))]
mod processes {
    use std::ffi::{OsStr, OsString};
    use std::process::{Command, Output};

    use regard_simd::Isa;

    /// The output of [`super::report`] in a process with this setting.
    fn report_with(setting: Option<&OsStr>) -> String {
        let program = std::env::current_exe().expect("a test has a path");
        // Cargo's variable for what runs foreign programs, an emulator say, is set when this test came that way itself.
        let runner = std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").unwrap_or_default();
        let mut words = runner.split_whitespace().map(OsString::from).chain([program.into_os_string()]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words).args(["--exact", "report", "--nocapture"]).env_remove("REGARD_ISA");
        if let Some(setting) = setting {
            command.env("REGARD_ISA", setting);
        }
        let Output { status, stdout, .. } = command.output().expect("the test starts itself");
        assert!(status.success());
        String::from_utf8(stdout).expect("text")
    }

    #[test]
    fn the_setting_forces_one() {
        let best = Isa::available().max().expect("portable at least");
        assert!(report_with(None).contains(&format!("took <{best}>")));
        for isa in Isa::available() {
            assert!(report_with(Some(isa.name().as_ref())).contains(&format!("took <{isa}>")));
        }
    }

    #[test]
    fn a_wrong_setting_is_an_error_and_never_ignored() {
        for wrong in ["sse9", "", "Portable"] {
            let report = report_with(Some(wrong.as_ref()));
            assert!(report.contains("refused <") && report.contains(&format!("{wrong:?}")), "{report}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;

            let report = report_with(Some(OsStr::from_bytes(b"avx\xFF")));
            assert!(report.contains("refused <"), "{report}");
        }
    }
}
