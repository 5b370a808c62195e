//! `regard bench` from outside: what it measures and refuses. No time is judged.

#[path = "support/tiny.rs"]
#[allow(dead_code, reason = "the other test needs more kinds of models")]
mod tiny;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

fn bench(folder: &Path, cases: &Value, arguments: &[&str]) -> Output {
    let file = folder.join("cases.json");
    fs::write(&file, cases.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.arg("bench").arg("--cases").arg(&file).args(["--threads", "2"]).args(arguments).output().unwrap()
}

fn case(id: &str, changes: &Value) -> Value {
    let mut case = json!({"id": id, "batch": 1, "heads": 4, "kv_heads": 2, "queries": 33, "keys": 70, "dim": 24,
        "dtype": "f32", "mask": "causal"});
    for (field, value) in changes.as_object().unwrap() {
        case[field] = value.clone();
    }
    case
}

fn cases() -> Value {
    json!([
        case("prompt", &json!({"dtype": "bf16"})),
        case("window", &json!({"batch": 2, "mask": "causal-window", "window": 9, "globals": 2})),
        // Large enough that a few thousand copies are 128 MiB.
        case("decode", &json!({"batch": 2, "queries": 1, "keys": 300, "dtype": "f16", "mask": "none"})),
        case(
            "pages",
            &json!({"queries": 1, "keys": 600, "cache": "paged", "versus": {"id": "one piece", "cache": "contiguous"}})
        ),
        case("training", &json!({"batch": 2, "backward": true})),
        case(
            "packed",
            &json!({"queries": [5, 40, 1], "keys": [9, 40, 30], "backward": true,
            "versus": {"id": "apart", "apart": true}, "target": {"ratio": 1e9, "scratch_mb": 1000}})
        ),
        case(
            "prefix",
            &json!({"batch": 3, "queries": 1, "keys": 200, "mask": "none", "prefix": 190,
            "versus": {"id": "alone", "prefix": null, "cache": "none"}})
        ),
    ])
}

fn lines(ran: &Output) -> Vec<Value> {
    assert!(ran.status.success(), "{ran:?}");
    let text = std::str::from_utf8(&ran.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_case_has_a_line_and_is_right() {
    let folder = TempDir::new().unwrap();
    let ran = bench(folder.path(), &cases(), &["--json"]);
    let lines = lines(&ran);
    let ids: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["prompt", "window", "decode", "pages", "training", "packed", "prefix"]);
    for line in &lines {
        for field in ["ms", "gflops", "share", "error", "bound", "limit_ms"] {
            assert!(line[field].as_f64().unwrap() > 0.0, "{field} of {line}");
        }
        assert_eq!((true, 2), (line["right"].as_bool().unwrap(), line["threads"].as_u64().unwrap()));
        assert!(line["calls"].as_u64().unwrap() >= 7);
        let (limit, ms, share) = (&line["limit_ms"], &line["ms"], &line["share"]);
        let expected = limit.as_f64().unwrap() / ms.as_f64().unwrap();
        assert!((share.as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{line}");
        assert!(line["scratch_bytes"].as_u64().unwrap() > 0, "{line}");
        // Of the backward pass, the plan makes its part at its first call.
        assert_eq!(0, line["allocations"].as_u64().unwrap(), "{line}");
        let of = line["errors"].as_object().unwrap();
        let expected: &[_] = if ["training", "packed"].iter().any(|id| line["id"] == *id) {
            &["out", "dq", "dk", "dv"]
        } else {
            &["out"]
        };
        assert_eq!(of.keys().collect::<Vec<_>>(), expected);
    }
    for line in lines[..3].iter().chain([&lines[4]]) {
        assert!(["peer", "peer_ms", "ratio", "peer_error"].iter().all(|field| line[field].is_null()), "{line}");
    }
    let packed = &lines[5];
    assert_eq!((&packed["peer"], &packed["peer_right"]), (&json!("apart"), &json!(true)));
    let ratio = packed["peer_ms"].as_f64().unwrap() / packed["ms"].as_f64().unwrap();
    assert!((packed["ratio"].as_f64().unwrap() / ratio - 1.0).abs() < 1e-9, "{packed}");
    // The other way gives the same bits.
    assert_eq!((&packed["error"], &packed["reaches_target"]), (&packed["peer_error"], &json!(false)));
    assert_eq!((&lines[3]["peer"], &lines[3]["peer_error"]), (&json!("one piece"), &lines[3]["error"]));
    assert_eq!((&lines[6]["peer"], &lines[6]["peer_right"]), (&json!("alone"), &json!(true)));
    // Each live pair of each of the 2·4 heads costs two products forward and five backward.
    let live = 8.0 * (33.0 * 37.0 + 33.0 * 34.0 / 2.0);
    let flops = lines[4]["gflops"].as_f64().unwrap() * lines[4]["ms"].as_f64().unwrap() * 1e6;
    assert!((flops / (2.0 * 7.0 * 24.0 * live) - 1.0).abs() < 1e-9, "{flops}");
    assert_eq!((&lines[2]["limit"], &lines[1]["limit"]), (&json!("read"), &json!("f32")));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(1, said.lines().count(), "{said}");
    assert!(said.contains("2 threads") && said.contains("GFLOP/s") && said.contains("GB/s"), "{said}");
}

#[test]
fn linear_attention_is_right_forward_and_backward() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    let ran = command.args(["bench", "--linear", "--only", "gated-delta-4096-train", "--json"]).output().unwrap();
    let [line] = &lines(&ran)[..] else { panic!("one case has one line") };
    assert_eq!((&line["id"], &line["right"]), (&json!("gated-delta-4096-train"), &json!(true)));
    let of: Vec<_> = line["errors"].as_object().unwrap().keys().collect();
    assert_eq!(of, ["out", "dq", "dk", "dv", "dlog_decay", "dbeta"]);
    assert_eq!((0, true), (line["allocations"].as_u64().unwrap(), line["scratch_bytes"].as_u64().unwrap() > 0));
}

#[test]
fn positive_features_are_right_and_better_the_smaller_scores_are() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    let ran = command.args(["bench", "--favor", "--only", "features-64", "--json"]).output().unwrap();
    let lines = lines(&ran);
    let tokens: Vec<u64> = lines.iter().map(|line| line["tokens"].as_u64().unwrap()).collect();
    assert!(tokens.is_sorted() && (tokens.first(), tokens.last()) == (Some(&512), Some(&8192)), "{tokens:?}");
    for line in &lines {
        assert_eq!((&line["features"], &line["right"]), (&json!(64), &json!(true)));
        let errors: Vec<f64> =
            line["errors"].as_array().unwrap().iter().map(|error| error["error"].as_f64().unwrap()).collect();
        assert!(errors.len() == 3 && errors[0] > 0.0 && errors[0] < errors[1], "{line}");
        let [ours, exact, ratio] = ["ms", "exact_ms", "ratio"].map(|key| line[key].as_f64().unwrap());
        assert!(ours > 0.0 && (exact / ours / ratio - 1.0).abs() < 1e-9, "{line}");
    }
}

#[test]
fn layers_are_right_forward_and_backward() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    let cases = ["multi-head-8", "multi-head-16-train"];
    let ran = command.args(["bench", "--layers", "--json", "--only"]).args(cases).output().unwrap();
    let lines = lines(&ran);
    assert_eq!(lines.iter().map(|line| line["id"].as_str().unwrap()).collect::<Vec<_>>(), cases);
    for line in &lines {
        assert_eq!((&line["right"], &line["allocations"]), (&json!(true), &json!(0)), "{line}");
        assert!(line["error"].as_f64().unwrap() <= line["bound"].as_f64().unwrap(), "{line}");
    }
    let backward = lines[1]["errors"].as_object().unwrap().len();
    assert!(backward > lines[0]["errors"].as_object().unwrap().len(), "gradients are held too");
}

#[test]
fn instructions_can_be_forced_and_a_run_drawn() {
    let folder = TempDir::new().unwrap();
    let chart = folder.path().join("chart.svg");
    let arguments = ["--only", "prompt", "packed", "--isa", "portable", "--markdown", "--chart"];
    let ran = bench(folder.path(), &cases(), &[&arguments[..], &[chart.to_str().unwrap()]].concat());
    assert!(ran.status.success(), "{ran:?}");
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.starts_with("| case"), "{said}");
    let row = said.lines().find(|line| line.starts_with("| prompt")).unwrap();
    // The portable code multiplies bf16 in f32.
    assert!(row.contains("GFLOP/s") && row.contains("f32"), "{row}");
    let row = said.lines().find(|line| line.starts_with("| packed")).unwrap();
    assert!(row.contains("apart") && row.contains("≥ 1000000000.00×, ≤ 1000 MB: missed"), "{row}");
    assert!(
        said.contains("portable, 2 threads") && said.contains("--isa portable") && !said.contains("window"),
        "{said}"
    );
    let picture = fs::read_to_string(chart).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("apart") && !picture.contains("window"), "{picture}");
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (cases, arguments, code, words) in [
        (json!([case("odd", &json!({"heads": 3}))]), &[][..], 1, ["\"odd\"", "`heads`"]),
        (json!([case("odd", &json!({"dtype": "f8"}))]), &[], 1, ["cases.json", "`dtype`"]),
        (json!({"cases": []}), &[], 1, ["cases.json", "list"]),
        (cases(), &["--only", "promt"], 2, ["\"promt\"", "prompt"]),
        (cases(), &["--crossovers", "--torch", "python3"], 2, ["--crossovers", "--torch"]),
        (cases(), &["--memory"], 2, ["--memory", "--cases"]),
        (cases(), &["--linear"], 2, ["--linear", "--cases"]),
        (cases(), &["--favor", "--linear"], 2, ["--favor", "--linear"]),
        (cases(), &["--select", "text"], 2, ["--select", "--cases"]),
        (cases(), &["--isa", "sse9"], 2, ["--isa", "portable"]),
        (cases(), &["--only", "prompt", "--torch", "/no/such/python"], 1, ["/no/such/python", "No such file"]),
    ] {
        let ran = bench(folder.path(), &cases, arguments);
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(Some(code), ran.status.code(), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(ran.stdout.is_empty());
    }
}

