/* A library whose constructor waits for a thread that calls functions with a path. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
static void *work(void *none) {
    struct stat found;
    fclose(fopen("/etc/passwd", "r"));
    closedir(opendir("/etc"));
    free(realpath("/etc/../etc", NULL));
    stat("/etc", &found);
    open("/etc", O_RDONLY);
    rename("/nowhere/a", "/nowhere/b");
    system("true");
    return none;
}
__attribute__((constructor)) static void start(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    pthread_join(thread, NULL);
}
