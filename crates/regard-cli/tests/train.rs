//! Training from outside: what a run leaves behind, what it refuses, and that nothing stops it from going on.

#[allow(dead_code, reason = "shared with the tests of commands that need a model")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Ran, regard, run};
use tempfile::TempDir;

/// A model and a run so small that they take no time.
const SMALL: &str = "--width 16 --layers 2 --heads 2 --hidden 24 --context 16 --batch 4 --steps 20 --warmup 2 \
    --rate 0.02 --eval-every 0 --eval-windows 8 --sample-every 0 --save-every 0";

/// A folder with a text in it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("text"), text(6000)).unwrap();
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `regard LINE` in the folder.
    fn command(&self, line: &str) -> Command {
        let mut command = regard(self.folder.path());
        command.current_dir(self.folder.path()).args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> Ran {
        run(&mut self.command(line), "")
    }

    /// A run that is done.
    fn train(&self, options: &str) -> Ran {
        let ran = self.run(&small(&format!("train --data text {options}")));
        assert_eq!(0, ran.code, "{options}: {ran:?}");
        ran
    }

    fn refused(&self, line: &str, code: i32, words: &[&str]) {
        let ran = self.run(line);
        assert_eq!((code, ""), (ran.code, &*ran.stdout), "{line}: {ran:?}");
        let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(1, errors.len(), "{line}: {ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{line}: no {word:?} in {:?}", ran.stderr);
        }
    }

    /// The same of what is only found out on the way.
    fn refused_after(&self, line: &str, words: &[&str]) {
        let ran = self.run(line);
        assert_eq!(1, ran.code, "{line}: {ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{line}: no {word:?} in {:?}", ran.stderr);
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The log of a run, without what time it took.
    fn log(&self, out: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.path(out).join("log.jsonl")).unwrap();
        let event = |line: &str| {
            let mut event: Value = serde_json::from_str(line).unwrap();
            event.as_object_mut().unwrap().remove("seconds");
            event
        };
        log.lines().map(event).collect()
    }

    fn names(&self, out: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(out)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// The line with the options of [`SMALL`] that it does not have.
fn small(line: &str) -> String {
    let words: Vec<&str> = SMALL.split_whitespace().collect();
    let given: Vec<&str> = line.split_whitespace().collect();
    let more = words.chunks(2).filter(|pair| !given.contains(&pair[0]));
    more.fold(line.to_owned(), |line, pair| format!("{line} {} {}", pair[0], pair[1]))
}

/// Sentences that are easily foreseen.
fn text(bytes: usize) -> String {
    let (who, what) = (["the whale", "a sailor", "old Ahab", "the sea"], ["sings", "dives", "waits", "turns — so"]);
    let sentence = |at: usize| format!("{} {} at {}.\n", who[at * 7 % 4], what[at * 5 % 4], at % 10);
    let mut text = String::new();
    for at in 0.. {
        if text.len() >= bytes {
            break;
        }
        text += &sentence(at * at + at / 3);
    }
    text
}

fn losses(log: &[Value], event: &str) -> Vec<f64> {
    log.iter().filter(|line| line["event"] == event).map(|line| line["loss"].as_f64().unwrap()).collect()
}

#[test]
fn every_mixer_and_objective_learns_and_writes() {
    let place = Place::new();
    for (out, options) in [
        ("softmax", "--kv-heads 1 --sample-every 10 --prompt whale --dropout 0.1"),
        ("plain", "--mixer plain --recompute"),
        ("gated", "--mixer gated --kv-heads 1 --head own --accumulate 2"),
        ("channel", "--mixer channel --tokenizer bpe --vocabulary 300"),
        ("delta", "--mixer delta --shared-context"),
        ("gated-delta", "--mixer gated-delta --head-dim 6"),
        ("state-space", "--mixer state-space --head-dim 4"),
        ("shared", "--shared-context"),
        ("softmax-denoising", "--objective denoising --sample-every 20 --prompt whale"),
        ("plain-denoising", "--mixer plain --objective denoising --tokenizer channel/latest/tokenizer.json"),
    ] {
        let ran = place.train(&format!("--out {out} {options}"));
        let log = place.log(out);
        let (steps, evaluations) = (losses(&log, "step"), losses(&log, "evaluation"));
        assert_eq!((20, 2), (steps.len(), evaluations.len()), "{out}");
        assert!(evaluations[1] < evaluations[0] - 0.3, "{out}: {evaluations:?}");
        assert_eq!(2, ran.stdout.matches("bits a byte").count(), "{out}: {}", ran.stdout);
        if options.contains("--sample-every") {
            let sample = log.iter().find(|line| line["event"] == "sample").unwrap();
            assert!(sample["prompt"] == "whale" && ran.stdout.contains("\"whale"), "{sample}");
        }
        let mut files = place.names(&format!("{out}/latest"));
        files.retain(|name| name != "training.json");
        let expected = "config.json generation_config.json model.safetensors state.safetensors tokenizer.json tokenizer_config.json";
        assert_eq!(expected, files.join(" "), "{out}");
        assert_eq!(["latest", "log.jsonl", "loss.svg", "step-000020"], *place.names(out));
        assert!(fs::read_to_string(place.path(out).join("loss.svg")).unwrap().contains("</svg>"));

        // What a run leaves can be written with, and says what it is.
        let rounds = if out.ends_with("denoising") { "--steps 4" } else { "" };
        let generate = |options: &str| {
            let ran = place.run(&format!("generate whale -m {out}/latest -n 9 --seed 7 {rounds} {options}"));
            assert_eq!(0, ran.code, "{out} {options}: {ran:?}");
            ran.stdout
        };
        assert_eq!(generate("--temperature 2"), generate("--temperature 2 --threads 1"), "{out}");
        let report: Value = serde_json::from_str(&generate("--json")).unwrap();
        assert_eq!(
            (7, 9),
            (report["seed"].as_u64().unwrap(), report["generated_tokens"].as_u64().unwrap()),
            "{report}"
        );
        let info = place.run(&format!("info {out}/latest")).stdout;
        let llama = out == "softmax";
        let words = if llama { "llama" } else { "regard, of `regard train`" };
        assert!(info.contains(words) && info.contains("can be run     yes"), "{info}");
        if !llama {
            let objective = if out.ends_with("denoising") { "denoising" } else { "causal" };
            let mixer = out.strip_suffix("-denoising").unwrap_or(out).replace("shared", "softmax");
            assert!(info.contains(&format!("mixer          {mixer}\n")) && info.contains(objective), "{info}");
            place.refused(&format!("perplexity text -m {out}/latest"), 1, &["regard train", "regard generate"]);
        }
    }
    // Another run's tokeniser, with a mask behind its tokens.
    let vocabulary = |out: &str| {
        let config: Value = serde_json::from_slice(&place.bytes(&format!("{out}/latest/config.json"))).unwrap();
        config["vocab_size"].as_u64().unwrap()
    };
    assert_eq!([257, 300, 258, 301], ["softmax", "channel", "softmax-denoising", "plain-denoising"].map(vocabulary));
    let ran = place.run("generate whale -m gated/latest -n 99 --seed 1");
    assert!(ran.code == 0 && ran.stderr.contains("context of 16 tokens is full"), "{ran:?}");
    place.refused("generate whale -m gated/latest --steps 4", 2, &["--steps", "token by token"]);
    place.refused("generate whale -m softmax/latest --steps 4", 2, &["--steps", "token by token"]);
    place.refused("generate whale -m gated/latest --system x", 2, &["--system", "regard train"]);
    place.refused("generate whalewhalewhalewhale -m gated/latest", 1, &["20 tokens", "holds 16"]);
}

#[test]
fn a_run_that_goes_on_ends_with_the_same_bits() {
    let place = Place::new();
    for (mixer, options) in [
        ("softmax", "--dropout 0.2 --accumulate 2 --tokenizer bpe --vocabulary 290"),
        ("gated-delta", "--shared-context --head own --dtype bf16"),
        ("plain", "--objective denoising --recompute"),
    ] {
        let options = format!("--mixer {mixer} {options} --eval-every 4 --sample-every 6 --seed 3");
        let (straight, parts) = (format!("{mixer}-straight"), format!("{mixer}-parts"));
        place.train(&format!("--out {straight} {options}"));
        place.train(&format!("--out {parts} {options} --until 10"));
        assert!(place.path(&parts).join("step-000010").is_dir());
        // Other threads, and another way to say what the run is.
        let ran = place.run(&format!("train --resume --out {parts} --threads 1 --rate 0.02 --until 15"));
        assert!(ran.code == 0 && ran.stderr.contains("going on from"), "{ran:?}");
        let ran = place.run(&small(&format!("train --data text --resume --out {parts} {options}")));
        assert_eq!(0, ran.code, "{ran:?}");
        for name in ["model.safetensors", "state.safetensors", "config.json", "tokenizer.json"] {
            let [a, b] = [&straight, &parts].map(|out| place.bytes(&format!("{out}/latest/{name}")));
            assert!(a == b, "{mixer}: {name}");
        }
        assert_eq!(place.log(&straight), place.log(&parts), "{mixer}");
        let done = place.run(&format!("train --resume --out {parts}"));
        assert!(done.code == 0 && done.stderr.contains("nothing to do"), "{done:?}");
    }
}

#[test]
fn what_cannot_be_is_said_before_any_work() {
    let place = Place::new();
    fs::write(place.path("empty"), "").unwrap();
    fs::write(place.path("blank"), " \n\t\n").unwrap();
    fs::write(place.path("short"), "The whale.").unwrap();
    fs::write(place.path("latin"), b"fine\nso far\ncaf\xe9 noir").unwrap();
    fs::write(place.path("wrong.json"), "{}").unwrap();
    fs::write(place.path("one.json"), r#"{"model": 3"#).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    #[cfg(unix)]
    {
        assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
        place.refused(&small("train --out new --data text pipe"), 1, &["--data pipe", "no regular file"]);
    }
    for (options, code, words) in [
        ("--data absent", 1, &["absent", "no such file"][..]),
        ("--data text absent", 1, &["--data absent", "no such file"]),
        ("--data text folder", 1, &["--data folder", "folder: name the files"]),
        ("--data text ./text", 1, &["./text", "twice"]),
        ("--data text empty", 1, &["--data empty", "no text in it", "leave it out"]),
        ("--data blank", 1, &["--data blank", "no text in it"]),
        ("--data text latin", 1, &["--data latin", "line 3 is not UTF-8 (byte 15 of the file)", "iconv"]),
        ("--data short", 1, &["short", "9 tokens to learn from", "--context 16 takes 17", "lower --context"]),
        ("--data text --eval-share 0.001", 1, &["--eval-share 0.001", "--context 16 takes 17", "raise --eval-share"]),
        ("--data text --tokenizer words", 2, &["--tokenizer words", "byte, bpe"]),
        ("--data text --tokenizer wrong.json", 1, &["wrong.json"]),
        ("--data text --tokenizer one.json", 1, &["one.json"]),
        ("--data text --vocabulary 300", 2, &["--vocabulary", "--tokenizer is byte"]),
        ("--data text --tokenizer bpe --vocabulary 256", 1, &["256 tokens", "257 or more"]),
        ("--data text --heads 3 --kv-heads 3", 2, &["--heads 3", "--width 16"]),
        ("--data text --heads 4 --kv-heads 3", 2, &["--kv-heads 3", "--heads 4"]),
        ("--data text --head-dim 5", 2, &["a head of 5 numbers", "--head-dim"]),
        ("--data text --mixer gated --objective denoising", 2, &["denoising", "--mixer gated", "softmax or plain"]),
        ("--data text --mixer gated --dropout 0.1", 2, &["--dropout 0.1", "softmax"]),
        ("--data text --mixer conv", 2, &["conv", "gated-delta"]),
        ("--data text --dtype f16", 2, &["f16", "f32, bf16"]),
        ("--data text --rate 0", 2, &["--rate is 0"]),
        ("--data text --rate -1", 2, &["--rate is -1"]),
        ("--data text --rate nan", 2, &["--rate", "expected a number"]),
        ("--data text --final-rate 2", 2, &["--final-rate is 2", "from 0 to 1"]),
        ("--data text --dropout 1", 2, &["--dropout is 1", "below 1"]),
        ("--data text --eval-share 1", 2, &["--eval-share is 1"]),
        ("--data text --betas 0.9", 2, &["--betas", "0.9,0.95"]),
        ("--data text --clip -1", 2, &["--clip is -1"]),
        ("--data text --width 0", 2, &["--width"]),
        ("--data text --steps 0", 2, &["--steps"]),
        ("--data text --width 1048576 --layers 4096", 2, &["parameters take", "memory are free", "lower --width"]),
        ("--data text --batch 268435456", 2, &["--batch 268435456", "memory are free", "--accumulate"]),
        ("--data text --sample-every 5 --prompt a-long-prompt-of-bytes", 2, &["22 tokens", "--context 16", "--prompt"]),
        ("--data text --resume", 1, &["new", "no checkpoint"]),
        ("--data text /dev/zero", 1, &["--data /dev/zero", "no regular file"]),
        ("--data text --tokenizer bpe --vocabulary 999999999", 2, &["--vocabulary is 999999999", "at the most"]),
        ("--data text --accumulate 999999999999999999", 2, &["--accumulate 999999999999999999", "--batch 4"]),
        ("--data text --layers 20000 --width 2 --heads 1 --hidden 1", 1, &["layers is 20000", "at most 1000"]),
        ("--data text --mixer state-space --head-dim 5", 2, &["--head-dim", "state-space"]),
        ("--data text --mixer state-space --kv-heads 2", 2, &["--kv-heads", "state-space"]),
    ] {
        let line = format!("train --out new {options}");
        let line = if options.contains("--resume") { line } else { small(&line) };
        place.refused(&line, code, words);
        assert!(!place.path("new").exists(), "{options}");
    }
    place.refused("train --out new", 2, &["--data"]);
    place.refused("train --data text", 2, &["--out"]);
    fs::write(place.path("file"), "").unwrap();
    place.refused(&small("train --data text --out file/run"), 1, &["file/run"]);
    let plan = place.run(&small("train --data text --plan"));
    assert!(plan.code == 0 && plan.stdout.contains("GFLOP") && plan.stdout.contains("20 steps, "), "{plan:?}");
    // Of a step that would take weeks one batch is taken.
    let plan = place.run(&small("train --data text --plan --accumulate 1000000000"));
    assert!(plan.code == 0 && plan.stdout.contains("64,000,000,000 tokens"), "{plan:?}");
}

#[test]
fn a_run_goes_on_with_its_own_text_settings_and_shape_only() {
    let place = Place::new();
    place.train("--out run --until 5");
    let resume = "train --out run --resume";
    place.refused(&small("train --data text --out run"), 1, &["run", "--resume", "another --out"]);
    place.refused(&format!("{resume} --rate 0.5"), 2, &["--rate is 0.5", "begun with 0.02"]);
    place.refused(&format!("{resume} --width 32"), 2, &["--width is 32", "begun with 16"]);
    place.refused(&format!("{resume} --recompute"), 2, &["--recompute is true", "begun with false"]);
    place.refused(&format!("{resume} --dtype bf16"), 2, &["--dtype is bf16", "begun with f32"]);
    place.refused(&format!("{resume} --tokenizer bpe"), 2, &["--tokenizer is bpe", "begun with byte"]);
    place.refused(&format!("{resume} --data text latin"), 1, &["latin"]);
    fs::write(place.path("other"), text(7000)).unwrap();
    place.refused(&format!("{resume} --data text other"), 2, &["2 files", "begun with 1"]);
    let sizes = [6000, 7000].map(|bytes| format!("{} bytes", text(bytes).len()));
    place.refused(&format!("{resume} --data other"), 1, &["other text", &sizes[0], &sizes[1], "sha256"]);
    // The same text elsewhere is the same text.
    fs::rename(place.path("text"), place.path("moved")).unwrap();
    place.refused(resume, 1, &["text", "no such file"]);
    assert_eq!(0, place.run(&format!("{resume} --data moved --until 6")).code);

    fs::copy(place.path("moved"), place.path("text")).unwrap();
    place.train("--out wide --width 32 --until 1");
    place.train("--out linear --mixer gated --kv-heads 1 --until 1");
    place.train("--out linear-wide --mixer gated --kv-heads 1 --width 32 --until 1");
    for (from, to) in [("wide", "run"), ("linear-wide", "linear")] {
        let to = place.path(to).join("latest/model.safetensors");
        fs::copy(place.path(from).join("latest/model.safetensors"), to).unwrap();
    }
    place.refused(&format!("{resume} --data moved"), 1, &["model.embed_tokens.weight", "[257, 32]", "[257, 16]"]);
    place.refused("train --resume --out linear", 1, &["model.embed_tokens.weight", "[257, 32]", "[257, 16]"]);
    place.refused("generate x -m linear/latest", 1, &["model.embed_tokens.weight", "[257, 32]", "[257, 16]"]);
    let config = place.path("linear/latest/config.json");
    let whole = fs::read_to_string(&config).unwrap();
    for (from, to, words) in [
        ("\"vocab_size\": 257", "\"vocab_size\": 4294967295", &["parameters", "model.safetensors holds"][..]),
        ("\"gated\"", "\"gates\"", &["mixer is \"gates\"", "gated-delta"]),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", &["num_hidden_layers is 0"]),
        ("\"num_key_value_heads\": 1", "\"num_key_value_heads\": -1", &["num_key_value_heads is -1"]),
    ] {
        assert!(whole.contains(from), "{whole}");
        fs::write(&config, whole.replace(from, to)).unwrap();
        place.refused("generate x -m linear/latest", 1, words);
        let info = place.run("info linear/latest");
        assert!(words.iter().all(|word| (info.stdout.clone() + &info.stderr).contains(word)), "{info:?}");
    }
}

/// Half a model is no model, and neither is another's.
#[test]
fn what_a_checkpoint_holds_is_what_it_says() {
    let place = Place::new();
    place.train("--out run --mixer gated --until 6 --save-every 3");
    for (from, to, words) in [
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", &["model.safetensors", "model.layers.1."][..]),
        ("\"gated\"", "\"delta\"", &["model.safetensors", "lacks `model.layers.0.self_attn.beta_proj"]),
        ("\"vocab_size\": 257", "\"vocab_size\": 200", &["vocab_size is 200", "257 tokens"]),
    ] {
        let config = place.path("run/latest/config.json");
        let whole = fs::read_to_string(&config).unwrap();
        assert!(whole.contains(from), "{whole}");
        fs::write(&config, whole.replace(from, to)).unwrap();
        place.refused("generate x -m run/latest", 1, words);
        let info = place.run("info run/latest");
        assert!(
            info.stdout.contains("can be run     no") && words.iter().all(|word| info.stdout.contains(word)),
            "{info:?}"
        );
        fs::write(&config, whole).unwrap();
    }
    place.refused("generate x -m run", 2, &["run is the folder of a run", "run/latest"]);
    place.refused("generate x -m run/latest --cache-dtype f32", 2, &["--cache-dtype", "regard train"]);

    // Whatever is damaged, the way out is the same.
    for name in ["model.safetensors", "state.safetensors", "tokenizer.json", "training.json"] {
        let path = place.path("run/step-000006").join(name);
        let whole = fs::read(&path).unwrap();
        for damage in [None, Some(&whole[..whole.len() / 2])] {
            match damage {
                None => fs::remove_file(&path).unwrap(),
                Some(half) => fs::write(&path, half).unwrap(),
            }
            let words = ["step-000006", name, "remove this folder to go on from step-000003"];
            place.refused("train --resume --out run", 1, &words);
        }
        fs::write(&path, whole).unwrap();
    }
    fs::remove_dir_all(place.path("run/step-000006")).unwrap();
    let ran = place.run("train --resume --out run --until 4");
    assert!(ran.code == 0 && ran.stderr.contains("step-000003"), "{ran:?}");
}

/// What stands where decides: no count of letters alone foresees more than one of sixteen.
#[test]
fn the_order_of_tokens_is_learned() {
    let place = Place::new();
    fs::write(place.path("alphabet"), "abcdefghijklmnop".repeat(1000)).unwrap();
    for mixer in ["softmax", "plain"] {
        let options =
            "--objective denoising --steps 300 --context 32 --width 64 --heads 4 --hidden 192 --batch 16 --rate 0.003";
        let line = small(&format!("train --data alphabet --out {mixer} --mixer {mixer} {options}"));
        assert_eq!(0, place.run(&line).code, "{mixer}");
        let loss = *losses(&place.log(mixer), "evaluation").last().unwrap();
        assert!(loss < 1.0, "{mixer}: {loss}, and ln 16 is 2.77");
    }
}

#[test]
fn short_texts_are_told_and_marks_of_byte_order_are_no_text() {
    let place = Place::new();
    fs::write(place.path("short"), "The whale.").unwrap();
    let ran = place.run(&small("train --out with-short --until 1 --data text short"));
    assert_eq!(0, ran.code, "{ran:?}");
    assert!(ran.stderr.contains("short: 9 tokens to learn from, and a window takes 17"), "{ran:?}");
    fs::write(place.path("plain"), text(6000)).unwrap();
    fs::write(place.path("marked"), format!("\u{feff}{}", text(6000))).unwrap();
    for name in ["plain", "marked"] {
        assert_eq!(0, place.run(&small(&format!("train --data {name} --out of-{name} --until 1"))).code);
    }
    assert_eq!(place.log("of-plain"), place.log("of-marked"));
}

#[test]
fn a_run_that_was_killed_goes_on_from_a_whole_checkpoint() {
    let place = Place::new();
    let line = |out: &str| small(&format!("train --data text --out {out} --save-every 1 --keep 2 --steps 120"));
    let ran = place.run(&line("straight"));
    assert_eq!(0, ran.code, "{ran:?}");
    assert_eq!(["latest", "log.jsonl", "loss.svg", "step-000119", "step-000120"], *place.names("straight"));
    let mut resume = "";
    // Milliseconds after a checkpoint: within steps, and within checkpoints.
    for moment in [0, 3, 37, 71, 11] {
        let mut command = place.command(&(line("killed") + resume));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At any moment of a step or of a checkpoint.
        let before = fs::read_link(place.path("killed/latest")).ok();
        let begun = Instant::now();
        while fs::read_link(place.path("killed/latest")).ok() == before && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(3));
        }
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        let latest = place.path("killed/latest");
        assert!(fs::read(latest.join("training.json")).is_ok_and(|text| text.ends_with(b"}\n")));
        assert!(place.run("generate x -m killed/latest -n 2").code == 0);
        resume = " --resume";
    }
    // What such a moment may leave: half a checkpoint, half a line, a link to the checkpoint before.
    let part = place.path("killed/step-000119.tmp");
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("model.safetensors"), "half").unwrap();
    fs::write(place.path("killed/.regard-chart"), "<svg").unwrap();
    let log = place.path("killed/log.jsonl");
    let mut text = fs::read_to_string(&log).unwrap();
    text += "{\"event\":\"step\",\"st";
    fs::write(&log, text).unwrap();
    #[cfg(unix)]
    {
        let names = place.names("killed");
        let first = names.iter().find(|name| name.starts_with("step-")).unwrap();
        fs::remove_file(place.path("killed/latest")).unwrap();
        std::os::unix::fs::symlink(first, place.path("killed/latest")).unwrap();
        std::os::unix::fs::symlink("nowhere", place.path("killed/latest.tmp")).unwrap();
    }
    let ran = place.run(&(line("killed") + " --resume"));
    assert_eq!(0, ran.code, "{ran:?}");
    assert_eq!(place.names("straight"), place.names("killed"));
    assert_eq!(place.log("straight"), place.log("killed"));
    for name in ["model.safetensors", "state.safetensors"] {
        let [a, b] = ["straight", "killed"].map(|out| place.bytes(&format!("{out}/latest/{name}")));
        assert!(a == b, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_stops() {
    let place = Place::new();
    let mut command = place.command(&small("train --data text --out run --steps 1000000"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(place.path("run/log.jsonl")).is_ok_and(|log| log.lines().count() > 3) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(130) && said.contains("stopped by Ctrl-C; --resume"), "{said}");
    let ran = place.run("train --resume --out run --until 1");
    assert!(ran.code == 0 && ran.stderr.contains("of 1000000 steps are taken"), "{ran:?}");
}

/// A step of many batches is not waited for.
#[cfg(unix)]
#[test]
fn ctrl_c_within_a_step_saves_what_was_before_it() {
    let place = Place::new();
    let mut command = place.command(&small("train --data text --out run --accumulate 100000000"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(place.path("run/log.jsonl")).is_ok_and(|log| log.contains("evaluation")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(130) && said.contains("within step 1; --resume"), "{said}");
    assert_eq!(["latest", "log.jsonl", "loss.svg", "step-000000"], *place.names("run"));
    // It goes on, to the same end: Ctrl-C again.
    let again = place.command("train --resume --out run").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &again.id().to_string()]).status().unwrap().success());
    assert_eq!(Some(130), again.wait_with_output().unwrap().status.code());
    assert_eq!(1, losses(&place.log("run"), "evaluation").len());
    assert_eq!(0, place.run("generate x -m run/latest -n 2").code);
}

#[test]
fn gradients_that_are_no_numbers_stop_the_run_or_are_left_out() {
    let place = Place::new();
    let options = small("train --data text --clip 0 --rate 1e30 --warmup 0");
    place.refused_after(&format!("{options} --out stop"), &["step ", "the gradient of `", "not finite", "--rate"]);
    let ran = place.run(&format!("{options} --out skip --not-finite skip"));
    assert!(ran.code == 0 && ran.stderr.contains("is left out: the gradient of `"), "{ran:?}");
    let log = place.log("skip");
    let skipped = log.iter().find(|line| line["skipped"].is_string()).unwrap();
    assert!(skipped["loss"].is_null() || skipped["loss"].is_number());
    assert_eq!(20, log.iter().filter(|line| line["event"] == "step").count());
}

/// `transformers` on another machine's Python finds the same loss; where there is none this says so and passes.
#[test]
fn transformers_loads_a_checkpoint_and_finds_the_same_loss() {
    let python = Path::new("/opt/peers/venv/bin/python");
    if !python.is_file() {
        println!("skipped: there is no {}", python.display());
        return;
    }
    let place = Place::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/trained_by_regard.py");
    for (out, options) in [("tied", ""), ("own", "--head own --tokenizer bpe --vocabulary 300 --kv-heads 2")] {
        place.train(&format!("--out {out} {options}"));
        let whole = fs::read_to_string(place.path("text")).unwrap();
        let learned = whole.floor_char_boundary((whole.len() as f64 * (1.0 - 0.1)) as usize);
        fs::write(place.path("held-out"), &whole[learned..]).unwrap();
        let mut command = Command::new(python);
        command.arg(&script).arg(place.path(out).join("latest")).arg(place.path("held-out")).args(["16", "8"]);
        command.env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1").env("TRANSFORMERS_VERBOSITY", "error");
        let ran = run(&mut command, "");
        assert_eq!(0, ran.code, "{ran:?}");
        let theirs: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        let ours = *losses(&place.log(out), "evaluation").last().unwrap();
        let difference = (theirs["loss"].as_f64().unwrap() - ours).abs();
        assert!(difference < 1e-5 * ours, "{ours} and {theirs}");
        assert_eq!("LlamaForCausalLM", theirs["model"]);
        assert!(theirs["comes_back"] == true && theirs["tokenizers_agree"] == true, "{theirs}");
        assert_eq!(
            ("<|endoftext|>", if out == "tied" { 257 } else { 300 }),
            (theirs["end"].as_str().unwrap(), theirs["vocabulary"].as_u64().unwrap())
        );
    }
}
