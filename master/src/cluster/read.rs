//! Reading wire types from a [`Tree`]: what does not fit is noted, and reading goes on.
//!
//! A mapping's keys stand in one table (the `mapping!` macro), which makes the struct, its reader and
//! its part of the JSON Schema, so that the three cannot drift apart.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Value, json};

use super::problem::{Problem, Problems, Span};
use super::tree::{Kind, Tree};

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Span,
}

/// What became of a key that may be there.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    /// Not written.
    #[default]
    Absent,
    /// Written, and refused: noted already, so nothing more is to be said about it.
    Bad,
    /// Written and read.
    Given(At<T>),
}

impl<T> Field<T> {
    /// The value, where there is one.
    pub(super) fn get(&self) -> Option<&At<T>> {
        match self {
            Field::Given(at) => Some(at),
            Field::Absent | Field::Bad => None,
        }
    }

    /// The value without its place.
    pub(super) fn value(&self) -> Option<&T> {
        self.get().map(|at| &at.value)
    }

    /// Whether nothing was written.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }
}

/// What a value was refused for.
#[derive(Debug)]
pub(super) struct Refused {
    pub message: String,
    pub mend: Option<String>,
}

impl Refused {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Refused { message: message.into(), mend: None }
    }

    /// From a message that has its mend behind a semicolon.
    pub(super) fn from_message(message: &str) -> Self {
        match message.split_once("; ") {
            Some((message, mend)) => Refused::new(message).mend(mend),
            None => Refused::new(message),
        }
    }

    pub(super) fn mend(self, mend: impl Into<String>) -> Self {
        Refused { mend: Some(mend.into()), ..self }
    }
}

/// A value written as one scalar.
pub(super) trait Word: Sized {
    /// Reads it.
    fn word(text: &str) -> Result<Self, Refused>;
    /// Its JSON Schema.
    fn schema() -> Value {
        json!({"type": "string"})
    }
}

/// Anything that can be read.
pub(super) trait Read: Sized {
    /// Reads it; `None` where a problem was noted and nothing is left to go on with.
    fn read(tree: &Tree<'_>, problems: &mut Problems) -> Option<Self>;
    /// What stands for one that could not be read: nothing more is to follow from it.
    fn refused() -> Self
    where
        Self: Default,
    {
        Self::default()
    }
    /// Its JSON Schema.
    fn schema() -> Value;
}

impl<T: Word> Read for T {
    fn read(tree: &Tree<'_>, problems: &mut Problems) -> Option<Self> {
        match &tree.kind {
            Kind::Scalar(text) => match T::word(text) {
                Ok(value) => Some(value),
                Err(refused) => {
                    problems.add(tree.span, refused.message).mend = refused.mend;
                    None
                }
            },
            other => {
                expected(tree, "a single value", other, problems);
                None
            }
        }
    }

    fn schema() -> Value {
        <T as Word>::schema()
    }
}

fn expected(tree: &Tree<'_>, wanted: &str, found: &Kind<'_>, problems: &mut Problems) {
    match found {
        Kind::Null => {
            problems.add(tree.span, "this key has no value").mend(format!("give it {wanted}, or remove it"))
        }
        found => problems.add(tree.span, format!("here belongs {wanted}, and this is {}", found.what())),
    };
}

/// A list; one value alone may stand without brackets.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub Vec<At<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T> List<T> {
    /// The values without their places.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|at| &at.value)
    }
}

impl<T: Read> Read for List<T> {
    fn read(tree: &Tree<'_>, problems: &mut Problems) -> Option<Self> {
        let items = match &tree.kind {
            Kind::List(items) => &items[..],
            Kind::Scalar(_) => std::slice::from_ref(tree),
            other => {
                expected(tree, "a list", other, problems);
                return None;
            }
        };
        let before = problems.count();
        let read: Vec<_> = items
            .iter()
            .filter_map(|item| T::read(item, problems).map(|value| At { value, span: item.span }))
            .collect();
        (problems.count() == before).then_some(List(read))
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "array", "items": T::schema()}, T::schema()]})
    }
}

/// A mapping from names of the user's choice, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Named<K, T>(pub Vec<(At<K>, At<T>)>);

