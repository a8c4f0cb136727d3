//! The MutatingWebhookConfiguration that has the API server call us: it is kept trusting our certificates.

use anyhow::Context as _;
use k8s_openapi::{
    ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration as Configuration,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// The registration, by name.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The API server.
    pub api: Api<Configuration>,
    /// Its name.
    pub name: String,
}

impl Registration {
    /// Has all of its webhooks trust these authorities; whether it is there at all.
    ///
    /// # Errors
    /// When it cannot be read or changed.
    pub async fn trust(&self, bundle: &str) -> anyhow::Result<bool> {
        let name = &self.name;
        let found = self
            .api
            .get_opt(name)
            .await
            .with_context(|| format!("reading MutatingWebhookConfiguration {name}"))?;
        let Some(found) = found else {
            return Ok(false);
        };
        let bundle = ByteString(bundle.as_bytes().to_vec());
        let stale = found
            .webhooks
            .unwrap_or_default()
            .into_iter()
            .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&bundle))
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
            .collect::<Vec<_>>();
        if stale.is_empty() {
            return Ok(true);
        }
        let count = stale.len();
        let patch = Patch::Strategic(json!({"webhooks": stale}));
        self.api
            .patch(name, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("changing MutatingWebhookConfiguration {name}"))?;
        tracing::info!("MutatingWebhookConfiguration {name}: caBundle of {count} webhooks set");
        Ok(true)
    }
}
