//! The `muster` binary against a server that stands in for a node: outputs, statuses, messages.

mod fake;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use fake::{Closed, Fake, Reply, THEN};
use serde_json::{Value, json};

const SECRET: &str = "mk_1_hunter2";

/// What a run of the binary left.
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn muster(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    for name in ["MUSTER_URL", "MUSTER_KEY", "MUSTER_KEY_FILE", "MUSTER_CA_FILE"] {
        command.env_remove(name);
    }
    command.env("MUSTER_URL", url).stdin(Stdio::null());
    command
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status.code().expect("it exits by itself");
    Run { status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn run(node: &Fake, line: &str) -> Run {
    finish(muster(&node.url).args(line.split_whitespace()))
}

fn run_with_input(node: &Fake, arguments: &[&str], input: &[u8]) -> Run {
    let mut command = muster(&node.url);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("piped").write_all(input).expect("it reads its input");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run {
        status: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A node that knows one of everything.
fn node() -> Fake {
    Fake::new(|seen, _| {
        let path = seen.target.split('?').next().unwrap_or_default();
        match (seen.method.as_str(), path) {
            ("GET", "/v1/functions") => Reply::json(200, &json!([fake::function("alpha", 3)])),
            ("GET", "/v1/functions/alpha") => Reply::json(200, &fake::function("alpha", 3)),
            ("PUT", "/v1/functions/alpha") => Reply::json(201, &fake::function("alpha", 1)),
            ("GET", "/v1/instances") => Reply::json(200, &instances()),
            ("GET", "/v1/nodes") => Reply::json(200, &json!([nodes()])),
            ("GET", "/v1/cluster") => Reply::json(200, &cluster()),
            ("GET", "/v1/accounts") => Reply::json(200, &json!([fake::account("alice")])),
            ("GET", "/v1/accounts/alice") => Reply::json(200, &fake::account("alice")),
            ("POST", "/v1/accounts") => Reply::json(201, &fake::account("alice")),
            ("GET", "/v1/accounts/alice/keys") => Reply::json(200, &fake::account("alice")["keys"]),
            ("POST", "/v1/accounts/alice/keys") => {
                Reply::json(201, &json!({"id": "00ff", "key": "mk_00ff_new", "expires_at": null}))
            }
            ("PUT", "/v1/accounts/alice/grants/al*") => {
                Reply::json(200, &json!({"pattern": "al*", "actions": seen.json()["actions"]}))
            }
            ("GET", "/v1/usage") => Reply::json(200, &json!([usage()])),
            ("GET", "/v1/decisions") => Reply::json(200, &json!([decision()])),
            ("PUT", "/v1/nodes/2/drain") => Reply::raw(204, ""),
            ("POST", "/v1/cluster/tokens") => Reply::json(201, &token()),
            ("POST", "/v1/cluster/transfer") => Reply::json(200, &json!({"leader": 2})),
            ("DELETE", _) => Reply::raw(204, ""),
            _ => Reply::problem(404, "not found", &format!("there is no `{path}`")),
        }
    })
}

fn instances() -> Value {
    let instance = |id: &str, phase: &str| {
        json!({"id": id, "function": "alpha", "version": 3, "node": 2, "generation": 9, "phase": phase,
            "utilization": 0.254, "in_flight": 1, "memory_mb": 128, "cause": "queued", "reason": null,
            "launched_at": THEN, "ready_at": THEN, "ended_at": null})
    };
    json!([instance("i-1", "ready"), instance("i-2", "stopped")])
}

fn nodes() -> Value {
    json!({"id": 1, "address": "n1:8081", "peer_address": "n1:9081", "condition": "ready", "reason": "",
        "changed_at": THEN, "incarnation": 1, "engines": ["docker", "process"], "labels": {}, "version": "0.1.0",
        "capacity": {"memory_mb": 24576, "cpu_millis": 2000}, "reserved": {"memory_mb": 256, "cpu_millis": 1500},
        "instances": 2})
}

fn cluster() -> Value {
    json!({"cluster_id": "c-1", "leader": 1, "term": 4, "version": 1,
        "next_version": {"version": 2, "held_back_by": [
            {"node": 2, "reason": "does not say what it supports"}]},
        "nodes": [
        {"id": 1, "address": "n1:8081", "role": "leader", "condition": "ready", "applied": 12,
            "lag": 0, "version": "0.1.0", "versions": {"oldest": 1, "newest": 2}},
        {"id": 2, "address": "n2:8082", "role": "voter", "condition": "down", "applied": null}]})
}

fn token() -> Value {
    json!({"token": "mj_1_s_f", "node_id": 4, "expires_at": THEN, "addresses": ["n1:9081", "n2:9081"]})
}

fn usage() -> Value {
    json!({"account": "alice", "function": "alpha", "period": "hour", "from": THEN, "invocations": 1200, "failures": 1,
        "cold_starts": 2, "busy_ms": 90_000, "memory_mb_ms": 11_520_000, "request_bytes": 2048,
        "response_bytes": 12, "instance_ms": 7_500_000, "instance_memory_mb_ms": 1, "startup_ms": 250,
        "burst_startup_ms": 0})
}

fn decision() -> Value {
    json!({"at": THEN, "function": "alpha", "action": "launch", "instance": "i-1", "node": 2,
        "reason": "3 requests wait", "inputs": {"ready": 1, "launching": 0, "draining": 0, "waiting": 3,
        "in_flight": 1, "utilization": 0.95, "desired": 2}})
}

const JOIN: &str = "# In the new node's configuration, without `node_id` and `[bootstrap]`:\n[join]\n\
    addresses = [\"n1:9081\", \"n2:9081\"]\n\
    token_file = \"/etc/muster/join.token\"  # mode 0600; put this into it:\n#   mj_1_s_f\n";

#[test]
fn a_token_goes_to_a_file_that_only_its_owner_reads_and_a_removal_is_watched() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("join.token");
    let line = format!("cluster replace 3 --token-file {}", file.display());
    let node = node();
    let ran = run(&node, &line);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(node.seen()[0].json(), json!({"expires_in_ms": null, "replaces": 3}));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mj_1_s_f\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!ran.stdout.contains("mj_1") && !ran.stderr.contains("mj_1"), "{} {}", ran.stdout, ran.stderr);
    assert_eq!(run(&node, &line).status, 1, "a file that is there is not overwritten");
    let gone = run(&node, "cluster remove 3");
    assert_eq!(gone.status, 0, "it is not among the nodes: {}", gone.stderr);
    let stays = run(&node, "cluster remove 2 --timeout 4s");
    assert_eq!(stays.status, 1, "{}", stays.stderr);
    assert!(stays.stderr.contains("still being removed"), "{}", stays.stderr);
}

/// What each command shows people, and which request it makes.
#[test]
fn tables_and_requests_by_command() {
    for (line, request, stdout) in [
        (
            "functions",
            "GET /v1/functions",
            "NAME   OWNER  VERSION  READY  LAUNCHING  DRAINING  HEALTH  SOURCE               CHANGED\n\
             alpha  root         3      2          1         0  ok      muster/alpha:latest  2020-01-02\n",
        ),
        (
            "instances alpha",
            "GET /v1/instances?function=alpha",
            "ID   FUNCTION  VERSION  NODE  PHASE  UTILIZATION  IN FLIGHT   MEMORY  CAUSE   LAUNCHED    WHY\n\
             i-1  alpha           3     2  ready         25 %          1  128 MiB  queued  2020-01-02  -\n",
        ),
        (
            "nodes",
            "GET /v1/nodes",
            "ID  ADDRESS  CONDITION  SINCE       INSTANCES               MEMORY         CORES  ENGINES          VERSION  WHY\n 1  n1:8081  ready      2020-01-02          2  256 MiB of 24.0 GiB  1.50 of 2.00  docker, process  0.1.0    -\n",
        ),
        (
            "cluster status",
            "GET /v1/cluster",
            "Cluster  c-1\nLeader   node 1\nTerm     4\nVersion  1; 2 is held back: node 2 does not say what it supports\n\n\
             ID  ADDRESS  ROLE    CONDITION  APPLIED  LAG  SOFTWARE  VERSIONS\n 1  n1:8081  leader  ready           12    0  0.1.0     1 to 2\n 2  n2:8082  voter   down             -    -  -         -\n",
        ),
        (
            "accounts",
            "GET /v1/accounts",
            "NAME   ROLE  KEYS  GRANTS                CREATED\nalice  user     1  al* (invoke, manage)  2020-01-02\n",
        ),
        (
            "accounts show alice",
            "GET /v1/accounts/alice",
            "Name     alice\nRole     user\nCreated  2020-01-02\nKeys     00ff\nGrants   al* (invoke, manage)\n",
        ),
        (
            "keys list alice",
            "GET /v1/accounts/alice/keys",
            "ID    CREATED     EXPIRES\n00ff  2020-01-02  -\n",
        ),
        (
            "grant alice al* --action invoke,manage",
            "PUT /v1/accounts/alice/grants/al*",
            "ACCOUNT  FUNCTION  ACTIONS\nalice    al*       invoke, manage\n",
        ),
        (
            "usage --account alice --by hour --from 2020-01-01",
            "GET /v1/usage?account=alice&from=2020-01-01T00%3A00%3A00Z&by=hour",
            "ACCOUNT  FUNCTION  FROM              INVOCATIONS  FAILURES  COLD    BUSY      MEMORY  RECEIVED  SENT  INSTANCE TIME  STARTUP  BURST\n\
             alice    alpha     2020-01-02 03:04         1200         1     2  1m 30s  11.2 GiB·s   2.0 KiB  12 B         2h 05m   250 ms   0 ms\n",
        ),
        (
            "decisions alpha",
            "GET /v1/decisions?function=alpha",
            "AT          FUNCTION  ACTION  INSTANCE  NODE  READY  LAUNCHING  WAITING  UTILIZATION  DESIRED  WHY\n\
             2020-01-02  alpha     launch  i-1          2      1          0        3         95 %        2  3 requests wait\n",
        ),
        ("delete alpha --force", "DELETE /v1/functions/alpha?force=true", ""),
        ("accounts delete alice", "DELETE /v1/accounts/alice", ""),
        ("keys revoke alice 00ff", "DELETE /v1/accounts/alice/keys/00ff", ""),
        ("revoke alice al*", "DELETE /v1/accounts/alice/grants/al*", ""),
        ("nodes drain 2", "PUT /v1/nodes/2/drain", ""),
        ("nodes undrain 2", "DELETE /v1/nodes/2/drain", ""),
        ("cluster token --expires 1h", "POST /v1/cluster/tokens", "mj_1_s_f\n"),
        ("cluster join", "POST /v1/cluster/tokens", JOIN),
        ("cluster replace 3", "POST /v1/cluster/tokens", JOIN),
        ("cluster remove 3 --no-wait", "DELETE /v1/cluster/nodes/3", ""),
        ("cluster remove 3 --no-wait --force", "DELETE /v1/cluster/nodes/3?force=true", ""),
        ("cluster transfer --to 2", "POST /v1/cluster/transfer", ""),
        ("nodes --consistency local", "GET /v1/nodes?consistency=local", "*"),
    ] {
        let node = node();
        let ran = run(&node, line);
        assert_eq!(ran.status, 0, "{line}: {}", ran.stderr);
        assert_eq!(node.lines(), [request], "{line}");
        if stdout != "*" {
            assert_eq!(ran.stdout, stdout, "{line}\n{}", ran.stdout);
        }
    }
}

#[test]
fn one_function_in_full() {
    let ran = run(&node(), "functions alpha");
    for shown in
        ["Version        3", "muster/alpha:latest", "2 ready, 1 launching", "0 to 10 instances, 70 %"]
    {
        assert!(ran.stdout.contains(shown), "{shown}\n{}", ran.stdout);
    }
}

#[test]
fn json_and_yaml_are_what_the_api_says() {
    for (line, want) in [
        ("functions", json!([fake::function("alpha", 3)])),
        ("accounts show alice", fake::account("alice")),
        ("cluster status", cluster()),
        ("usage", json!([usage()])),
        ("decisions", json!([decision()])),
        ("instances --all", instances()),
        ("keys create alice", json!({"id": "00ff", "key": "mk_00ff_new", "expires_at": null})),
    ] {
        let node = node();
        let as_json = run(&node, &format!("{line} -o json"));
        let as_yaml = run(&node, &format!("{line} --output yaml"));
        let json: Value = serde_json::from_str(&as_json.stdout).expect(line);
        let yaml: Value = serde_norway::from_str(&as_yaml.stdout).expect(line);
        assert_eq!((json.clone(), as_json.status), (yaml, as_yaml.status), "{line}");
        assert!(contains(&json, &want), "{line}\n{json:#}\n{want:#}");
    }
}

/// Whether `all` has everything that `some` has; defaults may have been filled in.
fn contains(all: &Value, some: &Value) -> bool {
    match (all, some) {
        (Value::Object(all), Value::Object(some)) => {
            some.iter().all(|(key, some)| all.get(key).is_some_and(|all| contains(all, some)))
        }
        (Value::Array(all), Value::Array(some)) => {
            all.len() == some.len() && all.iter().zip(some).all(|(all, some)| contains(all, some))
        }
        (all, some) => all == some,
    }
}

#[test]
fn an_empty_list_says_so_beside_the_data() {
    let node = Fake::new(|_, _| Reply::json(200, &json!([])));
    let ran = run(&node, "functions");
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", "no functions\n"));
    assert_eq!(run(&node, "functions -o json").stdout, "[]\n");
}

#[test]
fn a_created_key_is_all_there_is_on_stdout() {
    let node = node();
    let ran = run(&node, "keys create alice --expires 30d");
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "mk_00ff_new\n"));
    assert!(ran.stderr.contains("00ff") && !ran.stderr.contains("mk_"), "{}", ran.stderr);
    assert_eq!(node.seen()[0].json(), json!({"expires_in_ms": 2_592_000_000_u64}));
}

