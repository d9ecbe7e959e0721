/*
 * A recorder for one process at a time: every call that changes files under $RECORD_ROOT, or syncs them, is appended to
 * $RECORD_LOG in the order in which the calls took effect. Loaded with LD_PRELOAD; read by
 * tests/durability_replay.py, which must agree on struct entry. Calls that fail are not recorded.
 *
 * cc -O1 -shared -fPIC -o record_io.so record_io.c -ldl -lpthread
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096
#define LOG_FD_FROM 3000

struct __attribute__((packed)) entry {
    uint8_t op;
    int32_t fd;
    int64_t value; /* offset, length or flags */
    uint32_t path_bytes;
    uint64_t data_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_bytes;
static int log_fd = -1;
static char tracked[FDS];

_Static_assert(sizeof(off_t) == 8, "offsets of 64 bits, or the plain names of calls cut them");

/* The C library gives some calls a second name for files beyond 2 GiB: both lead to the same function here. */
#define REAL(result, name, ...)                                            \
    static result (*real)(__VA_ARGS__);                                    \
    if (real == NULL)                                                      \
        real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void die(const char *what)
{
    fprintf(stderr, "record_io: %s: %s\n", what, strerror(errno));
    _exit(97);
}

static ssize_t real_write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t);
    return real(fd, data, size);
}

static int real_openat(int folder, const char *path, int flags, mode_t mode)
{
    REAL(int, openat, int, const char *, int, ...);
    return real(folder, path, flags, mode);
}

__attribute__((constructor)) static void start(void)
{
    const char *folder = getenv("RECORD_ROOT"), *log = getenv("RECORD_LOG");
    if (folder == NULL || log == NULL)
        return;
    root_bytes = strlen(folder);
    if (root_bytes >= sizeof root)
        die("RECORD_ROOT is too long");
    strcpy(root, folder);
    int fd = real_openat(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        die(log);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, LOG_FD_FROM);
    if (log_fd < 0)
        log_fd = fd;
}

static void put(const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t n = real_write(log_fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("writing the log");
        at += n;
        size -= (size_t)n;
    }
}

static void record(char op, int fd, int64_t value, const char *path, const void *data, size_t size)
{
    int saved = errno;
    struct entry head = {(uint8_t)op, fd, value, path ? (uint32_t)strlen(path) : 0, size};
    put(&head, sizeof head);
    if (path != NULL)
        put(path, head.path_bytes);
    if (size > 0)
        put(data, size);
    errno = saved;
}

static int under_root(const char *path)
{
    return log_fd >= 0 && strncmp(path, root, root_bytes) == 0 && (path[root_bytes] == '/' || path[root_bytes] == 0);
}

