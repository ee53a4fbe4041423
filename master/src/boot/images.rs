//! What cluster.yaml says of an image, as the builder takes it.

use std::path::{Path, PathBuf};

use tesela_node_image::image::{ExtraFile, FileContent, ImageSpec, Source};
use tesela_runtime::tools::{TOOLS, Tool};

use crate::cluster::{Cluster, ImageSource, Root};

/// The programs that run on nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePrograms {
    /// The first program, in the initramfs.
    pub stage1: PathBuf,
    /// The agent, in the image.
    pub teselad: PathBuf,
    /// The tools, in the image: one program of many names.
    pub tools: PathBuf,
}

/// The programs are not there.
#[derive(Debug, thiserror::Error)]
#[error("{program} is in none of {places}; install the package whole, or build it with `make node-binaries`")]
pub struct NoProgram {
    program: &'static str,
    places: String,
}

/// Where the agent is on a node.
const AGENT_PATH: &str = "/usr/lib/tesela/teselad";
/// Where the tools' program is on a node; each tool is a link to it.
const TOOLS_PATH: &str = "/usr/lib/tesela/tesela-tools";

/// The manual pages of the tools, the tree and the agent (man(7)), each by its name and section: `mosctl.1`.
#[derive(rust_embed::RustEmbed)]
#[folder = "../packaging/man"]
struct Manuals;

impl NodePrograms {
    /// Finds them beside this program, where the Makefile puts them, or where the package does.
    pub fn find() -> Result<Self, NoProgram> {
        let mut places = Vec::new();
        if let Some(beside) = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())) {
            // The Makefile's place comes first: `cargo build` leaves a stage1 beside us that is not static.
            if let Some(target) = beside.parent() {
                places.push(target.join("static/x86_64-unknown-linux-gnu/node"));
            }
            places.push(beside);
        }
        places.push("/usr/lib/tesela".into());
        let find = |program: &'static str| {
            places.iter().map(|place| place.join(program)).find(|path| path.is_file()).ok_or_else(|| {
                NoProgram {
                    program,
                    places: places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
                }
            })
        };
        Ok(Self { stage1: find("stage1")?, teselad: find("teselad")?, tools: find("tesela-tools")? })
    }
}

/// What to do about an image that nodes are to boot and that has no build.
pub fn not_built(image: &str) -> String {
    format!("the image `{image}` is not built; run `tesela image build {image}`")
}

/// The image of this name; `None` if cluster.yaml has none.
pub fn spec(cluster: &Cluster, name: &str, programs: &NodePrograms, refresh: bool) -> Option<ImageSpec> {
    let image = cluster.images.get(name)?;
    let of_this = |settings: &crate::cluster::Settings| {
        settings.image.value.as_deref() == Some(name) && settings.root.value == Root::Ram
    };
    let squashfs = cluster.profiles.values().any(of_this)
        || cluster.nodes.iter().flat_map(|node| &node.choices).any(|choice| of_this(&choice.settings));
    Some(ImageSpec {
        name: name.to_owned(),
        source: match &image.from {
            ImageSource::Debian(suite) => Source::Debian(suite.clone()),
            ImageSource::Host(path) => Source::Host(path.clone()),
            ImageSource::Dir(path) => Source::Directory(path.clone()),
            ImageSource::Tar(path) => Source::Archive(path.clone()),
        },
        packages: image.packages.clone(),
        post_install: image.post_install.clone(),
        mirror: image.mirror.clone(),
        extra: extra(programs),
        squashfs,
        refresh,
    })
}

/// What an image gets from us: the agent, the tools on everyone's PATH, and their manual pages.
fn extra(programs: &NodePrograms) -> Vec<ExtraFile> {
    let program = |path: &str, from: &Path| ExtraFile {
        path: path.into(),
        content: FileContent::CopyOf(from.to_owned()),
        mode: 0o755,
    };
    let link = |(name, _): &(&str, Tool)| ExtraFile {
        path: format!("/usr/bin/{name}"),
        content: FileContent::Link(TOOLS_PATH.into()),
        mode: 0o777,
    };
    let mut files = vec![program(AGENT_PATH, &programs.teselad), program(TOOLS_PATH, &programs.tools)];
    files.extend(TOOLS.iter().map(link));
    files.extend(manuals().map(|(path, content)| ExtraFile {
        path: format!("/usr/share/man/{path}"),
        content: FileContent::Text(content),
        mode: 0o644,
    }));
    files
}

/// The manual pages, each with its path below a directory of such (`man1/mosctl.1`), in the order of names.
pub fn manuals() -> impl Iterator<Item = (String, String)> {
    Manuals::iter().filter_map(|name| {
        let (_, section) = name.rsplit_once('.')?;
        let content = Manuals::get(&name)?.data;
        Some((format!("man{section}/{name}"), String::from_utf8_lossy(&content).into_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_tools_and_a_page_for_each() {
        let program = |name: &str| PathBuf::from("/build").join(name);
        let programs = NodePrograms {
            stage1: program("stage1"),
            teselad: program("teselad"),
            tools: program("tesela-tools"),
        };
        let files = extra(&programs);
        let at = |path: &str| files.iter().find(|file| file.path == path);
        for (name, _) in TOOLS {
            assert_eq!(
                at(&format!("/usr/bin/{name}")).map(|file| &file.content),
                Some(&FileContent::Link(TOOLS_PATH.into()))
            );
            assert!(at(&format!("/usr/share/man/man1/{name}.1")).is_some(), "{name}");
        }
        assert!(at("/usr/share/man/man5/hpc.5").is_some() && at("/usr/share/man/man8/teselad.8").is_some());
        // A page that stands for another names it as man(1) looks for it.
        for file in files.iter().filter(|file| file.path.starts_with("/usr/share/man/")) {
            let FileContent::Text(text) = &file.content else { panic!("{file:?}") };
            match text.strip_prefix(".so ") {
                Some(other) => {
                    let other = format!("/usr/share/man/{}", other.trim_end());
                    assert!(at(&other).is_some(), "{}: {other}", file.path);
                }
                None => assert!(text.starts_with(".TH "), "{}", file.path),
            }
        }
    }
}
