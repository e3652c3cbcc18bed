// husk: the guest benchmark kit: memory: pointer chases, streams, copies of all sizes, string instructions
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kit.h"

enum { kLine = 64 };

static uint8_t* take_memory(size_t size) {
  uint8_t* const memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return memory;
}

// Follows a random cycle (Sattolo's shuffle) through every line of `size` bytes: each load needs the one before.
static uint64_t chase(size_t size, uint64_t count) {
  const size_t lines = size / kLine;
  uint8_t* const memory = take_memory(size);
  uint32_t* const order = (uint32_t*)take_memory(lines * sizeof(uint32_t));
  for (size_t i = 0; i < lines; ++i) order[i] = (uint32_t)i;
  uint64_t seed = 29;
  for (size_t i = lines - 1; i > 0; --i) {
    const size_t other = (size_t)(((next_random(&seed) >> 32) * i) >> 32);
    const uint32_t held = order[i];
    order[i] = order[other];
    order[other] = held;
  }
  for (size_t i = 0; i < lines; ++i) *(uint64_t*)(memory + i * kLine) = (uint64_t)order[i] * kLine;
  uint64_t at = 0;
  for (uint64_t i = 0; i < count; ++i) at = *(const volatile uint64_t*)(memory + at);
  return at;
}

static uint64_t chase_16k(uint64_t count) { return chase(16 << 10, count); }
static uint64_t chase_1m(uint64_t count) { return chase(1 << 20, count); }
static uint64_t chase_64m(uint64_t count) { return chase(64 << 20, count); }

static __attribute__((noinline)) uint64_t sum_words(const uint64_t* words, size_t length) {
  uint64_t sum = 0;
  for (size_t i = 0; i < length; ++i) sum += words[i];
  return sum;
}

static __attribute__((noinline)) void triad(double* to, const double* left, const double* right, size_t length) {
  for (size_t i = 0; i < length; ++i) to[i] = left[i] + 3.0 * right[i];
}

static uint64_t stream_read(uint64_t count) {
  const size_t size = 8 << 20;
  uint64_t* const words = (uint64_t*)take_memory(size);
  for (size_t i = 0; i < size / 8; ++i) words[i] = i * 3;
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) sum = mix(sum, sum_words(words, size / 8));
  return sum;
}

static uint64_t stream_triad(uint64_t count) {
  const size_t length = 512 << 10;
  double* const a = (double*)take_memory(length * 8);
  double* const b = (double*)take_memory(length * 8);
  double* const c = (double*)take_memory(length * 8);
  for (size_t i = 0; i < length; ++i) b[i] = c[i] = (double)i;
  for (uint64_t round = 0; round < count; ++round) triad(a, b, c, length);
  uint64_t sum = 0;
  for (size_t i = 0; i < length; i += 999) sum = mix(sum, (uint64_t)a[i]);
  return sum;
}

// Scattered stores and read-modify-writes over 4 MiB.
static uint64_t scatter(uint64_t count) {
  const size_t length = (4 << 20) / 8;
  uint64_t* const words = (uint64_t*)take_memory(length * 8);
  uint64_t seed = 31;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t draw = next_random(&seed);
    words[draw >> 45] += i;
  }
  return sum_words(words, length);
}

// Words that are not aligned, some of them across lines and pages.
static uint64_t unaligned(uint64_t count) {
  uint8_t* const bytes = take_memory(64 << 10);
  for (size_t i = 0; i < 64 << 10; ++i) bytes[i] = (uint8_t)i;
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) {
    for (size_t at = 1; at + 8 < 64 << 10; at += 13) {
      uint64_t word;
      memcpy(&word, bytes + at, sizeof word);
      sum += word;
    }
  }
  return sum;
}

static uint64_t copy(size_t size, uint64_t count) {
  uint8_t* const from = take_memory(size + 4096);
  uint8_t* const to = take_memory(size + 4096);
  for (size_t i = 0; i < size; ++i) from[i] = (uint8_t)(i * 7);
  for (uint64_t i = 0; i < count; ++i) {
    memcpy(to + (i & 15), from + (i >> 4 & 15), size);
    __asm__ volatile("" ::: "memory");
  }
  return mix(to[size / 2], to[size - 1]);
}

