// Tries to reach what is not the walk's: processes, files, devices and settings of its node. Prints the attempts that
// succeeded, and how many there were.
//
// usage: hostile USER              everything but the network
//        hostile -c ANY            the devices of the network, and the answer of a server
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int tried;

// Counts an attempt, and names it if it succeeded.
static void attempt(const char *what, int succeeded) {
    tried++;
    if (succeeded) printf("%s\n", what);
}

#define CALL(name, ...) attempt(#name, syscall(SYS_##name, __VA_ARGS__) >= 0)

// Reads a file that an ordinary process may not read; empty is as good as refused.
static int reads(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    int found = fd >= 0 && read(fd, &byte, 1) > 0;
    if (fd >= 0) close(fd);
    return found;
}

static int writes(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    int done = fd >= 0 && write(fd, text, strlen(text)) > 0;
    if (fd >= 0) close(fd);
    return done;
}

static int opens(const char *path, int flags) {
    int fd = open(path, flags | O_NONBLOCK);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

// Counts the processes besides the first one and this one.
static int others(void) {
    int count = 0;
    struct dirent *entry;
    DIR *proc = opendir("/proc");
    while (proc && (entry = readdir(proc))) {
        int pid = atoi(entry->d_name);
        count += pid > 1 && pid != getpid();
    }
    return count;
}

static void processes(void) {
    char bytes[8] = {0};
    struct iovec here = {bytes, sizeof bytes}, there = {(void *)0x400000, sizeof bytes};
    struct rlimit limit = {1, 1};
    cpu_set_t processor = {{1}};
    attempt("sees other processes", others() > 0);
    attempt("kills the first process", kill(1, SIGKILL) == 0);
    attempt("kills all others", kill(-1, SIGKILL) == 0);
    attempt("traces the first process", ptrace(PTRACE_ATTACH, 1, 0, 0) == 0);
    attempt("seizes the first process", ptrace(PTRACE_SEIZE, 1, 0, 0) == 0);
    attempt("reads the first process's memory", process_vm_readv(1, &here, 1, &there, 1, 0) >= 0);
    attempt("writes the first process's memory", process_vm_writev(1, &here, 1, &there, 1, 0) >= 0);
    attempt("opens the first process's memory", opens("/proc/1/mem", O_RDWR));
    attempt("reads the first process's environment", reads("/proc/1/environ"));
    attempt("reads the first process's mappings", reads("/proc/1/maps"));
    attempt("reads the first process's system call", reads("/proc/1/syscall"));
    attempt("reads the first process's kernel stack", reads("/proc/1/stack"));
    attempt("finds the first process's program", readlink("/proc/1/exe", bytes, sizeof bytes) > 0);
    attempt("enters the first process's root", opens("/proc/1/root/", O_RDONLY));
    attempt("enters the first process's directory", opens("/proc/1/cwd/", O_RDONLY));
    attempt("lists the first process's descriptors", opens("/proc/1/fd/", O_RDONLY));
    attempt("lists the first process's mapped files", opens("/proc/1/map_files/", O_RDONLY));
    attempt("opens the first process's mounts", opens("/proc/1/ns/mnt", O_RDONLY));
    attempt("opens the first process's users", opens("/proc/1/ns/user", O_RDONLY));
    attempt("opens the first process's network", opens("/proc/1/ns/net", O_RDONLY));
    attempt("maps the first process's users", writes("/proc/1/uid_map", "0 0 1"));
    attempt("maps its own users", writes("/proc/self/uid_map", "0 0 4294967295"));
    attempt("maps its own groups", writes("/proc/self/gid_map", "0 0 4294967295"));
    attempt("has the first process killed first", writes("/proc/1/oom_score_adj", "1000"));
    attempt("is killed last", writes("/proc/self/oom_score_adj", "-1000"));
    int first = syscall(SYS_pidfd_open, 1, 0);
    attempt("takes a descriptor of the first process", syscall(SYS_pidfd_getfd, first, 0, 0) >= 0);
    attempt("signals the first process", syscall(SYS_pidfd_send_signal, first, SIGSTOP, 0, 0) == 0);
    attempt("advises on the first process's memory", syscall(SYS_process_madvise, first, &there, 1, 21, 0) >= 0);
    attempt("compares itself with the first process", syscall(SYS_kcmp, 1, getpid(), 0, 0, 0) >= 0);
    attempt("slows the first process", setpriority(PRIO_PROCESS, 1, 19) == 0);
    attempt("binds the first process", sched_setaffinity(1, sizeof processor, &processor) == 0);
    attempt("limits the first process", prlimit(1, RLIMIT_NOFILE, &limit, 0) == 0);
    attempt("goes first", setpriority(PRIO_PROCESS, 0, -20) == 0);
    attempt("goes first always", sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}) == 0);
    attempt("goes first to the disk", syscall(SYS_ioprio_set, 1, 0, 1 << 13) == 0);
    getrlimit(RLIMIT_NPROC, &limit);
    if (limit.rlim_max != RLIM_INFINITY) {
        limit.rlim_max++;
        attempt("raises its own limits", setrlimit(RLIMIT_NPROC, &limit) == 0);
    }
}

