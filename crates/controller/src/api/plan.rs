// SPDX-License-Identifier: Apache-2.0
//! What a write entails beyond what the client asked for: who writes a secret writes
//! every artifact anew into which it was rendered, in the same batch. What the plan was
//! made from goes along as expectations, so that the store refuses a plan that time has
//! overtaken; [`App::write`] then plans again.

use std::sync::Arc;

use ferrogate_model::{Kind, ResourceName};
use ferrogate_store::{Expect, Guard};

use super::App;
use super::body::off_thread;
use super::documents::source;
use super::error::ApiError;
use super::gateway::named;
use super::write::Subject;
use crate::deploy::{Admitted, Secrets};

/// Writes and what must hold for them.
pub struct Plan {
    /// The client's, in order; behind them what is made anew.
    pub writes: Vec<(Subject, Option<Admitted>)>,
    /// What must hold besides the guards.
    pub expects: Vec<Expect>,
}

impl Plan {
    /// The names of what is made anew, behind the `asked` writes of the client.
    #[must_use]
    pub fn anew(&self, asked: usize) -> Vec<String> {
        self.writes.iter().skip(asked).map(|(subject, _)| subject.name.to_string()).collect()
    }
}

impl App {
    /// Plans a client's writes.
    ///
    /// # Errors
    /// When an artifact would no longer be valid with the new secret, or the store is down.
    pub async fn plan(
        self: &Arc<Self>,
        mut writes: Vec<(Subject, Option<Admitted>)>,
    ) -> Result<Plan, ApiError> {
        let written: Vec<ResourceName> = writes.iter().map(|(subject, _)| subject.name.clone()).collect();
        let mut expects = Vec::new();
        let mut secrets = Secrets::of(self.replica.current());
        let mut affected = Vec::new();
        for (_, content) in &writes {
            let Some(admitted) = content.as_ref().filter(|one| one.name.kind == Kind::Secret) else {
                continue;
            };
            secrets.write(admitted);
            expects.push(Expect::ReferrersWritten { name: admitted.name.clone() });
            for name in self.store.referrers(&admitted.name).await? {
                if !written.contains(&name) && !affected.contains(&name) {
                    affected.push(name);
                }
            }
        }
        writes.extend(self.render_anew(affected, secrets).await?);
        for admitted in writes.iter().filter_map(|(_, content)| content.as_ref()) {
            for expect in &admitted.expects {
                // What the batch itself writes is guarded where it is written.
                let of_batch = matches!(expect, Expect::Unchanged { name, .. } if written.contains(name));
                if !of_batch && !expects.contains(expect) {
                    expects.push(expect.clone());
                }
            }
        }
        Ok(Plan { writes, expects })
    }

    /// Admits artifacts as they are stored, with these secrets.
    async fn render_anew(
        self: &Arc<Self>,
        names: Vec<ResourceName>,
        secrets: Secrets,
    ) -> Result<Vec<(Subject, Option<Admitted>)>, ApiError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        if names.iter().any(|name| self.replica.current().is_none_or(|snapshot| snapshot.get(name).is_none()))
        {
            // One that this replica has not seen yet; one that is gone is refused and planned anew.
            self.deployer.catch_up().await?;
        }
        let mut stored = Vec::new();
        if let Some(snapshot) = self.replica.current() {
            for entry in names.iter().filter_map(|name| snapshot.get(name)) {
                stored.push((entry.stored.name.clone(), entry.stored.revision, source(&entry.stored)?));
            }
        }
        let app = Arc::clone(self);
        let admitted = off_thread("rendering", move || {
            let admit = |(name, revision, source): (ResourceName, _, _)| {
                let admitted = app.admission.admit(name.kind, source, false, &secrets);
                (name, revision, admitted)
            };
            stored.into_iter().map(admit).collect::<Vec<_>>()
        })
        .await?;
        let (mut writes, mut faults) = (Vec::new(), Vec::new());
        for (name, revision, result) in admitted {
            match result {
                Ok(admitted) => {
                    writes.push((Subject::of(&admitted, Guard::AtRevision(revision)), Some(admitted)));
                }
                Err(refusal) => faults.extend(named(&name.to_string(), refusal)),
            }
        }
        if faults.is_empty() { Ok(writes) } else { Err(ApiError::Invalid(faults)) }
    }

    /// Renders what names secrets again, with the values they have by now.
    ///
    /// # Errors
    /// When one of them is gone, or no longer fits.
    pub async fn readmit(
        self: &Arc<Self>,
        writes: Vec<(Subject, Option<Admitted>)>,
    ) -> Result<Vec<(Subject, Option<Admitted>)>, ApiError> {
        let mut documents = Vec::new();
        for admitted in writes.iter().filter_map(|(_, content)| content.as_ref()) {
            // A secret's source is without its value; it renders nothing and stays as it is.
            if !admitted.references.is_empty() {
                documents.push((admitted.name.kind, admitted.source.clone()));
            }
        }
        let mut secrets = Secrets::of(self.replica.current());
        writes.iter().filter_map(|(_, content)| content.as_ref()).for_each(|one| secrets.write(one));
        let app = Arc::clone(self);
        let admitted =
            off_thread("rendering", move || app.admission.admit_all(documents, false, secrets)).await?;
        let mut admitted = admitted.into_iter();
        let mut anew = Vec::with_capacity(writes.len());
        for (subject, content) in writes {
            let content = match content {
                Some(one) if !one.references.is_empty() => match admitted.next() {
                    Some(result) => Some(result?),
                    None => Some(one),
                },
                other => other,
            };
            anew.push((subject, content));
        }
        Ok(anew)
    }
}
