//! Ways past admission, looked for at random: valid objects are bent in structure and in text and sent to a real API server
//! that asks the real operator. Whatever it accepts is read as a kubelet would read it.

mod bend;
mod dice;
mod read;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use self::{
    bend::{Bender, Bent},
    dice::Dice,
    read::Approvals,
};
use crate::{
    admission_away::Row,
    admission_matrix::{Verb, rows},
    controlplane::eventually,
    support::{
        manifests::{at, with},
        raw::{Answer, Outcome, Raw, Request, images_in, images_of},
        scene::{SOON, Scene},
    },
};

/// What is drawn when nobody asks for something else by `COUNTERSIGN_FUZZ_SEED`.
const SEED: u64 = 0x5eed;
const REQUESTS: u64 = 4000;
/// How many requests are on their way.
const AT_ONCE: usize = 16;

/// Which objects are there to be changed.
const BASES: [(&str, &str); 4] =
    [("Pod", "base"), ("Pod", "stale"), ("Deployment", "base"), ("Rollout", "base")];

struct Fuzz {
    scene: Scene,
    raw: Raw,
    approvals: Approvals,
    bender: Bender,
    /// By kind and name.
    bases: BTreeMap<(&'static str, &'static str), Value>,
}

/// One thing that is asked for.
struct Case {
    row: &'static Row,
    verb: Verb,
    /// The object that is changed.
    base: Option<(&'static str, &'static str)>,
    /// Of what was done to it.
    bent: Bent,
    request: Request,
}

impl Fuzz {
    async fn new() -> Self {
        let scene = Scene::guarded("fuzz").await;
        let hub = format!("docker.io/library/{}", scene.namespace);
        scene.file_approvals([0, 1, 3]);
        scene.file_revocation(2, "CVE-2026-0001");
        scene.put(
            "approvals/hub.yaml",
            &with(
                scene.approval_with(4, json!({"image": hub})),
                json!({"metadata": {"name": format!("{}-hub", scene.namespace)}}),
            ),
        );
        scene.push("approve").await;
        let known = [scene.pin(0), scene.pin(1), scene.pin(3), format!("{hub}@{}", scene.digest(4))];
        for image in &known {
            eventually("it is approved", SOON, async || {
                let object = scene.pod("probe", image);
                scene.any("Pod").create(&crate::support::guarded::dry_run(), &object).await?;
                Ok(())
            })
            .await;
        }
        let raw = Raw::new(scene.client.clone());
        let mut bases = BTreeMap::new();
        let bender = Bender::new(&scene, &hub);
        for (kind, name) in BASES {
            let row = rows().find(|row| row.kind == kind).unwrap();
            // What is not approved any more, and stays where it is.
            let image = if name == "stale" { scene.pin(3) } else { scene.pin(0) };
            let mut object = row.full(name, &image, None);
            object["metadata"]["annotations"] = json!({"evil": bender.evil()});
            bases.insert((kind, name), create(&raw, &scene, row, &object).await);
        }
        scene.remove("approvals/3.yaml");
        scene.push("withdraw").await;
        eventually("it is not approved any more", SOON, async || {
            let object = scene.pod("probe", &scene.pin(3));
            let answer = scene.any("Pod").create(&crate::support::guarded::dry_run(), &object).await;
            ensure!(answer.is_err(), "it is let in");
            Ok(())
        })
        .await;
        let approvals = Approvals {
            images: BTreeSet::from([
                (scene.image(), scene.digest(0)),
                (scene.image(), scene.digest(1)),
                (hub.clone(), scene.digest(4)),
            ]),
            tags: BTreeSet::from([
                (scene.image(), "1.0".to_owned()),
                (scene.image(), "1.1".to_owned()),
                (hub, "1.4".to_owned()),
            ]),
        };
        Self { scene, raw, approvals, bender, bases }
    }

    /// The case of a number: the same each time.
    fn case(&self, number: u64) -> Case {
        let mut dice = Dice::new(seed() ^ (number << 20));
        let kind = *dice.weighted(&[(70, "Pod"), (18, "Deployment"), (12, "Rollout")]);
        let row = rows().find(|row| row.kind == kind).unwrap();
        let verbs = [
            (38, Verb::Create),
            (10, Verb::ApplyNew),
            (10, Verb::Put),
            (10, Verb::Merge),
            (14, Verb::Strategic),
            (12, Verb::Json),
            (6, Verb::Apply),
        ];
        let verb = *dice.weighted(&verbs);
        let name = if verb.is_new() {
            "fuzz"
        } else if row.is_pod() && dice.chance(30) {
            "stale"
        } else {
            "base"
        };
        let base = self.bases.get_key_value(&(kind, name)).map(|(key, _)| *key);
        let part = match (kind, verb.is_new()) {
            (_, true) => "",
            ("Pod", _) => {
                *dice.weighted(&[(50, ""), (30, "/ephemeralcontainers"), (12, "/resize"), (8, "/status")])
            }
            _ => *dice.weighted(&[(90, ""), (10, "/status")]),
        };
        let live = base.and_then(|key| self.bases.get(&key));
        let bent = self.bender.bent(&mut dice, row, verb, name, part, live);
        let at = if verb == Verb::Create { String::new() } else { format!("/{name}{part}") };
        let validation =
            dice.weighted(&[(80, ""), (15, "&fieldValidation=Ignore"), (5, "&fieldValidation=Strict")]);
        let force = if bent.content_type.contains("apply") { "&force=true&fieldManager=fuzz" } else { "" };
        let request = Request {
            method: verb.method(),
            path: row.path(&self.scene.namespace, &format!("{at}?dryRun=All{force}{validation}")),
            content_type: bent.content_type,
            body: bent.body.clone(),
        };
        Case { row, verb, base, bent, request }
    }

