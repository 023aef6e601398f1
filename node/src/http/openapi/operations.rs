//! What each route does: one row each, in the order of `routes()`.

use utoipa::openapi::HttpMethod::{Delete, Get, Head, Options, Patch, Post, Put};

use super::operation::{Content, Operation, flag, text, time, type_};
use Content::{Any, List, Nothing, One, Text};

const ADMINS: &str = "For admins.";
const ADMINS_OR_ITSELF: &str = "For admins, and for an account about itself.";
const MANAGERS: &str =
    "For the function's owner, admins, and accounts with a `manage` grant that matches its name.";
const CALLERS: &str = "For accounts that may invoke or manage the function.";
const NO_ENV: &str = "Those who may not manage it see an empty `env`.";
const FUNCTION_ONLY: &str = "Only this function's.";

pub(super) fn all() -> Vec<Operation> {
    let mut all = vec![
        Operation::open(Get, "/livez", "livez", "Whether the process answers.")
            .answers(200, "It does.", Text),
        Operation::open(Get, "/readyz", "readyz", "Whether the node can serve.")
            .answers(200, "A quorum confirmed a leader lately.", Text)
            .answers(503, "There was no recent round trip to a quorum.", Text),
        Operation::open(Get, "/metrics", "metrics", "This node's metrics, in Prometheus' text format.")
            .answers(200, "The metrics.", Text),
        Operation::open(Get, "/openapi.json", "openapi", "This document.").answers(
            200,
            "An OpenAPI 3.1 document.",
            Any,
        ),
    ];
    all.extend(cluster());
    all.extend(functions());
    all.extend(accounts());
    all.extend(invocations());
    all
}

fn cluster() -> Vec<Operation> {
    vec![
        Operation::read("/v1/cluster", "get_cluster", "The cluster's members and leader.")
            .note("For every account. Without a quorum it answers from what this node knows.")
            .answers(200, "The cluster.", One("Cluster")),
        Operation::read("/v1/nodes", "list_nodes", "The hosts and what they give to instances.")
            .note(ADMINS)
            .answers(200, "The nodes, by id.", List("Node"))
            .fails(&[403]),
        Operation::read("/v1/usage", "get_usage", "Usage, summed by account, function and period.")
            .note("Admins see every account, others themselves.")
            .query("account", text(), "Only this account's.")
            .query("function", text(), FUNCTION_ONLY)
            .query("from", time(), "Hours that begin at this time or later: RFC 3339, or a date.")
            .query("to", time(), "Hours that begin before this time: RFC 3339, or a date.")
            .query("by", type_("Grain"), "The length of a period; `day` if absent.")
            .answers(200, "One row per account, function and period that was used.", List("Usage"))
            .fails(&[403]),
    ]
}

fn functions() -> Vec<Operation> {
    vec![
        Operation::read(
            "/v1/functions",
            "list_functions",
            "The functions that the caller may invoke or manage.",
        )
        .answers(200, "The functions, by name.", List("Function")),
        Operation::change(Put, "/v1/functions/{name}", "put_function", "Creates or changes a function.")
            .note(MANAGERS)
            .note("Whoever creates it owns it. The same spec again changes nothing.")
            .body("The whole spec; what is left out gets its default.", type_("FunctionSpec"))
            .answers(200, "It was there: changed, or the same.", One("Function"))
            .answers(201, "It is new.", One("Function"))
            .fails(&[409]),
        Operation::read("/v1/functions/{name}", "get_function", "A function.")
            .note(CALLERS)
            .note(NO_ENV)
            .answers(200, "The function.", One("Function"))
            .fails(&[403, 404]),
        Operation::change(Delete, "/v1/functions/{name}", "delete_function", "Deletes a function.")
            .note(MANAGERS)
            .query("force", flag(), "Also if it has live instances; they are drained.")
            .answers(204, "It is gone.", Nothing)
            .fails(&[404, 409]),
        Operation::read(
            "/v1/instances",
            "list_instances",
            "Instances of the functions that the caller may invoke or manage.",
        )
        .query("function", text(), FUNCTION_ONLY)
        .query("all", flag(), "Also those that ended lately.")
        .answers(200, "The instances, by function and age.", List("Instance"))
        .fails(&[403]),
        Operation::read("/v1/decisions", "list_decisions", "What the leader decided lately, and why.")
            .note("Of the functions that the caller may manage.")
            .query("function", text(), FUNCTION_ONLY)
            .answers(200, "The decisions, the latest first.", List("Decision"))
            .fails(&[403]),
    ]
}

