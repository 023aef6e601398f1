//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const POLL: Duration = Duration::from_millis(25);

/// What will not come true any more, however long one waits.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl std::fmt::Display for Hopeless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Looks until `check` succeeds, at most `within`.
///
/// # Errors
/// What was wrong at the last look, when time is up or the look was [`Hopeless`].
pub async fn until<T, F>(what: &str, within: Duration, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let began = Instant::now();
    let mut last = None;
    loop {
        let left = within.saturating_sub(began.elapsed());
        // A look that hangs must not outlast the deadline by much.
        match tokio::time::timeout(left.max(POLL), check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.is::<Hopeless>() => {
                return Err(error.context(format!("waited until {what}")));
            }
            Ok(Err(error)) => last = Some(error),
            Err(_elapsed) => {}
        }
        if began.elapsed() >= within {
            let why = last.map_or_else(|| "no look came to an end".to_owned(), |e| format!("{e:#}"));
            bail!("waited {:.1} s in vain until {what}: {why}", within.as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Sees to it that `check` keeps succeeding for `span`: for what must *not* happen.
///
/// # Errors
/// What was wrong, and when.
pub async fn stays<F>(what: &str, span: Duration, mut check: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let began = Instant::now();
    loop {
        if let Err(error) = check().await {
            bail!("after {:.1} s it no longer held that {what}: {error:#}", began.elapsed().as_secs_f64());
        }
        if began.elapsed() >= span {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn until_ends_with_success_or_the_last_reason() {
        let looks = Cell::new(0);
        let look = || async {
            looks.set(looks.get() + 1);
            ensure!(looks.get() >= 3, "look {}", looks.get());
            Ok(looks.get())
        };
        assert_eq!(until("the third look", Duration::from_secs(5), look).await.unwrap(), 3);
        let never = || async { Err::<(), _>(anyhow::anyhow!("still not")) };
        let error = until("never", Duration::from_millis(60), never).await.unwrap_err();
        assert!(error.to_string().contains("still not"), "{error}");
        let hopeless = || async { Err::<(), _>(Hopeless("it is over".into()).into()) };
        let error = until("hopeless", Duration::from_secs(60), hopeless).await.unwrap_err();
        assert!(format!("{error:#}").contains("it is over"), "{error:#}");
        let hangs = || std::future::pending::<Result<()>>();
        assert!(until("a look ends", Duration::from_millis(60), hangs).await.is_err());
    }

    #[tokio::test]
    async fn stays_fails_at_the_first_lapse() {
        let looks = Cell::new(0);
        let look = || async {
            looks.set(looks.get() + 1);
            ensure!(looks.get() < 3, "lapsed");
            Ok(())
        };
        assert!(stays("few looks", Duration::from_secs(60), look).await.is_err());
        assert!(stays("always", Duration::from_millis(60), || async { Ok(()) }).await.is_ok());
    }
}
