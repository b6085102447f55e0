/* A library whose constructor executes a program before the preload library's constructor runs. */
#include <unistd.h>
__attribute__((constructor)) static void early(int argc, char **argv, char **envp) {
    if (argc > 1) execve(argv[1], argv + 1, envp);
}
