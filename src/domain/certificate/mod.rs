//! When the webhook's certificate is replaced, so that at every moment one is served that every client trusts.
//!
//! Each certificate has an authority of its own, which signed nothing else and whose key is gone. What clients trust, the
//! bundle, is therefore changed with each replacement, always before it and again long after it:
//!
//! ```text
//!   served      ──── old ────────────────────────┬──── new ───────────────────
//!   bundle      ── old ──┬── old, new ────────────────────────┬──── new ──────
//!                     prepare  ··· trusted ··· switch ··· forget
//! ```

use jiff::{SignedDuration, Timestamp};

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its first moment.
    pub begins: Timestamp,
    /// Its last moment.
    pub ends: Timestamp,
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a certificate is good for. The last third is for replacing it.
    pub life: SignedDuration,
    /// How long every bundle must have held a new authority until its certificate is served: API servers hear of a changed
    /// bundle a moment after it was stored.
    pub settle: SignedDuration,
    /// How long an authority stays in the bundle after its certificate is served no more: replicas hear of that a moment later.
    pub overlap: SignedDuration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            life: SignedDuration::from_hours(180 * 24),
            settle: SignedDuration::from_mins(10),
            overlap: SignedDuration::from_hours(1),
        }
    }
}

/// How long before it is made a certificate is valid already. A machine whose clock is ahead would make one, else, that others
/// refuse.
const BACKDATED: SignedDuration = SignedDuration::from_hours(365 * 24);

impl Terms {
    /// The life of a certificate that is made now.
    pub fn life_from(&self, now: Timestamp) -> Life {
        let begins = now.checked_sub(BACKDATED).unwrap_or(Timestamp::MIN);
        let ends = now.checked_add(self.life).unwrap_or(Timestamp::MAX);
        Life { begins, ends }
    }

    /// Whether it is time to replace a certificate.
    fn is_worn(&self, life: Life, now: Timestamp) -> bool {
        life.ends.duration_since(now) < self.life / 3
    }
}

impl Life {
    fn includes(self, now: Timestamp) -> bool {
        self.begins <= now && now < self.ends
    }
}

/// What is known of a certificate and its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// When it is valid.
    pub life: Life,
    /// Whether who trusts the authority accepts the certificate for all names that are called.
    pub fits: bool,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// The pair that is served.
    pub current: Option<Pair>,
    /// Whether the current pair is stored, or only remembered: somebody removed or broke what was stored.
    pub stored: bool,
    /// The pair that will be served.
    pub next: Option<Pair>,
    /// Since when the authority that is still in the bundle, beside those of the pairs, is used no more.
    pub former_since: Option<Timestamp>,
}

/// What this process has to do with the bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Others write them: nothing is changed but what nobody could use.
    Looks,
    /// It writes them. For how long every one has held the next pair's authority, if every one does.
    Registers(Option<SignedDuration>),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Make a pair and serve it at once: there is none that could be served meanwhile.
    Begin,
    /// Make the next pair, and keep the current one: its authority enters the bundle.
    Prepare,
    /// Serve the next pair; the authority of the current one stays in the bundle.
    Switch,
    /// Take the former authority out of the bundle.
    Forget,
}

/// The next step. After each, what there is then is looked at anew.
pub fn step(stock: &Stock, role: Role, terms: &Terms, now: Timestamp) -> Step {
    let usable = |pair: &Pair| pair.life.includes(now);
    let Some(current) = stock.current.filter(usable) else {
        // A next pair is in some bundles at least.
        let next = stock.next.filter(|next| usable(next) && next.fits);
        return if next.is_some() { Step::Switch } else { Step::Begin };
    };
    if !stock.stored {
        // Whoever removed it wants another one, and nobody is to notice.
        return Step::Prepare;
    }
    let Role::Registers(trusted) = role else { return Step::Keep };
    // One that does not fit is refused by those who trust it: there is nothing to wait for.
    let settle = if current.fits { terms.settle } else { SignedDuration::ZERO };
    match stock.next {
        Some(next) if !usable(&next) || !next.fits || terms.is_worn(next.life, now) => Step::Prepare,
        Some(_) if trusted.is_some_and(|trusted| trusted >= settle) => Step::Switch,
        None if !current.fits || terms.is_worn(current.life, now) => Step::Prepare,
        Some(_) | None => {
            let since = stock.former_since.map(|since| now.duration_since(since));
            if since.is_some_and(|since| since >= terms.overlap) { Step::Forget } else { Step::Keep }
        }
    }
}

/// Whether every bundle holds an authority; all are PEM. Where nobody is called, nobody must trust.
pub fn all_hold(bundles: &[String], authority: &str) -> bool {
    let wanted = blocks(authority);
    bundles.iter().all(|bundle| {
        let held = blocks(bundle);
        wanted.iter().all(|block| held.contains(block))
    })
}

/// The contents of the blocks of a PEM text, without the line breaks that writers set where they like.
fn blocks(pem: &str) -> Vec<String> {
    pem.split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .map(|block| {
            let content = block.split("-----END").next().unwrap_or_default();
            content.split_whitespace().collect()
        })
        .collect()
}

#[cfg(test)]
mod tests;
