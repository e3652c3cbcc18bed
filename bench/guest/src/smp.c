// husk: the guest benchmark kit: two threads: computing, sharing a line, handing over, shooting down
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kit.h"

struct Shared {
  uint64_t count;
  _Alignas(64) atomic_uint_fast64_t word;
  _Alignas(64) atomic_int lock;
  _Alignas(64) uint64_t guarded;
  pthread_mutex_t mutex;
  sem_t there;
  sem_t back;
  atomic_int stop;
};

struct Part {
  struct Shared* shared;
  int number;
  uint64_t sum;
};

static uint64_t run_pair(uint64_t count, void* (*body)(void*)) {
  static struct Shared shared;
  shared.count = count;
  if (pthread_mutex_init(&shared.mutex, NULL) != 0 || sem_init(&shared.there, 0, 0) != 0 ||
      sem_init(&shared.back, 0, 0) != 0) {
    fail("run_pair");
  }
  struct Part parts[2] = {{&shared, 0, 0}, {&shared, 1, 0}};
  pthread_t other;
  if (pthread_create(&other, NULL, body, &parts[1]) != 0) fail("pthread_create");
  body(&parts[0]);
  pthread_join(other, NULL);
  return mix(mix(parts[0].sum, parts[1].sum), shared.word + shared.guarded);
}

static void* compute(void* argument) {
  struct Part* const part = argument;
  uint64_t a = (uint64_t)part->number + 1;
  for (uint64_t i = 0; i < part->shared->count; ++i) {
    a = (a ^ i) * UINT64_C(0x87c37b91114253d5);
    a = (a << 31) | (a >> 33);
  }
  part->sum = a;
  return NULL;
}

static void* add_atomically(void* argument) {
  struct Part* const part = argument;
  for (uint64_t i = 0; i < part->shared->count; ++i) atomic_fetch_add(&part->shared->word, i);
  return NULL;
}

static void* take_spinlock(void* argument) {
  struct Shared* const shared = ((struct Part*)argument)->shared;
  for (uint64_t i = 0; i < shared->count; ++i) {
    int spins = 0;
    while (atomic_exchange_explicit(&shared->lock, 1, memory_order_acquire) != 0) {
      __builtin_ia32_pause();
      if (++spins % 1000 == 0) usleep(0);
    }
    shared->guarded += i;
    atomic_store_explicit(&shared->lock, 0, memory_order_release);
  }
  return NULL;
}

static void* take_mutex(void* argument) {
  struct Shared* const shared = ((struct Part*)argument)->shared;
  for (uint64_t i = 0; i < shared->count; ++i) {
    pthread_mutex_lock(&shared->mutex);
    shared->guarded += i;
    pthread_mutex_unlock(&shared->mutex);
  }
  return NULL;
}

static void* hand_over(void* argument) {
  struct Part* const part = argument;
  struct Shared* const shared = part->shared;
  for (uint64_t i = 0; i < shared->count; ++i) {
    if (part->number == 0) {
      sem_post(&shared->there);
      sem_wait(&shared->back);
    } else {
      sem_wait(&shared->there);
      shared->guarded += i;
      sem_post(&shared->back);
    }
  }
  return NULL;
}

// One thread changes mappings while the other runs: an inter-processor interrupt for each change.
static void* shoot_down(void* argument) {
  struct Part* const part = argument;
  struct Shared* const shared = part->shared;
  if (part->number == 1) {
    uint64_t spins = 0;
    while (atomic_load_explicit(&shared->stop, memory_order_relaxed) == 0) ++spins;
    part->sum = spins != 0;
    return NULL;
  }
  uint8_t* const memory = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  for (uint64_t i = 0; i < shared->count; ++i) {
    memory[(i & 3) << 12] = (uint8_t)i;
    if (mprotect(memory, 16384, PROT_READ) != 0 || mprotect(memory, 16384, PROT_READ | PROT_WRITE) != 0) {
      fail("mprotect");
    }
    part->sum += memory[(i & 3) << 12];
  }
  atomic_store(&shared->stop, 1);
  return NULL;
}

static uint64_t smp_compute(uint64_t count) { return run_pair(count, compute); }
static uint64_t smp_atomic(uint64_t count) { return run_pair(count, add_atomically); }
static uint64_t smp_spinlock(uint64_t count) { return run_pair(count, take_spinlock); }
static uint64_t smp_mutex(uint64_t count) { return run_pair(count, take_mutex); }
static uint64_t smp_hand_over(uint64_t count) { return run_pair(count, hand_over); }
static uint64_t smp_shoot_down(uint64_t count) { return run_pair(count, shoot_down); }

const struct Workload kSmpWorkloads[] = {{"smp_compute", smp_compute, 100000000},
                                         {"smp_atomic", smp_atomic, 8600000},
                                         {"smp_spinlock", smp_spinlock, 3500000},
                                         {"smp_mutex", smp_mutex, 3500000},
                                         {"smp_hand_over", smp_hand_over, 22000},
                                         {"smp_shoot_down", smp_shoot_down, 24000},
                                         {NULL, NULL, 0}};
