// husk: the guest benchmark kit: what its workloads share
#ifndef KIT_H
#define KIT_H

#include <stddef.h>
#include <stdint.h>

// One workload: does `count` units of work and returns a sum over its results. The sum depends on nothing but `count`:
// the same binary gives the same sum on the host, in husk and in QEMU, or one of them computes wrongly.
typedef uint64_t (*WorkloadFunction)(uint64_t count);

struct Workload {
  const char* name;
  WorkloadFunction run;
  uint64_t count;  // units that take about 0.3 s natively
};

extern const struct Workload kIntegerWorkloads[];
extern const struct Workload kFloatWorkloads[];
extern const struct Workload kMemoryWorkloads[];
extern const struct Workload kKernelWorkloads[];
extern const struct Workload kCodeWorkloads[];
extern const struct Workload kSmpWorkloads[];

// Ends the program with a message and status 1; for what must not fail on any machine.
void fail(const char* what) __attribute__((noreturn));
// Ends the program with status 77: this CPU lacks what the workload needs.
void skip(const char* what) __attribute__((noreturn));

static inline uint64_t mix(uint64_t sum, uint64_t value) { return (sum ^ value) * UINT64_C(0x100000001b3); }

// xorshift64*, the kit's only source of pseudo-random numbers.
static inline uint64_t next_random(uint64_t* state) {
  uint64_t x = *state;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  *state = x;
  return x * UINT64_C(0x2545f4914f6cdd1d);
}

#endif
