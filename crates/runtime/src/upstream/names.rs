// SPDX-License-Identifier: Apache-2.0
//! Targets whose every address is an endpoint of its own. Their names are asked for again and
//! again on the control side's executor; when an answer changes, the group gets the members that
//! it names, and those that stay keep what is known of them. While nobody answers, a group keeps
//! what it has. `prepare` makes members here and leaves groups to be followed; no request waits
//! for any of it.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ferrogate_base::tasks::Tasks;
use ferrogate_model::ResourceName;
use ferrogate_model::kinds::rest_api::HealthCheck;
use futures::future::join_all;
use tokio::time::timeout;

use super::beside::Beside;
use super::group::{Group, Member};
use super::health::Checked;
use super::states::{StateKey, States};
use crate::dns::{Addresses, Dns, DnsError};
use crate::router::Endpoint;

/// From one question to the next, give or take a tenth. An answer whose lifetime is not over is
/// not fetched anew.
const INTERVAL: Duration = Duration::from_secs(5);

/// A name without an answer after this is asked for again the next time; shorter than any interval.
const PATIENCE: Duration = Duration::from_secs(4);

/// The most addresses of one name that are endpoints; those behind them in order are left out.
const MAX_ADDRESSES: usize = 64;

/// What a name stands for: in order, of one family, and never empty.
type Answer = Arc<Vec<IpAddr>>;

/// The names that groups follow.
#[derive(Default)]
pub struct Names {
    unstarted: Arc<Beside<Followed>>,
    /// The last answers, held by the groups that go by them: a group that takes another's place
    /// begins with them.
    answers: Mutex<HashMap<String, Weak<Vec<IpAddr>>>>,
}

/// A group and the targets whose addresses are its members.
pub struct Followed {
    /// The group; nothing is followed for one that is gone.
    pub group: Weak<Group>,
    /// What new members are made with.
    pub recruiter: Recruiter,
    /// The targets.
    pub targets: Vec<Named>,
}

/// What the members of one definition are made with.
pub struct Recruiter {
    /// Whose definition it is.
    pub artifact: ResourceName,
    /// The definition's name.
    pub definition: String,
    /// How its endpoints are asked whether they are well, where they are.
    pub check: Option<HealthCheck>,
    /// Their connections are counted.
    pub counts: bool,
    /// What is known of endpoints.
    pub states: Weak<States>,
}

/// One target and its members.
pub struct Named {
    endpoint: Endpoint,
    local: bool,
    answer: Option<Answer>,
    /// One for each address; one for the name until its first answer.
    pub members: Vec<Arc<Member>>,
}

impl Names {
    /// Leaves a group to be followed.
    pub fn follow(&self, followed: Followed) {
        self.unstarted.leave(followed, |followed| followed.group.strong_count() > 0);
    }

    /// Starts a task for each group as it comes, until the group of tasks shuts down.
    pub fn run(&self, tasks: &Tasks, dns: Arc<Dns>) {
        self.unstarted.run(tasks, "upstream name", move |followed| {
            let dns = dns.clone();
            follow(followed, move |host| {
                let dns = dns.clone();
                async move { dns.resolve(&host).await }
            })
        });
    }

    fn last(&self, host: &str) -> Option<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(host).and_then(Weak::upgrade)
    }

    /// Keeps an answer for groups to come, once for all that go by it.
    fn note(&self, host: &str, addresses: Vec<IpAddr>) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answers.get(host).and_then(Weak::upgrade).filter(|known| **known == addresses);
        known.unwrap_or_else(|| {
            let answer = Arc::new(addresses);
            answers.retain(|_, answer| answer.strong_count() > 0);
            answers.insert(host.to_owned(), Arc::downgrade(&answer));
            answer
        })
    }
}

impl Recruiter {
    /// The member that this endpoint is, with what is known of it.
    #[must_use]
    pub fn member(&self, states: &States, endpoint: &Endpoint, local: bool) -> Arc<Member> {
        let now = Instant::now();
        let Endpoint { scheme, tls, host, port, address, .. } = endpoint.clone();
        let key = StateKey {
            artifact: self.artifact.clone(),
            target: self.definition.clone(),
            scheme,
            host: host.clone(),
            port,
            address,
        };
        let health = self
            .check
            .clone()
            .map(|check| states.checks.of(Checked { scheme, host, port, address, tls, check }, now));
        let name = format!("{}/{}", self.artifact, self.definition);
        let member = Member::new(endpoint.clone(), states.endpoint(key, now), local, &name);
        Arc::new(member.checked(health).counted(self.counts))
    }
}

