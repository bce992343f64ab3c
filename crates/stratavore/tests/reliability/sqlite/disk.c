// A disk that may fail to sync, under a program that is loaded with this library. Of the files of
// the database it keeps in $DISK what would be left after a loss of power: NAME.kept is what came
// to the disk, NAME.dirty has a byte for each page that the kernel knows it still has to write.
//
// As the kernel does, it forgets with a failed sync what was to be written; who reads sees it still.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct control {
    int64_t fails_one_in; // 0: none
    int64_t for_good;     // after one that failed, all do
    int64_t lies;         // says that it has synced, and has not
    uint64_t dice;
    int64_t failed, synced;
};

static struct control *control;
static const char *disk;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    char path[4096];
    if (!(disk = getenv("DISK"))) return;
    snprintf(path, sizeof path, "%s/control", disk);
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *memory = file < 0 ? MAP_FAILED
                            : mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) control = memory;
    if (file >= 0) close(file);
}

// The name of a file of the database, or 0.
static const char *ours(const char *path) {
    const char *name = strrchr(path, '/');
    if (!control || !name) return 0;
    name++;
    return strcmp(name, "stratavore.db") && strcmp(name, "stratavore.db-wal") ? 0 : name;
}

static const char *name_of(int fd, char *path) {
    char link[64];
    if (!control) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

static int beside(const char *name, const char *what, int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.%s", disk, name, what);
    return open(path, flags | O_CLOEXEC, 0600);
}

static void written(const char *name, off_t at, ssize_t length) {
    int saved = errno;
    off_t first = at / PAGE, count = (at + length - 1) / PAGE - first + 1;
    char *marks = malloc(count);
    memset(marks, 1, count);
    pthread_mutex_lock(&lock);
    int dirty = beside(name, "dirty", O_WRONLY | O_CREAT);
    if (syscall(SYS_pwrite64, dirty, marks, count, first) != count) abort();
    close(dirty);
    pthread_mutex_unlock(&lock);
    free(marks);
    errno = saved;
}

ssize_t pwrite64(int fd, const void *from, size_t length, off64_t at) {
    char path[4096];
    const char *name = name_of(fd, path);
    ssize_t done = syscall(SYS_pwrite64, fd, from, length, at);
    if (name && done > 0) written(name, at, done);
    return done;
}

ssize_t pwrite(int fd, const void *from, size_t length, off_t at) {
    return pwrite64(fd, from, length, at);
}

ssize_t write(int fd, const void *from, size_t length) {
    char path[4096];
    const char *name = name_of(fd, path);
    off_t at = name ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t done = syscall(SYS_write, fd, from, length);
    if (name && done > 0) written(name, at, done);
    return done;
}

static void keep(int fd, const char *name, int dirty) {
    struct stat now;
    char page[PAGE], mark;
    if (fstat(fd, &now)) abort();
    int kept = beside(name, "kept", O_RDWR | O_CREAT);
    if (syscall(SYS_ftruncate, kept, now.st_size)) abort();
    for (off_t n = 0; n * PAGE < now.st_size; n++) {
        if (pread(dirty, &mark, 1, n) != 1 || !mark) continue;
        ssize_t length = pread(fd, page, PAGE, n * PAGE);
        if (length > 0 && syscall(SYS_pwrite64, kept, page, length, n * PAGE) != length) abort();
    }
    close(kept);
}

static int sync_(int fd, long call) {
    char path[4096];
    const char *name = name_of(fd, path);
    if (!name) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    control->dice = control->dice * 6364136223846793005u + 1442695040888963407u;
    int64_t one_in = control->fails_one_in;
    int fails = one_in && ((control->for_good && control->failed) || (control->dice >> 33) % one_in == 0);
    int dirty = beside(name, "dirty", O_RDWR | O_CREAT);
    if (!fails && !control->lies) keep(fd, name, dirty);
    if (syscall(SYS_ftruncate, dirty, 0)) abort();
    close(dirty);
    if (fails) control->failed++; else control->synced++;
    pthread_mutex_unlock(&lock);
    if (fails) errno = EIO;
    return fails ? -1 : 0;
}

int fsync(int fd) { return sync_(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_(fd, SYS_fdatasync); }

int unlink(const char *path) {
    const char *name = ours(path);
    if (name) {
        char beside[4096];
        pthread_mutex_lock(&lock);
        snprintf(beside, sizeof beside, "%s/%s.kept", disk, name);
        syscall(SYS_unlinkat, AT_FDCWD, beside, 0);
        snprintf(beside, sizeof beside, "%s/%s.dirty", disk, name);
        syscall(SYS_unlinkat, AT_FDCWD, beside, 0);
        pthread_mutex_unlock(&lock);
    }
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
