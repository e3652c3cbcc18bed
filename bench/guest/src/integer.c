// husk: the guest benchmark kit: integer code, calls, an interpreter loop, compression
#include <stdlib.h>
#include <string.h>

#include "kit.h"

// FNV-1a byte by byte: one long dependency chain of xor and multiply.
static uint64_t hash_bytes(uint64_t count) {
  static uint8_t text[4096];
  uint64_t seed = 1;
  for (size_t i = 0; i < sizeof text; ++i) text[i] = (uint8_t)next_random(&seed);
  uint64_t sum = UINT64_C(0xcbf29ce484222325);
  for (uint64_t round = 0; round < count; ++round) {
    for (size_t i = 0; i < sizeof text; ++i) sum = (sum ^ text[i]) * UINT64_C(0x100000001b3);
  }
  return sum;
}

// A murmur-like finisher with rotates: independent operations in registers only.
static uint64_t hash_words(uint64_t count) {
  uint64_t a = 1;
  uint64_t b = 2;
  for (uint64_t i = 0; i < count; ++i) {
    a = ((a ^ i) * UINT64_C(0x87c37b91114253d5));
    a = (a << 31) | (a >> 33);
    b += a * UINT64_C(0x4cf5ad432745937f);
    b = (b << 27) | (b >> 37);
    a ^= b >> 29;
  }
  return mix(a, b);
}

static int compare_words(const void* left, const void* right) {
  const uint32_t a = *(const uint32_t*)left;
  const uint32_t b = *(const uint32_t*)right;
  return (a > b) - (a < b);
}

// The C library's qsort with its comparison through a pointer.
static uint64_t sort_library(uint64_t count) {
  enum { kWords = 10000 };
  static uint32_t words[kWords];
  uint64_t seed = 7;
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) {
    for (size_t i = 0; i < kWords; ++i) words[i] = (uint32_t)next_random(&seed);
    qsort(words, kWords, sizeof words[0], compare_words);
    for (size_t i = 0; i < kWords; i += 100) sum = mix(sum, words[i]);
  }
  return sum;
}

// Heap sort: unpredictable branches and indexed loads.
static uint64_t sort_heap(uint64_t count) {
  enum { kWords = 10000 };
  static uint64_t heap[kWords];
  uint64_t seed = 9;
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) {
    for (size_t i = 0; i < kWords; ++i) heap[i] = next_random(&seed);
    for (size_t end = kWords, start = kWords / 2; end > 1;) {
      if (start > 0) {
        --start;
      } else {
        --end;
        const uint64_t last = heap[end];
        heap[end] = heap[0];
        heap[0] = last;
      }
      size_t parent = start;
      const uint64_t moved = heap[parent];
      for (size_t child = 2 * parent + 1; child < end; child = 2 * parent + 1) {
        if (child + 1 < end && heap[child + 1] > heap[child]) ++child;
        if (heap[child] <= moved) break;
        heap[parent] = heap[child];
        parent = child;
      }
      heap[parent] = moved;
    }
    for (size_t i = 0; i < kWords; i += 100) sum = mix(sum, heap[i]);
  }
  return sum;
}

static __attribute__((noinline)) uint64_t fibonacci(uint64_t n) {
  __asm__ volatile("");  // keeps gcc from turning half of the calls into a loop
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t recursion(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) sum += fibonacci(22 + (round & 1));
  return sum;
}

static __attribute__((noinline)) uint64_t op_add(uint64_t a, uint64_t b) { return a + b; }
static __attribute__((noinline)) uint64_t op_sub(uint64_t a, uint64_t b) { return a - b; }
static __attribute__((noinline)) uint64_t op_xor(uint64_t a, uint64_t b) { return a ^ (b << 1); }
static __attribute__((noinline)) uint64_t op_rot(uint64_t a, uint64_t b) { return (a << 7 | a >> 57) + b; }
static __attribute__((noinline)) uint64_t op_mul(uint64_t a, uint64_t b) { return a * (b | 1); }
static __attribute__((noinline)) uint64_t op_min(uint64_t a, uint64_t b) { return a < b ? a + 3 : b; }
static __attribute__((noinline)) uint64_t op_and(uint64_t a, uint64_t b) { return (a & b) + 17; }
static __attribute__((noinline)) uint64_t op_not(uint64_t a, uint64_t b) { return ~a + b; }

// Calls through a table, the target changing with the data.
static uint64_t indirect_calls(uint64_t count) {
  static uint64_t (*const volatile kOperations[8])(uint64_t, uint64_t) = {op_add, op_sub, op_xor, op_rot,
                                                                          op_mul, op_min, op_and, op_not};
  uint64_t seed = 11;
  uint8_t order[1024];
  for (size_t i = 0; i < sizeof order; ++i) order[i] = (uint8_t)(next_random(&seed) >> 61);
  uint64_t value = 1;
  for (uint64_t i = 0; i < count; ++i) value = kOperations[order[i & 1023]](value, i);
  return value;
}

