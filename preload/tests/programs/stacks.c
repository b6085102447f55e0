/* Calls functions with a path where there is little stack: stacks <directory> <expected result of the calls>. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STACK_BYTES (16 * 1024)
static char paths[5][4096];
static char room[4096], link_room[4096];
static int results[40], count;

static void note(int result) { results[count++] = result < 0 ? errno : 0; }

static void calls(void) {
    struct stat found;
    count = 0;
    for (int i = 0; i < 5; i++) {
        int fd = open(paths[i], O_RDONLY);
        note(fd);
        close(fd);
        note(stat(paths[i], &found));
        note(access(paths[i], F_OK));
        note(rename(paths[i], paths[i]));
        note(readlink(paths[i], link_room, sizeof link_room) < 0 && errno != EINVAL ? -1 : 0);
        note(truncate(paths[i], 0));
    }
    note(getcwd(room, sizeof room) ? 0 : -1);
}

/* glibc's own needs some KiB. */
static void more_calls(void) {
    for (int i = 0; i < 5; i++) note(realpath(paths[i], room) ? 0 : -1);
}

static unsigned char *make_stack(size_t bytes) {
    unsigned char *stack = mmap(0, bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(stack + 8192, bytes, PROT_READ | PROT_WRITE);
    memset(stack + 8192, 0x5a, bytes);
    return stack + 8192;
}

static void *thread(void *none) { calls(); more_calls(); return none; }
static void handler(int number) { calls(); }

int main(int argc, char **argv) {
    const char *names[] = {"f", "none", "a/../../none"};
    for (int i = 0; i < 3; i++) snprintf(paths[i], 4096, "%s/%s", argv[1], names[i]);
    strcpy(paths[3], "../x");
    strcpy(paths[4], "./x");
    if (argc > 2 && chdir(argv[2])) return 1;

    pthread_attr_t attributes;
    pthread_t id;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, make_stack(STACK_BYTES), STACK_BYTES);
    if (pthread_create(&id, &attributes, thread, NULL)) return 1;
    pthread_join(id, NULL);
    for (int i = 0; i < count; i++) printf("%d ", results[i]);

    /* The kernel writes the registers there, which takes as much as it says. */
    size_t frame = getauxval(AT_MINSIGSTKSZ), bytes = (frame + 4096 + 4095) / 4096 * 4096;
    unsigned char *low = make_stack(bytes);
    stack_t stack = {.ss_sp = low, .ss_size = bytes};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    size_t free_bytes = 0;
    while (free_bytes < bytes && low[free_bytes] == 0x5a) free_bytes++;
    printf("%s\n", bytes - free_bytes < 8192 ? "little" : "much");
    fprintf(stderr, "%zu of %zu bytes\n", bytes - free_bytes, bytes);
    return 0;
}