fn accounts() -> Vec<Operation> {
    vec![
        Operation::change(Post, "/v1/accounts", "create_account", "Creates an account.")
            .note(ADMINS)
            .body("Its name and role.", type_("CreateAccount"))
            .answers(201, "The account, without keys and grants.", One("Account"))
            .fails(&[409]),
        Operation::read("/v1/accounts", "list_accounts", "The accounts that the caller may look into.")
            .note("Admins see all, others themselves.")
            .answers(200, "The accounts, by name.", List("Account")),
        Operation::read("/v1/accounts/{name}", "get_account", "An account with its keys and grants.")
            .note(ADMINS_OR_ITSELF)
            .answers(200, "The account.", One("Account"))
            .fails(&[403, 404]),
        Operation::change(
            Delete,
            "/v1/accounts/{name}",
            "delete_account",
            "Deletes an account with its keys and grants.",
        )
        .note(ADMINS)
        .answers(204, "It is gone.", Nothing)
        .fails(&[404, 409]),
        Operation::change(Post, "/v1/accounts/{name}/keys", "create_key", "Makes an API key.")
            .note(ADMINS)
            .body("When it expires; may be empty.", type_("CreateKey"))
            .answers(201, "The key. It is never shown again.", One("CreatedKey"))
            .fails(&[404, 409]),
        Operation::read("/v1/accounts/{name}/keys", "list_keys", "An account's keys, without their secrets.")
            .note(ADMINS_OR_ITSELF)
            .answers(200, "The keys, by id.", List("Key"))
            .fails(&[403, 404]),
        Operation::change(Delete, "/v1/accounts/{name}/keys/{id}", "revoke_key", "Revokes an API key.")
            .note(ADMINS_OR_ITSELF)
            .answers(204, "It is revoked.", Nothing)
            .fails(&[404]),
        Operation::change(
            Put,
            "/v1/accounts/{name}/grants/{pattern}",
            "put_grant",
            "Grants actions on functions.",
        )
        .note(ADMINS)
        .note("The pattern is a function's name in which each `*` stands for any characters.")
        .body("What is granted; replaces what was before.", type_("PutGrant"))
        .answers(200, "The grant.", One("Grant"))
        .fails(&[404, 409]),
        Operation::change(
            Delete,
            "/v1/accounts/{name}/grants/{pattern}",
            "delete_grant",
            "Takes a grant away.",
        )
        .note(ADMINS)
        .note("The pattern is the one that was granted, character by character.")
        .answers(204, "It is gone.", Nothing)
        .fails(&[404]),
    ]
}

fn invocations() -> Vec<Operation> {
    let invoke = |path, id, summary| {
        Operation::invocation(vec![Get, Head, Post, Put, Patch, Delete, Options], path, id, summary)
            .note("For accounts with an `invoke` grant, the function's owner, and admins.")
            .note("Method, query, headers and body reach the function; so does what follows its name in the path.")
            .answers(200, "The function's answer, whatever its status.", Any)
            .fails(&[400, 401, 403, 404, 408, 413, 429, 502, 503, 504])
    };
    vec![
        invoke("/function/{name}", "invoke", "Invokes a function at its root."),
        invoke(
            "/function/{name}/{path}",
            "invoke_path",
            "Invokes a function at a path, which may hold more `/`.",
        ),
    ]
}
