//! Cases: exit statuses and signals.

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::each("exit statuses", "for s in 0 1 2 126 127 200 255; do SHOW_EXIT=$s show >/dev/null; echo $?; done").walks(&["show"]),
        Case::whole("exit 0", "exit 0"),
        Case::whole("exit 1", "exit 1"),
        Case::whole("exit 126", "exit 126"),
        Case::whole("exit 127", "exit 127"),
        Case::whole("exit 255", "exit 255"),
        Case::whole("death by TERM", "kill -TERM $$"),
        Case::whole("death by KILL", "kill -KILL $$"),
        Case::whole("death by ABRT", "ulimit -c 0; kill -ABRT $$"),
        Case::whole("death by SEGV", "ulimit -c 0; kill -SEGV $$"),
        Case::whole("death by PIPE", "kill -PIPE $$"),
        Case::whole("death by USR1", "kill -USR1 $$"),
        Case::whole("death by HUP", "kill -HUP $$"),
        Case::whole("death by INT", "kill -INT $$"),
        Case::each("deaths as the shell sees them", "for s in HUP INT TERM KILL USR1 USR2 PIPE ALRM; do perl -e 'kill shift, $$; sleep 9' $s; echo $?; done").walks(&["perl"]),
        Case::each("deaths that dump core", "ulimit -c 0; for s in ABRT SEGV QUIT FPE; do perl -e 'kill shift, $$; sleep 9' $s; echo $?; done 2>&1 | sed s/[0-9]*.Killed//").walks(&["perl"]),
        Case::each("a real segmentation fault", "ulimit -c 0; python3 -c 'import ctypes; ctypes.string_at(0)'; echo $?").walks(&["python3"]),
        Case::each("abort()", "ulimit -c 0; python3 -c 'import os; os.abort()'; echo $?").walks(&["python3"]),
        Case::each("a trapped signal from itself", "perl -e '$SIG{USR1} = sub { print \"trapped\\n\"; exit 5 }; kill USR1 => $$; sleep 9'; echo $?").walks(&["perl"]),
        Case::each("a signal from the shell that waits", "perl -e '$|=1; $SIG{TERM}=sub{print \"got it\\n\"; exit 9}; print \"up\\n\"; open F,q(>),q(ready); sleep 20' >out & p=$!; until [ -s out ]; do sleep 0.05; done; kill -TERM $p; wait $p; echo $?; cat out").walks(&["perl"]),
        Case::each("a killed walk commits nothing", "perl -e '$|=1; open F,q(>),q(partial); print F q(x); close F; print qq(up\\n); sleep 20' >out & p=$!; until [ -s out ]; do sleep 0.05; done; kill -KILL $p; { wait $p; } 2>/dev/null; echo $?; rm -f partial").walks(&[]),
        Case::each("it stands still while it is stopped", "perl -MTime::HiRes=time -e '$|=1; print qq(up\n); for (1..300) { $t = time; select undef, undef, undef, 0.05; last if $stood = time - $t > 0.5 } print $stood ? qq(stood\n) : qq(ran on\n)' >out & p=$!; until [ -s out ]; do sleep 0.05; done; kill -STOP $p; perl -e 'select undef, undef, undef, 2.5'; kill -CONT $p; wait $p; echo $?; cat out").walks(&["perl"]),
        Case::each("it stops itself", "perl -e '$|=1; print qq(up\n); kill STOP => $$; print qq(on\n); exit 3' >out & p=$!; until read pid name state rest </proc/$p/stat && [ $state = T ]; do :; done; kill -CONT $p; wait $p; echo $?; cat out").walks(&["perl"]),
        Case::each("ignored signals stay ignored", "trap '' INT; perl -e 'print $SIG{INT}; kill INT => $$; print \" alive\\n\"'; echo $?").walks(&["perl"]),
        Case::each("blocked signals stay blocked", "perl -e 'use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1)); exec q(perl), q(-e), q(kill USR1 => $$; print qq(alive\\n))'; echo $?").walks(&["perl"]),
        Case::each("the command is not found", "nosuchcommand; echo $?; ./nosuchfile; echo $?; show >/dev/null"),
        Case::each("the command is not executable", "touch plain; ./plain; echo $?; mkdir d; ./d; echo $?"),
        Case::each("the interpreter is missing", "printf '#!/no/such/interpreter\\n' >s; chmod +x s; ./s; echo $?").stays(&[("s", "not-executable")]),
        Case::each("a damaged program", "head -c 100 /bin/true >broken; chmod +x broken; ./broken >/dev/null 2>&1; test $? -ge 126; echo $?; rm -f [!b]*; ls").stays(&[("broken", "not-executable")]),
        Case::whole("background children are waited for as natively", "sleep 0.2 & wait; echo done"),
        Case::whole("a child that outlives its parent and closes its output", "(sleep 0.3; echo late >late) >/dev/null 2>&1 & sleep 0.6"),
        Case::each("pipestatus", "bash -c 'show >/dev/null | SHOW_EXIT=3 show >/dev/null | false; echo ${PIPESTATUS[*]}'"),
    ];
    cases.push(Case::each(
        "a status file like make's",
        "SHOW_EXIT=2 show >/dev/null || echo failed >status; cat status",
    ));
    cases
}
