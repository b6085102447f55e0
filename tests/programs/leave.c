// Prints what a walk can see of its sandbox, in one line, and then changes everything in it that root can. The
// next walk in the same sandbox must print the same line.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static void say(const char *name, long value) { printf("%s %ld, ", name, value); }

static void say_file(const char *path) {
    char text[200] = "";
    int file = open(path, O_RDONLY);
    ssize_t bytes = read(file, text, sizeof text - 1);
    if (file < 0 || bytes < 0) strcpy(text, "unreadable");
    text[strcspn(text, "\n")] = 0;
    printf("%s %s, ", path, text);
    close(file);
}

static void say_mode(const char *path) {
    struct stat stat_;
    if (stat(path, &stat_)) printf("%s gone, ", path);
    else printf("%s %o %d:%d, ", path, stat_.st_mode, stat_.st_uid, stat_.st_gid);
}

static void say_times(const char *path) {
    struct stat stat_;
    if (!stat(path, &stat_)) printf("%s of %ld, ", path, (long)stat_.st_mtime);
}

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    if (file >= 0 && write(file, text, strlen(text)) < 0) {}
    close(file);
}

int main(void) {
    static const char *const modes[] = {"/dev", "/dev/null", "/dev/shm", "/dev/pts", "/dev/pts/ptmx", "/proc",
                                        "/proc/1", "/proc/uptime", "/proc/execdomains", "/proc/sys", "/",
                                        "/dev/zero", "/dev/tty", "/proc/iomem", "/proc/kcore", "/proc/keys",
                                        "/proc/timer_list"};
    static const char *const files[] = {"/proc/self/oom_score_adj", "/proc/self/coredump_filter",
                                        "/proc/self/autogroup", "/proc/sys/kernel/hostname", "/proc/sys/kernel/msgmax",
                                        "/proc/sys/kernel/shmmax", "/proc/sys/fs/mqueue/msg_max"};
    cpu_set_t set;
    char names[200] = "";
    struct rlimit limit;

    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) say_mode(modes[i]);
    for (unsigned i = 0; i < sizeof files / sizeof *files - 0; i++)
        if (!strstr(files[i], "autogroup")) say_file(files[i]);
    struct stat null;
    if (!fstat(0, &null)) printf("input %o %d:%d of %ld, ", null.st_mode, null.st_uid, null.st_gid, (long)null.st_mtime);
    say_times("/dev/null");
    say_times("/proc/iomem");
    say("attributes", listxattr("/dev/shm", names, sizeof names));
    say("nice", getpriority(PRIO_PROCESS, 1));
    say("policy", sched_getscheduler(1));
    say("io", syscall(SYS_ioprio_get, 1, 1));
    sched_getaffinity(1, sizeof set, &set);
    say("processors", CPU_COUNT(&set));
    for (int which = 0; which < RLIMIT_NLIMITS; which++) {
        // These are the limits of the sandbox's pid 1.
        prlimit(1, which, 0, &limit);
        say("limit", limit.rlim_cur);
        say("limit", limit.rlim_max);
    }
    say("slack", prctl(PR_GET_TIMERSLACK));
    printf("keys %d\n", access("/proc/keys", F_OK));

    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
        // The root is removed with the walk; other walks need the rest, which nothing protects.
        if (!strcmp(modes[i], "/") || !strcmp(modes[i], "/proc/uptime") || !strcmp(modes[i], "/proc/sys")) continue;
        if (chmod(modes[i], 0) || chown(modes[i], 65534, 65534)) {}
    }
    // Descriptor 0 is the null device, which can be changed by a descriptor as well as by a name.
    struct timespec long_ago[2] = {{1, 0}, {1, 0}};
    if (fchmod(0, 0600) || fchown(0, 65534, 65534)) {}
    if (futimens(0, long_ago) || fsetxattr(0, "user.left", "x", 1, 0)) {}
    if (utimensat(AT_FDCWD, "/proc/self/fd/0", long_ago, 0) || chmod("/proc/self/fd/0", 0600)) {}
    if (utimensat(AT_FDCWD, "/proc/iomem", long_ago, 0) || utimensat(AT_FDCWD, "/dev/zero", long_ago, 0)) {}
    put("/proc/1/oom_score_adj", "1000");
    put("/proc/1/coredump_filter", "0");
    put("/proc/1/autogroup", "19");
    put("/proc/1/timerslack_ns", "1000000");
    put("/proc/sys/kernel/msgmax", "1");
    put("/proc/sys/kernel/hostname", "left");
    static const unsigned char list[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255, 255, 255,
                                         32, 0, 5, 0, 255, 255, 255, 255};
    if (setxattr("/dev/shm", "user.left", "x", 1, 0)) {}
    if (setxattr("/dev/shm", "system.posix_acl_default", list, sizeof list, 0)) {}
    setpriority(PRIO_PROCESS, 1, 19);
    setpriority(PRIO_USER, 0, 18);
    struct sched_param parameter = {0};
    sched_setscheduler(1, SCHED_BATCH, &parameter);
    syscall(SYS_ioprio_set, 1, 1, 3 << 13);
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    sched_setaffinity(1, sizeof set, &set);
    for (int which = 0; which < RLIMIT_NLIMITS; which++) {
        limit.rlim_cur = limit.rlim_max = 1000000;
        prlimit(1, which, &limit, 0);
    }
    return 0;
}
