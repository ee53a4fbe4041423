//! The JSON Schema of cluster.yaml, for editors: made from the same tables that read it.

use serde_json::{Value, json};

use super::read::Read;
use super::wire::ClusterWire;

/// The schema, as configs/cluster.schema.json holds it (JSON Schema 2020-12).
pub fn schema() -> Value {
    let mut schema = ClusterWire::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("cluster.yaml");
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_configs_is_current() {
        let current = format!("{:#}\n", schema());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/cluster.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == current, "write it anew: UPDATE_SCHEMA=1 cargo test -p tesela --lib cluster::schema");
    }
}
