// Tries each system call that a walk is refused, with arguments that do nothing where the call is allowed.
// Prints the names of those that were not refused as they should be.
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BAD (-1L)

static void expect(const char *name, int expected, long result) {
    if (result != -1 || errno != expected) printf("%s: %s\n", name, result == -1 ? strerror(errno) : "allowed");
}

#define REFUSED(name) expect(#name, EPERM, syscall(SYS_##name, BAD, BAD, BAD, BAD, BAD, BAD))
#define ABSENT(name) expect(#name, ENOSYS, syscall(SYS_##name, BAD, BAD, BAD, BAD, BAD, BAD))

static void *nothing(void *argument) { return argument; }

// Calls that every program needs, which must succeed.
static void expect_processes(void) {
    pthread_t thread;
    if (pthread_create(&thread, 0, nothing, 0) || pthread_join(thread, 0)) printf("no threads\n");
    pid_t pid;
    char *arguments[] = {"true", 0};
    if (posix_spawn(&pid, "/bin/true", 0, 0, arguments, 0) || waitpid(pid, 0, 0) != pid) printf("no posix_spawn\n");
    if (!(pid = fork())) _exit(0);
    if (pid < 0 || waitpid(pid, 0, 0) != pid) printf("no fork\n");
    if (!(pid = vfork())) _exit(0);
    if (pid < 0 || waitpid(pid, 0, 0) != pid) printf("no vfork\n");
    if (unshare(CLONE_FILES | CLONE_FS)) printf("no unshare of files\n");
}

#ifdef __x86_64__
// Makes a system call as a 32-bit program does.
static long call_32(long number, long first) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(-1), "d"(-1), "S"(-1), "D"(-1)
                     : "memory", "r8", "r9", "r10", "r11");
    if ((int)result < 0 && (int)result > -4096) {
        errno = -(int)result;
        return -1;
    }
    return result;
}

static void other_kinds(void) {
    // Also ENOSYS on a kernel without 32-bit programs.
    static const struct { const char *name; int number, first; } calls[] = {
        {"32: unshare", 310, CLONE_NEWUSER}, {"32: clone", 120, CLONE_NEWUSER}, {"32: mount", 21, -1},
        {"32: keyctl", 288, -1}, {"32: bpf", 357, -1}, {"32: setns", 346, -1},
    };
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        long result = call_32(calls[i].number, calls[i].first);
        if (result == 0 && calls[i].number == 120) _exit(1);
        if (result != -1 || (errno != EPERM && errno != ENOSYS)) printf("%s is allowed\n", calls[i].name);
    }
    expect("x32: getpid", ENOSYS, syscall(0x40000000 + SYS_getpid));
    expect("x32: mount", ENOSYS, syscall(0x40000000 + SYS_mount, BAD, BAD, BAD, BAD, BAD));
    REFUSED(iopl);
    REFUSED(ioperm);
}
#else
static void other_kinds(void) {}
#endif

static void namespaces(void) {
    static const unsigned long kinds[] = {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET,
                                          CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80 /* time */};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        expect("unshare", EPERM, syscall(SYS_unshare, kinds[i]));
        if (kinds[i] == 0x80) continue;
        long pid = syscall(SYS_clone, kinds[i] | 17, 0, 0, 0, 0);
        if (pid == 0) _exit(0);
        expect("clone", EPERM, pid);
    }
}

int main(int count, char **values) {
    if (count > 1) {
        int id = atoi(values[1]);
        if (setgroups(0, 0) || setresgid(id, id, id) || setresuid(id, id, id)) perror("setresuid");
    }
    namespaces();
    ABSENT(clone3);
    REFUSED(setns);
    REFUSED(mount);
    REFUSED(umount2);
    REFUSED(pivot_root);
    REFUSED(move_mount);
    REFUSED(fsopen);
    REFUSED(fsmount);
    REFUSED(fspick);
    REFUSED(fsconfig);
    REFUSED(open_tree);
    REFUSED(mount_setattr);
    REFUSED(open_by_handle_at);
    REFUSED(keyctl);
    REFUSED(add_key);
    REFUSED(request_key);
    REFUSED(bpf);
    REFUSED(perf_event_open);
    REFUSED(userfaultfd);
    ABSENT(io_uring_setup);
    ABSENT(io_uring_enter);
    ABSENT(io_uring_register);
    REFUSED(kexec_load);
    REFUSED(kexec_file_load);
    REFUSED(init_module);
    REFUSED(finit_module);
    REFUSED(delete_module);
    REFUSED(swapon);
    REFUSED(swapoff);
    REFUSED(reboot);
    REFUSED(quotactl);
    REFUSED(quotactl_fd);
    REFUSED(acct);
    REFUSED(settimeofday);
    REFUSED(clock_settime);
    REFUSED(syslog);
    REFUSED(vhangup);
    REFUSED(fanotify_init);
    expect("TIOCSTI", EPERM, ioctl(0, TIOCSTI, BAD));
    // The kernel uses only the lower half of the number.
    expect("TIOCSTI, odd", EPERM, syscall(SYS_ioctl, 0, 0x100000000L | TIOCSTI, BAD));
    expect("TIOCLINUX", EPERM, ioctl(0, TIOCLINUX, BAD));
    other_kinds();
    expect_processes();
    printf("tried\n");
    return 0;
}