impl<K, T> Default for Named<K, T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<K, T> Named<K, T> {
    /// The names, each with what it stands for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&At<K>, &T)> {
        self.0.iter().map(|(name, entry)| (name, &entry.value))
    }
}

impl<K: Word + fmt::Display, T: Read + Default> Read for Named<K, T> {
    fn read(tree: &Tree<'_>, problems: &mut Problems) -> Option<Self> {
        let map = match &tree.kind {
            Kind::Null => return Some(Named::default()),
            Kind::Map(map) => map,
            other => {
                expected(tree, "a mapping from names", other, problems);
                return None;
            }
        };
        let mut seen = HashMap::new();
        let mut read = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let value = T::read(&entry.value, problems).unwrap_or_else(T::refused);
            if let Some(first) = seen.insert(&entry.key, entry.key_span) {
                twice(&entry.key, entry.key_span, first, problems);
                continue;
            }
            match K::word(&entry.key) {
                Ok(name) => read
                    .push((At { value: name, span: entry.key_span }, At { value, span: entry.value.span })),
                Err(refused) => problems.add(entry.key_span, refused.message).mend = refused.mend,
            }
        }
        Some(Named(read))
    }

    fn schema() -> Value {
        json!({"type": ["object", "null"], "additionalProperties": T::schema()})
    }
}

fn twice(key: &str, span: Span, first: Span, problems: &mut Problems) {
    problems
        .add(span, format!("`{key}` is given twice"))
        .also(first, "given first here")
        .mend("keep one of them");
}

/// A key of a mapping, as the table has it.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub name: &'static str,
    pub doc: &'static str,
    pub required: bool,
    pub schema: fn() -> Value,
}

/// A mapping with known keys: what the `mapping!` macro implements.
pub(super) trait Mapping: Default {
    /// The table.
    fn keys() -> Vec<Key>;
    /// Reads the value of one key of the table into its field; `false` if there is no such key.
    fn set(&mut self, key: &str, value: &Tree<'_>, problems: &mut Problems) -> bool;
    /// A misspelt key was probably this one: nothing more is to follow from its absence.
    fn refuse(&mut self, key: &str);
    /// Whether none of its keys was written.
    fn is_empty(&self) -> bool;
    /// The keys that must be there and are not.
    fn missing(&self) -> Vec<&'static str>;
}

/// Reads a mapping with known keys: unknown ones, ones given twice and missing ones are noted.
pub(super) fn read_mapping<M: Mapping>(tree: &Tree<'_>, problems: &mut Problems) -> Option<M> {
    let mut mapping = M::default();
    let mut misspelt = Vec::new();
    match &tree.kind {
        Kind::Null => {}
        Kind::Map(map) => {
            let mut seen: HashMap<&str, Span> = HashMap::new();
            for entry in &map.entries {
                if let Some(first) = seen.get(&*entry.key) {
                    twice(&entry.key, entry.key_span, *first, problems);
                    M::default().set(&entry.key, &entry.value, problems);
                    continue;
                }
                seen.insert(&entry.key, entry.key_span);
                if !mapping.set(&entry.key, &entry.value, problems) {
                    misspelt.extend(unknown::<M>(&entry.key, entry.key_span, problems));
                }
            }
        }
        other => {
            expected(tree, "a mapping", other, problems);
            return None;
        }
    }
    for key in misspelt {
        mapping.refuse(key);
    }
    for key in mapping.missing() {
        missing(key, tree.under, problems);
    }
    Some(mapping)
}

/// Notes that a key has to be there.
pub(super) fn missing<'p>(key: &str, span: Span, problems: &'p mut Problems) -> &'p mut Problem {
    problems.add(span, format!("`{key}` is missing here")).mend(format!("add `{key}: …`"))
}

/// Notes a key that is not in the table; returns the one that was probably meant.
fn unknown<M: Mapping>(key: &str, span: Span, problems: &mut Problems) -> Option<&'static str> {
    let problem = problems.add(span, format!("`{key}` is no key that is known here"));
    let known: Vec<_> = M::keys().iter().map(|key| key.name).collect();
    let near = nearest(key, known.iter().copied());
    problem.mend(match near {
        _ if key == "<<" => {
            "for what several have in common, write a profile, and `inherits: [it]`".to_owned()
        }
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the keys here are: {}", known.join(", ")),
    });
    near
}

