// SPDX-License-Identifier: Apache-2.0
//! A policy engine in a process of its own, as small as one can be: it sets one header on
//! every request and every response. Beside Envoy it shows what the split into proxy and
//! engine costs by itself.

use std::path::Path;
use std::pin::Pin;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use self::protocol::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
use self::protocol::{
    CommonResponse, HeaderMutation, HeaderValue, HeaderValueOption, HeadersResponse, ProcessingRequest,
    ProcessingResponse, processing_request, processing_response,
};

#[allow(clippy::all, reason = "generated")]
mod generated {
    tonic::include_proto!("ext_proc");
}
use generated::envoy::service::ext_proc::v3 as protocol;

struct Processor;

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answers = request.into_inner().map(|message| message.map(|message| answer(&message)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Serves on a Unix socket until the process is ended.
pub async fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let service = ExternalProcessorServer::new(Processor);
    let server = tonic::transport::Server::builder().add_service(service);
    Ok(server.serve_with_incoming(UnixListenerStream::new(listener)).await?)
}

fn answer(message: &ProcessingRequest) -> ProcessingResponse {
    use processing_request::Request as Asked;
    use processing_response::Response as Answered;
    let response = message.request.as_ref().map(|asked| match asked {
        Asked::RequestHeaders(_) => Answered::RequestHeaders(set("x-request-stamp")),
        Asked::ResponseHeaders(_) => Answered::ResponseHeaders(set("x-response-stamp")),
    });
    ProcessingResponse { response }
}

fn set(name: &str) -> HeadersResponse {
    let header = HeaderValue { key: name.to_owned(), raw_value: b"bench".to_vec() };
    let mutation = HeaderMutation { set_headers: vec![HeaderValueOption { header: Some(header) }] };
    HeadersResponse { response: Some(CommonResponse { header_mutation: Some(mutation) }) }
}
