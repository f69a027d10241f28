//! What would supply a missing approval, ready to be committed.

use super::image::ImageRef;

/// The `ApprovedImage` of a namespace that would approve a reference, on one line; `beside` is a file it may stand next to.
pub fn snippet(reference: &str, namespace: &str, beside: Option<&str>) -> Option<String> {
    let reference: ImageRef = reference.parse().ok()?;
    let tag = reference.effective_tag();
    let digest = reference.digest.as_ref().map_or("sha256:…", |digest| digest.as_str());
    let name = name(&reference);
    let tag = tag.map_or_else(String::new, |tag| format!(", tag: \"{tag}\""));
    let beside = beside.map_or_else(String::new, |path| format!(" beside {path}"));
    Some(format!(
        "commit{beside} {{apiVersion: countersign.dev/v1alpha1, kind: ApprovedImage, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{image: {}{tag}, digest: \"{digest}\"}}}}",
        reference.repository
    ))
}

/// A name for the object: of the last part of the repository and the tag, what names of objects may hold.
fn name(reference: &ImageRef) -> String {
    let mut name = reference.repository.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(tag) = reference.effective_tag() {
        name = format!("{name}-{}", tag.as_str().to_ascii_lowercase());
    }
    let mut name: String = name.chars().take(63).map(|c| if c == '_' { '-' } else { c }).collect();
    while name.contains("..") || name.contains(".-") || name.contains("-.") {
        name = name.replace("..", ".").replace(".-", "-").replace("-.", "-");
    }
    name.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the way out that a refusal names is refused itself.
    #[test]
    fn the_name_is_one_that_objects_may_have() {
        for (reference, name_of) in [
            ("registry.example/shop/cart:1.4.2", "cart-1.4.2"),
            ("registry.example/shop/web__ui:V1_rc.", "web--ui-v1-rc"),
            ("registry.example/shop/cart:1.-2", "cart-1-2"),
            ("registry.example/shop/cart:a.._b", "cart-a-b"),
            ("nginx", "nginx-latest"),
        ] {
            assert_eq!(name(&reference.parse().unwrap()), name_of, "{reference}");
        }
        let long = format!("registry.example/{}:1", "a".repeat(200));
        assert_eq!(name(&long.parse().unwrap()).len(), 63);
        let hex = "ab".repeat(32);
        let text = snippet(&format!("nginx@sha256:{hex}"), "root", Some("shop/web.yaml")).unwrap();
        assert_eq!(
            text,
            format!(
                "commit beside shop/web.yaml {{apiVersion: countersign.dev/v1alpha1, kind: ApprovedImage, metadata: {{name: nginx, namespace: root}}, \
                 spec: {{image: docker.io/library/nginx, digest: \"sha256:{hex}\"}}}}"
            )
        );
    }
}