impl Named {
    /// A target by its name, or by the addresses that were its last answer.
    #[must_use]
    pub fn new(endpoint: Endpoint, local: bool, recruiter: &Recruiter, states: &States) -> Named {
        let mut named = Named { endpoint, local, answer: None, members: Vec::new() };
        let last = states.names.last(&named.endpoint.host);
        if !last.is_some_and(|last| named.settle(last.to_vec(), recruiter, states)) {
            named.members.push(recruiter.member(states, &named.endpoint, local));
        }
        named
    }

    /// Goes by this answer; true when that changes its members.
    fn settle(&mut self, addresses: Vec<IpAddr>, recruiter: &Recruiter, states: &States) -> bool {
        let known = self.answer.as_ref().is_some_and(|answer| **answer == addresses);
        // An address that stands for itself is an endpoint already.
        if known || addresses.is_empty() || self.endpoint.host.parse::<IpAddr>().is_ok() {
            return false;
        }
        let member = |address: &IpAddr| {
            let stays = self.members.iter().find(|member| member.endpoint.address == Some(*address));
            stays.cloned().unwrap_or_else(|| {
                let endpoint = Endpoint { address: Some(*address), ..self.endpoint.clone() };
                recruiter.member(states, &endpoint, self.local)
            })
        };
        self.members = addresses.iter().map(member).collect();
        self.answer = Some(states.names.note(&self.endpoint.host, addresses));
        true
    }
}

/// Asks until the group is gone.
async fn follow<F>(mut followed: Followed, resolve: impl Fn(String) -> F)
where
    F: Future<Output = Result<Addresses, DnsError>>,
{
    loop {
        let next = tokio::time::Instant::now() + INTERVAL.mul_f64(0.9 + fastrand::f64() / 5.0);
        let hosts = followed.targets.iter().map(|target| target.endpoint.host.to_string());
        let answers = join_all(hosts.map(|host| timeout(PATIENCE, resolve(host)))).await;
        let Followed { group, recruiter, targets } = &mut followed;
        let (Some(group), Some(states)) = (group.upgrade(), recruiter.states.upgrade()) else { return };
        let mut changed = false;
        for (target, answer) in targets.iter_mut().zip(answers) {
            let host = &target.endpoint.host;
            match answer {
                Ok(Ok(addresses)) => {
                    changed |= target.settle(ordered(&addresses), recruiter, &states);
                }
                Ok(Err(error)) => tracing::debug!(%host, %error, "an upstream's addresses stay as they are"),
                Err(_) => tracing::debug!(%host, "an upstream's addresses stay as they are: no answer"),
            }
        }
        if changed {
            let members: Vec<_> = targets.iter().flat_map(|target| target.members.clone()).collect();
            let (artifact, definition) = (&recruiter.artifact, &recruiter.definition);
            tracing::info!(%artifact, %definition, endpoints = members.len(), "an upstream's addresses changed");
            group.replace(members);
        }
        drop((group, states));
        // However long the slowest of them took.
        tokio::time::sleep_until(next).await;
    }
}

