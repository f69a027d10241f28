use super::*;

fn read(text: &str) -> Parsed {
    parse("f.yaml", text.as_bytes(), &Limits::default())
}

fn error(text: &str) -> String {
    let errors = read(text).errors;
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].to_string()
}

fn names(parsed: &Parsed) -> Vec<&str> {
    parsed.objects.iter().map(Object::name).collect()
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn refused(text: &str, limits: &Limits) -> String {
    let (documents, errors) = documents("f", text.as_bytes(), limits);
    assert!(documents.is_empty(), "{documents:?}");
    errors[0].message.clone()
}

/// An operator that dropped the others would leave their workloads unwatched.
#[test]
fn a_bad_document_is_named_and_the_others_are_returned() {
    let text = format!("{}---\na: 1\na: 2\n---\n{}", namespace("one"), namespace("two"));
    let parsed = read(&text);
    assert_eq!(names(&parsed), ["one", "two"]);
    assert_eq!(
        parsed.errors[0].to_string(),
        "f.yaml:6: document 2: the key `a` stands twice; expected it once; remove one"
    );
    assert_eq!((parsed.objects[1].index(), parsed.objects[1].line()), (3, 8));
}

#[test]
fn text_after_a_separator_refuses_the_whole_file() {
    let text = format!("{}--- a\n{}", namespace("one"), namespace("two"));
    assert!(read(&text).objects.is_empty());
    assert!(error(&text).starts_with("f.yaml:4: text after `---`"), "{}", error(&text));
}

#[test]
fn documents_that_are_no_objects_are_counted_and_empty_ones_are_not() {
    let parsed = read("replicas: 2\n---\n# nothing\n---\n- op: add\n---\n---\ntext\n");
    assert_eq!((parsed.objects.len(), parsed.skipped, parsed.errors.len()), (0, 3, 0));
}

#[test]
fn missing_and_unquoted_fields_are_named_with_their_line() {
    for (text, expected) in [
        ("apiVersion: v1\nmetadata: {name: a}\n", "f.yaml:1: document 1: `kind` is missing"),
        ("kind: Pod\n", "f.yaml:1: document 1: `apiVersion` is missing"),
        ("apiVersion: v1\nkind: Pod\n", "f.yaml:1: document 1: `metadata.name` is missing"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: a-\n",
            "f.yaml:4: document 1: `metadata.generateName`",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: yes\n",
            "f.yaml:4: document 1: `metadata.name` reads as `true` in kubectl; expected text; quote it",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: 0123\n",
            "f.yaml:4: document 1: `metadata.name` reads as `83`",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: 1\n",
            "f.yaml:5: document 1: `metadata.namespace` reads as `1`",
        ),
        ("apiVersion: 1\nkind: Pod\n", "f.yaml:1: document 1: `apiVersion` reads as `1`"),
        ("apiVersion: v1\nkind: [Pod]\n", "f.yaml:2: document 1: `kind` isn't text"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: ''}\n",
            "f.yaml:3: document 1: `metadata.name` is empty",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\nb\"}\n",
            "f.yaml:3: document 1: `metadata.name` has",
        ),
    ] {
        assert!(error(text).starts_with(expected), "{} is not {expected}", error(text));
    }
}

/// If this fails, a manifest that a policy reads as one object is applied to another path of the API.
#[test]
fn names_that_could_be_more_than_a_segment_of_a_path_are_refused() {
    let of = |name: &str, namespace: &str| {
        read(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: '{name}', namespace: '{namespace}'}}\n"
        ))
    };
    for name in ["a", "system:node-proxier", "widgets.shop.example", "A_b-1"] {
        assert_eq!(names(&of(name, "shop")), [name]);
    }
    for name in ["a?fieldManager=x", "a#b", "a/b", "..", "a%2fb", "a;b", "a b", "é"] {
        let errors = of(name, "shop").errors;
        assert!(errors.len() == 1 && errors[0].message.contains("metadata.name"), "{name}: {errors:?}");
    }
    for namespace in ["kube-system/configmaps/x?", "kube-system#", "..", "a.b", "A", "-a", "é"] {
        let errors = of("a", namespace).errors;
        assert!(errors.len() == 1 && errors[0].message.contains("metadata.namespace"), "{namespace}");
    }
}