    /// The images that an accepted object names and may not.
    fn wrong(&self, case: &Case, object: &Value) -> Vec<String> {
        let before = case.base.map(|key| named(case.row, &self.bases[&key])).unwrap_or_default();
        let is_wrong = |place: &(String, String, String)| {
            let stays = before.contains(place);
            !stays && !self.approvals.permit(&place.2, case.row.is_pod())
        };
        let wrong = named(case.row, object).into_iter().filter(is_wrong);
        wrong.map(|(list, name, image)| format!("{list}[{name}]: {image:?}")).collect()
    }
}

/// The images of an object. A custom kind may hold anything anywhere; what it runs stands in its template.
fn named(row: &Row, object: &Value) -> Vec<(String, String, String)> {
    if row.is_custom() { images_of(at(object, row.spec)) } else { images_in(object) }
}

async fn create(raw: &Raw, scene: &Scene, row: &Row, object: &Value) -> Value {
    let path = row.path(&scene.namespace, "");
    let body = object.to_string().into_bytes();
    let answer = raw.send(&Request { method: "POST", path, content_type: "application/json", body }).await;
    assert_eq!(answer.code, 201, "{}", answer.text());
    if !row.is_pod() {
        return answer.body;
    }
    let name = object["metadata"]["name"].as_str().unwrap();
    eventually("the pod runs", SOON, async || {
        let live = raw.get(row.path(&scene.namespace, &format!("/{name}"))).await;
        ensure!(live["status"]["phase"] == "Running", "{}", live["status"]);
        Ok(live)
    })
    .await
}

fn seed() -> u64 {
    std::env::var("COUNTERSIGN_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED)
}

/// If this fails, something starts that nobody approved.
#[tokio::test(flavor = "multi_thread")]
async fn however_an_object_is_bent_what_is_accepted_names_only_what_is_approved() {
    let fuzz = Fuzz::new().await;
    let mut counts: BTreeMap<String, BTreeMap<Outcome, u64>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let asked = stream::iter(0..REQUESTS).map(async |number| {
        let case = fuzz.case(number);
        let answer = match fuzz.raw.try_send(&case.request).await {
            Ok(answer) => answer,
            // Go panics in a strategic patch where names are lists; the API server goes on.
            Err(error) => {
                assert_eq!(case.verb, Verb::Strategic, "case {number}: {error}");
                Answer { code: 500, body: Value::Null, warnings: Vec::new() }
            }
        };
        (number, case, answer)
    });
    let mut answers = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
    while let Some((number, case, answer)) = answers.next().await {
        let outcome = answer.outcome();
        let mut count = |what: String| *counts.entry(what).or_default().entry(outcome).or_default() += 1;
        count("all".to_owned());
        count(format!("{} {:?}", case.row.kind, case.verb));
        for what in &case.bent.how {
            count((*what).to_owned());
        }
        let found = match outcome {
            Outcome::Accepted => fuzz.wrong(&case, &answer.body),
            Outcome::Unanswered => vec![answer.text().to_owned()],
            Outcome::Denied | Outcome::Refused => Vec::new(),
        };
        if !found.is_empty() {
            wrong.push(told(number, &case, &answer, &found));
        }
    }
    let table: Vec<String> = counts.iter().map(|(what, counts)| format!("{what}: {counts:?}")).collect();
    let table = table.join("\n");
    assert!(wrong.is_empty(), "{} ways past admission:\n{}\n{table}", wrong.len(), wrong.join("\n"));
    is_a_test(&counts, &table);
}

/// What a person needs to try it again.
fn told(number: u64, case: &Case, answer: &Answer, found: &[String]) -> String {
    let body = String::from_utf8_lossy(&case.bent.body);
    let Request { method, path, content_type, .. } = &case.request;
    format!(
        "case {number} of seed {}: {} {found:?}\n  {:?}\n  {method} {path} ({content_type})\n  {body}\n",
        seed(),
        answer.code,
        case.bent.how
    )
}

/// Enough of everything came to each end: else this tests nothing.
fn is_a_test(counts: &BTreeMap<String, BTreeMap<Outcome, u64>>, table: &str) {
    let of = |what: &str, outcome| counts.get(what).and_then(|of| of.get(&outcome)).copied().unwrap_or(0);
    let least = |what: &str, outcome, least: u64| {
        assert!(of(what, outcome) >= least, "too few of {what} were {outcome:?}:\n{table}");
    };
    for outcome in [Outcome::Accepted, Outcome::Denied, Outcome::Refused] {
        least("all", outcome, REQUESTS / 8);
    }
    for row in rows().filter(|row| BASES.iter().any(|(kind, _)| *kind == row.kind)) {
        for verb in Verb::ALL.into_iter().filter(|verb| !row.is_custom() || *verb != Verb::Strategic) {
            for outcome in [Outcome::Accepted, Outcome::Denied] {
                least(&format!("{} {verb:?}", row.kind), outcome, 2);
            }
        }
    }
    for what in bend::WAYS {
        assert!(counts.contains_key(what), "nothing was bent by {what}:\n{table}");
    }
}