#[test]
fn memory_techniques_are_measured_in_turn() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
        command.current_dir(folder.path()).args(["bench", "--memory", "--threads", "2", "--only"]);
        command.args(arguments).output().unwrap()
    };
    let lines = lines(&run(&["unchecked", "arena", "--json"]));
    let of = |technique: &str| lines.iter().filter(|line| line["technique"] == technique).collect::<Vec<_>>();
    assert_eq!((of("arena").len(), of("unchecked").len(), lines.len()), (4, 4, 8));
    for line in &lines {
        let [ms, ratio, low, high] = ["ms", "ratio", "low", "high"].map(|field| line[field].as_f64().unwrap());
        assert!(ms > 0.0 && 0.0 < low && low <= ratio && ratio <= high, "{line}");
        assert_eq!(line["differs"], json!(low > 1.0 || high < 1.0), "{line}");
        assert_eq!((&line["rounds"], &line["threads"]), (&json!(15), &json!(2)));
    }
    // The first way of each work is what the others are compared with.
    assert!(lines.iter().step_by(2).all(|line| line["ratio"] == 1.0 && line["differs"] == false), "{lines:?}");

    let ran = run(&["nodes", "unchecked", "--markdown"]);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.starts_with("| technique"), "{said}");
    assert!(said.contains("| unchecked") && said.contains("| nodes") && !said.contains("| arena"), "{said}");
    assert!(said.contains("GB/s") && said.contains("regard bench --memory"), "{said}");

    let ran = run(&["page"]);
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(2) && said.contains("\"page\"") && said.contains("pages"), "{said}");
}

