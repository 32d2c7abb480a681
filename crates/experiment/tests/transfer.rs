//! A whole transfer experiment of a tiny model: what it leaves behind, stopping and going on, and what a user who
//! made a mistake is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use etude_data::{Cache, Catalog};
use etude_eval::TaskMetric;
use etude_experiment::{Transfer, TransferRecipe, TransferSummary, Transferred, transfer};
use etude_train::interrupt::Interrupt;
use etude_train::{RecipeText, RunContext, Validate};

const PRETRAIN: &str = "\
[tokenizer]\nvocab_size = 300\n\
[model]\nfamily = \"llama\"\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 48\n\
[train]\nsteps = 20\nbatch_rows = 4\ndevice = \"cpu\"\nthreads = 1\n[eval]\nwindows = 4\nsample_tokens = 8\n";

const FINETUNE: &str = "\
[task]\nanswer_tokens = 6\ntruncation = \"truncate-prompt\"\nlocal = { validation = 20, test = 20 }\n\
[train]\nsteps = 10\nbatch_rows = 4\ndevice = \"cpu\"\nthreads = 1\n[eval]\nexamples = 8\nsamples = 0\n";

fn source(text: &str) -> RecipeText {
    RecipeText {
        name: "tiny".to_owned(),
        origin: "tiny.toml".into(),
        text: text.to_owned(),
    }
}

/// A folder with a text, a task and the recipes over them.
struct Place(PathBuf);

impl Place {
    fn new(root: &Path) -> Self {
        let place = Self(root.to_owned());
        let words = ["river", "king", "stone", "garden", "winter", "letter"];
        let line = |number: usize| {
            let (a, b) = (words[number % 6], words[(number / 6) % 6]);
            format!("the {a} of the {b} number {number}")
        };
        let text: String = (0..400)
            .map(|number| format!("{}.\n", line(number)))
            .collect();
        fs::write(root.join("text.txt"), text).expect("writes");
        let tasks: String = (0..80)
            .map(|number| {
                let answer = words[number % 6];
                format!(
                    "{{\"prompt\": \"{}\", \"completion\": \"{answer}\"}}\n",
                    line(number)
                )
            })
            .collect();
        fs::write(root.join("task.jsonl"), tasks).expect("writes");
        place
    }

    fn parse<T: Validate>(&self, text: &str, settings: &[String]) -> T {
        source(text).parse(settings).expect("a recipe")
    }

    fn plan(&self, settings: &[&str]) -> Transfer {
        let file = |name: &str| format!("{:?}", self.0.join(name));
        let finetune = |more: &[&str]| {
            let head = format!(
                "[base]\npath = {}\npretrain = \"tiny\"\n{FINETUNE}",
                file("base")
            );
            let mut all = vec![format!("task.source={}", file("task.jsonl"))];
            all.extend(more.iter().map(|setting| (*setting).to_owned()));
            let text = head.replace(
                "[task]\n",
                &format!("[task]\nsource = {}\n", file("task.jsonl")),
            );
            self.parse::<etude_finetune::Recipe>(&text, &all)
        };
        let recipe = "[transfer]\nfinetune = \"tiny\"\nshares = [0.2, 1.0]\nseeds = [1, 2]\nrates = [0.5, 1.0]\n\
                      tune_at = [1.0]\nmetrics = [\"rouge_l\", \"bits_per_byte\", \"repetition_4\"]\ntest = 6\n";
        let settings: Vec<String> = settings
            .iter()
            .map(|setting| (*setting).to_owned())
            .collect();
        let mut recipe: TransferRecipe = self.parse(recipe, &settings);
        recipe.transfer.general = Some(self.0.join("text.txt").display().to_string());
        let text = format!("[data]\nsources = [{}]\n{PRETRAIN}", file("text.txt"));
        Transfer {
            settings: recipe.transfer,
            pretrain: Some(self.parse(&text, &[])),
            finetune: finetune(&[]),
            scratch: finetune(&["base.from_scratch=true"]),
            variants: vec![(
                "mixed".to_owned(),
                finetune(&[&format!(
                    "task.mix={{source={}, share=0.5}}",
                    file("text.txt")
                )]),
            )],
        }
    }

