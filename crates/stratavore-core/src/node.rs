//! Hosts that can start runners: what they are for, how much they hold, and which one a launch gets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::name::{NAME_MAX, Name};

/// The most labels of one node.
pub const LABELS_MAX: usize = 32;

/// What tells nodes apart, such as `gpu=a100`: names with a value each, which may be empty.
pub type Labels = BTreeMap<Name, String>;

/// One label, as a node has it or a launch wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub name: Name,
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    /// Reads `NAME=VALUE` or `NAME`. A value is of the same characters as a name, or empty.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let name = name.parse().map_err(|error| format!("a label's name: {error}"))?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if value.len() > NAME_MAX || !value.bytes().all(allowed) {
            return Err(format!(
                "`{}` cannot be a label's value: use up to {NAME_MAX} letters, digits, `-`, `_` and `.`",
                value.escape_debug()
            ));
        }
        Ok(Self { name, value: value.into() })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.as_str() {
            "" => write!(f, "{}", self.name),
            value => write!(f, "{}={value}", self.name),
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    pub labels: Labels,
    /// The most runners that may live on it at a time; `None` is no limit.
    pub capacity: Option<u64>,
    /// Where other daemons reach its own: `HOST:PORT`.
    pub address: Option<String>,
}

/// Whether a node takes new runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduling {
    #[default]
    Open,
    /// It takes none; those that it has stay.
    Cordoned,
    /// It takes none, and waits for those that it has to end.
    Draining,
}

impl Scheduling {
    pub const ALL: [Self; 3] = [Self::Open, Self::Cordoned, Self::Draining];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A node as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub id: NodeId,
    pub hostname: String,
    pub profile: Profile,
    pub scheduling: Scheduling,
    /// A daemon holds it just now.
    pub ready: bool,
    pub seen_at: Timestamp,
    /// Of the daemon that started there last.
    pub version: String,
    /// Runners that live there.
    pub runners: u64,
    /// It can sign the certificates of others.
    pub signs: bool,
    /// Who wants its runners to go on on other nodes, while it is drained.
    pub moving: Option<String>,
}

impl NodeView {
    /// Room for more runners; `None` is any number.
    pub fn free(&self) -> Option<u64> {
        self.profile.capacity.map(|capacity| capacity.saturating_sub(self.runners))
    }
}

/// Where a launch is to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// A node's id, the beginning of one, or its host name.
    pub node: Option<String>,
    /// Labels that the node has to have, all of them.
    pub labels: Vec<Label>,
}

impl Wish {
    pub fn is_any(&self) -> bool {
        self.node.is_none() && self.labels.is_empty()
    }
}

/// No node fits; why each of them does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoNode {
    pub reasons: Vec<(String, String)>,
}

impl fmt::Display for NoNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no node can take it")?;
        // A fleet would make a message that nobody reads.
        const TOLD: usize = 8;
        for (i, (node, why)) in self.reasons.iter().take(TOLD).enumerate() {
            write!(f, "{} {node} {why}", if i == 0 { ":" } else { "," })?;
        }
        match self.reasons.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

impl std::error::Error for NoNode {}

/// The node that a launch of `count` runners gets: the one that was named; else `here` if that
/// fits, since its directories are the ones that whoever asks there means; else, of those that fit,
/// the one with the largest part free.
///
/// This is a preference. That a node's capacity holds is decided where runners are admitted.
pub fn place(wish: &Wish, here: NodeId, count: u64, nodes: &[NodeView]) -> Result<NodeId, NoNode> {
    let mut reasons = Vec::new();
    let mut fitting = Vec::new();
    for node in nodes.iter().filter(|node| is_meant(wish, node)) {
        match unfit(wish, count, node) {
            None => fitting.push(node),
            Some(why) => reasons.push((node.hostname.clone(), why)),
        }
    }
    if let Some(wanted) = wish.node.as_ref().filter(|_| fitting.is_empty() && reasons.is_empty()) {
        reasons.push((wanted.clone(), "is no node that is known".into()));
    }
    // Labels are asked for to leave the choice to the cluster.
    if wish.labels.is_empty() && fitting.iter().any(|node| node.id == here) {
        return Ok(here);
    }
    fitting
        .into_iter()
        .max_by(|a, b| free_part(a).total_cmp(&free_part(b)).then(b.runners.cmp(&a.runners)))
        .map(|node| node.id)
        .ok_or(NoNode { reasons })
}

fn is_meant(wish: &Wish, node: &NodeView) -> bool {
    wish.node.as_ref().is_none_or(|wanted| {
        let id = node.id.to_string();
        *wanted == node.hostname
            || *wanted == id
            || (wanted.starts_with("node_") && id.starts_with(wanted.as_str()))
    })
}