/// A peer without PyTorch: the script's own protocol, spoken by a shell.
#[cfg(unix)]
#[test]
fn a_peer_that_ends_or_computes_something_else_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let peer = |name: &str, script: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let run = |python: &str| {
        let ran = bench(folder.path(), &cases(), &["--only", "window", "--json", "--torch", python]);
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, _, said) = run(&peer("gone", "echo 'no module named torch' >&2; exit 1"));
    assert!(code == Some(1) && said.contains("no module named torch"), "{said}");
    let (code, _, said) = run(&peer("refusing", r#"read line; echo '{"error": "too large"}'; read line"#));
    assert!(code == Some(1) && said.contains("too large"), "{said}");
    // 2 × 4 × 33 × 24 zeros of four bytes.
    let zeros = r#"
while read -r line; do
  case "$line" in
    "{"*) echo '{"peer": "zeros 1", "copies": 1}' ;;
    output*) head -c 25344 /dev/zero > "${line#output }"; echo '{"written": []}' ;;
    step*) n=${line#step }; each=0.5; while [ "$n" -gt 1 ]; do each="$each,0.5"; n=$((n-1)); done
      echo "{\"ms\": 0.5, \"each\": [$each]}" ;;
  esac
done"#;
    let (code, printed, said) = run(&peer("zeros", zeros));
    let line: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&line["peer"], &line["peer_ms"]), (&json!("zeros 1"), &json!(0.5)));
    assert_eq!((&line["right"], &line["peer_right"]), (&json!(true), &json!(false)));
    assert!((line["ratio"].as_f64().unwrap() * line["ms"].as_f64().unwrap() - 0.5).abs() < 1e-9);
    assert!(code == Some(1) && said.contains("wrong results: window by zeros 1"), "{said}");
}

