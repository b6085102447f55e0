/* Prints what a program sees of how it was started. In most cases this is the program that walks. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void text(const char *label, const char *value) {
    printf("%s=", label);
    for (; *value; value++) {
        unsigned char byte = *value;
        if (byte >= ' ' && byte < 127) putchar(byte);
        else printf("\\%02x", byte);
    }
    putchar('\n');
}

int main(int argc, char **argv) {
    printf("argc=%d\n", argc);
    size_t bytes = 0;
    for (int i = 1; i < argc; i++) {
        bytes += strlen(argv[i]);
        if (i < 20 && strlen(argv[i]) < 1000) text("argv", argv[i]);
    }
    printf("argv bytes=%zu\n", bytes);
    for (char **variable = environ; *variable; variable++) {
        if (strncmp(*variable, "SHOW_", 5)) continue;
        if (strlen(*variable) < 1000) text("env", *variable);
        else printf("env bytes=%zu\n", strlen(*variable));
    }
    mode_t mask = umask(0);
    printf("umask=%04o\n", (unsigned)mask);
    char cwd[4096];
    text("cwd", getcwd(cwd, sizeof cwd) ? cwd : "(none)");
    printf("nice=%d\n", getpriority(PRIO_PROCESS, 0));
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    printf("nofile=%llu\n", (unsigned long long)limit.rlim_cur);
    getrlimit(RLIMIT_STACK, &limit);
    printf("stack=%llu\n", (unsigned long long)limit.rlim_cur);
    for (int fd = 0; fd < 10; fd++)
        if (fcntl(fd, F_GETFD) >= 0) printf("fd %d is open\n", fd);
    const char *status = getenv("SHOW_EXIT");
    return status ? atoi(status) : 0;
}
