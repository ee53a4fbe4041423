//! Templates (Tera, strict): all that a node is sent and sees.
//!
//! `boot/` holds the loaders' scripts; every file under `root/` appears at that path in the nodes' root.
//! The shipped ones are part of the binary; a file at the same place in `/etc/tesela/templates/` wins, and
//! further files there are added. A name that a template uses and nobody defines is an error with file
//! and line. The first line of a template may be a comment that says more of the file:
//! `{# mode: 0600 #}`, `{# link #}` (what is rendered is the target of a symbolic link).

mod header;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tera::{Context, Tera};

use header::Header;

#[derive(rust_embed::RustEmbed)]
#[folder = "../templates"]
struct Shipped;

/// What is put into a node's root, owned by root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedFile {
    /// Absolute path.
    pub path: String,
    /// Content.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
}

/// Content of a rendered file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A regular file; nodes with the same content share it.
    File(Arc<[u8]>),
    /// A symbolic link to this.
    Link(String),
}

/// What can be wrong with a template: whoever wrote it can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file in it cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The first line says something unknown.
    #[error("{template}: line 1: {message}")]
    Header {
        /// Which template.
        template: String,
        /// What is wrong, and the mend.
        message: String,
    },
    /// A template does not parse, or uses what is not there.
    #[error("{}", with_sources(.0))]
    Template(#[from] tera::Error),
    /// The templates have failed since the master's start.
    #[error("{0}")]
    SinceStart(Arc<Error>),
}

