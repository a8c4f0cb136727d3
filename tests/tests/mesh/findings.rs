//! What users are told about their files: findings, conditions, `outrigger validate`.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::mesh::{ControlPlane, DEADLINE, Load, objects, validate};
use outrigger_tests::wait;
use serde_json::Value;

use crate::{Canary, near, run};

/// A field that does not exist, in line 9.
const MISSPELT: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: reviews}]
  rules:
  - backendRefs:
    - {name: reviews-v1, port: 80, weight: 1}
    - {name: reviews-v2, port: 80, wieght: 1}
";

/// No YAML: the list is not closed.
const UNREADABLE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: [shop}
";

/// What a finding must say.
struct Expected {
    text: &'static str,
    line: u64,
    object: Option<&'static str>,
    path: &'static str,
    message: &'static str,
}

const BROKEN: [Expected; 2] = [
    Expected {
        text: MISSPELT,
        line: 9,
        object: Some("HTTPRoute/shop/reviews"),
        path: "spec.rules[0].backendRefs[1].wieght",
        message: "unknown field",
    },
    Expected {
        text: UNREADABLE,
        line: 3,
        object: None,
        path: "",
        message: "YAML",
    },
];

#[test]
fn a_broken_file_keeps_the_last_good_state() {
    run(async {
        let mesh = Canary::start(true, [0, 1]).await?;
        let load = Load::start(mesh.sidecar.outbound_address().await?, "reviews");
        load.answers(50).await?;
        for expected in BROKEN {
            mesh.control_plane.write("route.yaml", expected.text)?;
            let finding = finding(&mesh.control_plane, expected.message).await?;
            ensure!(finding["file"] == "route.yaml", "{finding:#}");
            ensure!(finding["line"] == expected.line, "{finding:#}");
            ensure!(finding["object"].as_str() == expected.object, "{finding:#}");
            ensure!(finding["path"] == expected.path, "{finding:#}");
            ensure!(finding["severity"] == "error", "{finding:#}");
            let status = mesh.control_plane.api("status").await?;
            ensure!(status["stale_files"][0] == "route.yaml", "{status:#}");
            ensure!(status["in_sync"] == 1, "{status:#}");
            load.next_phase();
            ensure!(
                load.share("v2", 100).await? >= 1.0,
                "the last good state is lost"
            );

            let (code, said) = validate(&mesh.control_plane.config_dir()).await?;
            ensure!(code == 1, "exit code {code}:\n{said}");
            let place = format!("route.yaml:{}:", expected.line);
            for wanted in [&place, expected.object.unwrap_or_default(), expected.path] {
                ensure!(said.contains(wanted), "{wanted:?} is not in:\n{said}");
            }

            mesh.control_plane
                .edit("route.yaml", &Canary::route([1, 1]))
                .await?;
            let status = mesh.control_plane.api("status").await?;
            ensure!(
                status["findings"].as_array().is_some_and(Vec::is_empty),
                "{status:#}"
            );
            ensure!(
                status["stale_files"].as_array().is_some_and(Vec::is_empty),
                "{status:#}"
            );
            load.next_phase();
            near(load.share("v2", 400).await?, 0.5, 400)?;
            mesh.control_plane
                .edit("route.yaml", &Canary::route([0, 1]))
                .await?;
            load.next_phase();
        }
        let (code, said) = validate(&mesh.control_plane.config_dir()).await?;
        ensure!(code == 0, "exit code {code}:\n{said}");
        load.check()
    });
}

#[test]
fn a_broken_file_leaves_the_others_alone() {
    run(async {
        let mesh = Canary::start(false, [1, 0]).await?;
        let load = Load::start(mesh.sidecar.outbound_address().await?, "reviews");
        mesh.control_plane.write("broken.yaml", "kind: [")?;
        finding(&mesh.control_plane, "YAML").await?;
        mesh.control_plane
            .edit("route.yaml", &Canary::route([0, 1]))
            .await?;
        load.next_phase();
        ensure!(
            load.share("v2", 100).await? >= 1.0,
            "a good file waits for a broken one"
        );
        mesh.control_plane.remove("broken.yaml")?;
        wait::until("no findings", DEADLINE, async || {
            let status = mesh.control_plane.api("status").await?;
            ensure!(
                status["findings"].as_array().is_some_and(Vec::is_empty),
                "{status:#}"
            );
            Ok(())
        })
        .await?;
        load.check()
    });
}

/// An error of the configuration with these words.
async fn finding(control_plane: &ControlPlane, message: &str) -> Result<Value> {
    wait::until("the finding", DEADLINE, async || {
        let status = control_plane.api("status").await?;
        let findings = status["findings"].as_array().context("findings")?;
        let mut matching = findings.iter().filter(|finding| {
            finding["message"]
                .as_str()
                .is_some_and(|text| text.contains(message))
        });
        matching
            .next()
            .cloned()
            .with_context(|| format!("{status:#}"))
    })
    .await
}

#[test]
fn conditions_tell_what_became_of_a_route() {
    run(async {
        let mesh = Canary::start(true, [1, 1]).await?;
        let route = "HTTPRoute/shop/reviews";
        for kind in ["Accepted", "ResolvedRefs", "Programmed"] {
            let condition = mesh.control_plane.condition(route, kind).await?;
            ensure!(condition["status"] == "True", "{condition:#}");
        }
        let object = mesh.control_plane.object(route).await?;
        ensure!(object["file"] == "route.yaml", "{object:#}");

        // A backend that is not there: accepted, but not all of its references resolve.
        let dangling = objects::split("reviews", &[("reviews-v1", 1), ("gone", 1)]);
        mesh.control_plane.edit("route.yaml", &dangling).await?;
        let condition = mesh.control_plane.condition(route, "Accepted").await?;
        ensure!(condition["status"] == "True", "{condition:#}");
        let condition = mesh.control_plane.condition(route, "ResolvedRefs").await?;
        ensure!(condition["status"] == "False", "{condition:#}");
        ensure!(condition["reason"] == "BackendNotFound", "{condition:#}");
        let message = condition["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("spec.rules[0].backendRefs[1]"),
            "{condition:#}"
        );

        // A parent that is not there: not accepted, so not programmed.
        let before = mesh.control_plane.version().await?;
        mesh.control_plane.write(
            "route.yaml",
            &objects::split("nobody", &[("reviews-v1", 1)]),
        )?;
        mesh.control_plane.change_after(before).await?;
        let route = "HTTPRoute/shop/nobody";
        let condition = mesh.control_plane.condition(route, "Accepted").await?;
        ensure!(condition["status"] == "False", "{condition:#}");
        ensure!(condition["reason"] == "NoMatchingParent", "{condition:#}");
        let condition = mesh.control_plane.condition(route, "Programmed").await?;
        ensure!(condition["status"] == "False", "{condition:#}");
        Ok(())
    });
}
