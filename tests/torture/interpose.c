/* Arms one named point of a process from outside, by LD_PRELOAD: die there, or fail there, or jump the wall clock.
 *
 *   TORTURE_POINT=OP:PART:NTH:ACT   at the NTH call of OP on a path that contains PART ("3+": that one and all after)
 *     OP   write, fsync, rename, unlink, lasting (fsync, rename or unlink), any (all four)
 *     ACT  before, after (SIGKILL), or ENOSPC, EIO (the call fails)
 *   TORTURE_OPS=FILE                a line for every call: OP, monotonic nanoseconds, path
 *   TORTURE_CLOCK=FILE              seconds to add to CLOCK_REALTIME, read anew for every look at the clock
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { PASS = 0, DIE_AFTER = -1 };

static char op_wanted[16], part_wanted[256], act[16];
static long nth_wanted;
static int onwards, armed, log_fd = -1;
static const char *clock_file;
static atomic_long seen;

static int raw_open(const char *path, int flags) { return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600); }

__attribute__((constructor)) static void arm(void) {
  const char *point = getenv("TORTURE_POINT"), *log = getenv("TORTURE_OPS");
  char nth[16] = "";
  if (point && sscanf(point, "%15[^:]:%255[^:]:%15[^:]:%15[^:]", op_wanted, part_wanted, nth, act) == 4) {
    nth_wanted = atol(nth);
    onwards = strchr(nth, '+') != NULL;
    armed = 1;
  }
  if (log) log_fd = raw_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC);
  clock_file = getenv("TORTURE_CLOCK");
}

static void die(void) { syscall(SYS_kill, (long)getpid(), SIGKILL); }

static int matches(const char *op) {
  if (!strcmp(op_wanted, "any")) return 1;
  if (!strcmp(op_wanted, "lasting")) return strcmp(op, "write") != 0;
  return !strcmp(op_wanted, op);
}

static int gate(const char *op, const char *path) {
  if (log_fd >= 0) {
    struct timespec now;
    char line[PATH_MAX + 64];
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%s %lld %s\n", op, now.tv_sec * 1000000000LL + now.tv_nsec, path);
    if (size > 0) syscall(SYS_write, log_fd, line, (size_t)size);
  }
  if (!armed || !matches(op) || !strstr(path, part_wanted)) return PASS;
  long nth = atomic_fetch_add(&seen, 1) + 1;
  if (nth != nth_wanted && !(onwards && nth > nth_wanted)) return PASS;
  if (!strcmp(act, "before")) die();
  if (!strcmp(act, "after")) return DIE_AFTER;
  return !strcmp(act, "ENOSPC") ? ENOSPC : EIO;
}

static int gate_fd(const char *op, int fd) {
  char link[64], path[PATH_MAX];
  if (!armed && log_fd < 0) return PASS;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size <= 0 || path[0] != '/') return PASS;
  path[size] = 0;
  return gate(op, path);
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CALL(verdict, failed, call) \
  int met = (verdict); \
  if (met > 0) { errno = met; return failed; } \
  __typeof__(call) result = (call); \
  if (met == DIE_AFTER) die(); \
  return result

ssize_t write(int fd, const void *at, size_t n) { REAL(write); CALL(gate_fd("write", fd), -1, real(fd, at, n)); }
ssize_t pwrite(int fd, const void *at, size_t n, off_t to) { REAL(pwrite); CALL(gate_fd("write", fd), -1, real(fd, at, n, to)); }
ssize_t pwrite64(int fd, const void *at, size_t n, off64_t to) { REAL(pwrite64); CALL(gate_fd("write", fd), -1, real(fd, at, n, to)); }
int fsync(int fd) { REAL(fsync); CALL(gate_fd("fsync", fd), -1, real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); CALL(gate_fd("fsync", fd), -1, real(fd)); }
int rename(const char *from, const char *to) { REAL(rename); CALL(gate("rename", to), -1, real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); CALL(gate("rename", to), -1, real(a, from, b, to)); }
int unlink(const char *path) { REAL(unlink); CALL(gate("unlink", path), -1, real(path)); }
int unlinkat(int a, const char *path, int flags) { REAL(unlinkat); CALL(gate("unlink", path), -1, real(a, path, flags)); }

static long long shift(void) {
  char text[32] = "";
  if (!clock_file) return 0;
  int fd = raw_open(clock_file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  syscall(SYS_read, fd, text, sizeof text - 1);
  syscall(SYS_close, fd);
  return atoll(text);
}

int clock_gettime(clockid_t which, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, which, now);
  if (!result && which == CLOCK_REALTIME) now->tv_sec += shift();
  return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec at;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &at);
  now->tv_sec = at.tv_sec;
  now->tv_usec = at.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *out) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (out) *out = at.tv_sec;
  return at.tv_sec;
}
