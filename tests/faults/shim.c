/* Count what a process changes under one directory, and make one such call go wrong. Loaded with LD_PRELOAD.
 *
 * A call is of one of two groups: what a checkpoint is made of, and what is told beside it (events, the state of a
 * rank, logs). At the k-th call of the armed group the process kills itself: a write is done half, everything else
 * not at all. Or the call fails with an error number, and so does every later one, except calls that remove something:
 * an I/O error in what this process writes of a checkpoint, any other in all that every process forked from the same
 * one writes. Making a directory can fail but is not counted: which of two ranks does it is chance.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum group { SAVE, TOLD, GROUPS };
enum kind { WRITES, MAKES, CREATES, DIRECTORIES, REMOVES };

static char root[PATH_MAX];
static size_t root_length;
static atomic_int watching;
static atomic_long counted[GROUPS];
static long armed_at;
static int armed_group, armed_error; /* error 0: kill */
static int trace = -1;
static atomic_int *disk_fails; /* shared by all that are forked from here */
static atomic_int file_fails;  /* of this process: an I/O error */

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define KEEP(name) static typeof(&name) real; if (!real) real = REAL(name)

__attribute__((constructor)) static void share(void) {
    disk_fails = mmap(NULL, sizeof *disk_fails, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Begin to count the calls under `directory`; each is told to the file `into`. */
void fault_watch(const char *directory, const char *into) {
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
    trace = open(into, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    watching = 1;
}

void fault_arm(int group, long k, int error) {
    armed_group = group;
    armed_at = k;
    armed_error = error;
}

/* Let all succeed again, in every process, and count no more in this one. */
void fault_disarm(void) {
    watching = 0;
    armed_at = 0;
    *disk_fails = 0;
    file_fails = 0;
}

static int is_below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int group_of(const char *path) {
    const char *inside = path + root_length;
    static const char *told[] = {"/_sft/events", "/_sft/ranks", "/_sft/logs", "/_sft/stacks", "/_sft/outbox"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        if (strncmp(inside, told[i], strlen(told[i])) == 0) return TOLD;
    return SAVE;
}

static void whole_path(int directory, const char *path, char *found) {
    if (path[0] == '/') {
        snprintf(found, PATH_MAX, "%s", path);
        return;
    }
    char link[64], place[PATH_MAX / 2] = "";
    if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    if (readlink(link, place, sizeof place - 1) < 0) place[0] = 0;
    snprintf(found, PATH_MAX, "%s/%.2000s", place, path);
}

static int failing(enum group group) {
    return *disk_fails ? *disk_fails : group == SAVE ? file_fails : 0;
}

/* Return what to do with a call: 0 do it, -1 do half and die, else the error to fail with. */
static int judge(const char *name, enum kind kind, const char *path, size_t size) {
    if (!is_below(path)) return 0;
    enum group group = group_of(path);
    if (kind == DIRECTORIES) return failing(group);
    long now = ++counted[group];
    char line[PATH_MAX + 128];
    int hit = now == armed_at && (int)group == armed_group;
    int length = snprintf(line, sizeof line, "%d %ld %s %zu %s%s\n", group, now, name, size, path + root_length,
                          hit ? " <- here" : "");
    syscall(SYS_write, trace, line, length);
    if (hit && !armed_error) {
        if (kind == WRITES && size > 1) return -1;
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (hit && armed_error == EIO) file_fails = EIO;
    else if (hit) *disk_fails = armed_error;
    return kind == REMOVES ? 0 : failing(group);
}

static int judge_at(const char *name, enum kind kind, int directory, const char *path) {
    int before = errno, found = 0;
    if (watching) {
        char whole[PATH_MAX];
        whole_path(directory, path, whole);
        if ((kind != CREATES && kind != DIRECTORIES) || faccessat(AT_FDCWD, whole, F_OK, 0) != 0) found = judge(name, kind, whole, 0);
    }
    errno = found ? found : before;
    return found;
}

static int judge_open(const char *name, enum kind kind, int descriptor, size_t size) {
    int before = errno, found = 0;
    if (watching) {
        char link[64], path[PATH_MAX] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        if (readlink(link, path, sizeof path - 1) > 0) found = judge(name, kind, path, size);
    }
    errno = found ? found : before;
    return found;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define WRITE(type, name, parameters, arguments, half, size) \
    type name parameters {                                   \
        KEEP(name);                                          \
        int found = judge_open(#name, WRITES, fd, size);     \
        if (found < 0) { (void)real half; die(); }           \
        return found ? -1 : real arguments;                  \
    }

WRITE(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n), (fd, data, n / 2), n)
WRITE(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at), (fd, data, n / 2, at), n)
WRITE(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at),
      (fd, data, n / 2, at), n)
WRITE(ssize_t, sendfile, (int fd, int from, off_t *at, size_t n), (fd, from, at, n), (fd, from, at, n / 2), n)
WRITE(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t n), (fd, from, at, n), (fd, from, at, n / 2), n)

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}
WRITE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), (fd, parts, count / 2),
      total(parts, count))