#[test]
fn deploying_from_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node();
    let deploy = |file: &Path| finish(muster(&node.url).args(["deploy", "--wait", "-f"]).arg(file));
    let toml = folder.path().join("alpha.toml");
    fs::write(&toml, "name = 'alpha'\nimage = 'muster/alpha:latest'\n[scaling]\nmax = 3\n").expect("written");
    let ran = deploy(&toml);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("function `alpha` created, version 1"), "{}", ran.stderr);
    assert!(ran.stdout.contains("alpha"), "{}", ran.stdout);
    let seen = node.seen();
    assert_eq!(seen[0].line(), "PUT /v1/functions/alpha");
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    let sent = seen[0].json();
    assert_eq!((&sent["image"], &sent["scaling"]["max"]), (&json!("muster/alpha:latest"), &json!(3)));
    assert!(sent.get("name").is_none(), "{sent}");

    let input = b"name = 'alpha'\ncommand = ['./alpha']\n";
    assert_eq!(run_with_input(&node, &["deploy", "-f", "-"], input).status, 0);

    // Mistakes in a file are the user's: nothing is sent.
    let requests = node.lines().len();
    for (file, text, named) in [
        ("typo.toml", "name = 'alpha'\nimage = 'a'\nmemory = 1\n", "`memory`"),
        ("kind.toml", "name = 'alpha'\nimage = 'a'\n[scaling]\nmax = 'many'\n", "`scaling.max`"),
        ("kind.json", r#"{"name": "alpha", "image": "a", "port": -1}"#, "`port`"),
        ("missing.toml", "name = 'alpha'\n", "`image`"),
    ] {
        let path = folder.path().join(file);
        fs::write(&path, text).expect("written");
        let ran = deploy(&path);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{file}");
        assert!(ran.stderr.contains(named) && ran.stderr.contains(file), "{file}: {}", ran.stderr);
    }
    let ran = deploy(&folder.path().join("absent.toml"));
    assert!(ran.status == 2 && ran.stderr.contains("absent.toml"), "{}", ran.stderr);
    assert_eq!(node.lines().len(), requests);
}