// Leaves a directory that it has made its root, and looks for the sandbox's own directories.
static int escapes(void) {
    mkdir("jail", 0700);
    int up = open(".", O_RDONLY);
    if (chroot("jail")) return 0;
    if (fchdir(up)) return 0;
    for (int i = 0; i < 64; i++) if (chdir("..")) return 0;
    if (chroot(".")) return 0;
    return access("/layers", F_OK) == 0 || access("/lower", F_OK) == 0 || access("/still", F_OK) == 0;
}

static int in_child(int (*act)(void)) {
    int status;
    pid_t pid = fork();
    if (!pid) _exit(act());
    return waitpid(pid, &status, 0) == pid && status != 0;
}

// Makes a capability effective that it may not have.
static int gains(int capability) {
    struct { unsigned version; int pid; } head = {0x20080522, 0};
    unsigned data[6];
    if (syscall(SYS_capget, &head, data)) return 0;
    for (int set = 0; set < 2; set++) data[capability / 32 * 3 + set] |= 1u << (capability % 32);
    return syscall(SYS_capset, &head, data) == 0;
}

static void mounts(void) {
    struct { unsigned bytes; int type; char handle[12]; } handle = {12, 0x81, {1}};
    attempt("mounts a file system", mount("x", "/tmp", "tmpfs", 0, 0) == 0);
    attempt("mounts /proc", mount("proc", "/tmp", "proc", 0, 0) == 0);
    attempt("mounts /sys", mount("sysfs", "/tmp", "sysfs", 0, 0) == 0);
    attempt("mounts control groups", mount("x", "/tmp", "cgroup2", 0, 0) == 0);
    attempt("mounts /usr elsewhere", mount("/usr", "/tmp", 0, MS_BIND, 0) == 0);
    attempt("makes /dev writable", mount(0, "/dev", 0, MS_REMOUNT | MS_BIND, 0) == 0);
    attempt("makes /proc/sys writable", mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0) == 0);
    attempt("shares its mounts", mount(0, "/", 0, MS_REC | MS_SHARED, 0) == 0);
    attempt("uncovers what is below /proc/keys", umount2("/proc/keys", MNT_DETACH) == 0);
    attempt("uncovers what is below /", umount2("/", MNT_DETACH) == 0);
    attempt("changes its root", syscall(SYS_pivot_root, ".", ".") == 0);
    attempt("opens a file system", syscall(SYS_fsopen, "tmpfs", 0) >= 0);
    attempt("opens a tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1) >= 0);
    attempt("moves a mount", syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0) == 0);
    attempt("changes a mount", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, (long[4]){0}, 32) == 0);
    attempt("opens a file by its handle", syscall(SYS_open_by_handle_at, AT_FDCWD, &handle, 0) >= 0);
    attempt("escapes from its root", in_child(escapes));
}