    fn context(&self, run: &str) -> RunContext {
        RunContext {
            folder: self.0.join(run),
            catalog: Catalog::load(&[] as &[&Path]).expect("the shipped manifests"),
            cache: Cache::at(self.0.join("cache")),
            progress: false,
            interrupt: Interrupt::default(),
            started: Instant::now(),
        }
    }

    fn run(&self, run: &str, plan: &Transfer) -> (TransferSummary, Vec<String>) {
        let mut said = Vec::new();
        let context = self.context(run);
        let ended =
            transfer(plan, &context, None, &mut |line| said.push(line.to_owned())).expect("runs");
        match ended {
            Transferred::Finished(summary, report) => {
                assert!(report.is_file());
                (*summary, said)
            }
            Transferred::Interrupted => panic!("nobody stopped it"),
        }
    }
}

#[test]
fn an_experiment_tells_what_it_found_and_goes_on_where_it_stopped() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let plan = place.plan(&[]);
    let (whole, said) = place.run("whole", &plan);

    assert_eq!(
        (whole.n, whole.points.len(), whole.metric.as_str()),
        (6, 2, "rouge_l")
    );
    for point in &whole.points {
        for arm in [&point.pretrained, &point.scratch] {
            let score = arm.scores["rouge_l"];
            assert!(
                score.low <= score.value && score.value <= score.high,
                "{score:?}"
            );
            assert_eq!((arm.seeds.len(), arm.best_steps.len()), (2, 2));
            // Two seeds' answers pooled: their mean, since each answered as many examples.
            let mean = arm.seeds.iter().sum::<f64>() / 2.0;
            assert!((mean - score.value).abs() < 1e-12, "{mean} {score:?}");
            assert!([0.5, 1.0].contains(&arm.rate));
        }
        let lead = point.pretrained.scores["rouge_l"].value - point.scratch.scores["rouge_l"].value;
        assert!((point.differences["rouge_l"].value - lead).abs() < 1e-12);
    }
    // By the main metric as by the others; how much a model repeats itself is no measure of what it learnt.
    for (name, ratio) in &whole.data_ratios {
        let [fewest, all] = [0, 1].map(|at| whole.points[at].scratch.scores[name].value);
        let metric = TaskMetric::parse(name).expect("known");
        assert_eq!(
            metric.higher_is_better(),
            all > fewest,
            "{name}: it learnt from more"
        );
        assert!(
            ratio.low <= ratio.value && ratio.value <= ratio.high,
            "{name}"
        );
    }
    assert!(!whole.data_ratios.contains_key("repetition_4"));
    let main = whole.data_ratios.get(&whole.metric);
    assert_eq!(whole.data_ratio.as_ref(), main);
    let train = whole.points[1].examples;
    assert_eq!(
        whole.points[0].examples,
        (train as f64 * 0.2).round() as usize
    );
    // Two shares and two seeds, and the rate that was not chosen; then the variant's two rates beside.
    let compute = whole.compute;
    assert_eq!((compute.scratch.runs, compute.finetunings.runs), (5, 7));
    assert_eq!(compute.pretraining.map(|cost| cost.runs), Some(1));
    assert!(compute.finetuning.flops > 0.0);
    assert_eq!(whole.variants.len(), 2);
    assert!(whole.general_before.is_some_and(|bits| bits > 0.0));
    assert!(
        whole
            .variants
            .iter()
            .all(|variant| variant.general.is_some())
    );
    let runs = said.iter().filter(|line| line.starts_with('[')).count();
    assert_eq!(runs, 12, "{said:#?}");
    assert!(
        said.iter().any(|line| line.starts_with("[12/12] mixed")),
        "{said:#?}"
    );
    // No weights stay but the base model's.
    for entry in fs::read_dir(place.0.join("whole/runs")).expect("runs") {
        let run = entry.expect("a run").path();
        for name in ["checkpoints", "model"] {
            assert!(!run.join(name).exists(), "{}", run.join(name).display());
        }
    }

    // Stopped after its third run, and gone on with.
    let context = place.context("halves");
    let ask = context.interrupt.clone();
    let ended = transfer(&plan, &context, None, &mut |line| {
        if line.starts_with("[3/") {
            ask.ask();
        }
    });
    assert!(matches!(ended.expect("stops"), Transferred::Interrupted));
    let (halves, said) = place.run("halves", &plan);
    let runs = said.iter().filter(|line| line.starts_with('[')).count();
    assert_eq!(runs, 10, "two were finished: {said:#?}");
    let found = |summary: &TransferSummary| {
        let mut json = serde_json::to_value(summary).expect("plain data");
        forget_times(&mut json);
        json
    };
    assert_eq!(found(&whole), found(&halves));

    // Nothing is left to do the third time.
    let (_, said) = place.run("halves", &plan);
    assert!(!said.iter().any(|line| line.starts_with('[')), "{said:#?}");

    // Without what it hangs on, its runs are not set beside new ones.
    let file = place.0.join("halves/experiment.json");
    let kept = fs::read(&file).expect("it was begun");
    fs::remove_file(&file).expect("removes");
    let ended = transfer(&plan, &place.context("halves"), None, &mut |_| {});
    let told = format!("{:#}", ended.expect_err("nobody knows"));
    assert!(
        told.contains("experiment.json: is missing") && told.contains("bring it back"),
        "{told}"
    );
    fs::write(&file, kept).expect("writes");

    // An experiment that was made before its folders were marked goes on as well.
    fs::remove_file(place.0.join("halves/.transfer")).expect("removes");
    place.run("halves", &plan);

    // Another experiment in the same folder is refused, by the key that differs.
    let mut other = plan.clone();
    other.finetune.train.batch_rows = 5;
    let error =
        transfer(&other, &place.context("halves"), None, &mut |_| {}).expect_err("another recipe");
    assert!(
        format!("{error:#}").contains("train.batch_rows"),
        "{error:#}"
    );
}

