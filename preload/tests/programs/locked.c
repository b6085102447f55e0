/* Opens a library whose constructor waits for a thread that calls functions with a path. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    dlopen("/nowhere/none.so", RTLD_NOW);
    fclose(fopen("/etc/passwd", "r"));
    char *error = dlerror();
    puts(error && strstr(error, "none.so") ? "error kept" : "error lost");
    puts(dlopen(argv[1], RTLD_NOW) ? "opened" : dlerror());
    return 0;
}
