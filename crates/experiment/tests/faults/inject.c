/* Makes file-system calls go wrong, one at a time. Loaded by LD_PRELOAD before the program's own libraries, it
 * numbers the calls that touch anything beneath one folder, in their order, and makes the K-th fail.
 *
 * What to do is told by a plan, `KIND/K/FOLDER`: in the variable FAULT_PLAN at the start of the program, or at any
 * time by trying to open the file `/fault-plan/KIND/K/FOLDER`. Each plan begins to count at 1. Kinds:
 *
 *   count     nothing goes wrong
 *   kill      the process is killed (SIGKILL) before the K-th call
 *   crash     the disk is as if the process had been killed there: from the K-th call on nothing changes it any more,
 *             and every call fails with EIO
 *   torn      the same, but the K-th call, a write, still writes its first half
 *   short     the K-th call, a write, writes its first half and says so; nothing else goes wrong
 *   enospc    the K-th call fails with ENOSPC; nothing else goes wrong
 *   eio       the K-th call fails with EIO; nothing else goes wrong
 *   full      from the K-th call on, whatever needs room fails with ENOSPC
 *   readonly  from the K-th call on, whatever changes something fails with EROFS
 *
 * Each numbered call is written to the file FAULT_LOG, a line each: its name, a tab, its path. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READS = 1, CHANGES = 2, NEEDS_ROOM = 4, WRITES = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char kind[16] = "", folder[PATH_MAX] = "";
static long target = 0, seen = 0;
static int dead = 0, journal = -1;

static int is(const char *name) { return strcmp(kind, name) == 0; }

/* `KIND/K/FOLDER`; anything else ends the plan. */
static void plan(const char *text) {
    char new_kind[16] = "";
    long number = 0;
    int read = 0;
    pthread_mutex_lock(&lock);
    seen = dead = target = 0;
    kind[0] = folder[0] = 0;
    if (sscanf(text, "%15[a-z]/%ld/%n", new_kind, &number, &read) == 2 && read > 0 && text[read] == '/') {
        strcpy(kind, new_kind);
        target = number;
        snprintf(folder, sizeof folder, "%s", text + read);
    }
    if (journal >= 0) (void)!syscall(SYS_ftruncate, journal, 0); /* the library's own would come back here */
    pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("FAULT_LOG"), *first = getenv("FAULT_PLAN");
    if (log) journal = (int)syscall(SYS_openat, AT_FDCWD, log, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (first) plan(first);
}

/* The path of an open file. */
static const char *of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

/* A path as seen from an open folder. */
static const char *at(int fd, const char *name, char *path) {
    if (name[0] == '/' || fd == AT_FDCWD) return name;
    of(fd, path);
    size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
    return path;
}

/* What becomes of a call: 0 it goes its way, -1 it fails (errno is set), 1 half of it is written, 2 half of it is
 * written and then it fails. */
static int fate(const char *name, const char *path, int what) {
    int answer = 0, error = 0;
    if (!kind[0]) return 0;
    pthread_mutex_lock(&lock);
    size_t length = strlen(folder);
    if (length && strncmp(path, folder, length) == 0 && (path[length] == 0 || path[length] == '/')) {
        long here = ++seen;
        char line[PATH_MAX + 32];
        int bytes = snprintf(line, sizeof line, "%s\t%s\n", name, path);
        if (journal >= 0) (void)!syscall(SYS_write, journal, line, (size_t)bytes);
        if (dead) answer = -1, error = EIO;
        else if (here >= target && target > 0) {
            int now = here == target;
            if (is("full") && (what & NEEDS_ROOM)) answer = -1, error = ENOSPC;
            else if (is("readonly") && (what & CHANGES)) answer = -1, error = EROFS;
            else if (now && is("kill")) kill(getpid(), SIGKILL), pause();
            else if (now && is("crash")) dead = 1, answer = -1, error = EIO;
            else if (now && is("torn")) dead = 1, answer = (what & WRITES) ? 2 : -1, error = EIO;
            else if (now && is("short") && (what & WRITES)) answer = 1;
            else if (now && is("enospc")) answer = -1, error = ENOSPC;
            else if (now && is("eio")) answer = -1, error = EIO;
        }
    }
    pthread_mutex_unlock(&lock);
    if (answer) errno = error;
    return answer;
}

#define REAL(result, name, ...)                                  \
    static result (*real)(__VA_ARGS__);                          \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* The calls, each: would it fail, else the real one. */
#define SIMPLE(name, parameters, path, what, arguments, ...)     \
    int name parameters {                                        \
        char place[PATH_MAX];                                    \
        (void)place;                                             \
        REAL(int, #name, __VA_ARGS__);                           \
        return fate(#name, path, what) ? -1 : real arguments;    \
    }

SIMPLE(fsync, (int fd), of(fd, place), CHANGES, (fd), int)
SIMPLE(fdatasync, (int fd), of(fd, place), CHANGES, (fd), int)
SIMPLE(ftruncate, (int fd, off_t size), of(fd, place), CHANGES | NEEDS_ROOM, (fd, size), int, off_t)
SIMPLE(ftruncate64, (int fd, off_t size), of(fd, place), CHANGES | NEEDS_ROOM, (fd, size), int, off_t)
SIMPLE(fchmod, (int fd, mode_t mode), of(fd, place), CHANGES, (fd, mode), int, mode_t)
SIMPLE(mkdir, (const char *path, mode_t mode), path, CHANGES | NEEDS_ROOM, (path, mode), const char *, mode_t)
SIMPLE(mkdirat, (int fd, const char *path, mode_t mode), at(fd, path, place), CHANGES | NEEDS_ROOM, (fd, path, mode), int, const char *, mode_t)
SIMPLE(rmdir, (const char *path), path, CHANGES, (path), const char *)
SIMPLE(unlink, (const char *path), path, CHANGES, (path), const char *)
SIMPLE(unlinkat, (int fd, const char *path, int flags), at(fd, path, place), CHANGES, (fd, path, flags), int, const char *, int)
SIMPLE(rename, (const char *from, const char *to), from, CHANGES | NEEDS_ROOM, (from, to), const char *, const char *)
SIMPLE(renameat, (int a, const char *from, int b, const char *to), at(a, from, place), CHANGES | NEEDS_ROOM, (a, from, b, to), int, const char *, int, const char *)
SIMPLE(link, (const char *from, const char *to), to, CHANGES | NEEDS_ROOM, (from, to), const char *, const char *)
SIMPLE(symlink, (const char *from, const char *to), to, CHANGES | NEEDS_ROOM, (from, to), const char *, const char *)

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    return fate("opendir", path, READS) ? NULL : real(path);
}

ssize_t read(int fd, void *bytes, size_t size) {
    char place[PATH_MAX];
    REAL(ssize_t, "read", int, void *, size_t);
    return kind[0] && fate("read", of(fd, place), READS) ? -1 : real(fd, bytes, size);
}

#define WRITE(name, parameters, whole, half, ...)                               \
    ssize_t name parameters {                                                   \
        char place[PATH_MAX];                                                   \
        REAL(ssize_t, #name, __VA_ARGS__);                                      \
        if (!kind[0]) return whole;                                             \
        int answer = fate(#name, of(fd, place), CHANGES | NEEDS_ROOM | WRITES); \
        if (answer == 0) return whole;                                          \
        if (answer < 0) return -1;                                              \
        ssize_t done = half;                                                    \
        if (answer == 1) return done;                                           \
        errno = EIO;                                                            \
        return -1;                                                              \
    }

WRITE(write, (int fd, const void *bytes, size_t size), real(fd, bytes, size), real(fd, bytes, (size + 1) / 2), int, const void *, size_t)
WRITE(pwrite, (int fd, const void *bytes, size_t size, off_t where), real(fd, bytes, size, where), real(fd, bytes, (size + 1) / 2, where), int, const void *, size_t, off_t)
WRITE(pwrite64, (int fd, const void *bytes, size_t size, off_t where), real(fd, bytes, size, where), real(fd, bytes, (size + 1) / 2, where), int, const void *, size_t, off_t)
WRITE(writev, (int fd, const struct iovec *parts, int count), real(fd, parts, count), real(fd, parts, (count + 1) / 2), int, const struct iovec *, int)
WRITE(copy_file_range, (int from, off_t *a, int fd, off_t *b, size_t size, unsigned flags), real(from, a, fd, b, size, flags), real(from, a, fd, b, (size + 1) / 2, flags), int, off_t *, int, off_t *, size_t, unsigned)
WRITE(sendfile, (int fd, int from, off_t *a, size_t size), real(fd, from, a, size), real(fd, from, a, (size + 1) / 2), int, int, off_t *, size_t)
WRITE(sendfile64, (int fd, int from, off_t *a, size_t size), real(fd, from, a, size), real(fd, from, a, (size + 1) / 2), int, int, off_t *, size_t)

static int opening(const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    return fate("open", path, writes ? CHANGES | NEEDS_ROOM : READS);
}

#define MODE                                        \
    mode_t mode = 0;                                \
    if (flags & (O_CREAT | __O_TMPFILE)) {          \
        va_list rest;                               \
        va_start(rest, flags);                      \
        mode = va_arg(rest, mode_t);                \
        va_end(rest);                               \
    }

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...) {                                \
        REAL(int, #name, const char *, int, ...);                               \
        MODE                                                                    \
        if (strncmp(path, "/fault-plan/", 12) == 0) return plan(path + 12), errno = ENOENT, -1; \
        return opening(path, flags) ? -1 : real(path, flags, mode);             \
    }
#define OPENAT(name)                                                            \
    int name(int fd, const char *path, int flags, ...) {                        \
        char place[PATH_MAX];                                                   \
        REAL(int, #name, int, const char *, int, ...);                          \
        MODE                                                                    \
        return opening(at(fd, path, place), flags) ? -1 : real(fd, path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