fn echo() -> Fake {
    Fake::new(|seen, _| {
        let reply = match seen.target.as_str() {
            "/function/alpha/teapot" => Reply::raw(418, "short and stout"),
            "/function/full" => {
                return Reply::invocation_problem(429, "Queue full", "1000 requests wait", "not_started");
            }
            _ => Reply::raw(200, seen.body.to_vec()),
        };
        reply
            .with("muster-invocation-id", "inv-9")
            .with("muster-node", "2")
            .with("muster-instance", "i-7")
            .with("muster-cold-start", "true")
    })
}

#[test]
fn invoking_with_data_from_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.json");
    fs::write(&file, r#"{"args":{}}"#).expect("written");
    let at_file = format!("@{}", file.display());
    // More than is read ahead, so that it is sent as a stream; not text, so it is nobody's JSON.
    let long = "x\n".repeat(1024 * 1024);
    for (data, input, want, kind) in [
        ("plain", "", "plain", None),
        (r#"{"a":1}"#, "", r#"{"a":1}"#, Some("application/json")),
        ("-5", "", "-5", Some("application/json")),
        (&at_file, "", r#"{"args":{}}"#, Some("application/json")),
        ("-", "from stdin\n", "from stdin\n", None),
        ("-", long.as_str(), long.as_str(), None),
    ] {
        let node = echo();
        let ran = run_with_input(&node, &["invoke", "alpha", "-d", data], input.as_bytes());
        assert!(ran.status == 0 && ran.stdout == want, "{data}: {} {}", ran.status, ran.stderr);
        let seen = &node.seen()[0];
        assert_eq!(seen.line(), "POST /function/alpha", "{data}");
        assert_eq!(seen.header("content-type"), kind, "{data}");
        assert_eq!(seen.header("transfer-encoding").is_some(), want == long, "{data}");
        assert_eq!(ran.stderr, "", "{data}");
    }
}

#[test]
fn an_invocation_as_asked() {
    let node = echo();
    let ran = finish(muster(&node.url).args([
        "invoke", "alpha", "-X", "PUT", "--path", "/a?b=c", "-H", "x-one: 1", "-H", "X-Two:2", "-d", "hi",
        "-i",
    ]));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "hi"), "{}", ran.stderr);
    assert_eq!(ran.stderr, "status 200, invocation inv-9, node 2, instance i-7, cold start\n");
    let seen = &node.seen()[0];
    assert_eq!(seen.line(), "PUT /function/alpha/a?b=c");
    assert_eq!((seen.header("x-one"), seen.header("x-two")), (Some("1"), Some("2")));

    let node = echo();
    assert_eq!(run(&node, "invoke alpha").status, 0);
    assert_eq!(node.lines(), ["GET /function/alpha"]);
}

