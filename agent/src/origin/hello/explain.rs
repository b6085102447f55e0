//! Says what a walk of a command would be given, without making one.

use std::sync::Arc;

use packetfs::export::Hidden;
use worknode::request::{CommandLine, Explanation};
use worknode::spec::strings;

use super::environment::{Reader, fate};
use super::{step, variables};
use crate::session::Session;

/// Returns what tells, on any thread, what happens to the variables and to the files that a command names.
pub(crate) fn explain(
    session: &Session,
    command: CommandLine,
) -> impl Fn(&Hidden) -> Explanation + Send + 'static {
    let CommandLine { path, argv, env, named } = command;
    let reader = step(session, &path, &argv, &env).map_or(Reader::Anything, |step| step.reader);
    let wishes = Arc::clone(&session.wishes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    move |hidden| {
        let of = |variable| (text(variables::parts(variable).0), fate(variable, reader, &wishes));
        let shown = named.iter().filter(|path| hidden.hides(path));
        Explanation {
            variables: strings(&env).map(of).collect(),
            hidden: shown.map(|path| text(path)).collect(),
        }
    }
}
