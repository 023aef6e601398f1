//! Requests of the admin API, through the node's own router: admins are appointed and deprived, rule
//! meanwhile, and grants come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use axum::body::{Body, to_bytes};
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use muster_chaos::chaos::dice::Dice;
use muster_core::ClusterState;
use muster_core::accounts::{KeyHash, Pattern, SECRET_BYTES, format_key, parse_key};
use muster_core::ids::KeyId;
use muster_node::parts::Parts;
use serde_json::{Value, json};

use crate::host::Host;
use crate::workload::{History, OWNER};

/// Longer than any answer of the API.
const ANSWER_MAX: usize = 1 << 20;
/// Admins who were deprived, and whose keys are tried once more.
const DEPRIVED_MAX: usize = 6;
/// What admins change. Nobody invokes it.
pub const RULED: &str = "ruled";

/// What was promised about rights. Only where clocks are good enough for leases is any of it a promise.
#[derive(Debug, Default)]
pub struct Rights {
    admins: BTreeMap<u64, Admin>,
    deprived: VecDeque<Admin>,
    /// Grants that exist for certain, and those that no node may admit anyone by any more.
    grants: BTreeSet<Pattern>,
    withdrawn: BTreeSet<Pattern>,
}

#[derive(Clone, Debug)]
struct Admin {
    account: String,
    id: String,
    key: String,
}

impl Rights {
    /// A grant that was withdrawn and by which this state would admit.
    pub fn stale_grant(&self, state: &ClusterState) -> Option<&Pattern> {
        let owner = state.accounts.get(OWNER)?;
        self.withdrawn.iter().find(|pattern| owner.grants.contains_key(*pattern))
    }

    /// A grant that was acknowledged and is not there.
    pub fn lost_grant(&self, state: &ClusterState) -> Option<&Pattern> {
        let owner = state.accounts.get(OWNER)?;
        self.grants.iter().find(|pattern| !owner.grants.contains_key(*pattern))
    }
}

/// The key with which a simulated cluster begins, and what its nodes know of it.
pub fn root_key() -> (KeyId, String, KeyHash) {
    let id = KeyId(u64::MAX);
    let key = format_key(id, &[7; SECRET_BYTES]);
    let hash = KeyHash::of(parse_key(&key).expect("a formatted key parses").1);
    (id, key, hash)
}

/// Begins one of them through a node.
pub fn step(host: &Host, parts: Parts, history: &History, dice: &mut Dice, number: u64) {
    let history = history.clone();
    match dice.below(8) {
        0 => host.spawn(appoint(parts, history, format!("d{number}"))),
        1 => {
            let admin = history.rights(|rights| rights.admins.pop_first());
            if let Some((_, admin)) = admin {
                let whole = dice.chance(50);
                host.spawn(deprive(parts, history, admin, whole));
            }
        }
        2..=4 => {
            let changes = dice.chance(50);
            let deprived = history.rights(|rights| rights.deprived.iter().cloned().collect::<Vec<_>>());
            let admin = if deprived.is_empty() { None } else { Some(dice.pick(&deprived).clone()) };
            if let Some(admin) = admin {
                host.spawn(rule_in_vain(parts, history, admin, changes, number));
            }
        }
        5 => {
            let admins = history.rights(|rights| rights.admins.values().cloned().collect::<Vec<_>>());
            if !admins.is_empty() {
                let admin = dice.pick(&admins).clone();
                host.spawn(async move {
                    // What an admin in office may do, others judge.
                    let _status = rule(&parts, &admin.key, true, number).await;
                });
            }
        }
        6 => host.spawn(grant(parts, history, format!("p{number}"))),
        _ => {
            let pattern = history.rights(|rights| rights.grants.pop_first());
            if let Some(pattern) = pattern {
                host.spawn(withdraw(parts, history, pattern));
            }
        }
    }
}

async fn appoint(parts: Parts, history: History, account: String) {
    let (_, root, _) = root_key();
    let body = json!({ "name": account, "role": "admin" });
    if ask(&parts, &root, Method::POST, "/v1/accounts", body).await.0 != StatusCode::CREATED {
        return;
    }
    let path = format!("/v1/accounts/{account}/keys");
    let (status, made) = ask(&parts, &root, Method::POST, &path, json!({})).await;
    if let (StatusCode::CREATED, Some(id), Some(key)) = (status, made["id"].as_str(), made["key"].as_str()) {
        let admin = Admin { account, id: id.to_owned(), key: key.to_owned() };
        history.rights(|rights| {
            let number = rights.admins.last_key_value().map_or(0, |(number, _)| number + 1);
            rights.admins.insert(number, admin);
        });
    }
}

/// Takes the key away, or the whole account.
async fn deprive(parts: Parts, history: History, admin: Admin, whole: bool) {
    let (_, root, _) = root_key();
    let Admin { account, id, .. } = &admin;
    let path = match whole {
        true => format!("/v1/accounts/{account}"),
        false => format!("/v1/accounts/{account}/keys/{id}"),
    };
    if ask(&parts, &root, Method::DELETE, &path, Value::Null).await.0 == StatusCode::NO_CONTENT {
        history.withdrew();
        history.rights(|rights| {
            rights.deprived.push_back(admin);
            if rights.deprived.len() > DEPRIVED_MAX {
                rights.deprived.pop_front();
            }
        });
    }
}

/// With a key that was taken away before: nothing of it may be done.
async fn rule_in_vain(parts: Parts, history: History, admin: Admin, changes: bool, number: u64) {
    let status = rule(&parts, &admin.key, changes, number).await;
    history.ruled_in_vain();
    // It may have no quorum, or no time, to find out.
    let refused = status == StatusCode::UNAUTHORIZED || status.is_server_error();
    if !refused {
        let node = parts.consensus.node();
        history.misjudged(format!("node {node} answered {status} to {}, an admin no more", admin.account));
    }
}

async fn rule(parts: &Parts, key: &str, changes: bool, number: u64) -> StatusCode {
    let (method, path, body) = match changes {
        true => {
            let env = json!({ "CHANGE": number.to_string() });
            let spec = json!({ "image": "simulated", "env": env, "scaling": { "min": 0, "max": 1 } });
            (Method::PUT, format!("/v1/functions/{RULED}"), spec)
        }
        false => (Method::GET, "/v1/nodes".to_owned(), Value::Null),
    };
    ask(parts, key, method, &path, body).await.0
}

async fn grant(parts: Parts, history: History, pattern: String) {
    let (_, root, _) = root_key();
    let path = format!("/v1/accounts/{OWNER}/grants/{pattern}");
    let body = json!({ "actions": ["invoke"] });
    if ask(&parts, &root, Method::PUT, &path, body).await.0 == StatusCode::OK {
        let pattern = Pattern::new(&pattern).expect("a name is a pattern");
        history.rights(|rights| rights.grants.insert(pattern));
    }
}

async fn withdraw(parts: Parts, history: History, pattern: Pattern) {
    let (_, root, _) = root_key();
    let path = format!("/v1/accounts/{OWNER}/grants/{pattern}");
    if ask(&parts, &root, Method::DELETE, &path, Value::Null).await.0 == StatusCode::NO_CONTENT {
        history.withdrew();
        history.rights(|rights| rights.withdrawn.insert(pattern));
    }
}

/// Answers the status, and the body where it is JSON.
async fn ask(parts: &Parts, key: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {key}"));
    let answer = parts.answer_admin(request.body(body).expect("a request made here")).await;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), ANSWER_MAX).await.unwrap_or_default();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}