/// Why a node cannot have `count` more runners, to be read after its name.
pub fn unfit(wish: &Wish, count: u64, node: &NodeView) -> Option<String> {
    let missing = |label: &&Label| node.profile.labels.get(&label.name) != Some(&label.value);
    if let Some(label) = wish.labels.iter().find(missing) {
        return Some(format!("is not labelled {label}"));
    }
    match node.scheduling {
        Scheduling::Open => {}
        Scheduling::Cordoned => return Some("is cordoned".into()),
        Scheduling::Draining => return Some("is draining".into()),
    }
    if !node.ready {
        return Some("is not ready: no daemon holds it".into());
    }
    match (node.profile.capacity, node.free()) {
        (Some(capacity), Some(free)) if free < count => {
            Some(format!("has {} of {capacity} runners", node.runners))
        }
        (_, _) => None,
    }
}

/// 1 for an empty node, or one without a limit.
fn free_part(node: &NodeView) -> f64 {
    match (node.profile.capacity, node.free()) {
        (Some(capacity), Some(free)) if capacity > 0 => free as f64 / capacity as f64,
        (Some(_), _) => 0.0,
        (None, _) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_entropy([n; 16])
    }

    fn node(n: u8, runners: u64, capacity: Option<u64>) -> NodeView {
        NodeView {
            id: id(n),
            hostname: format!("host-{n}"),
            profile: Profile { capacity, ..Profile::default() },
            scheduling: Scheduling::Open,
            ready: true,
            seen_at: Timestamp::UNIX_EPOCH,
            version: "1".into(),
            runners,
            signs: false,
            moving: None,
        }
    }

    fn labelled(mut node: NodeView, label: &str) -> NodeView {
        let label: Label = label.parse().unwrap();
        node.profile.labels.insert(label.name, label.value);
        node
    }

    fn wish(node: &str, labels: &[&str]) -> Wish {
        Wish {
            node: (!node.is_empty()).then(|| node.into()),
            labels: labels.iter().map(|label| label.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn without_a_wish_a_launch_stays_here_while_there_is_room() {
        let any = Wish::default();
        let nodes = [node(1, 3, Some(4)), node(2, 0, Some(4)), node(3, 1, Some(4))];
        assert_eq!(place(&any, id(1), 1, &nodes), Ok(id(1)));
        assert_eq!(place(&any, id(1), 2, &nodes), Ok(id(2)), "here is room for one only");
        let mut closed = nodes.clone();
        closed[0].scheduling = Scheduling::Draining;
        assert_eq!(place(&any, id(1), 1, &closed), Ok(id(2)));
    }

    #[test]
    fn labels_choose_among_those_that_have_them_all() {
        let nodes = [
            node(1, 0, None),
            labelled(labelled(node(2, 5, Some(10)), "gpu=a100"), "zone=a"),
            labelled(node(3, 1, Some(10)), "gpu=a100"),
        ];
        assert_eq!(place(&wish("", &["gpu=a100"]), id(1), 1, &nodes), Ok(id(3)), "more is free");
        assert_eq!(place(&wish("", &["gpu=a100", "zone=a"]), id(1), 1, &nodes), Ok(id(2)));
        let refused = place(&wish("", &["gpu=h100"]), id(1), 1, &nodes).unwrap_err().to_string();
        assert!(refused.contains("host-3 is not labelled gpu=h100"), "{refused}");
    }

    #[test]
    fn a_refusal_says_of_each_node_why() {
        let mut away = node(2, 0, None);
        away.ready = false;
        let mut closed = node(3, 0, None);
        closed.scheduling = Scheduling::Cordoned;
        let nodes = [node(1, 4, Some(4)), away, closed];
        let refused = place(&Wish::default(), id(1), 1, &nodes).unwrap_err().to_string();
        assert_eq!(
            refused,
            "no node can take it: host-1 has 4 of 4 runners, host-2 is not ready: no daemon holds it, \
             host-3 is cordoned"
        );
        let named = place(&wish("host-9", &[]), id(1), 1, &nodes).unwrap_err().to_string();
        assert_eq!(named, "no node can take it: host-9 is no node that is known");
    }

    #[test]
    fn a_label_that_could_be_misread_is_refused() {
        assert_eq!("gpu".parse::<Label>().unwrap().to_string(), "gpu");
        for bad in ["", "=a", "a=b=c", "a=b c", "a\n=b", "a=\u{202e}"] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_chosen_fits(
            loads in prop::collection::vec((0u64..6, prop::option::of(0u64..6), any::<bool>()), 1..6),
            count in 1u64..4,
        ) {
            let nodes: Vec<NodeView> = loads
                .into_iter()
                .enumerate()
                .map(|(i, (runners, capacity, ready))| NodeView { ready, ..node(i as u8 + 1, runners, capacity) })
                .collect();
            match place(&Wish::default(), id(1), count, &nodes) {
                Ok(chosen) => {
                    let node = nodes.iter().find(|node| node.id == chosen).unwrap();
                    prop_assert!(node.ready && node.free().is_none_or(|free| free >= count));
                }
                Err(none) => prop_assert_eq!(none.reasons.len(), nodes.len()),
            }
        }
    }
}
