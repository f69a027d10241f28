//! The labels of the metrics and the closed sets of their values.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

/// A label and the closed set of its values. A set of values is a label set by itself; two of them, as a pair, are too.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident $key:literal { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl $name {
            /// All values, in reading order.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The value of the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
                ($key, self.as_str()).encode(encoder.encode_label())
            }
        }
    };
}

label! {
    /// How far a rollback has come.
    RollbackStage "stage" {
        /// The revocation is known here.
        Seen = "seen",
        /// It is decided what to do for a workload.
        Planned = "planned",
        /// The workload's pod template is changed.
        Patched = "patched",
        /// No pod of the workload runs the revoked digest any more.
        Completed = "completed",
    }
}
label! {
    /// What is done to an object.
    Action "action" {
        /// A wanted object is not there yet.
        Create = "create",
        /// A wanted object is applied whole.
        Apply = "apply",
        /// A digest is set.
        Pin = "pin",
        /// The last good release is set, because the present one is revoked.
        Rollback = "rollback",
        /// The present release is kept although something else is wanted.
        Hold = "hold",
        /// A held release, or a permitted image, is set again after somebody else changed it.
        PutBack = "put_back",
        /// A pod that a rollback left behind is evicted.
        Evict = "evict",
        /// A hold has ended.
        EndHold = "end_hold",
    }
}
label! {
    /// What became of a message that something was pushed.
    PushOutcome "outcome" {
        /// It shows the token of its source, which is looked at.
        Accepted = "accepted",
        /// It does not.
        Refused = "refused",
    }
}
label! {
    /// What the API server asks about a request.
    Webhook "webhook" {
        /// What of it is to be written otherwise.
        Mutate = "mutate",
        /// Whether it passes.
        Validate = "validate",
    }
}
label! {
    /// What it is answered.
    Review "answer" {
        /// It passes as it is.
        Allowed = "allowed",
        /// It passes with other images.
        Rewritten = "rewritten",
        /// It does not pass.
        Denied = "denied",
        /// It is not judged: too much is asked at once, it is too large, it comes too late, or there is a bug.
        Unanswered = "unanswered",
    }
}
label! {
    /// What one policy says of a request.
    Verdict "verdict" {
        /// It permits every image.
        Permitted = "permitted",
        /// It does not permit every image, but they belong to what runs.
        Runs = "runs",
        /// It does not permit every image.
        NotPermitted = "not_permitted",
    }
}
label! {
    /// Why a revoked image is let in.
    Alarm "why" {
        /// It runs, and its workload was not rolled back yet.
        NotRolledBackYet = "not_rolled_back_yet",
        /// Its workload stays as it is: there is nothing to go back to, or its policies say so.
        Stays = "stays",
    }
}
label! {
    /// What became of an action.
    ActionOutcome "outcome" {
        /// The cluster took it.
        Done = "done",
        /// The object was not what the plan expected: nothing was changed, the next round plans anew.
        Stale = "stale",
        /// The cluster refused it or did not answer.
        Failed = "failed",
    }
}
label! {
    /// What was found about a workload.
    WorkloadState "state" {
        /// All its images are permitted.
        Permitted = "permitted",
        /// A release of it is held.
        Held = "held",
        /// An image of it is not permitted, and nothing moves.
        NotPermitted = "not_permitted",
        /// An image of it is revoked and there is no release to go back to: a person must look.
        NoSafeRelease = "no_safe_release",
        /// No policy matches its images.
        Ungoverned = "ungoverned",
        /// All is well, but there is nothing to go back to if its release is revoked.
        NoFallback = "no_fallback",
        /// Its history cannot be read, and nothing of it moves: a person must look.
        Unreadable = "unreadable",
    }
}
label! {
    /// What was found about what belongs to no workload.
    BareState "state" {
        /// All its images are permitted.
        Permitted = "permitted",
        /// An image of it is not permitted.
        NotPermitted = "not_permitted",
        /// An image of it is revoked.
        Revoked = "revoked",
    }
}
label! {
    /// What the ledger says of an approved image.
    Standing "standing" {
        /// In force.
        Approved = "approved",
        /// Revoked, for good.
        Revoked = "revoked",
        /// Past its end.
        Expired = "expired",
        /// Listed, but not in force: from the future, not countersigned as asked, or from a namespace that does not count.
        Unlisted = "unlisted",
    }
}
label! {
    /// What a policy does with its verdicts.
    Mode "mode" {
        /// Pins, moves and denies.
        Enforce = "enforce",
        /// Warns those who write.
        Warn = "warn",
        /// Only reports.
        Audit = "audit",
    }
}
label! {
    /// A kind of our own.
    Kind "kind" {
        /// `ImagePolicy`
        ImagePolicy = "ImagePolicy",
        /// `ApprovedImage`
        ApprovedImage = "ApprovedImage",
        /// `GitSource`
        GitSource = "GitSource",
        /// `ReleaseHistory`
        ReleaseHistory = "ReleaseHistory",
    }
}
label! {
    /// A kind that can be suspended.
    Suspendable "kind" {
        /// `ImagePolicy`
        ImagePolicy = "ImagePolicy",
        /// `GitSource`
        GitSource = "GitSource",
    }
}
label! {
    /// What became of a sync of a source.
    SyncOutcome "outcome" {
        /// A new commit is applied.
        Applied = "applied",
        /// There was nothing new.
        Unchanged = "unchanged",
        /// The new commit waits for a person.
        HeldBack = "held_back",
        /// It did not work.
        Failed = "failed",
    }
}
label! {
    /// How a source is doing.
    SourceState "state" {
        /// Its last sync worked.
        Ready = "ready",
        /// A commit of it waits for a person.
        HeldBack = "held_back",
        /// Its last sync failed.
        Failing = "failing",
        /// Its spec says so.
        Suspended = "suspended",
    }
}
label! {
    /// One of the loops.
    Controller "controller" {
        /// Approved images.
        Approval = "approval",
        /// Policies.
        Policy = "policy",
        /// Git sources.
        Source = "source",
        /// Workloads.
        Workload = "workload",
        /// Release histories.
        History = "history",
    }
}
label! {
    /// A step of a loop, where it can fail. Deciding cannot.
    Stage "stage" {
        /// Reading the world.
        Observe = "observe",
        /// Making domain values of it.
        Interpret = "interpret",
        /// Changing the cluster.
        Act = "act",
        /// Writing down what was done.
        Record = "record",
        /// Writing status and events.
        Report = "report",
    }
}
label! {
    /// What somebody else did to a webhook configuration.
    Meddling "cause" {
        /// Changed it.
        Changed = "changed",
        /// Deleted it.
        Deleted = "deleted",
    }
}
label! {
    /// What became of a write.
    WriteOutcome "outcome" {
        /// Written.
        Done = "done",
        /// Somebody was faster: written again later.
        Stale = "stale",
        /// Refused, or no answer.
        Failed = "failed",
    }
}