#[test]
fn failed_invocations() {
    let node = echo();
    let ran = run(&node, "invoke alpha --path /teapot");
    assert_eq!((ran.status, ran.stdout.as_str()), (1, "short and stout"));
    assert!(ran.stderr.contains("`alpha` answered 418"), "{}", ran.stderr);

    let ran = run(&node, "invoke full -d x");
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    for said in ["`full`", "Queue full (429)", "1000 requests wait", "safe to invoke it again"] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }

    let ran = run(&node, "invoke alpha --path /../beta");
    assert!(ran.status == 2 && ran.stderr.contains("/../beta"), "{}", ran.stderr);
}

/// A node that speaks https is believed only by the authorities that the user names.
#[test]
fn https_is_spoken_where_the_authority_is_known() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Fake::secured(dir.path(), |_, _| Reply::json(200, &json!([])));
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let other = dir.path().join("other.pem");
    fs::write(&other, made.cert.pem()).expect("written");
    let right = dir.path().join("cert.pem");
    let given = |file: &Path| format!("nodes --ca-file {}", file.display());
    let ran = run(&node, &given(&right));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = finish(muster(&node.url).arg("nodes").env("MUSTER_CA_FILE", &right));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let answered = node.lines().len();
    for line in [given(&other), "nodes".to_owned()] {
        let ran = run(&node, &line);
        assert_eq!(ran.status, 1, "{line}");
        assert!(ran.stderr.contains("certificate"), "{line}: {}", ran.stderr);
    }
    assert_eq!(node.lines().len(), answered, "nothing was sent to who could not be believed");
}

