//! Between wire types and domain types. Explicit, so neither drags the other along.

use muster_api as api;
use muster_core::functions::{self, Function, InvalidSpec, KeepAlive, ScalingPolicy, Source, Spec};
use muster_core::ids::{AccountName, FunctionName, InstanceId, PackageDigest};
use muster_core::instances::{DecidedAction, Decision, Instance, Phase, Trigger};
use muster_core::units::{Millis, Timestamp};
use muster_core::{ClusterState, accounts, nodes};

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn time(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => "9999-12-31T23:59:59.999Z".to_owned(),
    }
}

/// RFC 3339 in UTC with nanoseconds.
pub(crate) fn time_ns(at: u64) -> String {
    // Up to the year 2554.
    let moment = jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or(jiff::Timestamp::MAX);
    format!("{moment:.9}")
}

/// Parses RFC 3339, or a date, meaning its first moment in UTC.
pub(crate) fn parse_time(field: &str, text: &str) -> Result<Timestamp, String> {
    let full = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let moment: jiff::Timestamp = full
        .parse()
        .map_err(|_| format!("`{field}`: `{text}` is not an RFC 3339 time or a date like 2026-11-23"))?;
    u64::try_from(moment.as_millisecond()).map(Timestamp).map_err(|_| format!("`{field}`: is before 1970"))
}

