//! Several streams in the order of time as one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use futures_util::future;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::record::Record;

/// Merges streams, each of which is in order. It holds one record of each.
pub(crate) fn merged<T: Send + 'static>(
    sources: Vec<BoxStream<'static, T>>,
    record: fn(&T) -> &Record,
) -> BoxStream<'static, T> {
    stream::once(async move {
        let mut sources = sources;
        // At once, so that the slowest alone is waited for.
        let first = future::join_all(sources.iter_mut().map(StreamExt::next)).await;
        let mut order = BinaryHeap::new();
        for (place, head) in first.iter().enumerate() {
            order.extend(head.as_ref().map(|head| Reverse((record(head).at_ns, place))));
        }
        stream::unfold((sources, first, order), move |(mut sources, mut heads, mut order)| async move {
            let Reverse((_, place)) = order.pop()?;
            let next = sources[place].next().await;
            let head = std::mem::replace(&mut heads[place], next)?;
            order.extend(heads[place].as_ref().map(|next| Reverse((record(next).at_ns, place))));
            Some((head, (sources, heads, order)))
        })
    })
    .flatten()
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::super::record::Source;
    use super::*;

    #[tokio::test]
    async fn in_the_order_of_time_and_then_of_the_sources() {
        for (sources, want) in [
            (&[][..], &[][..]),
            (&[&[1, 4][..], &[][..], &[2, 3, 9][..]], &[1, 2, 3, 4, 9]),
            (&[&[5, 5][..], &[5][..]], &[5, 5, 5]),
        ] {
            let streams = sources.iter().map(|times| {
                let records = times.iter().map(|at| Record {
                    at_ns: *at,
                    instance: None,
                    stream: Source::Stdout,
                    text: String::new(),
                });
                stream::iter(records.collect::<Vec<_>>()).boxed()
            });
            let all: Vec<u64> =
                merged(streams.collect(), |record| record).map(|record| record.at_ns).collect().await;
            assert_eq!(all, want);
        }
    }
}
