/* Loaded before libc (LD_PRELOAD): the n-th system call that changes a file below a directory fails. See disk.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096], seen_operation[32], seen_path[4096];
static size_t root_length;
static long at, made;
static int code, kind;

enum { ONCE, ON, SHORT, VANISH };
#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* below: the directory; number: the operation that fails, 0 for none; how: once, or all that need room from there on */
void arm(const char *below, long number, int error, int how) {
    root_length = strlen(below);
    memcpy(root, below, root_length + 1);
    at = number, made = 0, code = error, kind = how;
}
long operations(void) { return made; }
const char *operation(void) { return seen_operation; }
const char *failed_path(void) { return seen_path; }

static int inside(const char *path) { return root_length && path && !strncmp(path, root, root_length); }

static const char *of_handle(int handle, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(name, path, 4095);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static const char *joined(int folder, const char *name, char *path) {
    if (name[0] == '/' || folder == AT_FDCWD) return name;
    of_handle(folder, path);
    size_t length = strlen(path);
    snprintf(path + length, 4096 - length, "/%s", name);
    return path;
}

/* Whether this operation fails; room: whether it needs room on the disk. */
static int fails(const char *name, const char *path, int room) {
    if (!inside(path)) return 0;
    made++;
    if (!at || made < at) return 0;
    if (made == at) {
        snprintf(seen_operation, sizeof seen_operation, "%s", name);
        snprintf(seen_path, sizeof seen_path, "%s", path);
        if (kind == VANISH) {
            char away[4200];
            snprintf(away, sizeof away, "%s.away", root);
            root_length = 0; /* from here on all is real */
            rename(root, away);
            return 0;
        }
    } else if (kind == ONCE || ((code == ENOSPC || code == EDQUOT) && !room)) return 0;
    errno = code;
    return 1;
}

static int writes(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC); }

#define OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                     \
        REAL(name);                                                                  \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if (writes(flags) && fails("open", path, 1)) return -1;                      \
        return real(path, flags, mode);                                              \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                 \
    int name(int folder, const char *path, int flags, ...) {                         \
        REAL(name); char full[8300];                                                 \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if (writes(flags) && fails("open", joined(folder, path, full), 1)) return -1; \
        return real(folder, path, flags, mode);                                      \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int handle, const void *bytes, size_t size) {
    REAL(write); char path[4096];
    if (root_length && handle > 2 && fails("write", of_handle(handle, path), 1)) {
        if (kind == SHORT && made == at && size > 1) return real(handle, bytes, size / 2);
        errno = code;
        return -1;
    }
    return real(handle, bytes, size);
}
ssize_t writev(int handle, const struct iovec *parts, int number) {
    REAL(writev); char path[4096];
    if (root_length && handle > 2 && fails("write", of_handle(handle, path), 1)) return -1;
    return real(handle, parts, number);
}
ssize_t pwrite64(int handle, const void *bytes, size_t size, off64_t offset) {
    REAL(pwrite64); char path[4096];
    if (root_length && fails("write", of_handle(handle, path), 1)) return -1;
    return real(handle, bytes, size, offset);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    REAL(sendfile); char path[4096];
    if (root_length && fails("write", of_handle(out, path), 1)) return -1;
    return real(out, in, offset, size);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    REAL(sendfile64); char path[4096];
    if (root_length && fails("write", of_handle(out, path), 1)) return -1;
    return real(out, in, offset, size);
}
#define HANDLE(name, word, room)                                                     \
    int name(int handle) {                                                           \
        REAL(name); char path[4096];                                                 \
        if (root_length && fails(word, of_handle(handle, path), room)) return -1;    \
        return real(handle);                                                         \
    }
HANDLE(fsync, "fsync", 1)
HANDLE(fdatasync, "fsync", 1)
#define TRUNCATE(name, type)                                                         \
    int name(int handle, type size) {                                                \
        REAL(name); char path[4096];                                                 \
        if (root_length && fails("truncate", of_handle(handle, path), 0)) return -1; \
        return real(handle, size);                                                   \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
#define PATH(name, word, room)                                                       \
    int name(const char *path) { REAL(name); return fails(word, path, room) ? -1 : real(path); }
PATH(unlink, "unlink", 0)
PATH(rmdir, "rmdir", 0)
int truncate(const char *path, off_t size) { REAL(truncate); return fails("truncate", path, 0) ? -1 : real(path, size); }
int truncate64(const char *path, off64_t size) { REAL(truncate64); return fails("truncate", path, 0) ? -1 : real(path, size); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails("mkdir", path, 1) ? -1 : real(path, mode); }
int rename(const char *from, const char *to) { REAL(rename); return fails("rename", to, 0) ? -1 : real(from, to); }
int link(const char *from, const char *to) { REAL(link); return fails("link", to, 1) ? -1 : real(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(linkat); char full[8300];
    return fails("link", joined(b, to, full), 1) ? -1 : real(a, from, b, to, flags);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat); char full[8300];
    return fails("rename", joined(b, to, full), 0) ? -1 : real(a, from, b, to);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat); char full[8300];
    return fails(flags & AT_REMOVEDIR ? "rmdir" : "unlink", joined(folder, path, full), 0) ? -1 : real(folder, path, flags);
}
