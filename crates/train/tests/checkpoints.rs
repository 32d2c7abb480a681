//! Checkpoints are whole or passed over by name, and whatever goes wrong leaves the older ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use etude_train::checkpoint::{Checkpoints, TrainerState, step_name};

fn state(step: u64) -> TrainerState {
    TrainerState {
        step,
        ..TrainerState::new("data".to_owned())
    }
}

fn write_model(folder: &Path) -> Result<()> {
    fs::write(folder.join("config.json"), "{}")?;
    fs::write(folder.join("model.safetensors"), [7; 100])?;
    Ok(())
}

fn write_optimizer(path: &Path) -> Result<()> {
    Ok(fs::write(path, [8; 50])?)
}

fn saved(run: &Path, steps: &[u64]) -> Checkpoints {
    let checkpoints = Checkpoints::new(run);
    for &step in steps {
        checkpoints
            .save(&state(step), write_model, write_optimizer)
            .expect("saves");
    }
    checkpoints
}

fn newest_step(checkpoints: &Checkpoints) -> u64 {
    let (newest, _) = checkpoints.newest().expect("can be read");
    newest.expect("one is whole").state.step
}

fn names(run: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(run.join("checkpoints"))
        .expect("is there")
        .map(|entry| {
            entry
                .expect("reads")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// The newest checkpoint is damaged; the older one must be found, and the file at fault named.
fn assert_passed_over(what: &str, file: &str, damage: impl Fn(&PathBuf)) {
    let run = tempfile::tempdir().expect("a folder");
    let checkpoints = saved(run.path(), &[10, 20]);
    damage(&run.path().join("checkpoints/step-00000020").join(file));
    let (newest, torn) = checkpoints.newest().expect("can be read");
    assert_eq!(
        newest.expect("the older one is whole").state.step,
        10,
        "{file} {what}"
    );
    let [line] = &torn[..] else {
        panic!("{file} {what}: one is torn, not {torn:?}")
    };
    assert!(
        line.contains("step-00000020") && line.contains("not whole") && line.contains(file),
        "{what}: {line}"
    );
    // Saving the step again puts a whole one in its place.
    saved(run.path(), &[20]);
    assert_eq!(newest_step(&checkpoints), 20);
    assert!(checkpoints.newest().expect("can be read").1.is_empty());
}

#[test]
fn a_torn_checkpoint_is_named_and_passed_over() {
    for file in [
        "config.json",
        "model.safetensors",
        "trainer/optimizer.safetensors",
        "trainer/state.json",
        "manifest.json",
    ] {
        assert_passed_over("is cut", file, |path| {
            let whole = fs::read(path).expect("reads");
            fs::write(path, &whole[..whole.len() / 2]).expect("writes");
        });
        assert_passed_over("is empty", file, |path| {
            fs::write(path, "").expect("writes")
        });
        assert_passed_over("is missing", file, |path| {
            fs::remove_file(path).expect("removes")
        });
        if file != "manifest.json" {
            assert_passed_over("has a flipped bit", file, |path| {
                let mut bytes = fs::read(path).expect("reads");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                fs::write(path, bytes).expect("writes");
            });
        }
    }
}

#[test]
fn a_run_whose_only_checkpoint_is_torn_does_not_begin_anew() {
    let run = tempfile::tempdir().expect("a folder");
    let fresh = Checkpoints::new(run.path()).to_go_on_from();
    assert!(fresh.expect("nothing is torn").0.is_none());
    let checkpoints = saved(run.path(), &[5]);
    fs::remove_file(run.path().join("checkpoints/step-00000005/manifest.json")).expect("removes");
    let (newest, torn) = checkpoints.newest().expect("can be read");
    assert!(newest.is_none());
    assert_eq!(torn.len(), 1);
    let error = format!("{:#}", checkpoints.to_go_on_from().expect_err("refused"));
    assert!(
        error.contains("none of them is whole") && error.contains("manifest.json"),
        "{error}"
    );
}

#[test]
fn checkpoints_that_cannot_be_looked_at_are_not_none() {
    let run = tempfile::tempdir().expect("a folder");
    let place = run.path().join("checkpoints");
    let checkpoints = Checkpoints::new(run.path());
    assert!(checkpoints.steps().expect("there are none").is_empty());
    let refused = || {
        let told = [
            checkpoints.steps().err(),
            checkpoints.newest().err(),
            checkpoints.to_go_on_from().err(),
            checkpoints.best().err(),
            checkpoints.prune(5, 1, None).err(),
        ];
        for error in told {
            let error = format!("{:#}", error.expect("is refused"));
            assert!(error.contains("checkpoints: cannot be read"), "{error}");
        }
    };
    fs::write(&place, "in the way").expect("writes");
    refused();
    fs::remove_file(&place).expect("removes");
    std::os::unix::fs::symlink("a disk that is not there", &place).expect("links");
    refused();
}

#[test]
fn a_state_of_another_step_is_not_believed() {
    let run = tempfile::tempdir().expect("a folder");
    let checkpoints = saved(run.path(), &[10]);
    let folder = run.path().join("checkpoints");
    fs::rename(folder.join(step_name(10)), folder.join(step_name(30))).expect("renames");
    let error = format!("{:#}", checkpoints.open(30).expect_err("refused"));
    assert!(error.contains("is of step 10, not 30"), "{error}");
}

#[test]
fn the_last_and_the_best_are_kept_and_leftovers_go() {
    let run = tempfile::tempdir().expect("a folder");
    let checkpoints = saved(run.path(), &[10, 20, 30, 40, 50]);
    fs::create_dir_all(
        run.path()
            .join("checkpoints/.unfinished-step-00000060/trainer"),
    )
    .expect("makes");
    checkpoints.prune(50, 2, Some(20)).expect("prunes");
    assert_eq!(
        names(run.path()),
        [step_name(20), step_name(40), step_name(50)]
    );
    checkpoints.prune(50, 3, Some(50)).expect("prunes");
    assert_eq!(
        names(run.path()),
        [step_name(20), step_name(40), step_name(50)]
    );
    checkpoints.prune(50, 1, None).expect("prunes");
    assert_eq!(names(run.path()), [step_name(50)]);
    assert_eq!(checkpoints.steps().expect("can be read"), [50]);
}

#[test]
fn torn_ones_of_later_steps_are_not_kept_in_place_of_whole_ones() {
    let run = tempfile::tempdir().expect("a folder");
    let checkpoints = saved(run.path(), &[10, 20, 30]);
    fs::write(
        run.path().join("checkpoints/step-00000030/manifest.json"),
        "",
    )
    .expect("writes");
    assert_eq!(newest_step(&checkpoints), 20);
    saved(run.path(), &[25]);
    checkpoints.prune(25, 1, None).expect("prunes");
    assert_eq!(names(run.path()), [step_name(25)]);
    assert_eq!(newest_step(&checkpoints), 25);
}

#[test]
fn a_failure_while_saving_leaves_the_older_ones() {
    let run = tempfile::tempdir().expect("a folder");
    let checkpoints = saved(run.path(), &[10]);
    let full = |folder: &Path| {
        write_model(folder)?;
        bail!("no space left on device")
    };
    let error = checkpoints
        .save(&state(20), full, write_optimizer)
        .expect_err("fails");
    let error = format!("{error:#}");
    assert!(
        error.contains("step-00000020")
            && error.contains("make room")
            && error.contains("no space left"),
        "{error}"
    );
    checkpoints
        .save(&state(20), write_model, |_| {
            bail!("no space left on device")
        })
        .expect_err("fails");
    assert_eq!(
        names(run.path()),
        [step_name(10)],
        "nothing half-written stays"
    );
    assert_eq!(newest_step(&checkpoints), 10);
    checkpoints
        .save(&state(20), write_model, write_optimizer)
        .expect("there is room again");
    assert_eq!(newest_step(&checkpoints), 20);
}

#[test]
fn a_save_that_died_midway_is_not_in_the_way() {
    let run = tempfile::tempdir().expect("a folder");
    let checkpoints = saved(run.path(), &[10]);
    let leftover = run.path().join("checkpoints/.unfinished-step-00000020");
    fs::create_dir_all(leftover.join("trainer")).expect("makes");
    fs::write(leftover.join("stray.safetensors"), "x").expect("writes");
    assert_eq!(newest_step(&checkpoints), 10);
    let place = checkpoints
        .save(&state(20), write_model, write_optimizer)
        .expect("saves");
    assert!(!place.join("stray.safetensors").exists() && !leftover.exists());
}

#[test]
fn a_run_folder_that_cannot_be_written_is_named() {
    let parent = tempfile::tempdir().expect("a folder");
    let run = parent.path().join("run");
    fs::write(&run, "a file where the folder should be").expect("writes");
    let error = Checkpoints::new(&run)
        .save(&state(1), write_model, write_optimizer)
        .expect_err("fails");
    assert!(
        format!("{error:#}").contains("checkpoints: cannot be made"),
        "{error:#}"
    );
}
