//! The story: approve, roll out, revoke, hold, forward again.

use std::{path::PathBuf, sync::atomic::Ordering, time::Instant};

use anyhow::{Context as _, ensure};
use countersign::{
    api::{ApprovedImage, release_history::Outcome, release_history::RollbackOutcome},
    domain::manifest,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    TOLD,
    repository::{APPROVAL_1_2, Commit, WORKLOADS as FILES},
    screen::{Ink, Screen},
    stage::{ROOT, Stage},
    table::{self, Row, Times, WORKLOADS},
};

/// Tells it all; with `keep`, waits at the end without end.
pub async fn tell(keep: bool, operator: Option<PathBuf>) -> anyhow::Result<()> {
    let screen = Screen::new();
    println!("{}", screen.ink(Ink::Title, "Countersign: quick start"));
    screen.say("A real Kubernetes control plane and the real operator, on this machine. Only the");
    screen.say("kubelets are played, by kwok: no container runs, and no registry is asked.");
    println!();
    let stage = Stage::set(operator, &screen).await?;
    let mut story = Story { stage, screen, measured: Vec::new() };
    story.approve().await?;
    story.roll_out().await?;
    story.revoke().await?;
    story.force().await?;
    story.forward().await?;
    story.sum_up().await?;
    if keep {
        story.play();
        TOLD.store(true, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
    Ok(())
}

struct Story {
    stage: Stage,
    screen: Screen,
    /// What was waited for, and how long it took the slowest workload to be set and to be done.
    measured: Vec<(&'static str, f64, f64)>,
}

impl Story {
    async fn approve(&mut self) -> anyhow::Result<()> {
        self.screen.title(1, "Approve 1.0 and 1.1, and run 1.0");
        let (commit, since) = self.commit("Approve cart 1.0 and 1.1, run 1.0")?;
        self.stage.follow().await?;
        self.screen.say("A GitSource makes the operator follow this repository. The manifests say");
        self.screen.say("cart:1.0; what is set is the digest that stands approved for it.");
        let good = |row: &Row| row.reason == "Permitted" && row.outcome == Some(Outcome::Good);
        // A CronJob proves nothing before a Job of it succeeded.
        self.stage.applied(&commit).await?;
        self.run_cron_job_now().await?;
        self.watch("everything runs 1.0, proven good", "1.0 pinned, running, proven good", since, "1.0", good)
            .await
    }

    async fn roll_out(&mut self) -> anyhow::Result<()> {
        self.screen.title(2, "Roll out 1.1");
        self.stage.repository.ask_for("1.1")?;
        let (_, since) = self.commit("Run cart 1.1 everywhere")?;
        let good = |row: &Row| row.reason == "Permitted";
        self.watch("everything runs 1.1", "1.1 rolled out", since, "1.1", good).await
    }

    async fn revoke(&mut self) -> anyhow::Result<()> {
        self.screen.title(3, "Revoke 1.1: the manifests still ask for it");
        let revocation = "  revocation: {reason: CVE-2026-0001, severity: Critical}\n";
        self.stage.repository.append("approvals/cart-1.1.yaml", revocation)?;
        let (_, since) = self.commit("Revoke cart 1.1: CVE-2026-0001")?;
        let good = |row: &Row| {
            let arrived = row.outcome == Some(Outcome::Good) && row.rollback != Some(RollbackOutcome::Failed);
            row.reason == "Held" && row.rollback.is_some() && arrived
        };
        self.watch("everything is back at 1.0 and held", "revoked: back at 1.0, held", since, "1.0", good)
            .await?;
        for workload in [WORKLOADS[0], WORKLOADS[3]] {
            let row = table::look(&self.stage.client, workload).await?;
            self.screen.dim(&format!("{}/{}: {}", workload.namespace, workload.name, row.message));
        }
        Ok(())
    }

    /// What `kubectl apply --server-side --force-conflicts` does with the manifests as they stand in git.
    async fn force(&mut self) -> anyhow::Result<()> {
        self.screen.title(4, "Somebody applies the manifests by force: 1.1 again");
        let since = Instant::now();
        for (workload, path) in WORKLOADS.into_iter().zip(FILES) {
            let text = self.stage.repository.read(path)?;
            let parsed = manifest::parse(path, text.as_bytes(), &manifest::Limits::default());
            let object = parsed.objects.first().with_context(|| format!("{path} holds no object"))?;
            let api = workload.api(&self.stage.client);
            let params = PatchParams::apply("kubectl").force();
            let answer = api.patch(workload.name, &params, &Patch::Apply(object.value())).await?;
            let image = table::image_of(workload, &answer)?.unwrap_or_default();
            ensure!(image.ends_with(":1.1"), "the API server answered with {image} instead of 1.1");
            let (set, manager) = (table::short(&image), "field manager kubectl, forced");
            self.screen.say(&format!("server-side apply of {path:<17}  now {set}  ({manager})"));
        }
        let good = |row: &Row| row.reason == "Held";
        self.watch("everything is put back to 1.0", "forced to 1.1: put back to 1.0", since, "1.0", good)
            .await
    }

    async fn forward(&mut self) -> anyhow::Result<()> {
        self.screen.title(5, "Approve 1.2 and run it");
        self.stage.repository.write("approvals/cart-1.2.yaml", APPROVAL_1_2)?;
        self.stage.repository.ask_for("1.2")?;
        let (commit, since) = self.commit("Approve cart 1.2 and run it everywhere")?;
        let good = |row: &Row| row.reason == "Permitted";
        self.watch("everything runs 1.2", "1.2 approved and rolled out", since, "1.2", good).await?;
        self.stage.applied(&commit).await
    }

    async fn sum_up(&mut self) -> anyhow::Result<()> {
        println!("\n{}", self.screen.ink(Ink::Title, "What happened"));
        self.screen
            .dim(&format!("{:<34}  {:>10}  {:>10}", "slowest of 4 workloads", "image set", "all done"));
        for (what, set, done) in &self.measured {
            self.screen.say(&format!("{what:<34}  {set:>8.1} s  {done:>8.1} s"));
        }
        let (stage, screen) = (&self.stage, &self.screen);
        // Events are written after the deeds.
        let events = stage
            .expect("the events of the rollbacks", async || {
                let events = stage.events().await?;
                let back =
                    events.iter().find(|(reason, _)| reason == "RolledBack").map_or(0, |(_, count)| *count);
                ensure!(back == WORKLOADS.len(), "{events:?}");
                Ok(events)
            })
            .await?;
        let events: Vec<String> = events.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        screen.say(&format!("Events: {}", events.join(", ")));
        screen.dim("Times count from the commit (in 4: from the first apply), as seen from outside");
        screen.dim("every 0.1 s; the operator looks at the repository every second. Done: all pods");
        screen.dim("are ready with the image, and the state is recorded.");
        println!();
        screen.say("Next: cargo run --example quickstart -- --keep   to play with it");
        screen.say("      README.md                                  concepts, guides, reference");
        Ok(())
    }

    fn play(&self) {
        let screen = &self.screen;
        let kubeconfig = self.stage.plane.kubeconfig_path();
        let repository = self.stage.repository.directory();
        println!(
            "\n{}",
            screen.ink(Ink::Title, "Everything is left running until Ctrl-C. In another terminal:")
        );
        screen.say(&format!("export KUBECONFIG={}", kubeconfig.display()));
        screen.say(&format!("cd {}", repository.display()));
        println!();
        screen.say("a. What runs, what it may go back to, and why:");
        screen.say("   kubectl get releasehistories -A");
        screen.say("b. Revoke 1.2 as well, and look where everything goes (1.1 stays revoked):");
        screen.say("   echo '  revocation: {reason: CVE-2026-0002}' >> approvals/cart-1.2.yaml");
        screen.say("   git commit -qam 'Revoke cart 1.2' && sleep 3 && kubectl get releasehistories -A");
        screen.say("c. Ask for an image that nobody approved; what stands against it is said:");
        screen.say("   sed -i 's/cart:1.*/cart:9.9/' shop/cart.yaml && git commit -qam 'Run 9.9' && sleep 3");
        screen.say("   kubectl -n countersign-system get releasehistories -o \\");
        screen.say("     jsonpath='{.items[*].status.conditions[?(@.type==\"Permitted\")].message}'");
        println!();
        let log = self.stage.plane.directory().join("countersign.log");
        screen.dim(&format!("The operator's log: {}", log.display()));
        if let Some(address) = self.stage.operator_address() {
            screen.dim(&format!("Its metrics: http://{address}/metrics"));
        }
    }

    fn commit(&self, message: &str) -> anyhow::Result<(Commit, Instant)> {
        let commit = self.stage.repository.commit(message)?;
        let since = Instant::now();
        let id = commit.id.get(..7).unwrap_or(&commit.id);
        self.screen.say(&format!("git commit {id}  {message}"));
        for line in &commit.diff {
            let ink = match line.trim_start().chars().next() {
                Some('+') => Ink::Good,
                Some('-') => Ink::Bad,
                _ => Ink::Dim,
            };
            println!("     {}", self.screen.ink(ink, line));
        }
        Ok((commit, since))
    }

    async fn watch(
        &mut self,
        what: &str,
        title: &'static str,
        since: Instant,
        version: &str,
        good: impl Fn(&Row) -> bool,
    ) -> anyhow::Result<()> {
        let image = self.pinned(version).await?;
        let times = self.stage.watch(&mut self.screen, what, since, &image, good).await?;
        let slowest = |of: fn(&Times) -> Option<f64>| times.iter().filter_map(of).fold(0.0, f64::max);
        self.measured.push((title, slowest(|times| times.set), slowest(|times| times.done)));
        Ok(())
    }

    /// The image as it is pinned, as the approval in the cluster says it.
    async fn pinned(&self, version: &str) -> anyhow::Result<String> {
        let approvals: Api<ApprovedImage> = Api::namespaced(self.stage.client.clone(), ROOT);
        let name = format!("cart-{version}");
        self.stage
            .expect(&format!("the approval {name} is in the cluster"), async || {
                let spec = approvals.get(&name).await?.spec;
                Ok(format!("{}:{version}@{}", spec.image, spec.digest))
            })
            .await
    }

    /// What `kubectl create job --from=cronjob/report` does: its hour is far.
    async fn run_cron_job_now(&self) -> anyhow::Result<()> {
        let client = &self.stage.client;
        let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), "edge");
        let cron_job = self
            .stage
            .expect("the CronJob report is there", async || Ok(cron_jobs.get("report").await?))
            .await?;
        let owner = cron_job.controller_owner_ref(&()).context("a CronJob has a name and a UID")?;
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "report-now", "ownerReferences": [owner]},
            "spec": cron_job.spec.and_then(|spec| spec.job_template.spec),
        }))?;
        let jobs: Api<Job> = Api::namespaced(client.clone(), "edge");
        jobs.create(&PostParams::default(), &job).await.context("create the job report-now")?;
        self.screen.say("A Job of the CronJob is run now, so that its release proves itself, too.");
        Ok(())
    }
}
