// husk: the guest benchmark kit: runs the workloads of a plan, in a guest as its init or natively, and times each
//
// The plan is /kit/plan, a line each: NAME TAB TIMEOUT TAB PREPARE TAB COMMAND TAB CHECK. PREPARE and CHECK may be
// empty; all three are for /bin/sh. COMMAND alone is timed. The sum is over what COMMAND and CHECK print.
//
// What it says, a line each, everything else on the console is the kernel's:
//   @ready NS                  it runs; NS on the guest's monotonic clock; it waits for a line of input
//   @begin NAME                it waits for a line of input, starts NAME and times it
//   @ran NAME                  it is over; it waits for a line of input
//   @end NAME NS CPU STATUS SUM  NS it took, CPU its processes used; STATUS as the shell's; SUM over what was printed
//   @say NAME TEXT             the first line that a failed command printed
//   @done                      the plan is at its end
// Waiting for the other side lets it read the machine's own use of the CPU at just these points.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int is_init;

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

// What the ended children used of the CPU; means something only where nothing is emulated.
static uint64_t children_cpu_ns(void) {
  struct rusage usage;
  if (getrusage(RUSAGE_CHILDREN, &usage) != 0) return 0;
  return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * UINT64_C(1000000000) +
         (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * UINT64_C(1000);
}

static void leave(int status) {
  fflush(stdout);
  if (is_init) {
    tcdrain(1);
    reboot(RB_POWER_OFF);
    for (;;) pause();
  }
  exit(status);
}

static void await_line(void) {
  char byte = 0;
  while (byte != '\n') {
    const ssize_t got = read(0, &byte, 1);
    if (got == 0 || (got < 0 && errno != EINTR)) leave(3);
  }
}

// Runs `command`; its output goes to `path`. Returns the shell's status, 124 after `timeout` seconds.
static int run_shell(const char* command, const char* path, int flags, unsigned timeout) {
  const pid_t child = vfork();
  if (child < 0) return 126;
  if (child == 0) {
    setpgid(0, 0);
    const int output = open(path, O_WRONLY | O_CREAT | flags, 0600);
    const int input = open("/dev/null", O_RDONLY);
    if (output < 0 || input < 0) _exit(126);
    dup2(input, 0);
    dup2(output, 1);
    dup2(output, 2);
    signal(SIGCHLD, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execl("/bin/sh", "sh", "-c", command, (char*)NULL);
    _exit(127);
  }
  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  const uint64_t end = now_ns() + timeout * UINT64_C(1000000000);
  int timed_out = 0;
  for (;;) {
    int status;
    const pid_t ended = waitpid(-1, &status, WNOHANG);
    if (ended == child) {
      kill(-child, SIGKILL);  // what it left behind
      while (waitpid(-1, NULL, WNOHANG) > 0) continue;
      if (timed_out) return 124;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (ended > 0) continue;
    const uint64_t now = now_ns();
    if (now >= end) {
      timed_out = 1;
      kill(-child, SIGKILL);
      waitpid(child, &status, 0);
      return 124;
    }
    const struct timespec left = {(time_t)((end - now) / UINT64_C(1000000000)), 1000000};
    sigtimedwait(&child_ended, NULL, &left);
  }
}

static uint64_t sum_of(const char* path, char* first_line, size_t size) {
  uint64_t sum = UINT64_C(0xcbf29ce484222325);
  FILE* const file = fopen(path, "r");
  size_t kept = 0;
  int in_first = 1;
  for (int byte; file != NULL && (byte = getc(file)) != EOF;) {
    sum = (sum ^ (uint64_t)byte) * UINT64_C(0x100000001b3);
    if (byte == '\n') in_first = 0;
    if (in_first && kept + 1 < size) first_line[kept++] = (char)byte;
  }
  first_line[kept] = 0;
  if (file != NULL) fclose(file);
  return sum;
}

static void prepare_machine(void) {
  mkdir("/proc", 0755);
  mkdir("/sys", 0755);
  mkdir("/dev", 0755);
  mkdir("/tmp", 0777);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sysfs", "/sys", "sysfs", 0, NULL);
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  mount("tmpfs", "/tmp", "tmpfs", 0, "size=400m");
  const int console = open("/dev/console", O_RDWR);
  if (console >= 0) {
    dup2(console, 0);
    dup2(console, 1);
    dup2(console, 2);
    struct termios mode;
    if (tcgetattr(0, &mode) == 0) {
      mode.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
      tcsetattr(0, TCSANOW, &mode);
    }
  }
}

int main(void) {
  is_init = getpid() == 1;
  if (is_init) prepare_machine();
  setvbuf(stdout, NULL, _IOLBF, 4096);
  setenv("PATH", "/kit:/usr/bin:/bin:/usr/sbin:/sbin", 1);
  setenv("HOME", "/tmp", 1);
  setenv("LC_ALL", "C", 1);
  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_ended, NULL);
  printf("\n@ready %llu\n", (unsigned long long)now_ns());
  await_line();
  FILE* const plan = fopen("/kit/plan", "re");
  static char line[8192];
  while (plan != NULL && fgets(line, sizeof line, plan) != NULL) {
    line[strcspn(line, "\n")] = 0;
    char* rest = line;
    char* part[5];
    for (int i = 0; i < 5; ++i) {
      char* const found = strsep(&rest, "\t");
      part[i] = found == NULL ? "" : found;
    }
    const unsigned timeout = (unsigned)atoi(part[1]);
    int status = 0;
    if (part[2][0] != 0) status = run_shell(part[2], "/tmp/kit.out", O_TRUNC, timeout);
    uint64_t took = 0;
    uint64_t used = 0;
    printf("@begin %s\n", part[0]);
    await_line();
    if (status == 0) {
      const uint64_t used_before = children_cpu_ns();
      const uint64_t start = now_ns();
      status = run_shell(part[3], "/tmp/kit.out", O_TRUNC, timeout);
      took = now_ns() - start;
      used = children_cpu_ns() - used_before;
    }
    int check = 0;
    printf("@ran %s\n", part[0]);
    await_line();
    if (status == 0 && part[4][0] != 0) check = run_shell(part[4], "/tmp/kit.out", O_APPEND, timeout);
    char first[4000];
    const uint64_t sum = sum_of("/tmp/kit.out", first, sizeof first);
    if (status != 0 || check != 0) printf("@say %s %s\n", part[0], first);
    printf("@end %s %llu %llu %d %016llx\n", part[0], (unsigned long long)took, (unsigned long long)used,
           status != 0 ? status : check, (unsigned long long)sum);
  }
  printf("@done\n");
  leave(0);
}
