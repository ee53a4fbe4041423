//! `/metrics`: the counters that the services keep, in the OpenMetrics text format.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::boot::Site;
use crate::inventory::Stage;
use crate::{control, dhcp, nfs, tftp};

/// One figure, or one for each value of a label.
pub(super) struct Sample {
    /// Without the prefix `tesela_`; a counter's without `_total`.
    pub(super) name: String,
    /// What it counts.
    pub(super) help: &'static str,
    /// Counts since the start; else what is now.
    pub(super) counts: bool,
    /// The label's name, and a value each; no label where that is empty.
    pub(super) label: &'static str,
    /// The figures.
    pub(super) values: Vec<(String, u64)>,
}

impl Sample {
    pub(super) fn counter(name: impl Into<String>, help: &'static str, value: u64) -> Self {
        Self { name: name.into(), help, counts: true, label: "", values: vec![(String::new(), value)] }
    }

    pub(super) fn gauge(name: impl Into<String>, help: &'static str, value: u64) -> Self {
        Self { counts: false, ..Self::counter(name, help, value) }
    }
}

impl Sample {
    fn figure(&self, value: u64, to: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        if self.counts {
            return ConstCounter::new(value).encode(to);
        }
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(to)
    }
}

/// Whatever tells figures when it is asked.
type Source = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

struct Told(Source);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for sample in (self.0)() {
            let kind = if sample.counts { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(&sample.name, sample.help, None, kind)?;
            for (label, value) in &sample.values {
                if sample.label.is_empty() {
                    sample.figure(*value, metric)?;
                    break;
                }
                sample.figure(*value, metric.encode_family(&[(sample.label, label.as_str())])?)?;
            }
        }
        Ok(())
    }
}

/// All that is told.
pub(super) struct Metrics(Registry);

impl Metrics {
    /// Of these sources.
    pub(super) fn new(sources: Vec<Source>) -> Self {
        let mut registry = Registry::with_prefix("tesela");
        for source in sources {
            registry.register_collector(Box::new(Told(source)));
        }
        Self(registry)
    }
}

/// The counters of all services.
pub(super) fn of(
    site: &Arc<Site>,
    dhcp_server: &Arc<dhcp::Server>,
    nfs_server: &nfs::Server,
    tftp_counters: Arc<tftp::Counters>,
    control: &control::Metrics,
) -> Metrics {
    let (site, dhcp_server, nfs_counters) =
        (Arc::clone(site), Arc::clone(dhcp_server), Arc::clone(nfs_server.counters()));
    let mut metrics = Metrics::new(vec![
        Box::new(move || of_nodes(&site)),
        Box::new(move || {
            let counts = dhcp_server.counters().snapshot();
            counts
                .map(|(name, value)| Sample::counter(format!("dhcp_{name}"), "DHCP, since the start.", value))
                .collect()
        }),
        Box::new(move || of_tftp(&tftp_counters)),
        Box::new(move || of_nfs(&nfs_counters)),
    ]);
    control.register(&mut metrics.0);
    metrics
}

fn of_nodes(site: &Site) -> Vec<Sample> {
    let generation = site.current();
    let mut by_stage: Vec<(String, u64)> = Stage::ALL.iter().map(|stage| (stage.to_string(), 0)).collect();
    let mut stuck = 0;
    for state in generation.nodes().iter().filter_map(|node| site.inventory.node(&node.name)) {
        by_stage[state.stage as usize].1 += 1;
        stuck += u64::from(state.overran == Some(state.stage));
    }
    vec![
        Sample {
            label: "stage",
            values: by_stage,
            ..Sample::gauge("nodes", "Nodes that were heard of, by stage.", 0)
        },
        Sample::gauge("nodes_stuck", "Nodes that overran the limit of their stage.", stuck),
        Sample::gauge("generation", "The generation of the cluster in force.", generation.number),
    ]
}

fn of_tftp(counters: &tftp::Counters) -> Vec<Sample> {
    let count = |name, help, value: &AtomicU64| Sample::counter(name, help, value.load(Relaxed));
    vec![
        count("tftp_requests", "Read requests.", &counters.requests),
        count("tftp_refused", "Requests answered with an error.", &counters.refused),
        count("tftp_completed", "Transfers that were acknowledged to the end.", &counters.completed),
        count("tftp_aborted", "Transfers that the client ended.", &counters.aborted),
        count("tftp_lost", "Transfers whose client fell silent.", &counters.lost),
        count("tftp_blocks", "DATA packets sent.", &counters.blocks),
        count("tftp_retransmitted", "DATA packets sent again.", &counters.retransmitted),
        count("tftp_bytes", "Octets acknowledged.", &counters.bytes),
        Sample::gauge("tftp_sessions", "Transfers that run.", counters.active.load(Relaxed)),
    ]
}

fn of_nfs(counters: &nfs::Counters) -> Vec<Sample> {
    let per_procedure = |pick: fn(u64, u64) -> u64| {
        counters.procedures().map(|(name, calls, errors)| (name.to_owned(), pick(calls, errors))).collect()
    };
    let count = |name, help, value: &AtomicU64| Sample::counter(name, help, value.load(Relaxed));
    let labelled =
        |name, help, values| Sample { label: "procedure", values, ..Sample::counter(name, help, 0) };
    vec![
        labelled("nfs_calls", "NFS calls.", per_procedure(|calls, _| calls)),
        labelled("nfs_errors", "NFS calls that failed.", per_procedure(|_, errors| errors)),
        count("nfs_received_bytes", "Octets received.", &counters.received),
        count("nfs_sent_bytes", "Octets sent.", &counters.sent),
        count("nfs_replayed", "Replies out of the reply cache.", &counters.replayed),
        count("nfs_denied", "Calls that were not understood.", &counters.denied),
        count("nfs_faults", "Calls that met a fault of the server.", &counters.faults),
        Sample::gauge("nfs_connections", "Open connections.", counters.open.load(Relaxed)),
    ]
}

impl crate::http::Metrics for Metrics {
    fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.0) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written down");
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Metrics as _;

    #[test]
    fn counters_and_labels_are_told() {
        let source = || {
            let calls = vec![("GETATTR".to_owned(), 7), ("READ".to_owned(), 2)];
            vec![
                Sample::gauge("nodes", "Nodes.", 3),
                Sample { label: "procedure", values: calls, ..Sample::counter("nfs_calls", "Calls.", 0) },
            ]
        };
        let text = Metrics::new(vec![Box::new(source)]).text();
        assert!(text.contains("tesela_nodes 3\n"), "{text}");
        assert!(text.contains("tesela_nfs_calls_total{procedure=\"GETATTR\"} 7\n"), "{text}");
    }
}
