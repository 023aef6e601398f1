//! Packages: files that functions are made of.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::Method;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use muster_api::Package;

use crate::client::route;
use crate::transport::{Call, Repeat};
use crate::{Body, Client, Error};

/// How long a node may take over a package: gigabytes, copied once more and synced twice.
const STORE_LIMIT: Duration = Duration::from_secs(3600);

impl Client {
    /// The packages that the cluster keeps.
    pub async fn packages(&self) -> Result<Vec<Package>, Error> {
        self.get(&["v1", "packages"], &[]).await
    }

    /// Gives the cluster a package of so many bytes, which comes from `content`. Another node is asked only
    /// while none of it was read.
    pub async fn put_package(
        &self,
        digest: &str,
        bytes: u64,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Package, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        let call = Call {
            method: Method::PUT,
            path: route(&["v1", "packages", digest], &[])?,
            headers,
            body: Body::stream(content),
            repeat: Repeat::Harmless,
            limit: Some(STORE_LIMIT),
            deadline: STORE_LIMIT,
            patient: true,
            head_limit: None,
            streams: false,
            invocation: false,
        };
        Arc::clone(&self.transport).send(&call).await?.json()
    }
}
