//! Every file under `examples/` is one that the programs accept, and what the examples promise holds.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::{Http1, Request};
use outrigger_tests::mesh::{ControlPlane, Load, Sidecar, validate};
use outrigger_tests::proxy::{self, Kind};
use outrigger_tests::upstream::Upstream;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Files beside each other are bootstraps of the proxy.
#[tokio::test]
async fn bootstraps_are_accepted() -> Result<()> {
    let files = files(&examples())?;
    ensure!(!files.is_empty(), "no examples");
    for path in files {
        let text = std::fs::read_to_string(&path)?;
        let (code, output) = proxy::validate(Kind::Outrigger, &text).await?;
        ensure!(code == 0, "{}: exit code {code}\n{output}", path.display());
    }
    Ok(())
}

/// Each folder is one mesh, and everything in it is in force.
#[tokio::test]
async fn meshes_are_accepted() -> Result<()> {
    let mut count = 0;
    for entry in std::fs::read_dir(examples())? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        let (code, said) = validate(&folder).await?;
        ensure!(code == 0, "{}: {said}", folder.display());
        count += 1;
    }
    ensure!(count > 0, "no example of a mesh");
    Ok(())
}

/// The objects of an example with the addresses of its services replaced: `(file, text)`.
fn example(name: &str, addresses: &[(&str, &Upstream)]) -> Result<Vec<(String, String)>> {
    let mut objects = Vec::new();
    for path in files(&examples().join(name))? {
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let mut text = std::fs::read_to_string(&path)?;
        for (written, upstream) in addresses {
            text = text.replace(written, &upstream.address().to_string());
        }
        let file = path.file_name().context("no name")?;
        objects.push((file.to_string_lossy().into_owned(), text));
    }
    Ok(objects)
}

/// An example with a sidecar of a caller.
async fn start(objects: &[(String, String)]) -> Result<(ControlPlane, Sidecar)> {
    let files: Vec<(&str, String)> = objects
        .iter()
        .map(|(name, text)| (name.as_str(), text.clone()))
        .collect();
    let control_plane = ControlPlane::start(&files).await?;
    let mut sidecar = Sidecar::new(Kind::Outrigger, true, "caller").outbound();
    sidecar.start(&control_plane).await?;
    control_plane.in_sync(1).await?;
    Ok((control_plane, sidecar))
}

/// Changes a file as the example's text says, and waits until the sidecar has taken it.
async fn edit(
    control_plane: &ControlPlane,
    objects: &mut [(String, String)],
    changes: &[(&str, &str)],
) -> Result<()> {
    let (name, text) = objects
        .iter_mut()
        .find(|(name, _)| name == "route.yaml")
        .context("no route.yaml")?;
    for (old, new) in changes {
        ensure!(text.contains(old), "no {old} in {text}");
        *text = text.replace(old, new);
    }
    let change = control_plane.edit(name, text).await?;
    ensure!(change["acked"] == 1, "{change:#}");
    Ok(())
}

#[tokio::test]
async fn blue_and_green_are_switched_without_a_failure() -> Result<()> {
    let (blue, green) = (
        Upstream::start("blue").await?,
        Upstream::start("green").await?,
    );
    let addresses = [("127.0.0.1:8101", &blue), ("127.0.0.1:8102", &green)];
    let mut objects = example("blue-green", &addresses)?;
    let (control_plane, sidecar) = start(&objects).await?;
    let address = sidecar.outbound_address().await?;
    let load = Load::start(address, "checkout");
    ensure!(load.share("blue", 50).await? >= 1.0, "not all is blue");
    let preview = Request {
        authority: "checkout".to_owned(),
        ..Request::new("GET", "/").header("x-preview", "green")
    };
    let reply = preview.send_h1(address).await?;
    ensure!(
        reply.text().contains("green"),
        "testers get {}",
        reply.text()
    );
    for (to, changes) in [
        (
            "green",
            [
                ("weight: 1}", "weight: -}"),
                ("weight: 0}", "weight: 1}"),
                ("weight: -}", "weight: 0}"),
            ],
        ),
        (
            "blue",
            [
                ("weight: 0}", "weight: -}"),
                ("weight: 1}", "weight: 0}"),
                ("weight: -}", "weight: 1}"),
            ],
        ),
    ] {
        edit(&control_plane, &mut objects, &changes).await?;
        load.next_phase();
        ensure!(load.share(to, 50).await? >= 1.0, "not all is {to}");
    }
    load.check()
}

#[tokio::test]
async fn a_canary_grows_and_users_only_move_towards_it() -> Result<()> {
    const USERS: usize = 200;
    let (v1, v2) = (Upstream::start("v1").await?, Upstream::start("v2").await?);
    let addresses = [("127.0.0.1:8111", &v1), ("127.0.0.1:8112", &v2)];
    let objects = example("canary", &addresses)?;
    let (control_plane, sidecar) = start(&objects).await?;
    let address = sidecar.outbound_address().await?;
    let versions = async || -> Result<Vec<bool>> {
        let mut connection = Http1::connect(address).await?;
        let mut has_v2 = Vec::with_capacity(USERS);
        for user in 0..USERS {
            let request = Request {
                authority: "search".to_owned(),
                ..Request::new("GET", "/").header("x-user", &format!("user-{user}"))
            };
            let reply = connection.send(request).await?;
            ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
            has_v2.push(reply.text().contains("v2"));
        }
        Ok(has_v2)
    };
    let mut before = versions().await?;
    ensure!(
        before == versions().await?,
        "users do not stay where they are"
    );
    for next in [(75, 25), (50, 50), (0, 100)] {
        let (name, text) = objects
            .iter()
            .find(|(name, _)| name == "route.yaml")
            .context("no route.yaml")?;
        let step: String = text
            .lines()
            .map(|line| match line.split_once("weight: ") {
                Some((start, _)) if line.contains("search-v1") => {
                    format!("{start}weight: {}}}\n", next.0)
                }
                Some((start, _)) => format!("{start}weight: {}}}\n", next.1),
                None => format!("{line}\n"),
            })
            .collect();
        ensure!(step != *text, "nothing changes at {next:?}");
        let change = control_plane.edit(name, &step).await?;
        ensure!(change["acked"] == 1, "{change:#}");
        let after = versions().await?;
        for (user, (before, after)) in before.iter().zip(&after).enumerate() {
            ensure!(*after || !before, "user-{user} went back to v1 at {next:?}");
        }
        let share = after.iter().filter(|has| **has).count() * 100 / USERS;
        ensure!(
            share.abs_diff(next.1) <= 12,
            "{share} % instead of {}",
            next.1
        );
        before = after;
    }
    Ok(())
}
