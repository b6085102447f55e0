// Usage: tasks [THREADS [MIB]]. Starts threads, fills memory, and prints how many threads were started.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *wait_for_gate(void *nothing) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return nothing;
}

int main(int count, char **values) {
    int wanted = count > 1 ? atoi(values[1]) : 0, made = 0;
    size_t bytes = count > 2 ? (size_t)atoi(values[2]) << 20 : 0;
    pthread_t *threads = calloc(wanted + 1, sizeof *threads);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 32 << 10);
    pthread_mutex_lock(&gate);
    while (made < wanted && !pthread_create(&threads[made], &small, wait_for_gate, 0)) made++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < made; i++) pthread_join(threads[i], 0);
    volatile char *memory = bytes ? malloc(bytes) : 0;
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    printf("%d made\n", made);
    return made != wanted;
}
