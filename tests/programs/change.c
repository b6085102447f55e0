/* Makes one change to the files below the working directory, by the system call it is about. A change that is
 * refused (the target is a directory, say) is no failure: random ones often are. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void fill(int fd, long bytes, char letter) {
    char buffer[4096];
    memset(buffer, letter, sizeof buffer);
    while (bytes > 0) {
        ssize_t done = write(fd, buffer, bytes < 4096 ? bytes : 4096);
        if (done <= 0) return;
        bytes -= done;
    }
}

static void file(const char *path, int flags, long bytes, char letter) {
    int fd = open(path, O_WRONLY | flags, 0644);
    if (fd < 0) return;
    fill(fd, bytes, letter);
    close(fd);
}

static void in_place(const char *path, long offset, char letter) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return;
    struct stat is;
    fstat(fd, &is);
    if (is.st_size) (void)!pwrite(fd, &letter, 1, offset % is.st_size);
    close(fd);
}

static void mapped(const char *path, long offset, char letter, int sync) {
    int fd = open(path, O_RDWR);
    struct stat is;
    if (fd < 0 || fstat(fd, &is) || !S_ISREG(is.st_mode) || !is.st_size) return;
    char *at = mmap(NULL, is.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return;
    at[offset % is.st_size] = letter;
    if (sync) msync(at, is.st_size, MS_SYNC);
    munmap(at, is.st_size);
    close(fd);
}

static void tree(const char *path, char letter) {
    char below[4096];
    mkdir(path, 0755);
    for (int i = 0; i < 3; i++) {
        snprintf(below, sizeof below, "%s/f%d", path, i);
        file(below, O_CREAT | O_TRUNC, 10 + i, letter);
    }
}

static void remove_tree(const char *path) {
    char line[4096];
    struct stat is;
    if (lstat(path, &is)) return;
    if (!S_ISDIR(is.st_mode)) { unlink(path); return; }
    snprintf(line, sizeof line, "%s", path);
    execl("/bin/rm", "rm", "-rf", "--", line, (char *)NULL);
}

/* Usage: change OPERATION PATH NUMBER LETTER [OTHER PATH] */
int main(int argc, char **argv) {
    if (argc < 5) return 2;
    const char *what = argv[1], *path = argv[2], *other = argc > 5 ? argv[5] : "";
    long number = atol(argv[3]);
    char letter = argv[4][0], temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.new", path);
#define IS(name) (strcmp(what, name) == 0)
    if (IS("write")) file(path, O_CREAT | O_TRUNC, number, letter);
    else if (IS("append")) file(path, O_CREAT | O_APPEND, number % 100, letter);
    else if (IS("truncate")) (void)!truncate(path, number);
    else if (IS("in-place")) in_place(path, number, letter);
    else if (IS("mmap")) mapped(path, number, letter, 1);
    else if (IS("mmap-unsynced")) mapped(path, number, letter, 0);
    else if (IS("replace")) { file(temporary, O_CREAT | O_TRUNC, number, letter); rename(temporary, path); unlink(temporary); }
    else if (IS("unlink")) unlink(path);
    else if (IS("mkdir")) mkdir(path, 0755);
    else if (IS("rmdir")) rmdir(path);
    else if (IS("tree")) tree(path, letter);
    else if (IS("remove-tree")) remove_tree(path);
    else if (IS("rename")) rename(path, other);
    else if (IS("exchange")) renameat2(AT_FDCWD, path, AT_FDCWD, other, RENAME_EXCHANGE);
    else if (IS("link")) (void)!link(path, other);
    else if (IS("symlink")) { (void)!symlink(other, temporary); rename(temporary, path); unlink(temporary); }
    else if (IS("chmod")) chmod(path, number & 1 ? 0755 : 0644);
    else if (IS("utimes")) {
        struct timespec times[2] = {{number, 0}, {1000000000 + number, letter}};
        utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
    } else return 2;
    return 0;
}
