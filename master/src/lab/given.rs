//! What a lab is made of: a cluster.yaml that is given, or the lab's own, where it was edited since it was made.
//!
//! The lab's own is there to be edited, and `node accept` writes into it. So an `up` that is given the same as the
//! one before goes on with the edited file; one that is given another keeps the edited file beside. Both are told.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Lab};

/// The cluster of a lab that is given none.
const DEFAULT_CONFIG: &str = include_str!("../../../configs/lab.yaml");

/// What a lab is made of.
pub struct Given {
    /// A cluster.yaml.
    pub text: String,
    /// Where it is.
    pub file: PathBuf,
    /// Digest of what was given, whatever the lab goes on with.
    digest: String,
}

/// What the lab's own file was made of, and as.
#[derive(Serialize, Deserialize)]
struct Made {
    given: String,
    own: String,
}

impl Given {
    /// `config`: the cluster.yaml that is given; `None`: that of configs/lab.yaml.
    pub fn read(lab: &Lab, config: Option<&Path>) -> Result<Self, Error> {
        let (text, file) = match config {
            Some(file) => (fs::read_to_string(file).map_err(Error::io("read", file))?, file.to_owned()),
            None => (DEFAULT_CONFIG.to_owned(), PathBuf::from("configs/lab.yaml")),
        };
        let given = Self { digest: digest(&text), text, file };
        let own = lab.config();
        let (Some(made), Some(now)) = (read(&record(lab))?, read(&own)?) else { return Ok(given) };
        let Ok(made) = serde_json::from_str::<Made>(&made) else { return Ok(given) };
        if made.own == digest(&now) {
            return Ok(given);
        }
        if made.given == given.digest {
            eprintln!(
                "{} was edited since it was made of {}: the lab goes on with it. Remove it to begin anew.",
                own.display(),
                given.file.display()
            );
            return Ok(Self { text: now, file: own, ..given });
        }
        let mut kept = (1..).map(|number| own.with_extension(format!("yaml.edited{number}")));
        let kept = kept.find(|path| !path.exists()).unwrap_or_else(|| own.with_extension("yaml.edited"));
        fs::rename(&own, &kept).map_err(Error::io("rename", &own))?;
        eprintln!(
            "{} was edited, and is made anew of {}, which is another than before: the edited one is kept as {}.",
            own.display(),
            given.file.display(),
            kept.display()
        );
        Ok(given)
    }

    /// Writes the lab's own file, made of this.
    pub fn write(&self, lab: &Lab, own: &str) -> Result<(), Error> {
        let (path, record) = (lab.config(), record(lab));
        let made = Made { given: self.digest.clone(), own: digest(own) };
        let made = serde_json::to_vec(&made).map_err(|error| Error::io("write", &record)(error.into()))?;
        // Together they hold, and each alone tells of an edit at most: nothing that was written is lost.
        fs::write(&path, own).map_err(Error::io("write", &path))?;
        fs::write(&record, made).map_err(Error::io("write", &record))
    }
}

fn record(lab: &Lab) -> PathBuf {
    lab.state.join("made.json")
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(Error::io("read", path)),
    }
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_edits_is_not_lost() {
        let state = tempfile::tempdir().unwrap();
        let lab = Lab::new(state.path()).unwrap();
        fs::create_dir_all(&lab.state).unwrap();
        let config = state.path().join("given.yaml");
        let up = |given: &str| {
            fs::write(&config, given).unwrap();
            let given = Given::read(&lab, Some(&config)).unwrap();
            given.write(&lab, &format!("{}made\n", given.text)).unwrap();
            given.text
        };
        let own = || fs::read_to_string(lab.config()).unwrap();
        assert_eq!((up("one\n"), own()), ("one\n".into(), "one\nmade\n".into()));
        assert_eq!((up("one\n"), own()), ("one\n".into(), "one\nmade\n".into()), "made anew");
        fs::write(lab.config(), "one\nmade\nedited\n").unwrap();
        for _ in 0..2 {
            assert_eq!(up("one\n"), own().strip_suffix("made\n").unwrap());
            assert!(own().contains("edited"));
            fs::write(lab.config(), format!("{}again\n", own())).unwrap();
        }
        let edited = own();
        assert_eq!((up("two\n"), own()), ("two\n".into(), "two\nmade\n".into()));
        assert_eq!(fs::read_to_string(lab.state.join("cluster.yaml.edited1")).unwrap(), edited);
    }
}