/// Seconds differ from run to run.
fn forget_times(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|key, _| key != "seconds");
            fields.values_mut().for_each(forget_times);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

#[test]
fn impossible_experiments_are_refused_by_name() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let text = "[transfer]\nfinetune = \"tiny\"\n";
    for (setting, says) in [
        ("transfer.shares=[]", "transfer.shares"),
        ("transfer.shares=[0.1, 2.0]", "up to 1"),
        ("transfer.shares=[1.0, 0.1]", "rising"),
        ("transfer.tune_at=[0.2]", "none of transfer.shares"),
        ("transfer.rates=[0.0]", "transfer.rates"),
        ("transfer.seeds=[1, 1]", "transfer.seeds"),
        ("transfer.metrics=[]", "transfer.metrics"),
    ] {
        let parsed = source(text).parse::<TransferRecipe>(&[setting.to_owned()]);
        let error = parsed.expect_err(setting).to_string();
        assert!(error.contains(says), "{setting}: {error}");
    }
    let refused = |plan: &Transfer| {
        let ended = transfer(plan, &place.context("refused"), None, &mut |_| {});
        format!("{:#}", ended.expect_err("is refused"))
    };
    let mine = place.0.join("refused");
    fs::create_dir(&mine).expect("makes");
    fs::write(mine.join("examples.jsonl"), "years of work").expect("writes");
    fs::write(mine.join("experiment.json"), "{\"mine\": 1}").expect("writes");
    let message = refused(&place.plan(&[]));
    assert!(message.contains("is no folder of a transfer"), "{message}");
    assert_eq!(fs::read_dir(&mine).expect("is there").count(), 2);
    assert!(!place.0.join("base").exists(), "nothing was trained");
    fs::remove_dir_all(&mine).expect("removes");

    let mut plan = place.plan(&[]);
    plan.scratch.task.source = "wiki-description".to_owned();
    assert!(refused(&plan).contains("two tasks"));
    let mut plan = place.plan(&[]);
    plan.settings.shares = vec![0.001];
    plan.settings.tune_at = vec![0.001];
    let message = refused(&plan);
    assert!(message.contains("no example of the"), "{message}");
    let mut plan = place.plan(&[]);
    plan.settings.general = Some("nowhere".to_owned());
    assert!(refused(&plan).contains("nowhere"));
}