static uint64_t memcpy_small(uint64_t count) { return copy(16, count) + copy(40, count) + copy(100, count); }
static uint64_t memcpy_512(uint64_t count) { return copy(512, count); }
static uint64_t memcpy_4k(uint64_t count) { return copy(4096, count); }
static uint64_t memcpy_64k(uint64_t count) { return copy(64 << 10, count); }
static uint64_t memcpy_4m(uint64_t count) { return copy(4 << 20, count); }

static void rep_movsb(void* to, const void* from, size_t size) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

static void rep_movsq(void* to, const void* from, size_t words) {
  __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
}

static uint64_t rep_movs_small(uint64_t count) {
  uint8_t* const memory = take_memory(8192);
  for (size_t i = 0; i < 4096; ++i) memory[i] = (uint8_t)(i * 5);
  for (uint64_t i = 0; i < count; ++i) {
    rep_movsb(memory + 4096 + (i & 255), memory + (i & 127), 24);
    rep_movsq(memory + 5000, memory + 4096, 8);
  }
  return mix(memory[4200], memory[5010]);
}

static uint64_t rep_movs_page(uint64_t count) {
  uint8_t* const memory = take_memory(64 << 10);
  for (size_t i = 0; i < 32 << 10; ++i) memory[i] = (uint8_t)(i * 5);
  for (uint64_t i = 0; i < count; ++i) {
    const size_t page = (i & 3) << 12;
    rep_movsb(memory + (32 << 10) + page, memory + page, 4096);
    rep_movsq(memory + (48 << 10) + page, memory + page + 8, 512);
  }
  return mix(memory[(32 << 10) + 5000], memory[(48 << 10) + 100]);
}

static uint64_t rep_stos(uint64_t count) {
  uint8_t* const memory = take_memory(64 << 10);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    void* to = memory + (i & 7) * 4096;
    size_t words = 512;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(i * 3) : "memory");
    sum += memory[(i & 7) * 4096 + 8];
  }
  return sum;
}

// memset of memory that was never touched, as calloc'ed tables are: the string store meets a page fault in every page.
static uint64_t memset_fresh(uint64_t count) {
  const size_t size = 1 << 20;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    uint8_t* const memory = take_memory(size);
    void* to = memory;
    size_t bytes = size;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(i) : "memory");
    sum += memory[i * 4099 % size];
    if (munmap(memory, size) != 0) fail("munmap");
  }
  return sum;
}

// repne scasb and repe cmpsb, which no compiler emits any more but old programs and boot code have.
static uint64_t rep_scan(uint64_t count) {
  uint8_t* const memory = take_memory(16384);
  memset(memory, 'a', 16384);
  memory[1000] = 0;
  memory[8192 + 700] = 'b';
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const void* at = memory + (i & 7);
    size_t left = 4096;
    __asm__ volatile("repne scasb" : "+D"(at), "+c"(left) : "a"(0) : "memory", "cc");
    sum += left;
    const void* other = memory + 8192;
    at = memory;
    left = 4096;
    __asm__ volatile("repe cmpsb" : "+D"(at), "+S"(other), "+c"(left)::"memory", "cc");
    sum += left;
  }
  return sum;
}

const struct Workload kMemoryWorkloads[] = {{"chase_16k", chase_16k, 100000000},
                                            {"chase_1m", chase_1m, 7400000},
                                            {"chase_64m", chase_64m, 400000},
                                            {"stream_read", stream_read, 320},
                                            {"stream_triad", stream_triad, 230},
                                            {"scatter", scatter, 22000000},
                                            {"unaligned", unaligned, 75000},
                                            {"memcpy_small", memcpy_small, 22000000},
                                            {"memcpy_512", memcpy_512, 5000000},
                                            {"memcpy_4k", memcpy_4k, 1000000},
                                            {"memcpy_64k", memcpy_64k, 15000},
                                            {"memcpy_4m", memcpy_4m, 690},
                                            {"rep_movs_small", rep_movs_small, 8500000},
                                            {"rep_movs_page", rep_movs_page, 670000},
                                            {"rep_stos", rep_stos, 2000000},
                                            {"memset_fresh", memset_fresh, 200},
                                            {"rep_scan", rep_scan, 110000},
                                            {NULL, NULL, 0}};