/// The JSON Schema of a mapping with known keys.
pub(super) fn mapping_schema<M: Mapping>(doc: &str) -> Value {
    let keys = M::keys();
    let required: Vec<_> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let properties: serde_json::Map<String, Value> = keys
        .iter()
        .map(|key| {
            let mut schema = (key.schema)();
            schema["description"] = key.doc.trim().into();
            (key.name.to_owned(), schema)
        })
        .collect();
    let mut schema = json!({
        "type": if required.is_empty() { json!(["object", "null"]) } else { json!("object") },
        "description": doc.trim(),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// Which of `known` was probably meant by `word`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    // So many are compared that a file with thousands of slips is still told quickly.
    let near = known
        .into_iter()
        .take(1000)
        .map(|known| (distance(&word, known), known))
        .min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, known)| *distance <= 1.max(known.chars().count() / 3)).map(|(_, known)| known)
}

/// Insertions, removals, replacements and exchanges of neighbours between two words; words over 64
/// bytes are far from everything.
fn distance(from: &str, to: &str) -> usize {
    if from.len() > 64 || to.len() > 64 {
        return usize::MAX;
    }
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// Declares a mapping with known keys: the struct, its reader and its schema, from one table.
///
/// `"key" => field: Type` may be absent; `"key" required => …` must be there. With `..field: Type` at
/// the end the keys of another mapping are keys of this one too.
macro_rules! mapping {
    (
        $(#[doc = $doc:literal])*
        $name:ident {
            $( $(#[doc = $key_doc:literal])* $key:literal $($required:ident)? => $field:ident: $type:ty, )*
            $( ..$flat:ident: $flat_type:ty )?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default)]
        pub(in crate::cluster) struct $name {
            $( $(#[doc = $key_doc])* pub $field: $crate::cluster::read::Field<$type>, )*
            $( pub $flat: $flat_type, )?
        }

        impl $crate::cluster::read::Mapping for $name {
            fn keys() -> Vec<$crate::cluster::read::Key> {
                let keys = vec![$( $crate::cluster::read::Key {
                    name: $key,
                    doc: concat!($($key_doc),*),
                    required: !concat!($(stringify!($required))?).is_empty(),
                    schema: <$type as $crate::cluster::read::Read>::schema,
                } ),*];
                $( let keys = [keys, <$flat_type as $crate::cluster::read::Mapping>::keys()].concat(); )?
                keys
            }

            fn set(
                &mut self,
                key: &str,
                value: &$crate::cluster::tree::Tree<'_>,
                problems: &mut $crate::cluster::problem::Problems,
            ) -> bool {
                use $crate::cluster::read::{At, Field, Read};
                match key {
                    $( $key => {
                        self.$field = match <$type as Read>::read(value, problems) {
                            Some(read) => Field::Given(At { value: read, span: value.span }),
                            None => Field::Bad,
                        };
                        true
                    } )*
                    _ => false $( || self.$flat.set(key, value, problems) )?,
                }
            }

            fn refuse(&mut self, key: &str) {
                use $crate::cluster::read::Field;
                match key {
                    $( $key if self.$field.is_absent() => self.$field = Field::Bad, )*
                    _ => { $( self.$flat.refuse(key) )? }
                }
            }

            fn is_empty(&self) -> bool {
                $( self.$field.is_absent() )&&* $( && self.$flat.is_empty() )?
            }

            fn missing(&self) -> Vec<&'static str> {
                let absent = [$( ($key, !concat!($(stringify!($required))?).is_empty() && self.$field.is_absent()) ),*];
                absent.into_iter().filter(|(_, missing)| *missing).map(|(key, _)| key).collect()
            }
        }

        impl $crate::cluster::read::Read for $name {
            fn read(
                tree: &$crate::cluster::tree::Tree<'_>,
                problems: &mut $crate::cluster::problem::Problems,
            ) -> Option<Self> {
                $crate::cluster::read::read_mapping(tree, problems)
            }

            fn refused() -> Self {
                $name {
                    $( $field: $crate::cluster::read::Field::Bad, )*
                    $( $flat: <$flat_type as $crate::cluster::read::Read>::refused(), )?
                }
            }

            fn schema() -> serde_json::Value {
                $crate::cluster::read::mapping_schema::<Self>(concat!($($doc),*))
            }
        }
    };
}
pub(super) use mapping;
