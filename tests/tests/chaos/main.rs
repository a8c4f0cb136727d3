//! kill -9 of each part of a mesh, and its return: what works on meanwhile, and that everything
//! heals without a manual step.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use outrigger_tests::client::Request;
use outrigger_tests::mesh::{
    ControlPlane, DEADLINE, Load, Service, Sidecar, listening, objects, ports,
};
use outrigger_tests::proxy::Kind;
use outrigger_tests::wait;

/// Runs one test.
fn run(test: impl Future<Output = Result<()>>) {
    if let Err(error) = outrigger_tests::block_on(test) {
        panic!("{error:#}");
    }
}

/// A caller's sidecar, a service with its sidecar, and another instance of it without one.
struct Mesh {
    control_plane: ControlPlane,
    caller: Sidecar,
    callee: Sidecar,
    service: Service,
    inbound: SocketAddr,
    outbound: SocketAddr,
}

impl Mesh {
    /// A mesh of which nothing but the service runs.
    async fn prepare(delta: bool) -> Result<Self> {
        let service = Service::start("back").await?;
        let (inbound, outbound) = (ports::reserve()?, ports::reserve()?);
        let files = [("mesh.yaml", objects::service("back", &[inbound]))];
        Ok(Self {
            control_plane: ControlPlane::prepare(&files)?,
            caller: Sidecar::new(Kind::Outrigger, delta, "caller")
                .outbound_at(outbound)
                .traced(),
            callee: Sidecar::new(Kind::Outrigger, !delta, "callee")
                .inbound(inbound, service.address())
                .traced(),
            service,
            inbound,
            outbound,
        })
    }

    async fn start(delta: bool) -> Result<Self> {
        let mut mesh = Self::prepare(delta).await?;
        mesh.control_plane.restart().await?;
        mesh.caller.start(&mesh.control_plane).await?;
        mesh.callee.start(&mesh.control_plane).await?;
        mesh.control_plane.in_sync(2).await?;
        listening(mesh.outbound).await?;
        listening(mesh.inbound).await?;
        Ok(mesh)
    }

    fn load(&self) -> Load {
        Load::start(self.outbound, "back")
    }
}

/// Waits for requests to succeed again; from then on none may fail.
async fn heals(load: &Load) -> Result<()> {
    load.next_phase();
    load.answers(20).await?;
    load.take_failures();
    load.next_phase();
    load.answers(100).await?;
    load.check()
}

/// Waits for requests to fail.
async fn fails(load: &Load) -> Result<()> {
    wait::until("requests to fail", DEADLINE, async || {
        let failures = load.take_failures();
        ensure!(!failures.is_empty(), "they do not");
        Ok(())
    })
    .await
}

#[test]
fn control_plane_state_of_the_world() {
    run(control_plane_killed(false));
}

#[test]
fn control_plane_delta() {
    run(control_plane_killed(true));
}

/// Requests go on without a control plane; an edit made meanwhile is live after its return.
async fn control_plane_killed(delta: bool) -> Result<()> {
    let mut mesh = Mesh::start(delta).await?;
    let load = mesh.load();
    load.answers(50).await?;
    mesh.control_plane.kill().await?;
    load.next_phase();
    load.answers(100).await?;
    let other = Service::start("other").await?;
    mesh.control_plane
        .write("mesh.yaml", &objects::service("back", &[other.address()]))?;
    mesh.control_plane.restart().await?;
    mesh.control_plane.in_sync(2).await?;
    load.next_phase();
    ensure!(
        load.share("other", 100).await? >= 1.0,
        "the edit is not live"
    );
    // And the next one, over the new streams.
    mesh.control_plane
        .edit("mesh.yaml", &objects::service("back", &[mesh.inbound]))
        .await?;
    load.next_phase();
    ensure!(
        load.share("back", 100).await? >= 1.0,
        "the second edit is not live"
    );
    load.check()
}

