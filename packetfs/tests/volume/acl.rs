//! Access control lists do on the mount what they do on the disk's own file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::mounted::Mounted;

/// Prints what is allowed and what `getfacl` says. Users: 1 (groups 1), 2 (groups 2), 65534.
const SCRIPT: &str = r#"
as() { id=$1; shift; setpriv --reuid "$id" --regid "$id" --clear-groups sh -c "$*" 2>/dev/null && echo "yes $id: $*" || echo "no $id: $*"; }
each() { for id in 1 2 65534; do as $id "$1"; done; }
umask 027
echo content > plain; chmod 640 plain
setfacl -m u:1:rw,g:2:r plain
each 'cat plain'; each 'echo more >> plain'
chmod 600 plain; each 'cat plain'; getfacl -n plain
chmod 660 plain; each 'echo more >> plain'; getfacl -n plain
setfacl -m m::r plain; each 'echo more >> plain'; stat -c %a plain
setfacl -b plain; getfacl -n plain; stat -c %a plain; each 'cat plain'
mkdir dir; chmod 750 dir; setfacl -m u:1:rx dir; echo in > dir/in; chmod 644 dir/in; each 'cat dir/in'; each 'ls dir'
mkdir inherits; setfacl -m d:u:1:rwx,d:g:2:rx,d:o::r inherits
echo x > inherits/file; mkdir inherits/sub; mkfifo inherits/fifo; ln -s file inherits/link
sh -c 'umask 0; echo y > inherits/open'; mkdir -m 700 inherits/closed
echo z > inherits/sub/deep; chmod 751 inherits inherits/sub
each 'cat inherits/file'; each 'echo more >> inherits/file'; each 'cat inherits/open'; each 'ls inherits/sub'
each 'echo more >> inherits/sub/deep'
chmod 2775 inherits; chgrp 2 inherits; echo s > inherits/shared; mkdir inherits/down; stat -c '%a %g %n' inherits/*
cp -a inherits copied; rsync -aA inherits/ synced; tar --acls -cf tar inherits; mkdir out; tar --acls -C out -xf tar
mkdir owned; chown 1:1 owned
as 1 'echo mine > owned/mine; setfacl -m u:2:r owned/mine; chmod g-r owned/mine'; each 'cat owned/mine'
as 2 'setfacl -m u:2:rw owned/mine'; as 1 'setfacl -m u:2:rw owned/mine'; each 'echo more >> owned/mine'
chown 1:2 owned/mine; chmod 2770 owned/mine; as 1 'setfacl -m u:65534:r owned/mine'; stat -c %a owned/mine
as 1 'setfacl -k inherits'; setfacl -k inherits; echo late > inherits/late
setfacl -m d:u::rw,d:g::r,d:o::- out; echo minimal > out/minimal; mkdir out/minimal.d; stat -c '%a %n' out/minimal out/minimal.d
find . ! -type l | sort | xargs getfacl -n; getfattr -R -m - . 2>/dev/null | grep -v '^$' | sort
"#;

fn said(dir: &Path) -> String {
    fs::create_dir_all(dir).expect("a writable directory");
    fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let output = Command::new("sh").args(["-c", SCRIPT]).current_dir(dir).output();
    let output = output.expect("sh is there");
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn access_control_lists_do_what_they_do_on_ext4() {
    for passes in [true, false] {
        let scratch = tempfile::tempdir().expect("a directory");
        fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let root = scratch.path().join("mount");
        let mut mounted = Mounted::new(&scratch.path().join("store"), &root, passes);
        let (there, here) = (said(&root.join("work")), said(&scratch.path().join("work")));
        assert!(
            here.contains("user:1:rwx"),
            "this test needs setfacl, on a disk with lists: {here}"
        );
        assert_eq!(lines(&there, &here), lines(&here, &there), "here: {here}");
        mounted.stop();
    }
}

/// Returns the first lines that differ from another text, with the line before.
fn lines<'a>(one: &'a str, other: &str) -> Vec<&'a str> {
    let same = one.lines().zip(other.lines()).take_while(|(one, other)| one == other).count();
    one.lines().skip(same.saturating_sub(1)).take(8).collect()
}
