//! Packages: files that functions are made of.

use serde::{Deserialize, Serialize};

/// A package that the cluster keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Package {
    /// `sha256:` and the SHA-256 of the file in hexadecimal.
    pub digest: String,
    pub bytes: u64,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub stored_at: String,
    /// The functions, among those that the caller may see, with a version that is of it.
    pub functions: Vec<String>,
}