WRITE(ssize_t, copy_file_range, (int from, off64_t *a, int fd, off64_t *b, size_t n, unsigned flags),
      (from, a, fd, b, n, flags), (from, a, fd, b, n / 2, flags), n)

#define AT_DESCRIPTOR(name, parameters, arguments) \
    int name parameters {                          \
        KEEP(name);                                \
        return judge_open(#name, MAKES, fd, 0) ? -1 : real arguments; \
    }

AT_DESCRIPTOR(fsync, (int fd), (fd))
AT_DESCRIPTOR(fdatasync, (int fd), (fd))
AT_DESCRIPTOR(ftruncate, (int fd, off_t n), (fd, n))
AT_DESCRIPTOR(ftruncate64, (int fd, off64_t n), (fd, n))

#define AT_PATH(name, kind, parameters, arguments, directory, path) \
    int name parameters {                                           \
        KEEP(name);                                                 \
        return judge_at(#name, kind, directory, path) ? -1 : real arguments; \
    }

AT_PATH(rename, MAKES, (const char *a, const char *b), (a, b), AT_FDCWD, b)
AT_PATH(renameat, MAKES, (int d, const char *a, int e, const char *b), (d, a, e, b), e, b)
AT_PATH(renameat2, MAKES, (int d, const char *a, int e, const char *b, unsigned f), (d, a, e, b, f), e, b)
AT_PATH(link, MAKES, (const char *a, const char *b), (a, b), AT_FDCWD, b)
AT_PATH(linkat, MAKES, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f), e, b)
AT_PATH(mkdir, DIRECTORIES, (const char *a, mode_t m), (a, m), AT_FDCWD, a)
AT_PATH(mkdirat, DIRECTORIES, (int d, const char *a, mode_t m), (d, a, m), d, a)
AT_PATH(unlink, REMOVES, (const char *a), (a), AT_FDCWD, a)
AT_PATH(unlinkat, REMOVES, (int d, const char *a, int f), (d, a, f), d, a)
AT_PATH(rmdir, REMOVES, (const char *a), (a), AT_FDCWD, a)

/* Opening counts where it makes the file. */
#define OPEN(name, parameters, first, directory)                            \
    int name parameters {                                                   \
        KEEP(name);                                                         \
        mode_t mode = 0;                                                    \
        if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {          \
            va_list rest;                                                   \
            va_start(rest, flags);                                          \
            mode = va_arg(rest, mode_t);                                    \
            va_end(rest);                                                   \
            if (judge_at(#name, CREATES, directory, path)) return -1;       \
        }                                                                   \
        return real first;                                                  \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(openat, (int d, const char *path, int flags, ...), (d, path, flags, mode), d)
OPEN(openat64, (int d, const char *path, int flags, ...), (d, path, flags, mode), d)