/// Statuses, and what a failure tells its user.
#[test]
fn failures_say_what_and_what_to_do() {
    let refusing = Fake::new(|seen, _| match seen.target.as_str() {
        "/v1/nodes" => Reply::problem(401, "not authenticated", "`Authorization: Bearer mk_…` is missing"),
        "/v1/accounts/bob" => Reply::problem(403, "not allowed", "`alice` is not an admin"),
        _ => Reply::problem(409, "conflict", "it has live instances"),
    });
    let closed = Closed::new();
    for (url, line, status, said) in [
        (&refusing.url, "nodes", 1, &["list nodes", "MUSTER_KEY", "--key-file"][..]),
        (&refusing.url, "nodes --key mk_1_hunter2", 1, &["revoked or expired"]),
        (&refusing.url, "accounts delete bob", 1, &["account `bob`", "403", "muster grant"]),
        (&refusing.url, "delete alpha", 1, &["function `alpha`", "it has live instances", "--force"]),
        (&closed.url, "nodes --key mk_1_hunter2", 1, &["list nodes", &closed.url, "refused", "MUSTER_URL"]),
        (&refusing.url, "nodes --url ftp://node", 2, &["ftp://node"]),
        (&refusing.url, "nodes --ca-file /nonexistent", 2, &["/nonexistent"]),
        (&refusing.url, "nodes --key-file /nonexistent", 2, &["/nonexistent"]),
        (&refusing.url, "nodes --timeout soon", 2, &["--timeout"]),
        (&refusing.url, "usage --from soon", 2, &["--from", "24h"]),
        (&refusing.url, "delete", 2, &["NAME"]),
        (&refusing.url, "frobnicate", 2, &["frobnicate"]),
    ] {
        let ran = finish(muster(url).args(line.split_whitespace()));
        assert_eq!((ran.status, ran.stdout.as_str()), (status, ""), "{line}: {}", ran.stderr);
        for said in said {
            assert!(ran.stderr.contains(said), "{line} should say {said}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("hunter2"), "{line}: {}", ran.stderr);
        assert!(!ran.stderr.contains('\u{1b}'), "no colour off a terminal: {}", ran.stderr);
    }
}

#[test]
fn keys_from_arguments_files_and_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.key");
    fs::write(&file, "mk_file\n").expect("written");
    let path = file.to_str().expect("UTF-8");
    for (arguments, environment, want) in [
        (&[][..], &[][..], None),
        (&[], &[("MUSTER_KEY", "mk_env")], Some("Bearer mk_env")),
        (&[], &[("MUSTER_KEY_FILE", path)], Some("Bearer mk_file")),
        (&["--key-file", path], &[("MUSTER_KEY", "mk_env")], Some("Bearer mk_file")),
        (&["--key", SECRET], &[("MUSTER_KEY_FILE", path)], Some("Bearer mk_1_hunter2")),
        (&[], &[("MUSTER_KEY", ""), ("MUSTER_KEY_FILE", "")], None),
    ] {
        let node = node();
        let ran = finish(muster(&node.url).arg("nodes").args(arguments).envs(environment.iter().copied()));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(node.seen()[0].header("authorization"), want, "{arguments:?} {environment:?}");
    }
    // Nor does help show what the environment holds, or a bad key get quoted.
    let help = finish(muster("http://node").arg("--help").env("MUSTER_KEY", SECRET));
    assert!(help.status == 0 && !help.stdout.contains("hunter2"), "{}", help.stdout);
    let bad = finish(muster("http://node").args(["nodes", "--key", "mk_1 hunter2"]));
    assert!(bad.status == 2 && !bad.stderr.contains("hunter2"), "{}", bad.stderr);
}

#[test]
fn several_nodes_stand_in_for_each_other() {
    let (closed, node) = (Closed::new(), node());
    let ran = finish(muster(&format!("{},{}", closed.url, node.url)).arg("functions"));
    assert!(ran.status == 0 && ran.stdout.contains("alpha"), "{}", ran.stderr);
}

#[test]
fn a_node_that_hangs_leaves_time_for_the_others() {
    // It accepts connections, in its backlog, and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let hanging = format!("http://{}", listener.local_addr().expect("bound"));
    let node = node();
    let ran = finish(muster(&format!("{hanging},{}", node.url)).args(["functions", "--timeout", "12s"]));
    assert!(ran.status == 0 && ran.stdout.contains("alpha"), "{}", ran.stderr);
}

/// A change whose answer is lost may have been made; a look changes nothing.
#[test]
fn doubt_is_told_where_there_is_some() {
    let breaking = Fake::breaking();
    for (line, doubt) in [("accounts create bob", true), ("invoke alpha -d x", true), ("accounts", false)] {
        let ran = run(&breaking, line);
        assert_eq!(
            (ran.status, ran.stderr.contains("may have been done")),
            (1, doubt),
            "{line}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let node = Fake::new(|_, _| Reply::raw(200, vec![b'x'; 32 * 1024 * 1024]));
    let mut child = muster(&node.url)
        .args(["invoke", "alpha"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut first = [0; 1];
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut first).expect("it prints");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn benchmarks_count_every_answer() {
    let node = Fake::new(|_, before| match before % 4 {
        3 => Reply::invocation_problem(429, "Queue full", "1000 requests wait", "not_started"),
        _ => Reply::raw(200, "ok").with("muster-cold-start", if before == 0 { "true" } else { "false" }),
    });
    let ran = run(&node, "bench alpha -n 40 -c 4 -d hello -o json");
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!((&report["requests"], &report["cold_starts"]), (&json!(40), &json!(1)));
    assert_eq!(report["by_status"], json!({"200": 30, "429": 10}));
    let latency = |name: &str| report[name].as_u64().expect(name);
    assert!(0 < latency("p50_us") && latency("p50_us") <= latency("p99_us"), "{report}");
    assert!(latency("p99_us") <= latency("max_us"), "{report}");
    assert!(node.seen().iter().all(|seen| seen.line() == "POST /function/alpha" && seen.body == "hello"));

    let closed = Closed::new();
    let ran = finish(muster(&closed.url).args(["bench", "alpha", "-n", "2"]));
    assert!(ran.status == 1 && ran.stderr.contains("no node can be reached"), "{}", ran.stderr);
    assert!(ran.stdout.contains("2 × none"), "{}", ran.stdout);
}

fn log_line(time: &str, instance: Option<&str>, stream: &str, text: &str) -> String {
    json!({"time": time, "node": 2, "instance": instance, "stream": stream, "text": text}).to_string() + "\n"
}

#[test]
fn logs_for_people_and_for_programs() {
    let lines = [
        log_line("2026-11-25T10:00:00.000000001Z", Some("i-1"), "stdout", "hello"),
        log_line("2026-11-25T10:00:00.000000002Z", None, "muster", "the node does not answer"),
        log_line("2026-11-25T10:00:00.000000003Z", Some("i-1"), "stderr", "a\u{1b}[31mb"),
    ];
    let body = lines.concat();
    let told = body.clone();
    let node = Fake::new(move |seen, _| match seen.target.starts_with("/v1/functions/alpha/logs") {
        true => Reply::raw(200, told.clone()).with("content-type", "application/x-ndjson"),
        false => Reply::problem(404, "Not found", "the function `beta` does not exist"),
    });
    let ran = run(&node, "logs alpha --since 2026-11-25 --instance i-1 --follow");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(
        ran.stdout,
        "2026-11-25T10:00:00.000000001Z 2 i-1 stdout hello\n2026-11-25T10:00:00.000000003Z 2 i-1 stderr a [31mb\n"
    );
    assert_eq!(ran.stderr, "node 2: the node does not answer\n");
    let asked = "GET /v1/functions/alpha/logs?follow=true&since=2026-11-25T00%3A00%3A00Z&instance=i-1";
    assert_eq!(node.lines(), [asked]);

    let as_json = run(&node, "logs alpha -o json");
    let values =
        |text: &str| -> Vec<Value> { text.lines().map(|l| serde_json::from_str(l).expect(l)).collect() };
    assert_eq!(values(&as_json.stdout), values(&body));
    assert!(run(&node, "logs alpha -o yaml").stdout.starts_with("---\n"));

    let refused = run(&node, "logs beta");
    assert!(refused.status == 1 && refused.stderr.contains("logs of function `beta`"), "{}", refused.stderr);
    assert_eq!(run(&node, "logs alpha --since soon").status, 2);
}

/// A node that breaks off while it is followed: another goes on, and nothing is shown twice.
#[test]
fn following_survives_the_node_that_was_asked() {
    let line = |second: u32, text: &str| {
        log_line(&format!("2026-11-25T10:00:{second:02}.000000000Z"), Some("i-1"), "stdout", text)
    };
    // It promises more than it sends.
    let (first, again) = (line(20, "one"), line(20, "one") + &line(21, "two"));
    let breaking = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", breaking.local_addr().expect("bound"));
    let served = std::thread::spawn(move || {
        let (mut stream, _) = breaking.accept().expect("it connects");
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).expect("it asks");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{first}");
        stream.write_all(answer.as_bytes()).expect("it reads");
    });
    let node = Fake::new(move |_, _| Reply::raw(200, again.clone()));
    let ran = finish(muster(&format!("{url},{}", node.url)).args(["logs", "alpha", "-f"]));
    served.join().expect("served");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let texts: Vec<_> = ran.stdout.lines().map(|line| line.rsplit(' ').next().expect("words")).collect();
    assert_eq!(texts, ["one", "two"], "{}", ran.stdout);
    assert!(ran.stderr.contains("going on with another node"), "{}", ran.stderr);
    assert_eq!(node.lines(), ["GET /v1/functions/alpha/logs?follow=true&since=2026-11-25T10%3A00%3A10Z"]);
}

#[test]
fn completion_needs_no_cluster() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = finish(muster("not a url").args(["completion", shell]));
        assert!(ran.status == 0 && ran.stdout.contains("decisions"), "{shell}: {}", ran.stderr);
    }
}

fn backup(content: &[u8]) -> Vec<u8> {
    let metadata = muster_client::archive::Metadata {
        cluster: "c-00000000000000aa".into(),
        index: 812,
        term: 3,
        taken_at: THEN.into(),
        node: 1,
        version: "0.1.0".into(),
        counts: muster_client::archive::Counts::default(),
    };
    let mut bytes = Vec::new();
    let mut writer = muster_client::archive::Writer::new(&mut bytes, &metadata).expect("memory takes it");
    writer.write_all(content).expect("memory takes it");
    writer.finish().expect("memory takes it");
    bytes
}

#[test]
fn a_backup_gets_its_name_only_when_it_is_whole() {
    let good = backup(&vec![7; 600_000]);
    let mut changed = good.clone();
    changed[300_000] ^= 1;
    for (name, sent, want) in [
        ("whole", good.clone(), None),
        ("cut off", good[..good.len() - 50].to_vec(), Some("its end is missing")),
        ("changed", changed, Some("does not match its checksum")),
        ("no backup", b"{}".to_vec(), Some("not a Muster backup")),
    ] {
        let node = Fake::new(move |_, _| Reply::raw(200, sent.clone()));
        let dir = tempfile::tempdir().unwrap();
        // Of an earlier attempt, and readable by all.
        fs::write(dir.path().join("b.backup.partial"), "old").unwrap();
        let path = dir.path().join("b.backup");
        let ran = finish(muster(&node.url).args(["cluster", "backup"]).arg(&path));
        assert_eq!(node.seen()[0].line(), "GET /v1/cluster/backup", "{name}");
        assert!(!dir.path().join("b.backup.partial").exists(), "{name}: something half is left");
        let Some(want) = want else {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            assert_eq!(fs::read(&path).unwrap(), good);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let checked = finish(muster("not a url").args(["cluster", "backup", "--verify"]).arg(&path));
            assert!(checked.status == 0 && checked.stdout.contains("812 of term 3"), "{}", checked.stderr);
            continue;
        };
        assert!(ran.status == 1 && ran.stderr.contains(want), "{name}: {}", ran.stderr);
        assert!(!path.exists(), "{name}: it got its name");
    }
}

#[test]
fn a_backup_can_go_to_standard_output_or_be_named_for_what_it_is() {
    let node = Fake::new(move |_, _| Reply::raw(200, backup(b"content")));
    let output = muster(&node.url).args(["cluster", "backup", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == backup(b"content"));
    let dir = tempfile::tempdir().unwrap();
    let ran = finish(muster(&node.url).current_dir(dir.path()).args([
        "--consistency",
        "local",
        "cluster",
        "backup",
    ]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(dir.path().join("muster-c-00000000000000aa-812.backup").exists(), "{}", ran.stderr);
    assert_eq!(node.seen()[1].line(), "GET /v1/cluster/backup?consistency=local");
    let bad = dir.path().join("bad");
    fs::write(&bad, &backup(b"content")[..80]).unwrap();
    let checked = finish(muster("not a url").args(["cluster", "backup", "--verify"]).arg(&bad));
    assert!(checked.status == 1 && checked.stderr.contains("cut off after 80 bytes"), "{}", checked.stderr);
}