/// `regard bench` on the tiny model, whose own context holds none of the prompts.
fn bench_model(folder: &Path, arguments: &[&str]) -> Output {
    let file = folder.join("tiny.gguf");
    fs::write(&file, tiny::gguf(tiny::Purpose::Chat)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.arg("bench").arg("--model").arg(&file).args(["--threads", "2"]).args(arguments).output().unwrap()
}

#[test]
fn a_whole_model_has_a_line_for_loading_prompt_and_token() {
    let folder = TempDir::new().unwrap();
    let lines = lines(&bench_model(folder.path(), &["--context", "600", "--json"]));
    let ids: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["load", "prompt-512", "token-512"]);
    for line in &lines {
        assert!(line["calls"].as_u64().unwrap() >= 7 && line["share"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!((&line["model"], &line["peer"]), (&json!("tiny.gguf"), &Value::Null));
    }
    for (line, tokens) in lines[1..].iter().zip([512.0, 16.0]) {
        assert!(line["right"].as_bool().unwrap(), "{line}");
        let seconds = tokens / line["tokens_per_second"].as_f64().unwrap();
        assert!((seconds * 1e3 / line["ms"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{line}");
    }
    // Worked out from the sizes in support/tiny.rs. A block has 64·64 + 2·64·32 + 64·64 + 3·64·96 weights, and the head
    // 258·64 for the last token; a pair of attention takes 2·2·(32 + 32) operations in each of two blocks.
    let (blocks, head) = (2.0 * 30720.0, 16512.0);
    let pairs = |pairs: f64| 2.0 * 256.0 * pairs;
    // Of 16 tokens one by one, which see 513 to 528 keys.
    let keys = (513..=528).sum::<u32>().into();
    for (line, flops) in lines[1..]
        .iter()
        .zip([2.0 * (512.0 * blocks + head) + pairs(512.0 * 513.0 / 2.0), 32.0 * (blocks + head) + pairs(keys)])
    {
        let has = line["gflops"].as_f64().unwrap() * line["ms"].as_f64().unwrap() * 1e6;
        assert!((has / flops - 1.0).abs() < 1e-9, "{has} instead of {flops}");
    }
    // Each time the weights in f32, and keys and values of 32 in bf16 in each block.
    let bytes = 16.0 * 4.0 * (blocks + head) + keys * 2.0 * 64.0 * 2.0;
    let has = lines[2]["gbytes_per_second"].as_f64().unwrap() * lines[2]["ms"].as_f64().unwrap() * 1e6;
    assert!((has / bytes - 1.0).abs() < 1e-9, "{has} instead of {bytes}");
}

#[test]
fn a_model_that_cannot_be_measured_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (arguments, code, words) in [
        (&[][..], 2, ["tiny.gguf", "--context 528"]),
        (&["--context", "600", "--only", "prompt-4096"], 2, ["\"prompt-4096\"", "token-512"]),
        (&["--context", "600", "--only", "token-512", "--llama", "/no/python"], 1, ["/no/python", "No such file"]),
        (&["--torch", "python3"], 2, ["--torch", "tiny.gguf is no encoder"]),
        (&["--context", "600", "--chart", "c.png"], 2, ["--chart c.png", "ends in .svg"]),
    ] {
        let ran = bench_model(folder.path(), arguments);
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(Some(code), ran.status.code(), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && ran.stdout.is_empty(), "{said}");
    }
}

/// `regard bench --select` on the tiny model, over as many bytes.
fn bench_select(folder: &Path, bytes: usize, arguments: &[&str]) -> Output {
    let (model, text) = (folder.join("tiny.gguf"), folder.join("text.txt"));
    fs::write(&model, tiny::gguf(tiny::Purpose::Text)).unwrap();
    let words = ["the whale ", "a sea ", "of ships ", "call me "];
    let all: String = (0..bytes).map(|at| words[at * at % 7 % 4]).collect();
    fs::write(&text, &all[..bytes]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.args(["bench", "--select"]).arg(&text).arg("--model").arg(&model).args(arguments).output().unwrap()
}

#[test]
fn blocks_chosen_by_content_are_measured_over_text_that_was_held_out() {
    let folder = TempDir::new().unwrap();
    let methods = ["least", "adaptive-window", "pooled", "learned", "learned-together", "best", "best-anywhere"];
    let arguments = [&["--context", "512", "--json", "--only"], &methods[..]].concat();
    let lines = lines(&bench_select(folder.path(), 6000, &arguments));
    assert_eq!(lines.len(), 2 * methods.len());
    let number = |line: &Value, field: &str| line[field].as_f64().unwrap();
    for of_budget in lines.chunks(methods.len()) {
        let by = |method: &str| of_budget.iter().find(|line| line["method"] == method).unwrap();
        for line in of_budget {
            assert_eq!(line["right"], true, "{line}");
            assert!(number(line, "mass") <= 1.0 && number(line, "attend_ms") > 0.0, "{line}");
            let knows_all =
                ["exact-window", "best", "best-together", "best-anywhere"].iter().any(|id| line["method"] == *id);
            assert_eq!(line["choose_ms"].is_null(), knows_all, "{line}");
        }
        // As many blocks in each row, and none keeps more than the best.
        for method in ["pooled", "learned", "learned-together"] {
            assert_eq!(by(method)["blocks"], by("best")["blocks"], "{method}");
            assert!(number(by(method), "mass") <= number(by("best"), "mass") + 1e-12, "{method}");
            assert!(number(by(method), "mass") >= number(by("least"), "mass") - 1e-12, "{method}");
        }
        for method in ["adaptive-window", "best-anywhere"] {
            assert!(number(by(method), "blocks") <= number(by("best"), "blocks"), "{method}");
        }
    }
    // Of 8 rows of 1 to 8 blocks a quarter is 1, 2, 2, 2, 2, 2, 2 and 2 of 36.
    let best = lines.iter().find(|line| line["method"] == "best" && line["budget"] == 0.25).unwrap();
    assert!((number(best, "blocks") - 15.0 / 36.0).abs() < 1e-12, "{best}");

    let ran = bench_select(folder.path(), 6000, &["--context", "512", "--only", "learned", "--markdown"]);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.starts_with("| blocks kept"), "{said}");
    assert!(
        said.contains("| learned") && !said.contains("| random") && said.contains("2 layers of tiny.gguf, 4 heads"),
        "{said}"
    );
    assert!(said.contains("held out") && said.contains("--only learned --markdown"), "{said}");
}

#[test]
fn a_text_that_cannot_be_chosen_from_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (bytes, arguments, code, words) in [
        (3000, &["--context", "512"][..], 2, ["text.txt: 3000 tokens", "10 windows of 512"]),
        (3000, &["--context", "100"], 2, ["--context 100", "fewer than 256"]),
        (3000, &["--only", "pool"], 2, ["\"pool\"", "pooled"]),
        (3000, &["--threads", "1"], 2, ["--select", "--threads"]),
    ] {
        let ran = bench_select(folder.path(), bytes, arguments);
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(Some(code), ran.status.code(), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && ran.stdout.is_empty(), "{said}");
    }
}

/// A peer without llama.cpp: the protocol, spoken by a shell. Prompts take it 20 s, so few of them are asked for.
#[cfg(unix)]
#[test]
fn a_slow_peer_is_asked_for_fewer_prompts() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let peer = folder.path().join("slow");
    let script = r#"#!/bin/sh
while read -r line; do
  case "$line" in
    "{"*) echo '{"peer": "slow 1", "vocab": 258}' ;;
    prompt*) echo '{"ms": 20000}' ;;
    generate*) echo "{\"ms\": $((${line#generate } * 3))}" ;;
  esac