pub(crate) fn spec_from_api(spec: api::FunctionSpec) -> Result<Spec, InvalidSpec> {
    let invalid = |field: &str, problem: &str| InvalidSpec { field: field.into(), problem: problem.into() };
    let package = spec.package.as_deref().map(str::parse::<PackageDigest>).transpose();
    let package = package.map_err(|error| invalid("package", error.rule))?;
    let source = match (spec.image, spec.command, package) {
        (Some(image), None, None) => Source::Image(image),
        (None, Some(command), None) => Source::Command(command),
        (Some(image), None, Some(package)) => Source::PackagedImage { package, image },
        (None, Some(command), Some(package)) => Source::PackagedCommand { package, command },
        (Some(_), Some(_), _) => return Err(invalid("image", "give either `image` or `command`, not both")),
        (None, None, _) => return Err(invalid("image", "give `image` (docker) or `command` (process)")),
    };
    let target = spec.scaling.target_utilization;
    if !(0.001..=1.0).contains(&target) {
        return Err(invalid("scaling.target_utilization", "must be between 0.001 and 1"));
    }
    let domain = Spec {
        source,
        env: spec.env,
        port: spec.port,
        readiness_path: spec.readiness_path,
        memory_mb: spec.memory_mb,
        cpu_millis: spec.cpu_millis,
        concurrency: spec.concurrency,
        timeout: Millis(spec.timeout_ms),
        startup_timeout: Millis(spec.startup_timeout_ms),
        scaling: ScalingPolicy {
            min: spec.scaling.min,
            max: spec.scaling.max,
            step: spec.scaling.step,
            target_permille: permille(target),
            window: Millis(spec.scaling.window_ms),
            keep_alive: match spec.scaling.keep_alive_ms {
                api::KeepAlive::Millis(millis) => KeepAlive::Fixed(Millis(millis)),
                api::KeepAlive::Named(api::NamedKeepAlive::Adaptive) => KeepAlive::Adaptive,
            },
        },
        max_waiting: spec.queue.max_waiting,
        payer: match spec.payer {
            api::Payer::Owner => functions::Payer::Owner,
            api::Payer::Callers => functions::Payer::Callers,
        },
        usage_durability: match spec.usage_durability {
            api::UsageDurability::Interval => functions::UsageDurability::Interval,
            api::UsageDurability::Acknowledged => functions::UsageDurability::Acknowledged,
            api::UsageDurability::Replicated => functions::UsageDurability::Replicated,
        },
        idempotent: spec.idempotent,
    };
    domain.validate()?;
    Ok(domain)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0.001..=1")]
fn permille(ratio: f64) -> u32 {
    (ratio * 1000.0).round() as u32
}

pub(crate) fn ratio(permille: u32) -> f64 {
    f64::from(permille) / 1000.0
}

pub(crate) fn spec_to_api(spec: &Spec) -> api::FunctionSpec {
    api::FunctionSpec {
        image: spec.source.image().map(str::to_owned),
        command: spec.source.command().map(<[String]>::to_vec),
        package: spec.source.package().map(|package| package.to_string()),
        env: spec.env.clone(),
        port: spec.port,
        readiness_path: spec.readiness_path.clone(),
        memory_mb: spec.memory_mb,
        cpu_millis: spec.cpu_millis,
        concurrency: spec.concurrency,
        timeout_ms: spec.timeout.0,
        startup_timeout_ms: spec.startup_timeout.0,
        scaling: api::Scaling {
            min: spec.scaling.min,
            max: spec.scaling.max,
            step: spec.scaling.step,
            target_utilization: ratio(spec.scaling.target_permille),
            window_ms: spec.scaling.window.0,
            keep_alive_ms: match spec.scaling.keep_alive {
                KeepAlive::Fixed(span) => api::KeepAlive::Millis(span.0),
                KeepAlive::Adaptive => api::KeepAlive::ADAPTIVE,
            },
        },
        queue: api::Queue { max_waiting: spec.max_waiting },
        payer: match spec.payer {
            functions::Payer::Owner => api::Payer::Owner,
            functions::Payer::Callers => api::Payer::Callers,
        },
        usage_durability: match spec.usage_durability {
            functions::UsageDurability::Interval => api::UsageDurability::Interval,
            functions::UsageDurability::Acknowledged => api::UsageDurability::Acknowledged,
            functions::UsageDurability::Replicated => api::UsageDurability::Replicated,
        },
        idempotent: spec.idempotent,
    }
}

pub(crate) fn function(state: &ClusterState, name: &FunctionName, function: &Function) -> api::Function {
    let mut instances = api::InstanceCounts::default();
    for (_, instance) in state.instances.of_function(name.as_str()) {
        match instance.phase {
            Phase::Placed | Phase::Starting => instances.launching += 1,
            Phase::Ready => instances.ready += 1,
            _ => instances.draining += 1,
        }
    }
    let health = &function.health;
    let failing = health.consecutive_failures > 0;
    let current = function.current();
    api::Function {
        name: name.to_string(),
        owner: function.owner.to_string(),
        version: current.number,
        created_at: time(function.created_at),
        changed_at: time(current.created_at),
        spec: spec_to_api(&current.spec),
        instances,
        health: match (health.is_crash_loop(), failing) {
            (true, _) => "crash_loop".to_owned(),
            (false, true) => "failing".to_owned(),
            (false, false) => "ok".to_owned(),
        },
        last_failure: failing.then(|| health.last_reason.clone()),
        retry_at: failing.then(|| time(health.retry_at())),
    }
}

/// A function that was put and is gone again: what is known of it from the change itself.
pub(crate) fn deleted_function(
    name: &FunctionName,
    owner: &AccountName,
    version: u64,
    put_at: Timestamp,
    spec: api::FunctionSpec,
) -> api::Function {
    api::Function {
        name: name.to_string(),
        owner: owner.to_string(),
        version,
        created_at: time(put_at),
        changed_at: time(put_at),
        spec,
        instances: api::InstanceCounts::default(),
        health: "ok".to_owned(),
        last_failure: None,
        retry_at: None,
    }
}

/// `load` is (utilization in thousandths, requests in flight) where its host was heard from.
pub(crate) fn instance(id: InstanceId, instance: &Instance, load: Option<(u32, u32)>) -> api::Instance {
    api::Instance {
        id: id.to_string(),
        function: instance.function.to_string(),
        version: instance.version,
        node: instance.node.0,
        generation: instance.generation.0,
        phase: instance.phase.to_string(),
        utilization: load.map(|(permille, _)| ratio(permille)),
        in_flight: load.map(|(_, in_flight)| in_flight),
        memory_mb: instance.resources.memory_mb,
        cause: match instance.cause.trigger {
            Trigger::Minimum => "minimum",
            Trigger::Queued => "queued",
            Trigger::Utilization => "utilization",
            Trigger::Rollout => "rollout",
            Trigger::Prewarm => "prewarm",
        }
        .to_owned(),
        reason: instance.reason.clone(),
        launched_at: time(instance.placed_at),
        ready_at: instance.ready_at.map(time),
        ended_at: instance.ended_at.map(time),
    }
}

pub(crate) fn decision(at: Timestamp, decision: &Decision) -> api::Decision {
    let (action, instance, node) = match decision.action {
        DecidedAction::Launch { instance, node } => ("launch", Some(instance), Some(node)),
        DecidedAction::Drain { instance } => ("drain", Some(instance), None),
        DecidedAction::Hold => ("hold", None, None),
    };
    let inputs = &decision.inputs;
    api::Decision {
        at: time(at),
        function: decision.function.to_string(),
        action: action.to_owned(),
        instance: instance.map(|id| id.to_string()),
        node: node.map(|id| id.0),
        reason: decision.reason.clone(),
        inputs: api::DecisionInputs {
            ready: inputs.ready,
            launching: inputs.launching,
            draining: inputs.draining,
            waiting: inputs.waiting,
            in_flight: inputs.in_flight,
            utilization: ratio(inputs.utilization_permille),
            desired: inputs.desired,
        },
    }
}

pub(crate) fn condition(condition: nodes::Condition) -> String {
    match condition {
        nodes::Condition::Ready => "ready",
        nodes::Condition::Draining => "draining",
        nodes::Condition::Down => "down",
    }
    .to_owned()
}

pub(crate) fn resources(resources: nodes::Resources) -> api::Resources {
    api::Resources { memory_mb: resources.memory_mb, cpu_millis: resources.cpu_millis }
}

pub(crate) fn account(name: &str, account: &accounts::Account) -> api::Account {
    api::Account {
        name: name.to_owned(),
        role: match account.role {
            accounts::Role::Admin => api::Role::Admin,
            accounts::Role::User => api::Role::User,
        },
        created_at: time(account.created_at),
        keys: account.keys.iter().map(|(id, key)| self::key(id.to_string(), key)).collect(),
        grants: account.grants.iter().map(|(pattern, actions)| grant(pattern, actions.as_ref())).collect(),
    }
}

pub(crate) fn key(id: String, key: &accounts::Key) -> api::Key {
    api::Key { id, created_at: time(key.created_at), expires_at: key.expires_at.map(time) }
}

pub(crate) fn grant<'a>(
    pattern: &accounts::Pattern,
    actions: impl IntoIterator<Item = &'a accounts::Action>,
) -> api::Grant {
    let action = |action: &accounts::Action| match action {
        accounts::Action::Invoke => api::Action::Invoke,
        accounts::Action::Manage => api::Action::Manage,
    };
    api::Grant { pattern: pattern.to_string(), actions: actions.into_iter().map(action).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_survive_the_round_trip() {
        for json in [
            r#"{"image":"a:b","idempotent":true}"#,
            r#"{"image":"a:b","scaling":{"keep_alive_ms":"adaptive","step":3}}"#,
        ] {
            let spec: api::FunctionSpec = serde_json::from_str(json).unwrap();
            assert_eq!(spec_to_api(&spec_from_api(spec.clone()).unwrap()), spec);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, field) in [
            (r"{}", "image"),
            (r#"{"image":"a","command":["b"]}"#, "image"),
            (r#"{"image":"a","scaling":{"target_utilization":0}}"#, "scaling.target_utilization"),
            (r#"{"image":"a","scaling":{"target_utilization":1.5}}"#, "scaling.target_utilization"),
            (r#"{"image":"a","concurrency":0}"#, "concurrency"),
            (r#"{"image":"a","scaling":{"step":0}}"#, "scaling.step"),
            (r#"{"image":"a","scaling":{"keep_alive_ms":18446744073709551615}}"#, "scaling.keep_alive_ms"),
        ] {
            let spec: api::FunctionSpec = serde_json::from_str(json).unwrap();
            assert_eq!(spec_from_api(spec).unwrap_err().field, field, "{json}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(Timestamp(1_795_424_400_123)), "2026-11-23T09:00:00.123Z");
        assert_eq!(parse_time("from", "2026-11-23T09:00:00.123Z"), Ok(Timestamp(1_795_424_400_123)));
        assert_eq!(parse_time("from", "2026-11-23"), Ok(Timestamp(1_795_392_000_000)));
        assert!(parse_time("from", "yesterday").unwrap_err().contains("from"));
    }
}