#[test]
fn a_file_broken_while_the_control_plane_is_away() {
    run(async {
        let mut mesh = Mesh::start(true).await?;
        let load = mesh.load();
        load.answers(50).await?;
        mesh.control_plane.kill().await?;
        mesh.control_plane.write("mesh.yaml", "kind: [")?;
        mesh.control_plane.restart().await?;
        wait::until("both proxies to connect again", DEADLINE, async || {
            let status = mesh.control_plane.api("status").await?;
            ensure!(status["connected"] == 2, "{status:#}");
            ensure!(status["findings"][0]["file"] == "mesh.yaml", "{status:#}");
            Ok(())
        })
        .await?;
        load.next_phase();
        load.answers(100).await?;
        load.check()
    });
}

#[test]
fn control_plane_comes_last() {
    run(async {
        let mut mesh = Mesh::prepare(true).await?;
        mesh.caller.spawn(&mesh.control_plane).await?;
        mesh.callee.spawn(&mesh.control_plane).await?;
        mesh.control_plane.restart().await?;
        mesh.control_plane.in_sync(2).await?;
        listening(mesh.outbound).await?;
        listening(mesh.inbound).await?;
        let load = mesh.load();
        load.answers(50).await?;
        load.check()
    });
}

#[test]
fn callers_sidecar() {
    run(async {
        let mut mesh = Mesh::start(false).await?;
        let load = mesh.load();
        load.answers(50).await?;
        mesh.caller.kill().await?;
        fails(&load).await?;
        mesh.caller.start(&mesh.control_plane).await?;
        heals(&load).await?;
        mesh.control_plane.in_sync(2).await
    });
}

#[test]
fn callees_sidecar() {
    run(async {
        let mut mesh = Mesh::start(true).await?;
        let load = mesh.load();
        load.answers(50).await?;
        mesh.callee.kill().await?;
        fails(&load).await?;
        mesh.callee.start(&mesh.control_plane).await?;
        heals(&load).await?;
        mesh.control_plane.in_sync(2).await
    });
}

#[test]
fn service() {
    run(async {
        let mut mesh = Mesh::start(false).await?;
        let load = mesh.load();
        load.answers(50).await?;
        mesh.service.kill().await?;
        fails(&load).await?;
        // The reply says why: the callee's sidecar made it, and the caller's passed it on.
        let request = Request {
            authority: "back".to_owned(),
            ..Request::new("GET", "/")
        };
        let reply = request.send_h1(mesh.outbound).await?;
        ensure!(reply.status == 503, "{reply:?}");
        ensure!(reply.header("x-outrigger-reason").is_some(), "{reply:?}");
        mesh.service.restart().await?;
        heals(&load).await
    });
}

#[test]
fn stored_traces() {
    run(async {
        const EARLY: &str = "11111111111111111111111111111111";
        const LATE: &str = "22222222222222222222222222222222";
        let mut mesh = Mesh::start(true).await?;
        traced(&mesh, EARLY).await?;
        let before = mesh.control_plane.trace(EARLY, 2).await?;
        mesh.control_plane.kill().await?;
        mesh.control_plane.restart().await?;
        let after = mesh.control_plane.trace(EARLY, 2).await?;
        ensure!(before == after, "{before:#}\n{after:#}");
        mesh.control_plane.in_sync(2).await?;
        // The exporters find the new process by themselves.
        traced(&mesh, LATE).await?;
        mesh.control_plane.trace(LATE, 2).await?;
        let code = mesh.control_plane.stop().await?;
        ensure!(code == Some(0), "SIGTERM ends it with {code:?}");
        Ok(())
    });
}

/// One request that is part of a trace.
async fn traced(mesh: &Mesh, trace: &str) -> Result<()> {
    let request = Request {
        authority: "back".to_owned(),
        ..Request::new("GET", "/")
    };
    let request = request.header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    let reply = request.send_h1(mesh.outbound).await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    Ok(())
}