done"#;
    fs::write(&peer, script).unwrap();
    fs::set_permissions(&peer, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--context", "600", "--only", "prompt-512", "token-512", "--json", "--llama"];
    let lines = lines(&bench_model(folder.path(), &[&arguments[..], &[peer.to_str().unwrap()]].concat()));
    assert!(lines.iter().all(|line| line["peer"] == "slow 1"), "{lines:?}");
    let (prompt, token) = (&lines[0], &lines[1]);
    let calls = |line: &Value, side: &str| line[side].as_u64().unwrap();
    assert_eq!(20000.0, prompt["peer_ms"].as_f64().unwrap());
    assert!(calls(prompt, "peer_calls") >= 3 && calls(prompt, "peer_calls") < calls(prompt, "calls"), "{prompt}");
    assert!((token["peer_ms"].as_f64().unwrap() - 48.0).abs() < 1e-9, "{token}");
    assert_eq!(calls(token, "peer_calls"), calls(token, "calls"));
}

fn bench_encoder(arguments: &[&str]) -> Output {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../regard-models/tests/data/encoders/bert");
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.arg("bench").args(["--model", folder, "--threads", "2"]).args(arguments).output().unwrap()
}

#[test]
fn an_encoder_has_a_line_for_each_length_and_precision() {
    let lines = lines(&bench_encoder(&["--json"]));
    let ids: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    let of = |words: usize| ["f32", "bf16", "int8"].map(|dtype| format!("words-{words}-{dtype}"));
    assert_eq!(ids, [of(20), of(60), of(200)].concat());
    for (line, texts) in lines.iter().zip([128.0, 64.0, 32.0].into_iter().flat_map(|texts| [texts; 3])) {
        assert!(line["calls"].as_u64().unwrap() >= 7 && line["share"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!((&line["model"], &line["peer"], &line["error"]), (&json!("bert"), &Value::Null, &Value::Null));
        let seconds = texts / line["texts_per_second"].as_f64().unwrap();
        assert!((seconds * 1e3 / line["ms"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{line}");
    }
    // Every passage has as many tokens as the model sees, 64. Worked out from config.json: two layers of a width of 48 with 72
    // numbers between the products of a feed-forward.
    let flops = 32.0 * (64.0 * 2.0 * 2.0 * (4.0 * 48.0 * 48.0 + 2.0 * 48.0 * 72.0) + 64.0 * 64.0 * 2.0 * 4.0 * 48.0);
    let has = lines[8]["gflops"].as_f64().unwrap() * lines[8]["ms"].as_f64().unwrap() * 1e6;
    assert!((has / flops - 1.0).abs() < 1e-9, "{has} instead of {flops}");
}

#[test]
fn an_encoder_has_no_peer_that_writes() {
    for (arguments, code, words) in [
        (&["--llama", "python3"][..], 2, ["--llama", "bert is an encoder"]),
        (&["--context", "64"], 2, ["--context", "bert is an encoder"]),
        (&["--only", "prompt-512"], 2, ["\"prompt-512\"", "words-200-int8"]),
        (&["--only", "words-20-f32", "--torch", "/no/python"], 1, ["/no/python", "No such file"]),
    ] {
        let ran = bench_encoder(arguments);
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(Some(code), ran.status.code(), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && ran.stdout.is_empty(), "{said}");
    }
}

/// A peer without PyTorch: the protocol, spoken by a shell. Its vectors are none.
#[cfg(unix)]
#[test]
fn vectors_that_are_not_the_peer_s_are_wrong() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let peer = folder.path().join("peer");
    let script = r#"#!/bin/sh
while read -r line; do
  case "$line" in
    "{"*) echo '{"peer": "shell 1"}' ;;
    vectors*) : > "${line#vectors }"; echo '{}' ;;
    step*) echo '{"each": [500]}' ;;
  esac
done"#;
    fs::write(&peer, script).unwrap();
    fs::set_permissions(&peer, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = bench_encoder(&["--only", "words-200-int8", "--torch", peer.to_str().unwrap()]);
    let (table, said) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    assert!(ran.status.code() == Some(1) && said.contains("words-200-int8"), "{said}");
    assert!(["shell 1 bf16", "64.0 texts/s", "WRONG"].iter().all(|word| table.contains(word)), "{table}");
}