#[test]
fn an_empty_namespace_is_none() {
    let parsed = read("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ''}\n");
    assert_eq!(parsed.objects[0].namespace(), None);
}

#[test]
fn lists_are_expanded_into_their_items() {
    let item = "{apiVersion: v1, kind: Namespace, metadata: {name: one}}";
    let parsed = read(&format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n- kind: Pod\n"));
    assert_eq!(names(&parsed), ["one"]);
    assert_eq!(parsed.objects[0].line(), 4);
    assert_eq!(
        parsed.errors[0].to_string(),
        "f.yaml:5: document 1: item 2: `apiVersion` is missing; expected text; add it"
    );
    // kubectl gives items of a typed list their type.
    let parsed = read("apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n");
    assert_eq!((parsed.objects[0].kind(), parsed.objects[0].api_version()), ("Pod", "v1"));
    // To kubectl, `items` makes a list of everything.
    assert!(
        error("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nitems: []\n")
            .contains(":4: document 1: `items` in")
    );
    let nested =
        format!("apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: List, items: [{item}]}}\n");
    assert!(error(&nested).contains("a list inside a list"));
}

#[test]
fn limits_are_errors() {
    let limits = Limits::default();
    assert!(refused("a: b\n", &Limits { file_bytes: 3, ..limits.clone() }).contains("expected at most 3"));
    assert!(
        refused("a\n---\nb\n", &Limits { documents: 1, ..limits.clone() }).contains("more than 1 documents")
    );
    assert!(refused("[[[a]]]\n", &Limits { depth: 2, ..limits.clone() }).contains("recursion limit"));
    assert!(refused("[a, b, c]\n", &Limits { nodes: 3, ..limits.clone() }).contains("more than 3 keys"));
    assert!(
        refused("[&a b, *a, *a]\n", &Limits { aliases: 1, ..limits.clone() }).contains("more than 1 aliases")
    );
    assert!(refused("{\"a\": [[1]]}\n", &Limits { depth: 2, ..limits.clone() }).contains("too deep"));
    assert!(refused("{\"a\": [1, 2]}\n", &Limits { nodes: 3, ..limits }).contains("too many"));
}

/// 1 MB of brackets, of nested aliases, of one long text repeated by aliases: refused at the limit, not at the end.
#[test]
fn hostile_files_are_refused_at_the_limits() {
    let limits = Limits::default();
    refused(&"[".repeat(1 << 20), &limits);
    refused(&"{a: ".repeat(1 << 18), &limits);
    refused(&"- ".repeat(1 << 19), &limits);
    refused(&(0..2000).map(|depth| " ".repeat(depth) + "a:\n").collect::<String>(), &limits);
    let laughs: Vec<String> = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
    assert!(refused(&format!("a0: &a0 b\n{}", laughs.concat()), &limits).contains("aliases"));
    let quadratic = format!("a: &a [{}]\nb: [{}]\n", "b,".repeat(10_000), "*a,".repeat(4_000));
    assert!(
        refused(&quadratic, &limits).contains("aliases")
            || refused(&quadratic, &limits).contains("more than")
    );
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(4_000));
    assert!(refused(&long, &limits).contains("bytes of text when expanded"));
}

#[test]
fn writing_quotes_what_go_would_read_otherwise() {
    let value = serde_json::json!({"a": ["yes", "017", "1_000", "12:30", "~", "="], "on": 1.0});
    assert_eq!(
        to_yaml(&value).unwrap(),
        "a:\n- \"yes\"\n- \"017\"\n- \"1_000\"\n- \"12:30\"\n- \"~\"\n- \"=\"\n\"on\": 1.0\n"
    );
}
