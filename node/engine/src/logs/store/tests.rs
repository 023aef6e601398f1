use futures_util::StreamExt;

use super::*;

const LIMITS: Limits = Limits {
    file_bytes: 100,
    function_bytes: 1 << 20,
    function_instances: 100,
    node_bytes: 1 << 20,
    age: Duration::from_secs(3600),
};

fn of(instance: u64, function: &str, born: u64) -> Origin {
    Origin {
        instance: InstanceId(instance),
        generation: Generation(7),
        function: FunctionName::new(function).unwrap(),
        born: Timestamp(born),
    }
}

fn line(at: u64, stream: Stream, text: &str) -> Line {
    Line { at: Nanos(at), stream, text: text.into() }
}

async fn texts(stream: LogStream) -> Vec<String> {
    stream.map(|line| String::from_utf8(line.unwrap().text).unwrap()).collect().await
}

fn open_in(dir: &Path) -> Store {
    Store::open(dir, LIMITS).unwrap()
}

#[tokio::test]
async fn the_format_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_in(dir.path());
    let writer = store.begin(of(0xab, "alpha", 1_700_000_000_123));
    writer.append(vec![line(1, Stream::Stdout, "hello  world"), line(2, Stream::Stderr, "")]).await;
    writer.append(vec![line(3, Stream::Muster, "1 lines were not kept")]).await;
    writer.end().await;
    let file = dir.path().join("alpha/i-00000000000000ab.log");
    let golden = "muster-log 1 7 1700000000123\n1 o hello  world\n2 e \n3 m 1 lines were not kept\n";
    assert_eq!(fs::read_to_string(&file).unwrap(), golden);

    // Read back, also by the next process; what a crash has cut is passed over.
    fs::write(&file, format!("{golden}4 o wh")).unwrap();
    let store = open_in(dir.path());
    let alpha = FunctionName::new("alpha").unwrap();
    assert_eq!(store.list(&alpha).await, [of(0xab, "alpha", 1_700_000_000_123)]);
    for follow in [false, true] {
        let read = LogRead { after: Nanos(1), follow };
        let lines: Vec<Line> =
            store.read(&alpha, InstanceId(0xab), read).await.unwrap().map(Result::unwrap).collect().await;
        let want = [line(2, Stream::Stderr, ""), line(3, Stream::Muster, "1 lines were not kept")];
        assert_eq!(lines, want);
    }
    assert!(store.read(&alpha, InstanceId(1), LogRead::default()).await.is_none());
}

#[tokio::test]
async fn files_are_bounded_and_followers_miss_nothing_at_their_pace() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_in(dir.path());
    let alpha = FunctionName::new("alpha").unwrap();
    let writer = store.begin(of(1, "alpha", 5));
    let read = LogRead { follow: true, ..LogRead::default() };
    let mut follower = store.read(&alpha, InstanceId(1), read).await.unwrap();
    for number in 1..=100 {
        writer.append(vec![line(number, Stream::Stdout, &format!("line {number}"))]).await;
        let seen = follower.next().await.unwrap().unwrap();
        assert_eq!(seen, line(number, Stream::Stdout, &format!("line {number}")));
    }
    writer.end().await;
    assert!(follower.next().await.is_none(), "it goes on after the end");

    let kept = texts(store.read(&alpha, InstanceId(1), LogRead::default()).await.unwrap()).await;
    assert!(kept.len() < 30 && kept.last().unwrap() == "line 100", "{kept:?}");
    let first: u64 = kept[0].strip_prefix("line ").unwrap().parse().unwrap();
    let whole: Vec<String> = (first..=100).map(|number| format!("line {number}")).collect();
    assert_eq!(kept, whole);
    for file in fs::read_dir(dir.path().join("alpha")).unwrap() {
        assert!(file.unwrap().metadata().unwrap().len() < 200);
    }
}

#[tokio::test]
async fn output_of_functions_that_are_gone_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_in(dir.path());
    for (instance, function, born) in [(1, "stays", 5), (2, "stays", 4), (3, "gone", 5)] {
        let writer = store.begin(of(instance, function, born));
        writer.append(vec![line(1, Stream::Stdout, "x")]).await;
        writer.end().await;
    }
    let stays = FunctionName::new("stays").unwrap();
    store.retain(BTreeMap::from([(stays.clone(), Timestamp(5))])).await;
    // Jobs are done in their order: when this one has ended, the one before it is done.
    store.begin(of(9, "other", 1)).end().await;
    assert_eq!(store.list(&stays).await, [of(1, "stays", 5)]);
    assert!(!dir.path().join("gone").exists());
}

#[tokio::test]
async fn a_writer_that_is_too_fast_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let (jobs, mut queue) = mpsc::channel(1);
    let writer = Writer { origin: Arc::new(of(1, "alpha", 1)), jobs, lost: AtomicU64::new(0) };
    let batch = |at| vec![line(at, Stream::Stdout, "x")];
    for at in [10, 20, 30] {
        writer.offer(batch(at));
    }
    let mut taken = Vec::new();
    let mut take = |job: Option<Job>| match job {
        Some(Job::Append { lines, .. }) => taken.extend(lines),
        other => panic!("{other:?}"),
    };
    take(queue.recv().await);
    writer.offer(batch(40));
    take(queue.recv().await);
    let remark = "2 lines were not kept: the disk of the node is too slow";
    assert_eq!(
        taken,
        [line(10, Stream::Stdout, "x"), line(39, Stream::Muster, remark), line(40, Stream::Stdout, "x")]
    );
    drop(dir);
}
