//! Cases: input and output through descriptors.

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let five_megabytes =
        || (0..5 << 20).map(|i: u32| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut cases = vec![
        Case::each("stdin from a pipe, 5 MB", "cat | md5sum; echo $?").stdin(five_megabytes()).walks(&["cat", "md5sum"]),
        Case::whole("stdin from a pipe, 5 MB", "md5sum").stdin(five_megabytes()),
        Case::each("stdin read in parts by walks that follow each other", "head -c 3 <in; (head -n1; cat) <in; dd bs=1 count=4 <in 2>/dev/null").setup("printf 'one\\ntwo\\nthree\\n' >in"),
        Case::each("stdout, 20 MB", "head -c 20000000 /dev/zero | tr '\\0' x").walks(&["head", "tr"]),
        Case::whole("stdout, 20 MB", "yes 'a line of text' | head -c 20000000"),
        Case::each("stdout is closed early", "yes | head -n 1; seq 1 1000000 | head -n 2; echo $?").walks(&["yes", "head"]),
        Case::each("the writer dies of a closed pipe", "bash -c 'yes | head -n 1; echo ${PIPESTATUS[*]}'").walks(&["yes"]),
        Case::each("order of stdout and stderr in one pipe", "perl -e '$|=1; for (1..200) { print \"o$_ \"; print STDERR \"e$_ \" }' 2>&1").walks(&["perl"]),
        Case::each("order of stdout and stderr in one file", "perl -e '$|=1; for (1..200) { print \"o$_ \"; print STDERR \"e$_ \" }' >out 2>&1; cat out").walks(&["perl"]),
        Case::each("stdout and stderr apart", "perl -e '$|=1; for (1..50) { print \"o$_ \"; print STDERR \"e$_ \" }' >out 2>err; cat out err"),
        Case::each("output of walks that follow each other", "for i in 1 2 3 4 5; do echo start $i; show $i | head -n 2; echo end $i; done"),
        Case::each("append to one file by turns", "echo here >>log; show a >>log; echo here >>log; show b >>log; cat log").walks(&["show"]),
        Case::each("a file opened for writing shares its offset", "{ echo first; show a; echo last; } >out; cat out").walks(&["show"]),
        Case::each("an inherited descriptor is written", "{ sh -c 'show a >&3'; } 3>three; cat three"),
        Case::each("an inherited descriptor is read", "exec 3<in; cat <&3; exec 3<&-; show").setup("echo in >in"),
        Case::each("inherited descriptors with high numbers are written", "bash -c 'exec 15>a 16>b 63>c 64>d 200>e 251>f; perl -e \"for (15,16,63,64,200,251) { open F, q(>&=) . \\$_ or die; print F qq(to \\$_ ) }\"'; cat a b c d e f").walks(&["perl"]),
        Case::each("the offset of a shared input moves on", "{ dd bs=4 count=1 2>/dev/null; cat; } <in").setup("printf abcdefgh >in").walks(&["dd", "cat"]),
        Case::each("a here-document", "cat <<END\nhere $((1 + 1))\nEND").walks(&["cat"]),
        Case::each("a fifo between a walk and the shell", "mkfifo p; echo through >p & cat p; wait").walks(&["cat"]),
        Case::each("process substitution", "bash -c 'diff <(seq 1 3) <(seq 1 4)'; echo $?").walks(&["seq"]),
        Case::each("long pipelines", "seq 1 2000 | grep 7 | sed 's/7/seven/' | sort -r | uniq | awk '{ n += length } END { print n }'").walks(&["grep", "sort"]),
        Case::each("tee", "seq 1 100000 | tee a b | wc -l; cmp a b; echo $?").walks(&["tee"]),
        Case::each("no output at all", "/bin/true; : >empty; cat empty; echo $?").walks(&["true", "cat"]),
        Case::each("binary output", "perl -e 'print map chr, 0..255' ; perl -e 'print STDERR map chr, 128..255'"),
    ];
    cases.extend(Case::both("stdin from a file", "echo content >in", "cat <in; wc -c <in"));
    cases.extend(Case::both("stdin from /dev/null", "", "cat </dev/null; wc -c </dev/null"));
    cases.extend(Case::both("stdin closed", "", "cat <&-; echo $?; show <&-"));
    cases.extend(Case::both(
        "stdout closed",
        "",
        "show >&-; echo $?; perl -e 'print 1 or exit 3; close STDOUT or exit 4' >&-; echo $?",
    ));
    cases.extend(Case::both("stderr closed", "", "ls /nonexistent 2>&-; echo $?"));
    cases.extend(Case::both(
        "stdout is /dev/full",
        "",
        "perl -e 'print 1; close STDOUT or exit 4' >/dev/full; echo $?",
    ));
    cases
}
