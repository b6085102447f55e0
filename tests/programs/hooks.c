/* Starts a program by the function that argv[1] names, and exits with its status. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *private_env[] = {"PATH=/usr/bin:/bin", "SHOW_PRIVATE=1", NULL};

static int status_of(int status) {
    if (WIFSIGNALED(status)) { signal(WTERMSIG(status), SIG_DFL); raise(WTERMSIG(status)); }
    return WEXITSTATUS(status);
}
static int wait_for(pid_t pid) {
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0) { perror("wait"); return 99; }
    return status_of(status);
}
static char *join(char **argv) {
    static char line[4096];
    line[0] = 0;
    for (; *argv; argv++) { strcat(line, *argv); strcat(line, " "); }
    return line;
}
static char **words;
static void *in_thread(void *unused) {
    (void)unused;
    execv(words[0], words);
    perror("execv in a thread");
    _exit(98);
}
static void *forks_in_thread(void *unused) {
    (void)unused;
    pid_t pid = fork();
    if (pid == 0) { execv(words[0], words); _exit(98); }
    return (void *)(long)wait_for(pid);
}

int main(int argc, char **argv) {
    if (argc < 3) return 97;
    const char *how = argv[1];
    char **arg = argv + 2;
    words = arg;
    const char *base = strrchr(arg[0], '/') ? strrchr(arg[0], '/') + 1 : arg[0];
    char dir[4096];
    snprintf(dir, sizeof dir, "%.*s", (int)(base - arg[0]), arg[0]);
    char path[8192];
    snprintf(path, sizeof path, "%s:%s", dir, getenv("PATH"));
    pid_t pid = -1;
#define IS(name) (strcmp(how, name) == 0)
    if (IS("execve")) execve(arg[0], arg, environ);
    else if (IS("execve_private")) execve(arg[0], arg, private_env);
    else if (IS("execv")) execv(arg[0], arg);
    else if (IS("execvp")) { setenv("PATH", path, 1); execvp(base, arg); }
    else if (IS("execvpe")) { setenv("PATH", path, 1); execvpe(base, arg, private_env); }
    else if (IS("execl")) execl(arg[0], arg[0], arg[1], arg[2], (char *)NULL);
    else if (IS("execlp")) { setenv("PATH", path, 1); execlp(base, arg[0], arg[1], arg[2], (char *)NULL); }
    else if (IS("execle")) execle(arg[0], arg[0], arg[1], arg[2], (char *)NULL, private_env);
    else if (IS("execveat")) execveat(AT_FDCWD, arg[0], arg, environ, 0);
    else if (IS("execveat_dir")) execveat(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), base, arg, environ, 0);
    else if (IS("execveat_fd")) execveat(open(arg[0], O_RDONLY | O_CLOEXEC), "", arg, environ, AT_EMPTY_PATH);
    else if (IS("fexecve")) fexecve(open(arg[0], O_RDONLY | O_CLOEXEC), arg, environ);
    else if (IS("syscall")) syscall(SYS_execve, arg[0], arg, environ);
    else if (IS("syscall_at")) syscall(SYS_execveat, AT_FDCWD, arg[0], arg, environ, 0);
    else if (IS("posix_spawn")) {
        if (posix_spawn(&pid, arg[0], NULL, NULL, arg, environ)) return 96;
        return wait_for(pid);
    } else if (IS("posix_spawnp")) {
        setenv("PATH", path, 1);
        if (posix_spawnp(&pid, base, NULL, NULL, arg, private_env)) return 96;
        return wait_for(pid);
    } else if (IS("spawn_actions")) {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 1, "spawned.out", O_WRONLY | O_CREAT | O_TRUNC, 0640);
        posix_spawn_file_actions_adddup2(&actions, 1, 2);
        posix_spawnattr_t attributes;
        posix_spawnattr_init(&attributes);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
        if (posix_spawn(&pid, arg[0], &actions, &attributes, arg, environ)) return 96;
        return wait_for(pid);
    } else if (IS("vfork")) {
        pid = vfork();
        if (pid == 0) { execv(arg[0], arg); _exit(98); }
        return wait_for(pid);
    } else if (IS("fork")) {
        pid = fork();
        if (pid == 0) { execv(arg[0], arg); _exit(98); }
        return wait_for(pid);
    } else if (IS("system")) return status_of(system(join(arg)));
    else if (IS("popen_read")) {
        FILE *pipe = popen(join(arg), "r");
        char line[4096];
        while (fgets(line, sizeof line, pipe)) printf("read: %s", line);
        fflush(stdout);
        return status_of(pclose(pipe));
    } else if (IS("popen_write")) {
        FILE *pipe = popen(join(arg), "w");
        fputs("written to the pipe\n", pipe);
        return status_of(pclose(pipe));
    } else if (IS("thread")) {
        pthread_t thread;
        pthread_create(&thread, NULL, in_thread, NULL);
        pthread_join(thread, NULL);
    } else if (IS("threads")) {
        pthread_t threads[4];
        long sum = 0;
        for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, forks_in_thread, NULL);
        for (int i = 0; i < 4; i++) { void *status; pthread_join(threads[i], &status); sum += (long)status; }
        return (int)sum;
    } else return 95;
    perror(how);
    return 94;
}
