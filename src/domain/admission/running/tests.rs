use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::{
    admission::tests::{history, live, object, pinned, workload},
    ledger::tests::digest,
};

/// Something that a watch shows.
#[derive(Clone, Debug)]
enum Seen {
    Pod(u8, Option<Vec<u8>>),
    Workload(u8, Option<(Vec<u8>, Option<u8>, u32, bool)>),
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let images = prop::collection::vec(1u8..4, 0..3);
    let shown = prop::option::of((
        prop::collection::vec(1u8..4, 1..3),
        prop::option::of(1u8..4),
        0u32..2,
        any::<bool>(),
    ));
    prop_oneof![
        (0u8..4, prop::option::of(images)).prop_map(|(name, images)| Seen::Pod(name, images)),
        (0u8..4, shown).prop_map(|(name, shown)| Seen::Workload(name, shown)),
    ]
}

fn show(running: &mut Running, seen: &Seen) {
    match seen {
        Seen::Pod(name, images) => {
            let images = images.as_ref().map(|images| {
                let texts: Vec<(String, String)> = images
                    .iter()
                    .enumerate()
                    .map(|(index, n)| (format!("containers/c{index}"), pinned(*n)))
                    .collect();
                let texts: Vec<(&str, &str)> =
                    texts.iter().map(|(place, image)| (place.as_str(), image.as_str())).collect();
                object("Pod", &texts)
            });
            running.see_pod("shop", &format!("p{name}"), images.as_ref());
        }
        Seen::Workload(name, None) => {
            running.see_workload(&workload(&format!("w{name}")), None, None, false);
        }
        Seen::Workload(name, Some((releases, template, replicas, stays))) => {
            let releases: Vec<String> = releases.iter().map(|n| pinned(*n)).collect();
            let releases: Vec<[(&str, &str); 1]> =
                releases.iter().map(|image| [("containers/c0", image.as_str())]).collect();
            let releases: Vec<&[(&str, &str)]> = releases.iter().map(<[_; 1]>::as_slice).collect();
            let template = template.map(pinned);
            let live = template.map(|image| live(&[("containers/c0", &image)], *replicas));
            running.see_workload(
                &workload(&format!("w{name}")),
                Some(&history(&releases)),
                live.as_ref(),
                *stays,
            );
        }
    }
}

proptest! {
    /// An index that drifts lets in what no longer runs, or keeps out what does, until a restart.
    #[test]
    fn what_is_kept_is_what_was_seen_last_however_it_came_about(all in prop::collection::vec(any_seen(), 0..30)) {
        let mut kept = Running::default();
        let mut last: BTreeMap<(bool, u8), &Seen> = BTreeMap::new();
        for seen in &all {
            show(&mut kept, seen);
            let key = match seen {
                Seen::Pod(name, _) => (true, *name),
                Seen::Workload(name, _) => (false, *name),
            };
            last.insert(key, seen);
        }
        let mut anew = Running::default();
        for seen in last.values() {
            show(&mut anew, seen);
        }
        prop_assert_eq!(format!("{kept:?}"), format!("{anew:?}"));
        for key in last.keys() {
            let gone = if key.0 { Seen::Pod(key.1, None) } else { Seen::Workload(key.1, None) };
            show(&mut kept, &gone);
        }
        prop_assert!(kept.areas.is_empty(), "nothing is left of what is gone");
    }
}

#[test]
fn a_digest_runs_as_long_as_a_pod_that_has_not_ended_names_it() {
    let mut running = Running::default();
    let mut pod = object(
        "Pod",
        &[("containers/app", &pinned(1)), ("ephemeralContainers/debug", &pinned(2)), ("containers/x", "x:1")],
    );
    running.see_pod("shop", "p", Some(&pod));
    running.see_pod("shop", "q", Some(&pod));
    assert!(running.runs("shop", &digest(1)) && running.runs("shop", &digest(2)));
    assert!(!running.runs("shop", &digest(3)) && !running.runs("bank", &digest(1)));
    running.see_pod("shop", "q", None);
    assert!(running.runs("shop", &digest(1)));
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    running.see_pod("shop", "p", Some(&pod));
    assert!(running.runs("shop", &digest(1)), "it is ending, and its successor may come before it is gone");
    pod["status"] = json!({"phase": "Failed"});
    running.see_pod("shop", "p", Some(&pod));
    assert!(!running.runs("shop", &digest(1)));
    assert!(running.areas.is_empty());
}

/// A CronJob has no pods between its runs: it is to have some as long as it is not suspended.
#[test]
fn a_suspended_cron_job_is_to_have_no_pods() {
    let id = WorkloadId {
        kind: crate::domain::workload::Kind::find("batch/v1", "CronJob").unwrap(),
        ..workload("nightly")
    };
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1))];
    let mut running = Running::default();
    let mut runs = |suspend: bool| {
        let mut job = object("CronJob", app);
        job["spec"]["suspend"] = suspend.into();
        let live = Live { object: job.into(), ..live(app, 1) };
        running.see_workload(&id, Some(&history(&[app])), Some(&live), false);
        running.is_of_what_runs("shop", &[Name::of(&pinned(1).parse().unwrap())])
    };
    assert!(runs(false) && !runs(true));
}