fn with_sources(error: &tera::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// The templates of this moment, parsed, with what is the same for all nodes filled in.
#[derive(Clone)]
pub struct Templates {
    tera: Tera,
    root: BTreeMap<String, Header>,
    /// Rendered once for all nodes: those that do not look at `node`.
    shared: Vec<RenderedFile>,
}

impl Templates {
    /// Reads the shipped templates and those of `overrides`, and renders what no node's own data goes
    /// into. `common`: the variables that are the same for all nodes.
    pub fn load<T: Serialize + ?Sized>(overrides: Option<&Path>, common: &T) -> Result<Self, Error> {
        let mut sources = BTreeMap::new();
        for name in Shipped::iter() {
            if let Some(file) = Shipped::get(&name) {
                sources.insert(name.to_string(), String::from_utf8_lossy(&file.data).into_owned());
            }
        }
        if let Some(dir) = overrides.filter(|dir| dir.exists()) {
            read_tree(dir, dir, &mut sources)?;
        }
        let mut root = BTreeMap::new();
        let mut tera = Tera::new();
        tera.autoescape_on(Vec::<&str>::new());
        sources.retain(|name, _| name.starts_with("boot/") || name.starts_with("root/"));
        for (name, source) in &mut sources {
            let header =
                header::take(source).map_err(|message| Error::Header { template: name.clone(), message })?;
            if let Some(path) = name.strip_prefix("root/") {
                root.insert(format!("/{path}"), header);
            }
        }
        tera.add_raw_templates(sources)?;
        Self { tera, root, shared: Vec::new() }.with_common(common)
    }

    /// The same templates with other variables that are the same for all nodes.
    ///
    /// # Errors
    /// Of a template that fails with them.
    pub fn with_common<T: Serialize + ?Sized>(&self, common: &T) -> Result<Self, Error> {
        let mut templates = self.clone();
        *templates.tera.global_context() = Context::from_serialize(common)?;
        let alike: BTreeSet<_> =
            templates.root.keys().filter(|path| !templates.is_of_a_node(path)).cloned().collect();
        templates.shared = templates.render_files(&Context::new(), |path| alike.contains(path))?;
        Ok(templates)
    }

    fn is_of_a_node(&self, path: &str) -> bool {
        self.tera
            .get_template_variables(&template_name(path))
            // What cannot be told is rendered for each node, and its error is met there.
            .map_or(true, |variables| variables.contains("node"))
    }

    /// The files of one node's root, in the order of their paths.
    pub fn root_of<T: Serialize + ?Sized>(&self, node: &T) -> Result<Vec<RenderedFile>, Error> {
        let mut context = Context::new();
        context.insert("node", node);
        let mut files = self.render_files(&context, |path| {
            self.shared.binary_search_by(|file| file.path.as_str().cmp(path)).is_err()
        })?;
        files.extend(self.shared.iter().cloned());
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn render_files(
        &self,
        context: &Context,
        which: impl Fn(&str) -> bool,
    ) -> Result<Vec<RenderedFile>, Error> {
        let mut out = Vec::new();
        for (path, header) in self.root.iter().filter(|(path, _)| which(path)) {
            let text = self.tera.render(&template_name(path), context)?;
            let content = if header.link {
                Content::Link(text.trim().to_owned())
            } else {
                Content::File(text.into_bytes().into())
            };
            out.push(RenderedFile { path: path.clone(), content, mode: header.mode });
        }
        Ok(out)
    }

    /// One of the loaders' scripts: `boot/NAME`, with `extra` variables.
    pub fn boot<T: Serialize + ?Sized>(&self, name: &str, extra: &T) -> Result<String, Error> {
        Ok(self.tera.render(&format!("boot/{name}"), &Context::from_serialize(extra)?)?)
    }
}

fn template_name(path: &str) -> String {
    format!("root{path}")
}

fn read_tree(top: &Path, dir: &Path, sources: &mut BTreeMap<String, String>) -> Result<(), Error> {
    let failed = |path: &Path, source| Error::Read { path: path.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let name = path.strip_prefix(top).unwrap_or(&path).to_string_lossy().into_owned();
        // Editors leave these behind while they save.
        if name.ends_with('~') || name.ends_with(".swp") || name.contains(".#") {
            continue;
        }
        if path.is_dir() {
            read_tree(top, &path, sources)?;
        } else {
            let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
            sources.insert(name, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tesela_runtime::agent::Config;
    use tesela_runtime::balance::Share;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The variables that templates/README.md promises.
    fn load(dir: &Path) -> Result<Templates, Error> {
        let common = json!({
            "cluster": {"name": "aula"},
            "master": {
                "name": "maestro", "address": "192.168.45.1", "network": "192.168.45.0", "netmask": "255.255.255.0",
                "prefix": 24, "gateway": null, "dns": [], "http_port": 80, "control_port": 7443, "member": true,
            },
            "nodes": [{"name": "n1", "address": "192.168.45.11"}, {"name": "n2", "address": null}],
            "keys": {"ssh_host_ca": "ssh-ed25519 AAAA", "ssh_user_ca": "ssh-ed25519 BBBB", "ca_sha256": "00"},
        });
        Templates::load(Some(dir), &common)
    }

    #[test]
    fn the_shipped_templates_use_only_what_is_promised() {
        let dir = tempfile::tempdir().unwrap();
        let node = json!({
            "name": "n1", "address": "192.168.45.11", "mac": null, "uuid": null, "machine_id": "0123", "profile": "node",
            "image": "base", "root": "nfs", "gateway": null, "dns": [], "pool": null, "speed": null, "trusted": false,
            "share": r#"{"when": {"schedule": "mon-fri 20:00-07:00", "idle_seconds": null}}"#,
        });
        let files = load(dir.path()).unwrap().root_of(&node).unwrap();
        let text = |path: &str| {
            let file = files.iter().find(|file| file.path == path).unwrap();
            let Content::File(text) = &file.content else { panic!("{path} is a file") };
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert!(text("/etc/hosts").contains("192.168.45.11\tn1.aula n1"));
        assert!(files.is_sorted_by_key(|file| &file.path));
        // What the agent reads.
        for name in ["teselad.json", "peers.json"] {
            std::fs::write(dir.path().join(name), text(&format!("/etc/tesela/{name}"))).unwrap();
        }
        let config = Config::read(&dir.path().join("teselad.json")).unwrap();
        assert_eq!((config.address, config.trusted), (Some([192, 168, 45, 11].into()), false));
        assert!(matches!(config.share, Share::When { schedule: Some(_), idle_seconds: None }));
        let config = Config { peers: dir.path().join("peers.json"), ..config };
        let peers = config.peers().unwrap();
        assert_eq!(peers.find("11531").unwrap().address, config.address, "n1 by its number");
        assert_eq!(peers.find("maestro").map(|peer| peer.address), Some(Some([192, 168, 45, 1].into())));
        assert_eq!(peers.find("n2").map(|peer| peer.address), Some(None));
    }

    #[test]
    fn an_override_wins_and_a_header_says_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "root/etc/motd", "{# mode: 0600 #}\n{{ cluster.name }} {{ node.name }}\n");
        write(dir.path(), "root/etc/localtime", "{# link #}\n/usr/share/zoneinfo/Europe/Madrid\n");
        let templates = load(dir.path()).unwrap();
        let node = json!({"name": "n1"});
        let mut context = Context::new();
        context.insert("node", &node);
        let files = templates.render_files(&context, |p| p == "/etc/motd" || p == "/etc/localtime").unwrap();
        assert_eq!(files[0].content, Content::Link("/usr/share/zoneinfo/Europe/Madrid".into()));
        assert_eq!(files[1].content, Content::File((*b"aula n1\n").into()));
        assert_eq!(files[1].mode, 0o600);
    }

    #[test]
    fn an_unknown_name_is_an_error_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "root/etc/motd", "one\n{{ cluster.nmae }}\n");
        let error = load(dir.path()).err().unwrap().to_string();
        assert!(error.contains("root/etc/motd:2") || error.contains("root/etc/motd"), "{error}");
        assert!(error.contains("nmae"), "{error}");
    }
}
