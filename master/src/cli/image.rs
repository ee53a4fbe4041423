//! `tesela image`: what nodes boot.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use miette::IntoDiagnostic as _;
use serde::Serialize;
use tesela_node_image::image::{self, BuildInfo, Progress};

use crate::boot::{NodePrograms, image_spec};
use crate::inventory::Timestamp;
use crate::nfs::union::builds_in_use;

use super::{Common, Outcome, file, table};

#[derive(Subcommand, Debug)]
pub(crate) enum Image {
    /// Builds images, where something that they are made of has changed.
    Build {
        /// Which; all of cluster.yaml's unless said.
        names: Vec<String>,
        /// Builds anew in any case, for newer packages.
        #[arg(long)]
        refresh: bool,
    },
    /// Lists the images and their builds.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Removes an image with all its builds.
    Rm {
        /// Which.
        name: String,
    },
}

pub(crate) fn run(common: &Common, command: &Image) -> Outcome {
    match command {
        Image::Build { names, refresh } => build(common, names, *refresh),
        Image::List { json } => list(common, *json),
        Image::Rm { name } => {
            let cluster = common.config().exists().then(|| file::load(common.config())).transpose()?;
            if cluster.is_some_and(|cluster| cluster.images.contains_key(name)) {
                return Err(miette::miette!(
                    "{} still has the image `{name}`; take it out there first",
                    common.config().display()
                )
                .into());
            }
            let folder = common.state().join("images").join(name);
            let on_it: Vec<String> = builds_in_use(common.state())
                .into_diagnostic()?
                .into_iter()
                .filter(|(_, build)| build.starts_with(&folder))
                .map(|(node, _)| node)
                .collect();
            if !on_it.is_empty() {
                return Err(miette::miette!(
                    help = "a node leaves it at its next boot, or with `tesela node rebase` where it keeps its \
                            writes; one that is in cluster.yaml no more with `tesela node forget`",
                    "the roots of {} are on a build of the image `{name}`",
                    on_it.join(", ")
                )
                .into());
            }
            image::remove(common.state(), name).into_diagnostic()?;
            Ok(())
        }
    }
}

fn build(common: &Common, names: &[String], refresh: bool) -> Outcome {
    let cluster = file::load(common.config())?;
    let names: Vec<String> = match names {
        [] => cluster.images.keys().cloned().collect(),
        some => some.to_vec(),
    };
    let programs = NodePrograms::find().into_diagnostic()?;
    for name in &names {
        let spec = image_spec(&cluster, name, &programs, refresh).ok_or_else(|| {
            let known: Vec<_> = cluster.images.keys().map(String::as_str).collect();
            miette::miette!(
                "there is no image `{name}` in {} (there are: {})",
                common.config().display(),
                known.join(", ")
            )
        })?;
        let mut teller = Teller::new(name);
        let built =
            image::build(&spec, common.state(), &programs.stage1, &mut |progress| teller.tell(progress));
        teller.end();
        let built = built.into_diagnostic()?;
        if built.reused {
            println!("{name}: nothing has changed; nodes boot build {}", built.build);
        } else {
            let BuildInfo { kernel, size, seconds, dropped_xattrs, .. } = &built.info;
            println!(
                "{name}: build {} in {seconds} s: kernel {kernel}, {} MB",
                built.build,
                size / 1_000_000
            );
            for (path, attributes) in dropped_xattrs {
                println!("{name}: {path}: an NFS root cannot carry {}", attributes.join(", "));
            }
        }
    }
    Ok(())
}

/// Tells how far a build is: a spinner on a terminal, a line a step elsewhere.
struct Teller {
    image: String,
    bar: Option<ProgressBar>,
}

impl Teller {
    fn new(image: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg} [{elapsed}]") {
                bar.set_style(style);
            }
            bar.set_prefix(image.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { image: image.to_owned(), bar }
    }

    fn tell(&mut self, progress: Progress) {
        match (&self.bar, progress) {
            (Some(bar), Progress::Step { number, of, what }) => {
                bar.set_message(format!("{number}/{of} {what}"))
            }
            (None, Progress::Step { number, of, what }) => eprintln!("{}: {number}/{of} {what}", self.image),
            (_, Progress::Detail(_)) => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[derive(Serialize)]
struct Listed {
    image: String,
    build: String,
    current: bool,
    #[serde(flatten)]
    info: BuildInfo,
}

fn list(common: &Common, json: bool) -> Outcome {
    let images = image::list(common.state()).into_diagnostic()?;
    let listed: Vec<Listed> = images
        .into_iter()
        .flat_map(|image| {
            let current = image.current;
            image.builds.into_iter().map(move |(build, info)| Listed {
                image: image.name.clone(),
                current: current.as_ref() == Some(&build),
                build,
                info,
            })
        })
        .collect();
    if json {
        return super::print_json(&listed);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = listed
        .iter()
        .map(|listed| {
            let built = i64::try_from(listed.info.built_at).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
            vec![
                listed.image.clone(),
                listed.build.clone(),
                if listed.current { "yes".into() } else { String::new() },
                listed.info.kernel.clone(),
                format!("{} MB", listed.info.size / 1_000_000),
                format!("{} ago", table::ago(now.since(Timestamp(built)))),
                listed.info.source.clone(),
            ]
        })
        .collect();
    table::print(&["IMAGE", "BUILD", "CURRENT", "KERNEL", "SIZE", "BUILT", "FROM"], &rows);
    Ok(())
}
