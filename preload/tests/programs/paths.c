/* Calls functions that take a path, below a directory, and prints what they return: paths <directory>. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

static const char *top;
static char rooms[4][4096];
static int next_room;

static char *at(const char *name) {
    char *room = rooms[next_room++ % 4];
    snprintf(room, sizeof rooms[0], "%s/%s", top, name);
    return room;
}
#define SAY(call) do { errno = 0; long r = (long)(call); int e = errno; printf("%s: %ld %s\n", #call, r, r < 0 ? strerror(e) : ""); } while (0)
#define GOT(call) do { errno = 0; void *r = (void *)(call); int e = errno; printf("%s: %s\n", #call, r ? "got" : strerror(e)); } while (0)

int main(int argc, char **argv) {
    char room[100] = "", *template;
    struct stat found;
    struct statx more;
    struct statvfs space;
    struct timeval times[2] = {{1, 2}, {3, 4}};
    struct utimbuf times2 = {5, 6};
    struct dirent **list;
    top = argv[1];
    int fd = open(at("f"), O_CREAT | O_RDWR, 0640), dir;
    SAY(write(fd, "text", 4));
    SAY(fd = open64(at("none"), O_RDONLY));
    SAY(creat(at("c"), 0600) < 0);
    SAY(openat(AT_FDCWD, at("f"), O_RDONLY) < 0);
    SAY(openat(99, at("f"), O_RDONLY) < 0);
    SAY(open(at(""), O_DIRECTORY | O_PATH) < 0);
    SAY(open(top, O_WRONLY));
    SAY(stat(at("f"), &found)); printf("%o %ld\n", found.st_mode, (long)found.st_size);
    SAY(lstat(at("none"), &found));
    SAY(fstatat(AT_FDCWD, at("c"), &found, 0)); printf("%o\n", found.st_mode);
    SAY(statx(AT_FDCWD, at("f"), 0, STATX_SIZE, &more)); printf("%d\n", (int)more.stx_size);
    SAY(access(at("f"), R_OK)); SAY(access(at("none"), F_OK)); SAY(eaccess(at("f"), W_OK)); SAY(faccessat(AT_FDCWD, at("f"), R_OK, 0));
    SAY(symlink("f", at("l"))); SAY(symlinkat("none", AT_FDCWD, at("l2"))); SAY(symlink("f", at("l")));
    SAY(readlink(at("l"), room, sizeof room)); printf("%s\n", room); SAY(readlinkat(AT_FDCWD, at("l2"), room, 2)); SAY(readlink(at("f"), room, 9));
    /* An absolute link below the directory: only calls that follow the last name reach its target. */
    SAY(symlink(at("target"), at("a"))); SAY(open(at("a"), O_RDONLY | O_NOFOLLOW)); SAY(open(at("a"), O_CREAT | O_EXCL | O_WRONLY, 0600)); SAY(mkdir(at("a"), 0700));
    SAY(access(at("target"), F_OK)); SAY(creat(at("target"), 0600) < 0); SAY(open(at("a"), O_RDONLY) < 0);
    SAY(unlink(at("a"))); SAY(access(at("target"), F_OK)); SAY(access(at("a"), F_OK));
    SAY(mkdir(at("d"), 0750)); SAY(mkdirat(AT_FDCWD, at("d"), 0750)); SAY(mkdir(at("none/d"), 0700));
    SAY(mkfifo(at("p"), 0600)); SAY(mknod(at("r"), S_IFREG | 0600, 0));
    SAY(link("/none", at("x"))); SAY(link(at("f"), at("h"))); SAY(linkat(AT_FDCWD, at("f"), AT_FDCWD, at("d/h"), 0));
    SAY(rename(at("h"), at("h2"))); SAY(renameat(AT_FDCWD, at("h2"), AT_FDCWD, at("d/h2"))); SAY(renameat2(AT_FDCWD, at("c"), AT_FDCWD, at("f"), RENAME_NOREPLACE));
    SAY(rename(at("none"), at("x")));
    SAY(chmod(at("f"), 0604)); SAY(fchmodat(AT_FDCWD, at("c"), 0444, 0)); SAY(chown(at("f"), getuid(), -1)); SAY(lchown(at("l"), -1, -1)); SAY(fchownat(AT_FDCWD, at("f"), -1, -1, 0));
    SAY(utimes(at("f"), times)); SAY(lutimes(at("l"), times)); SAY(utime(at("c"), &times2)); SAY(utime(at("none"), NULL)); SAY(utimensat(AT_FDCWD, at("r"), NULL, 0));
    stat(at("f"), &found); printf("%ld %ld %o\n", (long)found.st_mtim.tv_sec, (long)found.st_mtim.tv_nsec, found.st_mode);
    stat(at("c"), &found); printf("%ld\n", (long)found.st_mtime);
    SAY(truncate(at("f"), 2)); SAY(truncate(at("none"), 2)); SAY(statvfs(top, &space)); SAY(pathconf(top, _PC_NAME_MAX));
    SAY(getxattr(at("f"), "user.x", room, 9)); SAY(listxattr(at("none"), room, 9));
    FILE *stream = fopen(at("s"), "w+x"); GOT(stream); fprintf(stream, "line\n"); GOT(fopen(at("s"), "wx")); GOT(fopen(at("s"), "?")); GOT(fopen(at("none"), "r"));
    GOT(stream = freopen(at("s"), "r", stream)); GOT(fgets(room, 9, stream)); printf("%s", room);
    DIR *stream2 = opendir(at("d")); GOT(stream2); GOT(readdir(stream2)); GOT(opendir(at("f"))); GOT(opendir(at("none")));
    SAY(scandir(at("d"), &list, NULL, alphasort)); printf("%s %s\n", list[2]->d_name, list[3]->d_name); SAY(scandir(at("none"), &list, NULL, alphasort));
    template = at("tXXXXXX"); SAY(mkstemp(template) < 0); SAY(unlink(template));
    template = at("tXXXXXX.c"); SAY(mkostemps(template, 2, O_CLOEXEC) < 0); SAY(strcmp(template + strlen(template) - 2, ".c")); SAY(unlink(template));
    template = at("tXXXXXX"); GOT(mkdtemp(template)); SAY(rmdir(template)); SAY(mkstemp(at("tXXX"))); SAY(mkstemp(at("none/tXXXXXX")));
    SAY(chdir(at("none"))); SAY(chdir(at("f"))); SAY(chdir(at("d"))); SAY(access("h2", F_OK)); SAY(access("../f", F_OK)); SAY(chdir("/"));
    SAY(access(at("d/../f"), F_OK)); SAY(access(at("/./f"), F_OK)); SAY(access(at("f/"), F_OK)); SAY(access(at("d/none/../../f"), F_OK));
    dir = open(at("d"), O_DIRECTORY); SAY(faccessat(dir, "h2", F_OK, 0)); SAY(unlinkat(dir, "h2", 0)); SAY(unlinkat(AT_FDCWD, at("d"), AT_REMOVEDIR)); SAY(unlinkat(dir, at("d/h"), 0));
    SAY(remove(at("d"))); SAY(remove(at("p"))); SAY(unlink(at("none"))); SAY(rmdir(at("f")));
    /* The descriptor of the root is gone, or is another file. */
    for (int i = 3; i < 1100; i++) close(i);
    SAY(access(at("f"), F_OK));
    for (int i = 3; i < 1100; i++) if (fcntl(i, F_GETFD) >= 0) dup2(0, i);
    SAY(access(at("f"), F_OK));
    pid_t child = vfork();
    if (!child) { chdir(at("")); execl("/bin/cat", "cat", "s", NULL); _exit(9); }
    waitpid(child, &fd, 0); printf("%d\n", fd);
    fflush(stdout);
    return system("ls .") + argc - 2;
}