// A register machine with a computed jump for each operation, as fast interpreters have it.
static uint64_t bytecode(uint64_t count) {
  enum { kLoad, kAdd, kMul, kXor, kShift, kDecrement, kJumpIfNot, kEnd };
  static const uint8_t kProgram[][4] = {{kLoad, 1, 3, 0},      {kLoad, 2, 5, 0},      {kAdd, 1, 2, 0},
                                        {kMul, 2, 1, 0},       {kXor, 3, 2, 0},       {kShift, 3, 1, 0},
                                        {kAdd, 4, 3, 0},       {kXor, 1, 4, 0},       {kAdd, 2, 4, 0},
                                        {kDecrement, 0, 0, 0}, {kJumpIfNot, 0, 2, 0}, {kEnd, 0, 0, 0}};
  static const void* const kTargets[] = {&&load, &&add, &&mul, &&exclusive, &&shift, &&decrement, &&jump, &&end};
  uint64_t registers[8] = {count};
  const uint8_t(*instruction)[4] = kProgram;
#define NEXT()                         \
  do {                                 \
    ++instruction;                     \
    goto* kTargets[(*instruction)[0]]; \
  } while (0)
  goto* kTargets[(*instruction)[0]];
load:
  registers[(*instruction)[1]] = (*instruction)[2];
  NEXT();
add:
  registers[(*instruction)[1]] += registers[(*instruction)[2]];
  NEXT();
mul:
  registers[(*instruction)[1]] *= registers[(*instruction)[2]];
  NEXT();
exclusive:
  registers[(*instruction)[1]] ^= registers[(*instruction)[2]];
  NEXT();
shift:
  registers[(*instruction)[1]] >>= (*instruction)[2];
  NEXT();
decrement:
  --registers[(*instruction)[1]];
  NEXT();
jump:
  if (registers[(*instruction)[1]] != 0) {
    instruction = kProgram + (*instruction)[2];
    goto* kTargets[(*instruction)[0]];
  }
  NEXT();
end:
#undef NEXT
  return mix(registers[4], registers[1]);
}

// The same kind of machine with one switch: one indirect jump for all operations.
static uint64_t bytecode_switch(uint64_t count) {
  uint8_t program[64];
  uint64_t seed = 13;
  for (size_t i = 0; i < sizeof program; ++i) program[i] = (uint8_t)(next_random(&seed) >> 60);
  uint64_t stack[4] = {1, 2, 3, 4};
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t* const top = &stack[i & 3];
    const uint64_t other = stack[(i + 1) & 3];
    switch (program[i & 63]) {
      case 0: *top += other; break;
      case 1: *top -= other; break;
      case 2: *top ^= other; break;
      case 3: *top *= other | 1; break;
      case 4: *top = (*top << 5) | (*top >> 59); break;
      case 5: *top = other > *top ? other : *top + 1; break;
      case 6: *top = (uint64_t)__builtin_popcountll(other) + *top; break;
      case 7: *top = ~other; break;
      case 8: *top += i; break;
      case 9: *top = other / ((*top & 255) + 1); break;
      case 10: *top = (uint64_t)(int64_t)(int8_t)other; break;
      case 11: *top = other >> (*top & 31); break;
      case 12: *top = __builtin_bswap64(other); break;
      case 13: *top = (uint32_t)other * (uint64_t)(uint32_t)*top; break;
      case 14: *top |= other & 0xff00ff; break;
      default: *top -= 7; break;
    }
  }
  return mix(mix(stack[0], stack[1]), mix(stack[2], stack[3]));
}

// Byte-wise CRC by table and the position-dependent pair of Adler.
static uint64_t checksums(uint64_t count) {
  static uint32_t table[256];
  static uint8_t text[8192];
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (UINT32_C(0xedb88320) & (0U - (value & 1)));
    table[i] = value;
  }
  uint64_t seed = 17;
  for (size_t i = 0; i < sizeof text; ++i) text[i] = (uint8_t)next_random(&seed);
  uint32_t crc = ~0U;
  uint32_t low = 1;
  uint32_t high = 0;
  for (uint64_t round = 0; round < count; ++round) {
    for (size_t i = 0; i < sizeof text; ++i) {
      crc = table[(crc ^ text[i]) & 255] ^ (crc >> 8);
      low += text[i];
      high += low;
    }
    low %= 65521;
    high %= 65521;
  }
  return (uint64_t)crc << 32 | (high << 16 ^ low);
}

// Division and remainder, also of 128 by 64 bits.
static uint64_t division(uint64_t count) {
  uint64_t seed = 19;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t a = next_random(&seed);
    const uint64_t b = (a >> 40) | 1;
    sum += a / b;
    sum ^= (uint32_t)a % ((uint32_t)b | 3);
    sum += (uint64_t)((((unsigned __int128)(b >> 1) << 64) | a) / (b << 8));
  }
  return sum;
}