/* Writes the absolute form of a path into out; an empty string when there is none. */
static void absolute(int folder, const char *path, char *out)
{
    int saved = errno;
    char base[PATH_MAX] = "", link[64];
    out[0] = 0;
    if (path == NULL)
        return;
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            if (getcwd(base, sizeof base) == NULL)
                base[0] = 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t n = readlink(link, base, sizeof base - 1);
            base[n > 0 ? n : 0] = 0;
        }
    }
    if (snprintf(out, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", path) >= PATH_MAX)
        out[0] = 0;
    errno = saved;
}

static int is_tracked(int fd)
{
    return log_fd >= 0 && fd >= 0 && fd < FDS && tracked[fd];
}

static int open_recorded(int folder, const char *path, int flags, mode_t mode)
{
    char full[PATH_MAX];
    absolute(folder, path, full);
    if (!under_root(full))
        return real_openat(folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = real_openat(folder, path, flags, mode);
    if (fd >= 0) {
        if (fd >= FDS)
            die("too many open files");
        tracked[fd] = 1;
        record('O', fd, flags, full, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, last)                                                  \
    mode_t mode = 0;                                                       \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                 \
        va_list more;                                                      \
        va_start(more, last);                                              \
        mode = (mode_t)va_arg(more, int);                                  \
        va_end(more);                                                      \
    }

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...)                             \
    {                                                                      \
        MODE(flags, flags)                                                 \
        return open_recorded(AT_FDCWD, path, flags, mode);                 \
    }
#define OPENAT(name)                                                       \
    int name(int folder, const char *path, int flags, ...)                 \
    {                                                                      \
        MODE(flags, flags)                                                 \
        return open_recorded(folder, path, flags, mode);                   \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int __open_2(const char *path, int flags) { return open_recorded(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_recorded(AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return open_recorded(folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return open_recorded(folder, path, flags, 0); }
int creat(const char *path, mode_t mode) { return open_recorded(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_recorded(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd)
{
    REAL(int, close, int);
    if (!is_tracked(fd))
        return real(fd);
    pthread_mutex_lock(&lock);
    tracked[fd] = 0;
    int result = real(fd);
    record('C', fd, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (!is_tracked(fd))
        return real_write(fd, data, size);
    pthread_mutex_lock(&lock);
    ssize_t n = real_write(fd, data, size);
    if (n > 0)
        record('W', fd, lseek(fd, 0, SEEK_CUR) - n, NULL, data, (size_t)n);
    pthread_mutex_unlock(&lock);
    return n;
}

static ssize_t pwrite_recorded(int fd, const void *data, size_t size, off_t offset)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (!is_tracked(fd))
        return real(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t n = real(fd, data, size, offset);
    if (n > 0)
        record('W', fd, offset, NULL, data, (size_t)n);
    pthread_mutex_unlock(&lock);
    return n;
}
ssize_t pwrite(int fd, const void *d, size_t n, off_t at) { return pwrite_recorded(fd, d, n, at); }
ssize_t pwrite64(int fd, const void *d, size_t n, off_t at) { return pwrite_recorded(fd, d, n, at); }

/* Vectored writes become one write each of the first non-empty part: callers must take short writes anyway. */
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (!is_tracked(fd))
        return real(fd, parts, count);
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len > 0)
            return write(fd, parts[i].iov_base, parts[i].iov_len);
    return 0;
}

static int ftruncate_recorded(int fd, off_t length)
{
    REAL(int, ftruncate, int, off_t);
    if (!is_tracked(fd))
        return real(fd, length);
    pthread_mutex_lock(&lock);
    int result = real(fd, length);
    if (result == 0)
        record('T', fd, length, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate_recorded(fd, length); }
int ftruncate64(int fd, off_t length) { return ftruncate_recorded(fd, length); }

#define SYNC(name)                                                         \
    int name(int fd)                                                       \
    {                                                                      \
        REAL(int, name, int);                                              \
        if (!is_tracked(fd))                                               \
            return real(fd);                                               \
        pthread_mutex_lock(&lock);                                         \
        int result = real(fd);                                             \
        if (result == 0)                                                   \
            record('S', fd, 0, NULL, NULL, 0);                             \
        pthread_mutex_unlock(&lock);                                       \
        return result;                                                     \
    }
SYNC(fsync)
SYNC(fdatasync)

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    REAL(int, renameat, int, const char *, int, const char *);
    char old[PATH_MAX], new[PATH_MAX];
    absolute(from_folder, from, old);
    absolute(to_folder, to, new);
    if (!under_root(old) && !under_root(new))
        return real(from_folder, from, to_folder, to);
    pthread_mutex_lock(&lock);
    int result = real(from_folder, from, to_folder, to);
    if (result == 0)
        record('R', -1, 0, old, new, strlen(new));
    pthread_mutex_unlock(&lock);
    return result;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    REAL(int, linkat, int, const char *, int, const char *, int);
    char old[PATH_MAX], new[PATH_MAX];
    absolute(from_folder, from, old);
    absolute(to_folder, to, new);
    if (!under_root(new))
        return real(from_folder, from, to_folder, to, flags);
    pthread_mutex_lock(&lock);
    int result = real(from_folder, from, to_folder, to, flags);
    if (result == 0)
        record('L', -1, 0, old, new, strlen(new));
    pthread_mutex_unlock(&lock);
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *path, int flags)
{
    REAL(int, unlinkat, int, const char *, int);
    char full[PATH_MAX];
    absolute(folder, path, full);
    if (!under_root(full))
        return real(folder, path, flags);
    pthread_mutex_lock(&lock);
    int result = real(folder, path, flags);
    if (result == 0)
        record('U', -1, 0, full, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode)
{
    REAL(int, mkdirat, int, const char *, mode_t);
    char full[PATH_MAX];
    absolute(folder, path, full);
    if (!under_root(full))
        return real(folder, path, mode);
    pthread_mutex_lock(&lock);
    int result = real(folder, path, mode);
    if (result == 0)
        record('M', -1, 0, full, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
