//! Usage: who used what, when.

use muster_api::{Grain, Usage};

use crate::{Client, Error};

/// Which usage to show. Everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    pub account: Option<String>,
    pub function: Option<String>,
    /// RFC 3339, inclusive.
    pub from: Option<String>,
    /// RFC 3339, exclusive.
    pub to: Option<String>,
    pub by: Option<Grain>,
}

impl Client {
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<Usage>, Error> {
        let by = query.by.map(|grain| match grain {
            Grain::Hour => "hour",
            Grain::Day => "day",
            Grain::Month => "month",
            Grain::Total => "total",
        });
        let given: Vec<(&str, &str)> = [
            ("account", query.account.as_deref()),
            ("function", query.function.as_deref()),
            ("from", query.from.as_deref()),
            ("to", query.to.as_deref()),
            ("by", by),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        self.get(&["v1", "usage"], &given).await
    }
}