enum { kPlain = 1 << 16 };

// Text-like bytes: words drawn from a small vocabulary, so that matches exist.
static void make_text(uint8_t* text, size_t length) {
  uint64_t seed = 23;
  uint8_t vocabulary[256][8];
  for (size_t word = 0; word < 256; ++word) {
    for (size_t i = 0; i < 8; ++i) vocabulary[word][i] = (uint8_t)('a' + (next_random(&seed) >> 32) % 26);
  }
  for (size_t at = 0; at < length;) {
    const uint64_t draw = next_random(&seed);
    const size_t word = (draw >> 20 & 255) & (draw >> 40 & 255);
    const size_t size = 2 + (draw >> 60 & 3) + (word & 1);
    for (size_t i = 0; i < size && at < length; ++i) text[at++] = vocabulary[word][i];
    if (at < length) text[at++] = ' ';
  }
}

static uint32_t word_at(const uint8_t* bytes) {
  uint32_t word;
  memcpy(&word, bytes, sizeof word);
  return word;
}

// An LZ77 compressor with one hash table: literal runs and (offset, length) pairs.
static size_t compress_text(const uint8_t* in, size_t length, uint8_t* out) {
  static uint16_t heads[1 << 13];
  memset(heads, 0, sizeof heads);
  size_t made = 0;
  size_t literal = 0;
  size_t at = 1;
  while (at + 8 < length) {
    const uint32_t hash = (word_at(in + at) * UINT32_C(2654435761)) >> 19;
    const size_t found = heads[hash];
    heads[hash] = (uint16_t)at;
    if (found >= at || word_at(in + found) != word_at(in + at)) {
      ++at;
      continue;
    }
    size_t match = 4;
    while (match < 255 && at + match < length && in[found + match] == in[at + match]) ++match;
    while (at - literal > 255) {
      out[made++] = 255;
      out[made++] = 0;
      memcpy(out + made, in + literal, 255);
      made += 255;
      literal += 255;
    }
    out[made++] = (uint8_t)(at - literal);
    out[made++] = (uint8_t)match;
    memcpy(out + made, in + literal, at - literal);
    made += at - literal;
    out[made++] = (uint8_t)(at - found);
    out[made++] = (uint8_t)((at - found) >> 8);
    at += match;
    literal = at;
  }
  return made;
}

static size_t expand_text(const uint8_t* in, size_t length, uint8_t* out) {
  size_t made = 0;
  for (size_t at = 0; at < length;) {
    const size_t literals = in[at++];
    const size_t match = in[at++];
    for (size_t i = 0; i < literals; ++i) out[made++] = in[at++];
    if (match == 0) continue;
    const size_t offset = in[at] | (size_t)in[at + 1] << 8;
    at += 2;
    for (size_t i = 0; i < match; ++i, ++made) out[made] = out[made - offset];
  }
  return made;
}

static uint64_t lz_compress(uint64_t count) {
  static uint8_t text[kPlain];
  static uint8_t packed[2 * kPlain];
  make_text(text, sizeof text);
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) {
    text[round % kPlain] ^= 1;
    sum = mix(sum, compress_text(text, sizeof text, packed));
  }
  return sum;
}

static uint64_t lz_expand(uint64_t count) {
  static uint8_t text[kPlain];
  static uint8_t packed[2 * kPlain];
  static uint8_t plain[2 * kPlain];
  make_text(text, sizeof text);
  const size_t size = compress_text(text, sizeof text, packed);
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) {
    const size_t length = expand_text(packed, size, plain);
    if (memcmp(plain, text, length) != 0) fail("lz_expand");
    sum = mix(sum, length);
  }
  return sum;
}

// Queens by bit masks: recursion with branches on data.
static uint64_t place_queens(uint32_t all, uint32_t columns, uint32_t left, uint32_t right) {
  if (columns == all) return 1;
  uint64_t found = 0;
  for (uint32_t free = all & ~(columns | left | right); free != 0; free &= free - 1) {
    const uint32_t bit = free & (0U - free);
    found += place_queens(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
  }
  return found;
}

static uint64_t queens(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t round = 0; round < count; ++round) sum += place_queens(0x1ff, 0, 0, 0);
  return sum;
}

const struct Workload kIntegerWorkloads[] = {{"hash_bytes", hash_bytes, 32000},
                                             {"hash_words", hash_words, 43000000},
                                             {"sort_library", sort_library, 210},
                                             {"sort_heap", sort_heap, 230},
                                             {"recursion", recursion, 2600},
                                             {"indirect_calls", indirect_calls, 19000000},
                                             {"bytecode", bytecode, 14000000},
                                             {"bytecode_switch", bytecode_switch, 83000000},
                                             {"checksums", checksums, 8000},
                                             {"division", division, 19000000},
                                             {"lz_compress", lz_compress, 1000},
                                             {"lz_expand", lz_expand, 3200},
                                             {"queens", queens, 4500},
                                             {NULL, NULL, 0}};
