//! `suanli relay`: pass packets between members that cannot be met straight.

use super::{ending, stop_flag};
use crate::arguments::Relay;
use crate::context::Context;
use crate::exit::Failure;
use crate::words;
use serde_json::json;

pub(super) async fn run(context: &Context, arguments: Relay) -> Result<(), Failure> {
    let key = match arguments.key {
        Some(path) => path,
        None => context.folders.relay_key()?,
    };
    let (_stopper, stop) = stop_flag(arguments.parent.stop_on_eof)?;
    let host = arguments.host.as_deref();
    let relay = suanli_host::relay::start(arguments.listen, &key, host).await?;
    let way = relay.way().secret_text();
    let listen = relay.local_addr();
    context.answer(&json!({ "relay": way, "listen": listen }), || {
        let mut lines = vec![
            words::relay_runs(context.language, &listen.to_string()),
            words::relay_named_by(context.language, &way),
        ];
        if listen.ip().is_loopback() {
            lines.push(words::city_only_here(context.language));
        }
        lines.join("\n")
    })?;
    let mut stopped = stop.clone();
    stopped.wait().await;
    relay.close().await;
    context.say(words::stopped_plain(context.language));
    ending(&stop)
}
