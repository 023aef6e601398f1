//! What instances write, read through nodes that have none of them: past and live, of instances that have
//! ended, while a host is down.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use muster_api::{Action, LogLine};
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Settings, functions};
use muster_client::{Client, LogQuery, Logs};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// Everything that is written, as one node tells it.
async fn all(client: &Client, function: &str, query: LogQuery) -> anyhow::Result<Vec<LogLine>> {
    let mut logs = client.logs(function, &query).await?;
    let mut lines = Vec::new();
    while let Some(line) = logs.next().await? {
        lines.push(line);
    }
    Ok(lines)
}

/// The next line that an instance has written, but for what each says at its start.
async fn next(logs: &mut Logs) -> LogLine {
    loop {
        let line = timeout(SOON, logs.next()).await.expect("a line in time").unwrap().expect("more lines");
        if line.stream != "muster" && !line.text.starts_with("listening on") {
            return line;
        }
    }
}

async fn print(cluster: &Cluster, n: u64, function: &str, text: &str) -> String {
    let target = format!("{function}?print={text}");
    let answer = cluster.invoke(n, cluster.root_key(), &target, "").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.instance.unwrap()
}

fn says(lines: &[LogLine], text: &str) -> bool {
    lines.iter().any(|line| line.text == text)
}

async fn readers(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut all = 0;
    for n in cluster.numbers() {
        all += cluster.metric(n, "muster_log_readers").await?;
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_tells_what_all_instances_have_written_and_who_may_read_it() {
    // A host that is late for a moment on a busy machine is not passed over.
    let cluster = Cluster::start(Settings::default().set("controller.down_after_ms", 6_000)).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    // One on each node.
    spec.scaling.min = 3;
    admin.put_function("told", &spec).await.unwrap();
    admin.put_function("other", &functions::faulty("echo")).await.unwrap();
    admin.wait_ready("told", SOON).await.unwrap();
    let (invoker, manager) =
        (cluster.client_for("invoker").await.unwrap(), cluster.client_for("manager").await.unwrap());
    admin.put_grant("invoker", "told", &[Action::Invoke]).await.unwrap();
    admin.put_grant("manager", "told", &[Action::Manage]).await.unwrap();
    cluster.spread().await.unwrap();
    let hosts: BTreeSet<u64> = admin.instances(Some("told")).await.unwrap().iter().map(|i| i.node).collect();
    assert_eq!(hosts.len(), 3, "{hosts:?}");

    let mut wrote = BTreeSet::new();
    for (number, node) in [1, 2, 3].into_iter().enumerate() {
        wrote.insert(print(&cluster, node, "told", &format!("line{number}")).await);
    }
    for node in cluster.numbers() {
        let told = || async {
            let lines = all(&cluster.client_at(node), "told", LogQuery::default()).await?;
            for number in 0..3 {
                for stream in ["stdout", "stderr"] {
                    let text = format!("line{number} on {stream}");
                    let line = lines.iter().find(|l| l.text == text).with_context(|| text.clone())?;
                    ensure!(
                        line.stream == stream && wrote.contains(line.instance.as_ref().unwrap()),
                        "{line:?}"
                    );
                }
            }
            ensure!(lines.is_sorted_by(|one, two| one.time <= two.time), "{lines:?}");
            Ok(lines)
        };
        let lines = until("the node tells all lines", SOON, told).await.unwrap();

        let one = lines.iter().find(|line| line.text == "line1 on stdout").unwrap();
        let of_one =
            LogQuery { instance: one.instance.clone(), since: Some(one.time.clone()), follow: false };
        let some = all(&cluster.client_at(node), "told", of_one).await.unwrap();
        assert!(some.iter().all(|line| line.instance == one.instance), "{some:?}");
        assert!(says(&some, "line1 on stdout") || says(&some, "line1 on stderr"), "{some:?}");
    }

    assert!(says(&all(&manager, "told", LogQuery::default()).await.unwrap(), "line0 on stdout"));
    for (client, function, status) in
        [(&invoker, "told", 403), (&manager, "other", 403), (&admin, "none", 404)]
    {
        let refused = client.logs(function, &LogQuery::default()).await.unwrap_err();
        assert_eq!(refused.status(), Some(status), "{function}: {refused}");
    }
    let bad = LogQuery { instance: Some("i-1".into()), ..LogQuery::default() };
    assert_eq!(admin.logs("told", &bad).await.unwrap_err().status(), Some(400));

    // Who creates a function of the same name reads nothing of the one before.
    admin.delete_function("told", true).await.unwrap();
    admin.put_function("told", &functions::faulty("echo")).await.unwrap();
    cluster.spread().await.unwrap();
    let lines = all(&cluster.client_at(2), "told", LogQuery::default()).await.unwrap();
    assert!(!lines.iter().any(|line| line.text.starts_with("line")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_see_instances_come_and_go_and_a_host_that_is_missing_is_named() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.scaling.max = 1;
    (spec.scaling.window_ms, spec.scaling.keep_alive_ms) = (500, 0.into());
    admin.put_function("brief", &spec).await.unwrap();
    cluster.spread().await.unwrap();

    let following = LogQuery { follow: true, ..LogQuery::default() };
    let mut follower = cluster.client_at(3).logs("brief", &following).await.unwrap();
    let mut instances = BTreeSet::new();
    for text in ["first", "second"] {
        instances.insert(print(&cluster, 1, "brief", text).await);
        let mut two = [next(&mut follower).await.text, next(&mut follower).await.text];
        two.sort();
        assert_eq!(two, [format!("{text} on stderr"), format!("{text} on stdout")]);
        let gone = || async {
            let left = admin.instances(Some("brief")).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        };
        until("it is scaled to zero", SOON, gone).await.unwrap();
    }
    assert_eq!(instances.len(), 2, "{instances:?}");
    // Both have ended, and are told of all the same.
    let lines = all(&cluster.client_at(2), "brief", LogQuery::default()).await.unwrap();
    assert!(says(&lines, "first on stdout") && says(&lines, "second on stderr"), "{lines:?}");

    // A reader that goes is noticed though nothing is written.
    assert_eq!(readers(&cluster).await.unwrap(), 1);
    drop(follower);
    let left = || async {
        let left = readers(&cluster).await?;
        ensure!(left == 0, "{left} readers");
        Ok(())
    };
    until("the reader's going is noticed", SOON, left).await.unwrap();

    let ended = admin.instances(Some("brief")).await.unwrap();
    assert!(ended.is_empty());
    let host = cluster.instances_ever("brief").await.unwrap()[0].node;
    let asked = *cluster.others(host).first().unwrap();
    let mut follower = cluster.client_at(asked).logs("brief", &following).await.unwrap();
    cluster.kill(host).unwrap();
    let named = || async {
        let lines = all(&cluster.client_at(asked), "brief", LogQuery::default()).await?;
        let remark = lines.iter().find(|line| line.stream == "muster").context("no remark")?;
        ensure!(remark.node == host && remark.instance.is_none(), "{remark:?}");
        Ok(())
    };
    until("the missing host is named", SOON, named).await.unwrap();
    let remark = async {
        loop {
            let line = follower.next().await.unwrap().expect("it goes on");
            if line.stream == "muster" {
                return line;
            }
        }
    };
    assert_eq!(timeout(SOON, remark).await.unwrap().node, host);
    // What it goes on to tell is of the others, and of the host again once it is back.
    cluster.restart(host).await.unwrap();
    print(&cluster, asked, "brief", "third").await;
    assert!(next(&mut follower).await.text.starts_with("third on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_end_the_reading_and_a_stopping_node_does_not_wait_for_it() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    admin.put_function("told", &functions::faulty("echo")).await.unwrap();
    let manager = cluster.client_for("manager").await.unwrap();
    admin.put_grant("manager", "told", &[Action::Manage]).await.unwrap();
    cluster.spread().await.unwrap();
    let following = LogQuery { follow: true, ..LogQuery::default() };
    let mut theirs = manager.logs("told", &following).await.unwrap();
    let mut ours = cluster.client_at(2).logs("told", &following).await.unwrap();
    admin.delete_grant("manager", "told").await.unwrap();
    assert_eq!(timeout(SOON, theirs.next()).await.expect("it ends in time").unwrap(), None);

    cluster.terminate(2).unwrap();
    cluster.ended(2, SOON).await.unwrap();
    let log = cluster.log(2);
    assert!(!log.contains("cutting connections that outlast the grace"), "it has waited: {log}");
    assert!(timeout(SOON, ours.next()).await.expect("it ends in time").is_ok_and(|line| line.is_none()));
}
