// SPDX-License-Identifier: Apache-2.0
//! Every target over its kept corpus, and then over inputs made of it by a seeded
//! mutation: the same ones in every run. The input at hand is on disk while it runs, so
//! that even one that overflows the stack leaves itself behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrogate_fuzz::mutate::Mutator;
use ferrogate_fuzz::{TARGETS, Target, target};

/// An input that takes longer is a way to stop a gateway. Unoptimised, on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(10);
const SEED: u64 = 0x5EED;

/// Says where the input is that made a target panic.
struct Running<'a> {
    target: &'a Target,
    path: &'a Path,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (path, name) = (self.path.display(), self.target.name);
            eprintln!("the input is {path}: keep it in fuzz/corpus/{name} with the fix");
        }
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| unreachable!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a readable input"))).collect()
}

fn check(name: &str) {
    let target = target(name).expect("a target of this name");
    let kept = corpus(name);
    assert!(!kept.is_empty(), "{name} has no corpus");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.input"));
    let mut slowest = Duration::ZERO;
    let mut run = |input: &[u8]| {
        fs::write(&path, input).expect("the input can be written");
        let _running = Running { target, path: &path };
        let began = Instant::now();
        (target.run)(input);
        let took = began.elapsed();
        assert!(took < TOO_LONG, "an input took {took:?}");
        slowest = slowest.max(took);
    };
    for (_, input) in &kept {
        run(input);
    }
    let seeds: Vec<Vec<u8>> = kept.into_iter().map(|(_, input)| input).collect();
    let mut mutator = Mutator::new(SEED, &seeds, target.words);
    let began = Instant::now();
    for _ in 0..target.rounds {
        run(&mutator.next_input());
    }
    let took = began.elapsed();
    println!("{name}: {} kept, {} made in {took:.1?}, slowest {slowest:.1?}", seeds.len(), target.rounds);
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_here() {
            let run = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), run);
        }
    };
}

/// `cargo xtask fuzz` starts a program for each; their package lies outside of the workspace.
#[test]
fn every_target_has_a_guided_program() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("guided/Cargo.toml");
    let manifest = fs::read_to_string(manifest).expect("a readable manifest");
    let programs = manifest.split("[[bin]]\nname = \"").skip(1);
    let programs: Vec<&str> = programs.filter_map(|entry| entry.split('"').next()).collect();
    assert_eq!(programs, TARGETS.map(|target| target.name));
}

targets! {
    artifact certificate chunked condition config document path policy request_head resource
    response_head secret snapshot_file stream template
}
