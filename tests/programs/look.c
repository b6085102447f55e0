/* Prints everything visible of files: types, sizes, modes, times, targets, names, contents. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int deep;

static void look(const char *path);

static void content(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) { printf(" unreadable %d", errno); return; }
    unsigned long long hash = 1469598103934665603ULL, bytes = 0;
    unsigned char buffer[65536];
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0) {
        bytes += got;
        for (ssize_t i = 0; i < got; i++) hash = (hash ^ buffer[i]) * 1099511628211ULL;
    }
    if (got < 0) printf(" read failed %d", errno);
    printf(" read %llu %016llx", bytes, hash);
    close(fd);
}

static void names(const char *path) {
    struct dirent **list;
    int count = scandir(path, &list, NULL, alphasort);
    printf(" %d names:", count);
    for (int i = 0; i < count; i++) printf(" %s", list[i]->d_name);
    putchar('\n');
    for (int i = 0; i < count && deep; i++) {
        if (!strcmp(list[i]->d_name, ".") || !strcmp(list[i]->d_name, "..")) continue;
        char below[4096];
        snprintf(below, sizeof below, "%s/%s", path, list[i]->d_name);
        look(below);
    }
}

/* Files seen so far, to find names of the same file. */
static struct { dev_t dev; ino_t ino; char path[4096]; } seen[256];
static int seen_count;

static void names_of_one(const char *path, const struct stat *is) {
    for (int i = 0; i < seen_count; i++)
        if (seen[i].dev == is->st_dev && seen[i].ino == is->st_ino && strcmp(seen[i].path, path)) { printf(" is %s", seen[i].path); return; }
    if (seen_count == 256) return;
    seen[seen_count].dev = is->st_dev;
    seen[seen_count].ino = is->st_ino;
    snprintf(seen[seen_count++].path, 4096, "%s", path);
}

static void look(const char *path) {
    struct stat is;
    printf("%s:", path);
    if (lstat(path, &is)) { printf(" errno %d\n", errno); return; }
    printf(" mode %o", is.st_mode); if (!S_ISDIR(is.st_mode)) printf(" mtime %lld.%09ld", (long long)is.st_mtim.tv_sec, is.st_mtim.tv_nsec);
    if (S_ISLNK(is.st_mode)) {
        char target[4096];
        ssize_t bytes = readlink(path, target, sizeof target - 1);
        printf(" -> %.*s", (int)(bytes < 0 ? 0 : bytes), target);
        if (!stat(path, &is)) {
            printf(" that is %o", is.st_mode);
            if (S_ISREG(is.st_mode)) content(path);
        } else printf(" that is errno %d", errno);
        putchar('\n');
    } else if (S_ISREG(is.st_mode)) {
        printf(" size %lld", (long long)is.st_size);
        names_of_one(path, &is);
        content(path);
        putchar('\n');
    } else if (S_ISDIR(is.st_mode)) names(path);
    else putchar('\n');
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-r")) deep = 1;
        else look(argv[i]);
    }
    return 0;
}
