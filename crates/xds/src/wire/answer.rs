// SPDX-License-Identifier: Apache-2.0
//! The answer to an update: taken, or taken but for some resources. A refusal is for
//! the resources it names only; the position counts as applied either way.

use ferrogate_model::Reject;

use super::SUBSCRIPTION;
use crate::protocol::{DeltaDiscoveryRequest, Status};

/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;
/// How many refusals travel in one answer; the rest is counted in the last one's reason.
const MAX_REJECTS: usize = 1000;
/// A longer reason is cut, so that an answer stays far below the size of one message.
const MAX_REASON_BYTES: usize = 1024;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response it answers.
    pub nonce: String,
    /// What was refused.
    pub rejects: Vec<Reject>,
}

/// An answer whose list of refusals cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the refusals cannot be read: {0}")]
pub struct AnswerError(String);

pub(crate) fn to_message(answer: Answer) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: SUBSCRIPTION.to_owned(),
        response_nonce: answer.nonce,
        error_detail: (!answer.rejects.is_empty()).then(|| refusal(answer.rejects)),
        ..DeltaDiscoveryRequest::default()
    }
}

pub(crate) fn from_message(message: DeltaDiscoveryRequest) -> Result<Answer, AnswerError> {
    let rejects: Vec<Reject> = match message.error_detail {
        None => Vec::new(),
        Some(detail) => {
            serde_json::from_str(&detail.message).map_err(|error| AnswerError(error.to_string()))?
        }
    };
    if rejects.len() > MAX_REJECTS {
        return Err(AnswerError(format!("more than {MAX_REJECTS} entries")));
    }
    Ok(Answer { nonce: message.response_nonce, rejects })
}

fn refusal(mut rejects: Vec<Reject>) -> Status {
    let left_out = rejects.len().saturating_sub(MAX_REJECTS);
    rejects.truncate(MAX_REJECTS);
    for reject in &mut rejects {
        cut(&mut reject.reason);
    }
    if let (1.., Some(last)) = (left_out, rejects.last_mut()) {
        last.reason.push_str(&format!(" (and {left_out} further resources refused)"));
    }
    // Texts and numbers always serialise; an empty list would only lose the reasons.
    let message = serde_json::to_string(&rejects).unwrap_or_else(|_| "[]".to_owned());
    Status { code: INVALID_ARGUMENT, message }
}

fn cut(reason: &mut String) {
    if reason.len() > MAX_REASON_BYTES {
        let end = (0..=MAX_REASON_BYTES).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, MAX_REASON_BYTES, MAX_REJECTS, from_message, to_message};
    use ferrogate_model::Reject;

    fn answer(count: usize, reason: &str) -> Answer {
        let reject =
            |index| Reject { resource: format!("rest-apis/{index}"), revision: 1, reason: reason.to_owned() };
        Answer { nonce: "n".to_owned(), rejects: (0..count).map(reject).collect() }
    }

    #[test]
    fn answers_survive_the_round_trip() {
        for count in [0, 1, 3] {
            let answer = answer(count, "no such policy");
            assert_eq!(from_message(to_message(answer.clone())), Ok(answer));
        }
    }

    #[test]
    fn long_answers_are_cut_and_say_so() {
        let read = from_message(to_message(answer(MAX_REJECTS + 5, &"é".repeat(1000)))).unwrap();
        assert_eq!(read.rejects.len(), MAX_REJECTS);
        assert_eq!(read.rejects[0].reason.len(), MAX_REASON_BYTES);
        assert!(read.rejects[MAX_REJECTS - 1].reason.contains("5 further"));
    }

    #[test]
    fn an_unreadable_refusal_is_an_error() {
        let mut message = to_message(answer(1, "x"));
        message.error_detail.as_mut().unwrap().message = "oops".to_owned();
        assert!(from_message(message).is_err());
    }
}
