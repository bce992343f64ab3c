//! Nodes, and how they join.

use std::time::Duration;

use stratavore_control::Error;
use stratavore_core::join::TokenRecord;
use stratavore_core::moving::MoveView;
use stratavore_core::node::{Label, NodeView, Scheduling};
use stratavore_proto::v1;
use stratavore_proto::v1::nodes_server::Nodes;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller};

impl Api {
    /// With the moves of its runners, for which the other nodes are asked if there is one.
    async fn node_with_moves(&self, node: NodeView) -> Result<v1::Node, Error> {
        let moves = self.control.moves().await?;
        let nodes = match moves.iter().any(|view| view.of.from == node.id) {
            true => self.control.nodes().await?,
            false => Vec::new(),
        };
        Ok(self.node_message(node, &moves, &nodes))
    }

    fn node_message(&self, node: NodeView, moves: &[MoveView], nodes: &[NodeView]) -> v1::Node {
        let moves = moves.iter().filter(|view| view.of.from == node.id);
        let moves = moves.map(|view| move_message(view, nodes)).collect();
        let labels = node.profile.labels.into_iter();
        v1::Node {
            here: node.id == self.control.here(),
            id: node.id.to_string(),
            hostname: node.hostname,
            labels: labels.map(|(name, value)| Label { name, value }.to_string()).collect(),
            capacity: node.profile.capacity,
            address: node.profile.address.unwrap_or_default(),
            scheduling: node.scheduling.as_str().into(),
            ready: node.ready,
            seen_at_us: node.seen_at.as_microsecond(),
            version: node.version,
            runners: node.runners,
            signs: node.signs,
            moving_for: node.moving.unwrap_or_default(),
            moves,
        }
    }
}

