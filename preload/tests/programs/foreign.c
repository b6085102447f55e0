/* A preloaded library of somebody else: prints a line when a program is executed through it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int execve(const char *path, char *const argv[], char *const envp[]) {
    int (*next)(const char *, char *const[], char *const[]) = dlsym(RTLD_NEXT, "execve");
    if (write(1, "foreign\n", 8) != 8) return -1;
    return next(path, argv, envp);
}
