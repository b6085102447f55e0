//! Asks the agent for what may take long, and shows how far it has come if somebody watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use worknode::request::{Reply, Request, VolumeReply, VolumeRequest, WorkProgress};

use crate::cluster::orders::{failed, unexpected};
use crate::door::Door;
use crate::error::Failure;
use crate::places::Places;

const KNOWN: &str = "{msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left";
const UNKNOWN: &str = "{msg} {spinner} {bytes}";
/// Time between two pictures of the spinner.
const SPIN: Duration = Duration::from_millis(200);

/// Asks the agent about the volume. `what` says what it does meanwhile.
pub(crate) fn of_volume(
    places: &Places,
    what: &'static str,
    request: VolumeRequest,
) -> Result<VolumeReply, Failure> {
    match ask(places, what, &Request::Volume(request))? {
        Reply::Volume(reply) => Ok(reply),
        _ => Err(unexpected()),
    }
}

pub(crate) fn ask(
    places: &Places,
    what: &'static str,
    request: &Request,
) -> Result<Reply, Failure> {
    let mut door = Door::open(&places.door()).map_err(failed)?;
    // Nothing is drawn where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let reply = door.ask_at_length(request, |progress| show(&bar, what, progress));
    bar.finish_and_clear();
    reply.map_err(failed)
}

fn show(bar: &ProgressBar, what: &'static str, WorkProgress { done, total }: WorkProgress) {
    if bar.message().is_empty() {
        bar.set_message(what);
        bar.enable_steady_tick(SPIN);
    }
    if let Ok(style) = ProgressStyle::with_template(if total > 0 { KNOWN } else { UNKNOWN }) {
        bar.set_style(style);
    }
    if total > 0 {
        bar.set_length(total);
    }
    bar.set_position(done);
}