/// An answer as endpoints: those of the family that comes first, so that no upstream counts twice,
/// and in an order that does not turn with every answer.
fn ordered(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let family = addresses.first().map(IpAddr::is_ipv4);
    let mut ordered: Vec<IpAddr> =
        addresses.iter().copied().filter(|address| Some(address.is_ipv4()) == family).collect();
    ordered.sort_unstable();
    ordered.dedup();
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::{Arc, Mutex};

    use ferrogate_model::kinds::rest_api::{Scheme, UpstreamDefinition, UpstreamProtocol};
    use serde_json::json;
    use tokio::task::JoinSet;

    use super::{Followed, INTERVAL, MAX_ADDRESSES, Named, Recruiter, follow, ordered};
    use crate::dns::DnsError;
    use crate::router::Endpoint;
    use crate::upstream::group::Group;
    use crate::upstream::states::States;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    /// A group of one definition with a target of each of these hosts.
    fn group(states: &Arc<States>, hosts: &[&str]) -> (Arc<Group>, Followed) {
        let recruiter = Recruiter {
            artifact: "rest-apis/a".parse().expect("a name"),
            definition: "d".to_owned(),
            check: None,
            counts: false,
            states: Arc::downgrade(states),
        };
        let endpoint = |host: &&str| Endpoint {
            scheme: Scheme::Http,
            protocol: UpstreamProtocol::Http1,
            tls: None,
            host: (*host).into(),
            port: 80,
            address: None,
            weight: 1,
            owner: None,
        };
        let targets: Vec<Named> =
            hosts.iter().map(|host| Named::new(endpoint(host), false, &recruiter, states)).collect();
        let definition: UpstreamDefinition =
            serde_json::from_value(json!({"name": "d", "targets": []})).expect("a definition");
        let members = targets.iter().flat_map(|target| target.members.clone()).collect();
        let group = Arc::new(Group::new(members, &definition, "/"));
        (group.clone(), Followed { group: Arc::downgrade(&group), recruiter, targets })
    }

    fn members(group: &Group) -> Vec<(String, Option<IpAddr>)> {
        let members = group.members();
        members.iter().map(|member| (member.endpoint.host.to_string(), member.endpoint.address)).collect()
    }

    fn of(host: &str, texts: &[&str]) -> Vec<(String, Option<IpAddr>)> {
        addresses(texts).into_iter().map(|address| (host.to_owned(), Some(address))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_has_the_addresses_that_its_name_has_now() {
        let states = Arc::<States>::default();
        let (first, followed) = group(&states, &["up"]);
        assert_eq!(members(&first), [("up".to_owned(), None)], "by its name until somebody answers");
        let answer = Arc::new(Mutex::new(Some(addresses(&["10.0.0.2", "10.0.0.1", "::1"]))));
        let asked = answer.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(followed, move |_| {
            let answer = asked.lock().expect("no panic").clone();
            async move { answer.map(Into::into).ok_or_else(|| DnsError("nobody answers".to_owned())) }
        }));
        let a_while = || tokio::time::sleep(INTERVAL * 2);
        a_while().await;
        assert_eq!(members(&first), of("up", &["10.0.0.1", "10.0.0.2"]));
        let stays = first.members()[1].clone();

        *answer.lock().expect("no panic") = Some(addresses(&["10.0.0.3", "10.0.0.2"]));
        a_while().await;
        assert_eq!(members(&first), of("up", &["10.0.0.2", "10.0.0.3"]));
        assert!(Arc::ptr_eq(&first.members()[0], &stays), "what stays is not made anew");

        *answer.lock().expect("no panic") = None;
        a_while().await;
        assert_eq!(members(&first).len(), 2, "while nobody answers nothing changes");

        // The same API deployed anew goes on where it was.
        let (second, _followed) = group(&states, &["up"]);
        assert_eq!(members(&second), members(&first));
        assert!(Arc::ptr_eq(&second.members()[0].state, &stays.state));

        drop(first);
        let ended = tokio::time::timeout(INTERVAL * 2, tasks.join_next()).await;
        assert!(
            ended.is_ok_and(|task| task.is_some_and(|task| task.is_ok())),
            "nobody is left to follow for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn each_target_has_its_own_addresses_and_a_literal_is_one() {
        let states = Arc::<States>::default();
        let (group, followed) = group(&states, &["a", "10.9.9.9", "b"]);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(followed, |host| async move {
            match host.as_str() {
                "a" => Ok(addresses(&["10.0.0.1", "10.0.0.2"]).into()),
                "b" => std::future::pending().await,
                literal => Ok(addresses(&[literal]).into()),
            }
        }));
        tokio::time::sleep(INTERVAL * 3).await;
        let rest = ["10.9.9.9", "b"].map(|host| (host.to_owned(), None));
        assert_eq!(members(&group), [of("a", &["10.0.0.1", "10.0.0.2"]), rest.to_vec()].concat());
    }

    #[test]
    fn an_answer_is_one_family_in_order_and_bounded() {
        assert_eq!(ordered(&addresses(&["::2", "10.0.0.1", "::1", "::2"])), addresses(&["::1", "::2"]));
        assert_eq!(ordered(&[]), addresses(&[]));
        let many: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        assert_eq!(ordered(&many).len(), MAX_ADDRESSES);
    }
}
