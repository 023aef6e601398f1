//! `muster deploy`: create or change a function from a file.

use std::path::PathBuf;
use std::time::Duration;

use muster_client::Error;
use muster_client::api::FunctionSpec;

use super::failure::{Doing, Failure};
use super::output::note;
use super::{Context, function_file, functions, packages};

/// What `--wait` grants beyond the function's own start-up timeout.
const WAIT_MARGIN: Duration = Duration::from_secs(30);

/// Create a function, or change it to what a file says
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function's `name` and spec, as TOML, or as JSON where the file is called so; `-`: TOML from standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// An image archive, as `docker save` writes it, that the image is in: no registry is needed. Where the function
    /// names no `image` it is the only one in the archive
    #[arg(long, value_name = "FILE", conflicts_with = "package")]
    image_archive: Option<PathBuf>,
    /// A tar of the folder that the function's program is in, plain or gzip; `command` is relative to it
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
    /// Wait until as many instances are ready as `scaling.min` asks for
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let mut file = function_file::read(&arguments.file, arguments.image_archive.is_some())?;
    pack(context, &arguments, &mut file.spec).await?;
    let name = &file.name;
    let shown = arguments.file.display();
    let (created, mut function) = context
        .client
        .put_function(name, &file.spec)
        .await
        .changing(format_args!("deploy function `{name}` from {shown}"))?;
    let done = if created { "created" } else { "deployed" };
    note(&format!("function `{name}` {done}, version {}", function.version));
    if arguments.wait {
        let startup = Duration::from_millis(function.spec.startup_timeout_ms);
        let within = context.timeout.unwrap_or(startup + WAIT_MARGIN);
        if function.spec.scaling.min > 0 {
            note(&format!("waiting for {} ready instances", function.spec.scaling.min));
        }
        let ready = context.client.wait_ready(name, within).await;
        function = match ready {
            Err(error @ Error::NotReady { .. }) => return Err(Failure::failed(error.to_string())),
            ready => ready.doing(format_args!("wait for function `{name}`"))?,
        };
    }
    context.output.show(&function, || functions::table([&function]).to_string())
}

/// Gives the cluster what the function is made of, if that is a file, and names it in the spec.
async fn pack(context: &Context, arguments: &Arguments, spec: &mut FunctionSpec) -> Result<(), Failure> {
    if let Some(archive) = &arguments.image_archive {
        let images = packages::images_in(archive)?;
        let shown = archive.display();
        let list = || images.iter().map(|image| format!("`{image}`")).collect::<Vec<_>>().join(", ");
        if spec.command.is_some() {
            return Err(Failure::Usage(
                "`--image-archive` is for a function with an `image`; it has a `command`".into(),
            ));
        }
        match &spec.image {
            None if images.len() == 1 => spec.image = images.first().cloned(),
            None => {
                let why =
                    format!("the function names no `image`, and {shown} has {}: {}", images.len(), list());
                return Err(Failure::Usage(why));
            }
            Some(image) if images.contains(image) || images.contains(&format!("{image}:latest")) => {}
            Some(image) => {
                return Err(Failure::Usage(format!("{shown} has no image `{image}`: it has {}", list())));
            }
        }
        spec.package = Some(packages::upload(&context.client, archive).await?);
    } else if let Some(package) = &arguments.package {
        if spec.command.is_none() {
            return Err(Failure::Usage(
                "`--package` is for a function with a `command`; it has an `image`".into(),
            ));
        }
        spec.package = Some(packages::upload(&context.client, package).await?);
    }
    Ok(())
}