static void devices(void) {
    static const char *const names[] = {
        "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/loop-control", "/dev/vda",
        "/dev/sda", "/dev/nvme0n1", "/dev/mapper/control", "/dev/net/tun", "/dev/vsock", "/dev/vhost-net", "/dev/console",
        "/dev/tty0", "/dev/ttyS0", "/dev/uinput", "/dev/input/event0", "/dev/hwrng", "/dev/userfaultfd", "/dev/cuse",
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) attempt(names[i], opens(names[i], O_RDWR));
    int null = open("/dev/null", O_RDWR);
    attempt("makes a disk", mknod("disk", S_IFBLK | 0600, makedev(254, 0)) == 0);
    attempt("makes a memory device", mknod("memory", S_IFCHR | 0600, makedev(1, 1)) == 0);
    attempt("makes a mark of the overlay", mknod("mark", S_IFCHR | 0600, 0) == 0);
    attempt("adds to /dev", mkdir("/dev/new", 0700) == 0);
    attempt("removes /dev/null", unlink("/dev/null") == 0);
    attempt("changes /dev/null's mode", chmod("/dev/null", 0600) == 0);
    attempt("changes the open device's mode", fchmod(null, 0600) == 0);
    attempt("changes /dev/null's owner", chown("/dev/null", 5, 5) == 0);
    attempt("changes the open device's times", futimens(null, 0) == 0);
}

static void settings(void) {
    struct timex clock = {.modes = ADJ_OFFSET};
    attempt("sets the core pattern", writes("/proc/sys/kernel/core_pattern", "|/tmp/x"));
    attempt("sets the path of modprobe", writes("/proc/sys/kernel/modprobe", "/tmp/x"));
    attempt("drops the page cache", writes("/proc/sys/vm/drop_caches", "1"));
    attempt("forwards packets", writes("/proc/sys/net/ipv4/ip_forward", "1"));
    attempt("limits user namespaces", writes("/proc/sys/user/max_user_namespaces", "1"));
    attempt("sets the next pid", writes("/proc/sys/kernel/ns_last_pid", "1"));
    attempt("requests a crash", writes("/proc/sysrq-trigger", "?"));
    attempt("changes a setting's mode", chmod("/proc/sys/kernel/core_pattern", 0666) == 0);
    attempt("moves interrupts", writes("/proc/irq/default_smp_affinity", "1"));
    attempt("reads the kernel's memory", reads("/proc/kcore"));
    attempt("reads the kernel's symbols", reads("/proc/kallsyms"));
    attempt("reads keys", reads("/proc/keys"));
    attempt("reads the kernel's log", reads("/proc/kmsg") || klogctl(3, (char[64]){0}, 64) > 0);
    attempt("reads memory addresses", reads("/proc/iomem"));
    attempt("sees the machine's devices", opens("/sys/kernel/", O_RDONLY) || opens("/sys/class/", O_RDONLY));
    attempt("sees control groups", opens("/sys/fs/cgroup/cgroup.procs", O_RDONLY));
    attempt("sets the host name", sethostname("x", 1) == 0);
    attempt("sets the domain name", setdomainname("x", 1) == 0);
    attempt("sets the time", settimeofday(&(struct timeval){1, 0}, 0) == 0);
    attempt("adjusts the clock", adjtimex(&clock) >= 0);
    attempt("sees others' shared memory", shmctl(0, SHM_INFO, (void *)(char[512]){0}) > 0);
    attempt("fills the memory", truncate("/dev/shm", 0) == 0);
    int memory = open("/dev/shm/x", O_CREAT | O_RDWR, 0600);
    attempt("takes a terabyte of memory", fallocate(memory, 0, 0, 1LL << 40) == 0);
    unlink("/dev/shm/x");
}

