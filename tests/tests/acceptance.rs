//! What `tests/acceptance/cases.yaml` says of Envoy and of Outrigger is so.

#[path = "../acceptance/case.rs"]
mod case;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::proxy::{self, Kind};

#[tokio::test]
async fn both_proxies_accept_and_refuse_as_the_cases_say() -> Result<()> {
    let text = include_str!("../acceptance/cases.yaml");
    let cases = serde_norway::from_str::<serde_json::Value>(text).context("cases.yaml")?;
    let empty = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(empty.path(), "resources: []\n")?;
    let mut wrong = Vec::new();
    for case in case::read(&cases, &empty.path().display().to_string()) {
        let text = case.bootstrap.to_string();
        let (code, output) = proxy::validate(Kind::Envoy, &text).await?;
        if (code == 0) != case.envoy_accepts {
            wrong.push(format!("{}: Envoy: exit code {code}\n{output}", case.name));
        }
        let (code, output) = proxy::validate(Kind::Outrigger, &text).await?;
        let is_said = case.says.iter().all(|line| output.contains(line));
        if (code == 0) != case.says.is_empty() || !is_said {
            wrong.push(format!(
                "{}: Outrigger: exit code {code}\n{output}",
                case.name
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
