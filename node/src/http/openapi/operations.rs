//! What each route does: one row each, in the order of `routes()`.

use utoipa::openapi::HttpMethod::{Delete, Get, Head, Options, Patch, Post, Put};

use super::operation::{Content, Operation, flag, text, time, type_};
use Content::{Any, Binary, Lines, List, Nothing, One, Text};

const ADMINS: &str = "For admins.";
const ADMINS_OR_ITSELF: &str = "For admins, and for an account about itself.";
const MANAGERS: &str =
    "For the function's owner, admins, and accounts with a `manage` grant that matches its name.";
const CALLERS: &str = "For accounts that may invoke or manage the function.";
const NO_ENV: &str = "Those who may not manage it see an empty `env`.";
const DEPLOYERS: &str = "For admins, and accounts that own a function or have a `manage` grant.";
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
        Operation::read("/v1/cluster/backup", "get_backup", "A backup of the whole state, while the cluster serves.")
            .note(ADMINS)
            .note("It holds hashes of keys and the functions' environment. It is whole if its end is there: check it.")
            .answers(200, "The archive, as it is written: see docs/API.md.", Binary)
            .fails(&[403, 404, 429]),
        Operation::change(Post, "/v1/cluster/tokens", "create_join_token", "Makes a token to join with.")
            .note(ADMINS)
            .note("It is good once. It reserves an id that no node ever had.")
            .body(
                "How long it is good for, and whom the new node replaces; may be empty.",
                type_("CreateToken"),
            )
            .answers(201, "The token. It is never shown again.", One("CreatedToken"))
            .fails(&[404, 409]),
        Operation::change(Delete, "/v1/cluster/nodes/{id}", "remove_node", "Removes a node for ever.")
            .note(ADMINS)
            .note("The node drains first; it is gone from the cluster's nodes once it has left.")
            .query("force", flag(), "As it is, without draining: for a node that is dead.")
            .answers(202, "It is on its way out.", Nothing)
            .fails(&[404, 409]),
        Operation::change(Post, "/v1/cluster/transfer", "transfer_leadership", "Has another node lead.")
            .note(ADMINS)
            .body("To whom; may be empty.", type_("Transfer"))
            .answers(200, "Who leads now.", One("Transferred"))
            .fails(&[404, 409]),
        Operation::read("/v1/nodes", "list_nodes", "The hosts and what they give to instances.")
            .note(ADMINS)
            .answers(200, "The nodes, by id.", List("Node"))
            .fails(&[403]),
        Operation::change(Put, "/v1/nodes/{id}/drain", "drain_node", "Has a node's instances moved away.")
            .note(ADMINS)
            .note("It takes no new ones until it is undrained, also after a restart.")
            .answers(204, "It is draining.", Nothing)
            .fails(&[404, 409]),
        Operation::change(
            Delete,
            "/v1/nodes/{id}/drain",
            "undrain_node",
            "Lets a node take instances again.",
        )
        .note(ADMINS)
        .answers(204, "It takes instances.", Nothing)
        .fails(&[404, 409]),
        Operation::read("/v1/usage", "get_usage", "Usage, summed by account, function and period.")
            .note("Admins see every account, others themselves.")
            .query("account", text(), "Only this account's.")
            .query("function", text(), FUNCTION_ONLY)
            .query("from", time(), "Periods that begin at this time or later: RFC 3339, or a date. It must not lie within a day or month that is known as a whole only.")
            .query("to", time(), "Periods that begin before this time, likewise.")
            .query("by", type_("Grain"), "The length of a period; `day` if absent. Where no more is known than the sum of a longer one, that is given, and `period` says so.")
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
        Operation::read("/v1/functions/{name}/logs", "read_logs", "What the function's instances write.")
            .note(MANAGERS)
            .note("Of every host, merged by time; a host that does not answer is named in a line of its own.")
            .query("follow", flag(), "Also what comes, until the client goes or may read no more.")
            .query("since", time(), "Only lines of this time or later: RFC 3339, or a date.")
            .query("instance", text(), "Only this instance's.")
            .answers(200, "One JSON object per line, as they come.", Lines("LogLine"))
            .fails(&[403, 404, 429]),
        Operation::read("/v1/packages", "list_packages", "The packages that the cluster keeps.")
            .note(DEPLOYERS)
            .answers(200, "The packages, by digest.", List("Package"))
            .fails(&[403]),
        Operation::change(Put, "/v1/packages/{digest}", "put_package", "Gives the cluster a package.")
            .note(DEPLOYERS)
            .note("The digest is `sha256:` and the SHA-256 of the body in hexadecimal. For Docker a package is an image archive as `docker save` writes it, for the process engine a tar of a folder; either may be gzip.")
            .bytes("The file, as it is.")
            .answers(200, "The cluster has it; the body was not read.", One("Package"))
            .answers(201, "It is stored, on two nodes where there are two.", One("Package"))
            .fails(&[403, 409, 429]),
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
