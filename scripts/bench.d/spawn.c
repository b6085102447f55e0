/* spawn COUNT PROGRAM [ARGUMENT…]: starts the program COUNT times, one after the other, and prints for each
 * the microseconds from posix_spawn to the return of waitpid. Dynamic, so that a preloaded library sees its
 * calls. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: spawn COUNT PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    int count = atoi(argv[1]);
    for (int i = 0; i < count; i++) {
        double start = now_us();
        pid_t pid;
        int status;
        if (posix_spawn(&pid, argv[2], NULL, NULL, argv + 2, environ) != 0 ||
            waitpid(pid, &status, 0) != pid || status != 0) {
            fprintf(stderr, "spawn: %s failed\n", argv[2]);
            return 1;
        }
        printf("%.1f\n", now_us() - start);
    }
    return 0;
}