fn move_message(view: &MoveView, nodes: &[NodeView]) -> v1::Move {
    let (successor, node) = view.successor.unzip();
    let to = node.or(view.of.to);
    let to = to.and_then(|to| nodes.iter().find(|node| node.id == to));
    v1::Move {
        runner_id: view.of.runner.to_string(),
        name: view.name.to_string(),
        stage: view.stage().as_str().into(),
        why: view.why(),
        to: to.map(|node| node.hostname.clone()).unwrap_or_default(),
        successor_id: successor.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn token_message(token: TokenRecord) -> v1::JoinTokenInfo {
    let (used_by, used_at) = match token.used {
        Some(used) => (used.node.to_string(), used.at.as_microsecond()),
        None => (String::new(), 0),
    };
    v1::JoinTokenInfo {
        accessor: token.accessor,
        created_by: token.created_by,
        created_at_us: token.created_at.as_microsecond(),
        expires_at_us: token.expires_at.as_microsecond(),
        used_by,
        used_at_us: used_at,
        revoked_at_us: token.revoked_at.map_or(0, |at| at.as_microsecond()),
    }
}

#[tonic::async_trait]
impl Nodes for Api {
    async fn list(&self, _: Request<v1::ListNodes>) -> Result<Response<v1::NodeList>, Status> {
        let nodes = self.control.nodes().await.map_err(status)?;
        let moves = self.control.moves().await.map_err(status)?;
        let message = |node: &NodeView| self.node_message(node.clone(), &moves, &nodes);
        let nodes = nodes.iter().map(message).collect();
        Ok(Response::new(v1::NodeList { nodes }))
    }

    async fn get(&self, request: Request<v1::GetNode>) -> Result<Response<v1::Node>, Status> {
        let node = self.control.node(&request.into_inner().node).await.map_err(status)?;
        Ok(Response::new(self.node_with_moves(node).await.map_err(status)?))
    }

    async fn schedule(
        &self,
        request: Request<v1::ScheduleNode>,
    ) -> Result<Response<v1::Node>, Status> {
        let caller = caller(&request)?;
        let v1::ScheduleNode { node, scheduling, moves } = request.into_inner();
        let Some(scheduling) = Scheduling::parse(&scheduling) else {
            let message = format!("a node cannot be `{}`", scheduling.escape_debug());
            return Err(status(Error::invalid(message, "use open, cordoned or draining")));
        };
        let (control, by, on) = (self.control.clone(), caller.clone(), node.clone());
        let scheduled =
            async move { control.schedule_node(&caller, &node, scheduling, moves).await };
        let node =
            self.control.decided(&by, "nodes.schedule", &on, scheduled).await.map_err(status)?;
        Ok(Response::new(self.node_with_moves(node).await.map_err(status)?))
    }

    async fn remove(&self, request: Request<v1::GetNode>) -> Result<Response<v1::Node>, Status> {
        let caller = caller(&request)?;
        let (control, node) = (self.control.clone(), request.into_inner().node);
        let (by, on) = (caller.clone(), node.clone());
        let removed = async move { control.remove_node(&caller, &node).await };
        let node = self.control.decided(&by, "nodes.remove", &on, removed).await.map_err(status)?;
        Ok(Response::new(self.node_with_moves(node).await.map_err(status)?))
    }

    async fn init_ca(
        &self,
        request: Request<v1::InitCaRequest>,
    ) -> Result<Response<v1::Ca>, Status> {
        let caller = caller(&request)?;
        let (cluster, by) = (self.cluster.clone(), caller.clone());
        let made = async move { cluster.init_ca(&caller).await };
        let (certificate, fingerprint) =
            self.control.decided(&by, "nodes.init_ca", "", made).await.map_err(status)?;
        Ok(Response::new(v1::Ca { certificate, fingerprint }))
    }

    async fn get_ca(&self, _: Request<v1::GetCaRequest>) -> Result<Response<v1::Ca>, Status> {
        let (certificate, fingerprint) = self.cluster.ca().await.map_err(status)?;
        Ok(Response::new(v1::Ca { certificate, fingerprint }))
    }

    async fn mint_token(
        &self,
        request: Request<v1::MintTokenRequest>,
    ) -> Result<Response<v1::MintedToken>, Status> {
        let caller = caller(&request)?;
        let ttl_ms = request.into_inner().ttl_ms;
        let ttl = (ttl_ms != 0).then(|| Duration::from_millis(ttl_ms));
        let (control, cluster, by) = (self.control.clone(), self.cluster.clone(), caller.clone());
        let minted = async move {
            control.may_administer(&caller, "make join tokens")?;
            let (_, pin) = cluster.ca().await?;
            control.mint_join_token(&caller, ttl, &pin).await
        };
        let (token, record) =
            self.control.decided(&by, "nodes.mint_token", "", minted).await.map_err(status)?;
        let info = Some(token_message(record));
        Ok(Response::new(v1::MintedToken { token: token.reveal(), info }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::JoinTokenList>, Status> {
        let caller = caller(&request)?;
        let tokens = self.control.join_tokens(&caller).await.map_err(status)?;
        let tokens = tokens.into_iter().map(token_message).collect();
        Ok(Response::new(v1::JoinTokenList { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokedToken>, Status> {
        let caller = caller(&request)?;
        let (control, accessor) = (self.control.clone(), request.into_inner().accessor);
        let (by, on) = (caller.clone(), accessor.clone());
        let revoked = async move { control.revoke_join_token(&caller, &accessor).await };
        let revoked =
            self.control.decided(&by, "nodes.revoke_token", &on, revoked).await.map_err(status)?;
        Ok(Response::new(v1::RevokedToken { revoked }))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::Node>, Status> {
        let caller = caller(&request)?;
        let (cluster, token) = (self.cluster.clone(), request.into_inner().token);
        let by = caller.clone();
        let joined = async move { cluster.join(&caller, &token).await };
        let node = self.control.decided(&by, "nodes.join", "", joined).await.map_err(status)?;
        Ok(Response::new(self.node_with_moves(node).await.map_err(status)?))
    }
}
