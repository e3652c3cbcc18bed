// husk: the guest benchmark kit: kernel paths: system calls, pipes, processes, page faults, signals
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kit.h"

static uint64_t system_call(uint64_t count) {
  const long self = getpid();
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) sum += syscall(SYS_getpid) == self;
  return sum;
}

// By the vDSO where the clock source allows it, else by a system call: what a program gets.
static uint64_t clock_read(uint64_t count) {
  struct timespec last = {0, 0};
  for (uint64_t i = 0; i < count; ++i) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec < last.tv_sec || (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec)) fail("time ran back");
    last = now;
  }
  return count;
}

static uint64_t pipe_ping_pong(uint64_t count) {
  int there[2];
  int back[2];
  if (pipe(there) != 0 || pipe(back) != 0) fail("pipe");
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    uint64_t value;
    for (uint64_t i = 0; i < count; ++i) {
      if (read(there[0], &value, sizeof value) != sizeof value) _exit(1);
      value = value * 3 + 1;
      if (write(back[1], &value, sizeof value) != sizeof value) _exit(1);
    }
    _exit(0);
  }
  uint64_t value = 1;
  for (uint64_t i = 0; i < count; ++i) {
    if (write(there[1], &value, sizeof value) != sizeof value) fail("write");
    if (read(back[0], &value, sizeof value) != sizeof value) fail("read");
  }
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) fail("child of the pipe");
  return value;
}

static uint64_t fork_wait(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) _exit((int)(i & 127));
    int status;
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    sum = mix(sum, (uint64_t)WEXITSTATUS(status));
  }
  return sum;
}

static uint64_t fork_exec(const char* program, uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      execl(program, program, (char*)NULL);
      _exit(127);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 42) fail(program);
    sum = mix(sum, (uint64_t)WEXITSTATUS(status));
  }
  return sum;
}

static uint64_t exec_static(uint64_t count) { return fork_exec("/kit/exit42-static", count); }
static uint64_t exec_dynamic(uint64_t count) { return fork_exec("/kit/exit42-dynamic", count); }

static uint64_t map_and_touch(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    uint8_t* const memory = mmap(NULL, 256 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    for (size_t at = 0; at < 256 << 10; at += 4096) {
      sum += memory[at];
      memory[at] = (uint8_t)i;
    }
    if (munmap(memory, 256 << 10) != 0) fail("munmap");
  }
  return sum;
}

// Copy on write: every page of a private mapping written by a child.
static uint64_t copy_on_write(uint64_t count) {
  enum { kSize = 1 << 20 };
  uint8_t* const memory = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  for (size_t at = 0; at < kSize; at += 4096) memory[at] = 1;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      unsigned total = 0;
      for (size_t at = 0; at < kSize; at += 4096) total += ++memory[at];
      _exit(total == 512 ? 0 : 1);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) fail("copy on write");
    sum += memory[4096];
  }
  return sum;
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int number) {
  (void)number;
  signals_seen = signals_seen + 1;
}

static uint64_t signals(uint64_t count) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = count_signal;
  if (sigaction(SIGUSR1, &action, NULL) != 0) fail("sigaction");
  for (uint64_t i = 0; i < count; ++i) raise(SIGUSR1);
  return (uint64_t)signals_seen;
}

static uint8_t* guarded;

static void open_page(int number, siginfo_t* information, void* context) {
  (void)number;
  (void)context;
  if ((uint8_t*)information->si_addr != guarded + 123) _exit(3);
  if (mprotect(guarded, 4096, PROT_READ | PROT_WRITE) != 0) _exit(4);
  signals_seen = signals_seen + 1;
}

// A store that faults, a handler that opens the page, the store again: how garbage collectors guard their heaps.
static uint64_t segv_handler(uint64_t count) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = open_page;
  action.sa_flags = SA_SIGINFO;
  guarded = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (guarded == MAP_FAILED || sigaction(SIGSEGV, &action, NULL) != 0) fail("segv_handler");
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    *(volatile uint8_t*)(guarded + 123) = (uint8_t)i;
    sum += guarded[123];
    if (mprotect(guarded, 4096, PROT_READ) != 0) fail("mprotect");
  }
  return mix(sum, (uint64_t)signals_seen);
}

static uint64_t file_io(uint64_t count) {
  char path[] = "/tmp/kit-XXXXXX";
  const int file = mkstemp(path);
  if (file < 0) fail("mkstemp");
  static uint8_t block[4096];
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    memset(block, (int)(i & 255), 64);
    if (pwrite(file, block, sizeof block, (off_t)(i & 63) * 4096) != sizeof block) fail("pwrite");
    if (pread(file, block, sizeof block, (off_t)(i * 7 & 63) * 4096) < 0) fail("pread");
    sum += block[5];
  }
  close(file);
  unlink(path);
  return sum;
}

static uint64_t file_names(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const int file = open("/tmp/kit-name", O_RDWR | O_CREAT, 0600);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) fail("open");
    close(file);
    if (stat("/tmp/kit-name", &status) != 0 || rename("/tmp/kit-name", "/tmp/kit-other") != 0 ||
        unlink("/tmp/kit-other") != 0) {
      fail("rename");
    }
    sum += status.st_mode;
  }
  return sum;
}

const struct Workload kKernelWorkloads[] = {{"system_call", system_call, 1000000},
                                            {"clock_read", clock_read, 6200000},
                                            {"pipe_ping_pong", pipe_ping_pong, 18000},
                                            {"fork_wait", fork_wait, 1700},
                                            {"exec_static", exec_static, 250},
                                            {"exec_dynamic", exec_dynamic, 200},
                                            {"map_and_touch", map_and_touch, 940},
                                            {"copy_on_write", copy_on_write, 180},
                                            {"signals", signals, 53000},
                                            {"segv_handler", segv_handler, 27000},
                                            {"file_io", file_io, 110000},
                                            {"file_names", file_names, 7900},
                                            {NULL, NULL, 0}};
