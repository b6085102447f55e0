/* Prints the mean time in microseconds of an open, a close and a stat: opener <times> <path>. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int times = atoi(argv[1]) * 100;
    struct timespec start, end;
    struct stat found;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < times; i++) {
        int fd = open(argv[2], O_RDONLY);
        if (fd < 0 || close(fd) || stat(argv[2], &found)) return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.4f\n", ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / 1e3 / times);
    return argc < 3;
}
