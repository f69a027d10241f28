//! Reports of the shapes that scanners write (`tests/reports`), and what must not pass for a clean one.

use super::*;
use crate::domain::evidence::Vex;

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/reports/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn digest(of: &str) -> Digest {
    format!("sha256:{}", of.repeat(32)).parse().unwrap()
}

fn with<T>(bound: bool, at: Option<&str>, covers: &str, ask: impl FnOnce(&About<'_>) -> T) -> T {
    let (ours, alike) = (digest("ab"), BTreeSet::new());
    let at = at.map(|at| at.parse().unwrap());
    ask(&About { digest: &ours, alike: &alike, bound, at, covers: classes(covers), signatures: &[] })
}

fn scan(name: &str, bound: bool) -> Scan {
    with(bound, Some("2026-11-20T06:00:00Z"), "", |about| read(&file(name), about)).unwrap().remove(0)
}

/// Class, severity, id, package, whether a version mends it.
fn short(scan: &Scan) -> Vec<String> {
    let line = |of: &Finding| {
        let fixed = of.fixed_version.as_deref().unwrap_or("-");
        format!("{} {} {} {} {fixed}", of.class, of.severity, of.id, of.package)
    };
    scan.findings.iter().map(line).collect()
}

fn refused(bytes: &[u8]) -> String {
    with(true, Some("2026-11-20T06:00:00Z"), "", |about| read(bytes, about)).unwrap_err()
}

#[test]
fn trivy() {
    let scan = scan("trivy.json", false);
    assert_eq!(scan.scanner, "Trivy");
    assert_eq!(scan.at, "2026-11-20T08:00:00.123456789Z".parse().unwrap());
    assert_eq!(scan.covers, classes("vulnerabilities,secrets,misconfigurations,outdated"));
    assert_eq!(
        short(&scan),
        [
            "vulnerabilities Critical CVE-2026-0001 libcrypto1.1 1.1.1d-r0",
            "vulnerabilities Low CVE-2026-0002 musl -",
            "vulnerabilities Unknown CVE-2026-0003 busybox -",
            "vulnerabilities Unknown CVE-2026-0004 zlib -",
            "secrets Critical aws-access-key-id /app/config.yaml -",
            "misconfigurations High DS-0002 Dockerfile -",
            "outdated systems High end-of-life alpine -",
        ]
    );
    let cut = scan.cut();
    assert_eq!(cut.findings[0].severity, Severity::Unknown, "the worst first");
}

#[test]
fn grype() {
    let scan = scan("grype.json", false);
    assert_eq!((scan.scanner.as_str(), scan.at), ("Grype", "2026-11-20T09:00:00.5Z".parse().unwrap()));
    assert_eq!(scan.covers, classes("vulnerabilities"));
    assert_eq!(
        short(&scan),
        [
            "vulnerabilities High GHSA-aaaa-bbbb-cccc example.com/mod 1.2.1",
            "vulnerabilities Negligible CVE-2026-0006 libc6 -",
        ]
    );
}

#[test]
fn sarif() {
    let clamav = scan("clamav.sarif", true);
    assert_eq!(short(&clamav), ["malware High Win.Test.EICAR_HDB-1 usr/bin/eicar -"]);
    assert_eq!((clamav.at, clamav.covers), ("2026-11-20T08:00:00Z".parse().unwrap(), classes("malware")));
    let gitleaks = scan("gitleaks.sarif", true);
    assert_eq!(
        short(&gitleaks),
        ["secrets Low generic-api-key app/.env -", "secrets Medium private-key the image -"]
    );
    let trivy = scan("trivy.sarif", false);
    assert_eq!(
        short(&trivy),
        [
            "vulnerabilities Critical CVE-2026-0007 shop/cart -",
            "secrets High stripe-secret the image -",
            "vulnerabilities Unknown CVE-2026-0008 the image -",
        ]
    );
    assert_eq!(trivy.covers, classes("vulnerabilities,secrets"));
    let text = String::from_utf8(file("clamav.sarif")).unwrap();
    assert!(
        refused(text.replace("\"executionSuccessful\": true", "\"executionSuccessful\": false").as_bytes())
            .contains("failed")
    );
    let other = text.replace("ClamAV", "Homegrown");
    assert!(refused(other.as_bytes()).contains("say what it looks for"));
    let said = with(true, None, "malware", |about| read(other.as_bytes(), about)).unwrap();
    assert_eq!(said[0].covers, classes("malware"));
    assert!(refused(text.replace("\"results\"", "\"outcome\"").as_bytes()).contains("without results"));
    assert!(refused(text.replace("\"2.1.0\"", "\"3.0.0\"").as_bytes()).contains("2.1"));
}

#[test]
fn records_of_cosign_and_reports_of_trivy_operator() {
    let scan_ = scan("cosign-vuln.json", false);
    assert_eq!((scan_.at, scan_.findings.len()), ("2026-11-20T08:00:01Z".parse().unwrap(), 7));
    let vulnerabilities = scan("vulnerability-report.json", false);
    assert_eq!(
        short(&vulnerabilities),
        [
            "vulnerabilities Critical CVE-2026-0009 libssl1.1 1.1.1k",
            "vulnerabilities Low CVE-2026-0010 tar -",
            "outdated systems High end-of-life debian -",
        ]
    );
    assert_eq!(
        vulnerabilities.more,
        [(Class::Vulnerability, Severity::Critical, 1)],
        "counted, and not listed"
    );
    assert_eq!(
        short(&scan("exposed-secret-report.json", false)),
        ["secrets High stripe-access-token /app/config/secret.yaml -"]
    );
    assert_eq!(
        short(&scan("config-audit-report.json", true)),
        ["misconfigurations Medium KSV012 Runs as root user -"]
    );
    assert!(
        with(false, None, "", |about| read(&file("config-audit-report.json"), about)).is_err(),
        "of a workload"
    );
    assert_eq!(scan("sbom-report.json", false).covers, BTreeSet::new());
    let text = String::from_utf8(file("exposed-secret-report.json")).unwrap();
    assert!(refused(text.replace("\"lowCount\": 0, ", "").as_bytes()).contains("lowCount"));
    assert!(
        refused(text.replace("\"secrets\": [", "\"leaks\": [").as_bytes()).contains("secrets is no list")
    );
    assert!(
        refused(text.replace("ExposedSecretReport", "RbacAssessmentReport").as_bytes()).contains("not known")
    );
}

/// If this fails, a report about something else, or one that nobody could read, passes for a clean one.
#[test]
fn what_is_broken_or_about_something_else_is_no_clean_report() {
    for name in ["trivy.json", "grype.json", "trivy.sarif", "vulnerability-report.json", "cosign-vuln.json"] {
        let text = String::from_utf8(file(name)).unwrap();
        let elsewhere = text.replace(digest("ab").as_str(), digest("ef").as_str());
        assert!(refused(elsewhere.as_bytes()).contains("not about"), "{name}: copied from another image");
        for bound in [false, true] {
            let at = text.find('{').unwrap() + 1;
            let twice = format!("{}\"x\": 1, \"x\": 2,{}", &text[..at], &text[at..]);
            let told = with(bound, None, "", |about| read(twice.as_bytes(), about)).unwrap_err();
            assert!(told.contains("twice"), "{name}: {told}");
        }
        assert!(refused(&text.as_bytes()[..text.len() / 2]).len() < 300, "{name}: cut off");
    }
    for name in ["clamav.sarif", "gitleaks.sarif"] {
        let told =
            with(false, Some("2026-11-20T06:00:00Z"), "", |about| read(&file(name), about)).unwrap_err();
        assert!(told.contains("does not say that it is about"), "{name}");
    }
    let trivy = String::from_utf8(file("trivy.json")).unwrap();
    for (from, to, why) in [
        ("\"SchemaVersion\": 2", "\"SchemaVersion\": 3", "schema version"),
        ("\"Vulnerabilities\": [", "\"Vulnerabilities\": {}, \"V\": [", "no list"),
        ("\"VulnerabilityID\": \"CVE-2026-0001\",", "", "no VulnerabilityID"),
        ("\"Results\": [", "\"Results\": \"none\", \"R\": [", "no list"),
    ] {
        let told = refused(trivy.replacen(from, to, 1).as_bytes());
        assert!(told.contains(why), "{told}");
    }
    let undated = trivy.replace("CreatedAt", "Created");
    assert!(with(true, None, "", |about| read(undated.as_bytes(), about)).unwrap_err().contains("when"));
    let grype = String::from_utf8(file("grype.json")).unwrap();
    assert!(
        refused(grype.replace("\"matches\": [", "\"matches\": null, \"m\": [").as_bytes())
            .contains("matches")
    );
    assert!(
        refused(grype.replace("\"type\": \"image\"", "\"type\": \"directory\"").as_bytes()).contains("image")
    );
    for odd in ["", "null", "[]", "{}", "\u{feff}{}", "<html>", "{\"matches\": []}"] {
        refused(odd.as_bytes());
    }
    refused("[".repeat(10_000).as_bytes());
    refused(&[0xff]);
}

#[test]
fn an_image_of_one_platform_is_known_by_its_other_digests_too() {
    let ours = digest("01");
    let read = |alike: BTreeSet<Digest>| {
        let about = About {
            digest: &ours,
            alike: &alike,
            bound: false,
            at: None,
            covers: BTreeSet::new(),
            signatures: &[],
        };
        read(&file("trivy.json"), &about)
    };
    assert!(read([digest("cd")].into()).is_ok(), "the id is the digest of the config");
    assert!(read(BTreeSet::new()).is_err());
}

#[test]
fn the_worst_are_kept_and_the_others_counted() {
    let mut scan = scan("grype.json", false);
    let of = |n: usize, severity| Finding { id: format!("CVE-{n}"), severity, ..scan.findings[0].clone() };
    let mut findings: Vec<Finding> = (0..KEPT).map(|n| of(n, Severity::Low)).collect();
    findings.extend((0..7).map(|n| of(n, Severity::Critical)));
    findings.push(of(3, Severity::Low));
    scan.more = vec![(Class::Vulnerability, Severity::Low, 5)];
    scan.findings = findings;
    let cut = scan.cut();
    assert_eq!(cut.findings.len(), KEPT);
    assert!(cut.findings[..7].iter().all(|of| of.severity == Severity::Critical));
    assert_eq!(cut.more, [(Class::Vulnerability, Severity::Low, 12)]);
}

/// If this fails, a statement about another image, or one without a reason, takes a vulnerability away.
#[test]
fn vex_counts_for_its_own_product() {
    let says = with(false, None, "", |about| read_vex(&file("openvex.json"), about)).unwrap();
    let mut found = scan("trivy.json", false);
    found.apply_vex(&says);
    let of = |id: &str| found.findings.iter().find(|finding| finding.id == id).unwrap().vex;
    assert_eq!(of("CVE-2026-0001"), Some(Vex::NotAffected));
    assert_eq!(of("CVE-2026-0002"), Some(Vex::Fixed));
    assert_eq!(of("CVE-2026-0003"), None, "no reason is given");
    assert_eq!(of("CVE-2026-0004"), None, "of another image");
    let text = String::from_utf8(file("openvex.json")).unwrap();
    let vex = |text: &str| {
        let says = with(false, None, "", |about| read_vex(text.as_bytes(), about)).unwrap();
        let mut found = scan("trivy.json", false);
        found.apply_vex(&says);
        found.findings[0].vex
    };
    assert_eq!(vex(&text.replace("libcrypto1.1@1.1.1b-r1", "libcrypto1.1@1.1.1c")), None, "another version");
    assert_eq!(vex(&text.replace("alpine/libcrypto1.1", "alpine/zlib")), None, "another package");
    let newer = "{\"vulnerability\": \"CVE-2026-0001\", \"timestamp\": \"2026-11-21T00:00:00Z\", \"status\": \"affected\", \"products\": [{\"@id\": \"pkg:apk/alpine/libcrypto1.1\"}]},";
    assert_eq!(
        vex(&text.replace("\"statements\": [", &format!("\"statements\": [{newer}"))),
        Some(Vex::Affected)
    );
    let same = newer.replace("2026-11-21T00", "2026-11-20T09");
    assert_eq!(
        vex(&text.replace("\"statements\": [", &format!("\"statements\": [{same}"))),
        Some(Vex::Affected)
    );
    assert!(
        with(false, None, "", |about| read_vex(b"{\"@context\": \"https://example.com\"}", about)).is_err()
    );
}
