//! The number of threads can be set from outside. A program of its own per setting: they are read once.

use std::process::Command;

use regard_threads::{Error, Pool, cores};

/// What a process with this setting says of its pool.
fn with(setting: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "says_its_threads", "--nocapture"])
        .env("SAYS_ITS_THREADS", "1")
        .env_remove("REGARD_THREADS");
    if let Some(setting) = setting {
        command.env("REGARD_THREADS", setting);
    }
    let output = command.output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    let (_, said) = output.split_once("threads: ").unwrap();
    said.lines().next().unwrap().to_owned()
}

/// Run by the other test in a process of its own.
#[test]
fn says_its_threads() {
    if std::env::var_os("SAYS_ITS_THREADS").is_none() {
        return;
    }
    let setting = match Pool::setting() {
        Ok(setting) => format!("{setting:?}"),
        Err(Error::Setting { value, .. }) => format!("not {value}"),
        Err(error) => format!("{error}"),
    };
    println!("\nthreads: {} set: {setting}", Pool::global().threads());
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no processes")]
fn the_setting_says_how_many_threads_the_global_pool_has() {
    assert_eq!(with(Some("3")), "3 set: Some(3)");
    assert_eq!(with(None), format!("{} set: None", cores()));
    for bad in ["0", "-1", "many", "", "99999999999999999999"] {
        assert_eq!(with(Some(bad)), format!("{} set: not {bad}", cores()));
    }
}