static void calls(void) {
    static const unsigned long kinds[] = {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET,
                                          CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80 /* time */};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        attempt("makes a namespace", syscall(SYS_unshare, kinds[i]) == 0);
        if (kinds[i] == 0x80) continue;
        long pid = syscall(SYS_clone, kinds[i] | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) _exit(0);
        attempt("makes a process in a namespace", pid > 0);
    }
    CALL(clone3, (long[11]){CLONE_NEWUSER}, 88);
    CALL(setns, open("/proc/self/ns/user", O_RDONLY), 0);
    CALL(setns, open("/proc/self/ns/net", O_RDONLY), 0);
    CALL(keyctl, 0, -3, 0, 0, 0);
    CALL(add_key, "user", "x", "y", 1, -4);
    CALL(request_key, "user", "x", 0, 0);
    CALL(bpf, 0, (long[16]){1}, 128);
    CALL(perf_event_open, (long[16]){1L | 128L << 32}, 0, -1, -1, 0);
    CALL(userfaultfd, 0);
    CALL(io_uring_setup, 1, (long[16]){0});
    CALL(kexec_load, 0, 0, 0, 0);
    CALL(init_module, "", 0, "");
    CALL(finit_module, 0, "", 0);
    CALL(delete_module, "x", 0);
    CALL(swapon, "/tmp", 0);
    CALL(swapoff, "/tmp");
    CALL(reboot, 0xfee1dead, 672274793, 0, 0);
    CALL(acct, 0);
    CALL(quotactl, 0, 0, 0, 0);
    CALL(fanotify_init, 0, 0);
    CALL(vhangup, 0);
#ifdef __x86_64__
    CALL(iopl, 3);
    CALL(ioperm, 0x70, 1, 1);
#endif
    for (int capability = 11; capability < 41; capability++) {
        // NET_BIND_SERVICE to CHECKPOINT_RESTORE, without SYS_CHROOT and SETFCAP.
        if (capability != 18 && capability != 31) attempt("gains a capability", gains(capability));
    }
    for (int family = 3; family < 46; family++) {
        if (family != AF_INET6 && family != AF_NETLINK) attempt("has another socket", socket(family, SOCK_RAW, 0) >= 0);
    }
    attempt("sends raw packets", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0);
}

// Tells whether a message in somebody else's name can be sent.
static int forges(void) {
    int pair[2];
    char byte = 0, space[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS};
    *(struct ucred *)CMSG_DATA(head) = (struct ucred){1, getuid(), getgid()};
    return socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && sendmsg(pair[0], &message, 0) == 1;
}

// Prints the network's devices, and what a server says that the environment names.
static int network(void) {
    char line[256], said[256] = {0};
    FILE *devices = fopen("/proc/net/dev", "r");
    for (int i = 0; devices && fgets(line, sizeof line, devices); i++) {
        if (i > 1) printf("%.*s ", (int)strcspn(line + strspn(line, " "), ":"), line + strspn(line, " "));
    }
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    inet_pton(AF_INET, getenv("HOST"), &server.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&server, sizeof server)) {
        printf("unreachable\n");
        return 0;
    }
    if (write(fd, "PING\r\n", 6) == 6 && read(fd, said, sizeof said - 1) > 0) said[strcspn(said, " \r")] = 0;
    printf("%s\n", said);
    return 0;
}

// Tells whether this is a walk. Elsewhere the attempts would succeed, and end the machine.
static int is_walk(void) {
    char name[16] = {0};
    int fd = open("/proc/1/comm", O_RDONLY);
    return fd >= 0 && read(fd, name, sizeof name - 1) > 0 && !strcmp(name, "oswalk-walk\n");
}

int main(int count, char **values) {
    if (!is_walk()) {
        fprintf(stderr, "hostile: this is no walk\n");
        return 2;
    }
    if (count > 1 && !strcmp(values[1], "-c")) return network();
    int id = count > 1 ? atoi(values[1]) : 0;
    if (setgroups(0, 0) || setresgid(id, id, id) || setresuid(id, id, id)) perror("setresuid");
    processes();
    mounts();
    devices();
    settings();
    calls();
    attempt("speaks for the first process", forges());
    printf("%s\n", tried >= 60 ? "tried" : "tried too little");
    return 0;
}
