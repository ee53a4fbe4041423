//! Figures of the control port.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Figures of the control port.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Nodes whose keys were signed.
    pub enrolled: Counter,
    /// Callers turned away after TLS: token, name, address or certificate did not hold.
    pub refused: Counter,
    /// Callers that did not get as far: TLS failed, too slow, too many.
    pub strangers: Counter,
    /// Agents connected now.
    pub agents: Gauge,
    /// Heartbeats of agents.
    pub heartbeats: Counter,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let part = registry.sub_registry_with_prefix("control");
        part.register("enrolled", "Nodes whose keys were signed", self.enrolled.clone());
        part.register("refused", "Callers turned away", self.refused.clone());
        part.register("strangers", "Callers that never said who they are", self.strangers.clone());
        part.register("agents", "Agents connected now", self.agents.clone());
        part.register("heartbeats", "Heartbeats of agents", self.heartbeats.clone());
    }
}
