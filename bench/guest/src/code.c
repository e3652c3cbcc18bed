// husk: the guest benchmark kit: code that is written while it runs
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kit.h"

typedef uint64_t (*Generated)(uint64_t);

static uint8_t* take_code(size_t size, int protection) {
  uint8_t* const memory = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return memory;
}

// lea rax, [rdi + value]; ret
static size_t emit_add(uint8_t* to, uint32_t value) {
  static const uint8_t kLea[] = {0x48, 0x8d, 0x87};
  memcpy(to, kLea, 3);
  memcpy(to + 3, &value, 4);
  to[7] = 0xc3;
  return 8;
}

static uint64_t call(uint8_t* code, uint64_t value) {
  __asm__ volatile("" ::: "memory");
  return ((Generated)(uintptr_t)code)(value);
}

// One function whose immediate changes before each call.
static uint64_t self_patching(uint64_t count) {
  uint8_t* const code = take_code(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
  emit_add(code, 0);
  uint64_t value = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t immediate = (uint32_t)(i * 7 & 0xffff);
    memcpy(code + 3, &immediate, 4);
    value = call(code, value);
  }
  return value;
}

// A loop that changes an instruction ahead of itself: the change must be seen without a branch away.
static uint64_t patch_ahead(uint64_t count) {
  static const uint8_t kLoop[] = {0x31, 0xc0,                 // 0: xor eax, eax
                                  0x01, 0x3d, 0x03, 0, 0, 0,  // 2: add [rip + 3], edi: the immediate of the add below
                                  0x90, 0x90,                 // 8: nop; nop
                                  0x05, 0x01, 0,    0, 0,     // 10: add eax, imm32
                                  0xff, 0xcf,                 // 15: dec edi
                                  0x75, 0xef,                 // 17: jnz 2
                                  0xc3};                      // 19: ret
  uint8_t* const code = take_code(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    memcpy(code, kLoop, sizeof kLoop);
    sum = mix(sum, call(code, 20));
  }
  return sum;
}

// The same through a second mapping of the page, as compilers with W^X do.
static uint64_t patch_by_alias(uint64_t count) {
  const int file = memfd_create("code", 0);
  if (file < 0 || ftruncate(file, 4096) != 0) fail("memfd_create");
  uint8_t* const writable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  uint8_t* const code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  if (writable == MAP_FAILED || code == MAP_FAILED) fail("mmap");
  emit_add(writable, 0);
  uint64_t value = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t immediate = (uint32_t)(i & 0xff);
    memcpy(writable + 3, &immediate, 4);
    value = call(code, value);
  }
  return value;
}

// New functions side by side, each called a few times: a compiler at work.
static uint64_t generated_code(uint64_t count) {
  enum { kSize = 1 << 20 };
  uint8_t* const code = take_code(kSize, PROT_READ | PROT_WRITE | PROT_EXEC);
  uint64_t value = 0;
  size_t at = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (at + 128 > kSize) at = 0;
    uint8_t* const entry = code + at;
    for (int part = 0; part < 8; ++part) {
      static const uint8_t kStep[] = {0x48, 0x81, 0xc7};  // add rdi, imm32
      const uint32_t immediate = (uint32_t)(i + (uint64_t)part);
      memcpy(code + at, kStep, 3);
      memcpy(code + at + 3, &immediate, 4);
      at += 7;
    }
    at += emit_add(code + at, 1);
    at = (at + 15) & ~(size_t)15;
    for (int again = 0; again < 4; ++again) value = call(entry, value);
  }
  return value;
}

// The same with the page made writable and executable in turns.
static uint64_t protected_code(uint64_t count) {
  uint8_t* const code = take_code(4096, PROT_READ | PROT_WRITE);
  uint64_t value = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (mprotect(code, 4096, PROT_READ | PROT_WRITE) != 0) fail("mprotect");
    emit_add(code + (i & 31) * 64, (uint32_t)i);
    if (mprotect(code, 4096, PROT_READ | PROT_EXEC) != 0) fail("mprotect");
    for (int again = 0; again < 10; ++again) value = call(code + (i & 31) * 64, value);
  }
  return value;
}

// A counter in the page of the code that counts, 512 bytes away: what assembler programs and small JITs have.
static uint64_t data_beside_code(uint64_t count) {
  static const uint8_t kCount[] = {0x48, 0x01, 0x3d, 0xf9, 0x01, 0, 0,  // add [rip + 0x1f9], rdi
                                   0x48, 0x8b, 0x05, 0xf2, 0x01, 0, 0,  // mov rax, [rip + 0x1f2]
                                   0xc3};
  uint8_t* const code = take_code(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
  memcpy(code, kCount, sizeof kCount);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) sum ^= call(code, i);
  return sum;
}

// The counter in the line beside the code: 64 bytes away.
static uint64_t data_close_to_code(uint64_t count) {
  static const uint8_t kCount[] = {0x48, 0x01, 0x3d, 0x39, 0, 0, 0,  // add [rip + 0x39], rdi
                                   0x48, 0x8b, 0x05, 0x32, 0, 0, 0,  // mov rax, [rip + 0x32]
                                   0xc3};
  uint8_t* const code = take_code(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
  memcpy(code, kCount, sizeof kCount);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) sum ^= call(code, i);
  return sum;
}

// More code than most translation caches keep close at hand: 60,000 functions, each its own line, called in turn.
static uint64_t large_code(uint64_t count) {
  enum { kFunctions = 60000, kStride = 80 };
  uint8_t* const code = take_code((size_t)kFunctions * kStride, PROT_READ | PROT_WRITE | PROT_EXEC);
  for (uint32_t i = 0; i < kFunctions; ++i) emit_add(code + (size_t)i * kStride, i);
  uint64_t value = 0;
  for (uint64_t i = 0; i < count; ++i) value = call(code + (i * 7919 % kFunctions) * kStride, value);
  return value;
}

const struct Workload kCodeWorkloads[] = {{"self_patching", self_patching, 750000},
                                          {"patch_ahead", patch_ahead, 26000},
                                          {"patch_by_alias", patch_by_alias, 720000},
                                          {"generated_code", generated_code, 410000},
                                          {"protected_code", protected_code, 21000},
                                          {"data_beside_code", data_beside_code, 19000000},
                                          {"data_close_to_code", data_close_to_code, 540000},
                                          {"large_code", large_code, 2000000},
                                          {NULL, NULL, 0}};
