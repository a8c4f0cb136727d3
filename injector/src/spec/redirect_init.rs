//! The init container that sets the redirection rules, with the least that this takes.

use serde_json::{Value, json};

use super::{INIT_CONTAINER, Options, Redirect, Settings};

/// The container, unless nothing is redirected.
pub(super) fn container(_: &Settings, options: &Options) -> Option<Value> {
    let Redirect::Rules(mode) = options.redirect else {
        return None;
    };
    // A pod whose rules do not hold is not to run.
    let mut args = vec!["redirect".to_owned(), "--then-verify".to_owned()];
    args.extend(options.rules.clone().with_mode(mode).to_args());
    Some(json!({
        "name": INIT_CONTAINER,
        "image": options.image,
        "command": ["outrigger"],
        "args": args,
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"},
        },
        // Kubernetes gives capabilities to root alone; nftables needs this one and no other.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "privileged": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }))
}
