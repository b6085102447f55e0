/* Executes a program by the function that argv[1] names: driver <how> <path> <name in PATH>. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static const char *how, *path, *name;
static char *arguments[] = {"zero", "one", "t w o", "\xff\xfe", "5", "6", "7", "", NULL};
static char *private_environment[] = {"X=1", "NOT\xff=utf8", NULL};

#define LIST "zero", "one", "t w o", "\xff\xfe", "5", "6", "7", ""

static int wait_for(pid_t pid) {
    int status;
    if (waitpid(pid, &status, 0) != pid) return 99;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void *in_thread(void *unused) {
    (void)unused;
    execve(path, arguments, environ);
    return NULL;
}

static pid_t pid;

static int spawned(int error) {
    if (error) {
        printf("error=%d\n", error);
        return 1;
    }
    return wait_for(pid);
}

static int pipe_through(FILE *stream) {
    char line[4096];
    if (!stream) return 98;
    while (fgets(line, sizeof line, stream)) fputs(line, stdout);
    int status = pclose(stream);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 97;
}

static char *command(void) {
    static char text[8192];
    snprintf(text, sizeof text, "'%s' one 't w o' \"it's\" \"$X\"; echo code=$?", path);
    return text;
}

static void huge_environment(void) {
    static char *entries[20002];
    static char text[20000][16];
    for (int i = 0; i < 20000; i++) {
        sprintf(text[i], "V%d=%d", i, i);
        entries[i] = text[i];
    }
    execve(path, arguments, entries);
}

#define IS(word) (!strcmp(how, word))
int main(int argc, char **argv) {
    if (argc < 4) return 96;
    how = argv[1], path = argv[2], name = argv[3];
    if (IS("execve")) execve(path, arguments, environ);
    if (IS("execv")) execv(path, arguments);
    if (IS("execvp")) execvp(name, arguments);
    if (IS("execvpe")) execvpe(name, arguments, private_environment);
    if (IS("execl")) execl(path, LIST, (char *)NULL);
    if (IS("execlp")) execlp(name, LIST, (char *)NULL);
    if (IS("execle")) execle(path, LIST, (char *)NULL, private_environment);
    if (IS("execl_short")) execl(path, "zero", (char *)NULL);
    if (IS("execveat")) execveat(AT_FDCWD, path, arguments, environ, 0);
    if (IS("execveat_relative")) {
        char directory[4096];
        strcpy(directory, path);
        *strrchr(directory, '/') = 0;
        int fd = open(directory, O_PATH | O_DIRECTORY);
        execveat(fd, name, arguments, environ, 0);
    }
    if (IS("execveat_empty")) execveat(open(path, O_PATH | O_CLOEXEC), "", arguments, environ, AT_EMPTY_PATH);
    if (IS("execveat_check")) execveat(AT_FDCWD, path, arguments, environ, 0x40000000);
    if (IS("fexecve")) fexecve(open(path, O_RDONLY | O_CLOEXEC), arguments, environ);
    if (IS("fexecve_memory")) {
        int fd = memfd_create("walker", MFD_CLOEXEC), from = open(path, O_RDONLY | O_CLOEXEC);
        char bytes[65536];
        for (ssize_t n; (n = read(from, bytes, sizeof bytes)) > 0;) if (write(fd, bytes, n) != n) return 95;
        fexecve(fd, arguments, environ);
    }
    if (IS("posix_spawn")) return spawned(posix_spawn(&pid, path, NULL, NULL, arguments, environ));
    if (IS("posix_spawnp")) return spawned(posix_spawnp(&pid, name, NULL, NULL, arguments, private_environment));
    if (IS("spawn_actions")) {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addchdir_np(&actions, "/");
        return spawned(posix_spawn(&pid, path, &actions, NULL, arguments, environ));
    }
    if (IS("syscall")) syscall(SYS_execve, path, arguments, environ);
    if (IS("syscall_at")) syscall(SYS_execveat, AT_FDCWD, path, arguments, environ, 0);
    if (IS("syscall_other")) {
        void *p = (void *)syscall(SYS_mmap, NULL, 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L);
        errno = 0;
        long bad = syscall(SYS_close, -1);
        printf("%d %ld %d %d\n", p != MAP_FAILED, bad, errno == EBADF, syscall(SYS_getpid) == getpid());
        return 0;
    }
    if (IS("vfork")) {
        if ((pid = vfork()) == 0) {
            execve(path, arguments, private_environment);
            _exit(94);
        }
        return wait_for(pid);
    }
    if (IS("thread")) {
        pthread_t thread;
        pthread_create(&thread, NULL, in_thread, NULL);
        pthread_join(thread, NULL);
    }
    if (IS("private")) execve(path, arguments, private_environment);
    if (IS("foreign")) {
        char *entries[] = {"A=1", getenv("FOREIGN"), "B=2", NULL};
        execve(path, arguments, entries);
    }
    if (IS("uninstalled")) {
        unlink(getenv("LD_PRELOAD"));
        execve(path, arguments, environ);
    }
    if (IS("null")) execve(path, NULL, NULL);
    if (IS("huge")) huge_environment();
    if (IS("system")) return WEXITSTATUS(system(command()));
    if (IS("system_scrubbed")) {
        clearenv();
        setenv("X", "it's", 1);
        return WEXITSTATUS(system(command()));
    }
    if (IS("system_null")) return !system(NULL);
    if (IS("popen")) return pipe_through(popen(command(), "r"));
    if (IS("popen_scrubbed")) {
        clearenv();
        return pipe_through(popen(command(), "re"));
    }
    if (IS("null_path")) syscall(SYS_execve, NULL, arguments, environ);
    printf("errno=%d\n", errno);
    return 1;
}
