// SPDX-License-Identifier: Apache-2.0
//! Requests that are malformed or could be read in two ways, sent to the built binary with a
//! raw-socket upstream behind it that shows what arrived. Each is refused or forwarded in the one
//! way it can be read; the corpus says which, with the RFC's section. `http1.txt` holds what is
//! said in bytes, `http2.rs` what takes frames; both run with every HTTP/1 codec there is.

mod cases;
mod gateway;
mod http1;
mod http2;
mod upstream;
