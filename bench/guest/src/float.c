// husk: the guest benchmark kit: floating point: scalar, SSE2, AVX2, x87
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kit.h"

static uint64_t bits_of(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Four bodies under gravity: add, multiply, divide, square root in double precision.
static uint64_t n_body(uint64_t count) {
  enum { kBodies = 4 };
  double position[kBodies][3];
  double velocity[kBodies][3];
  for (int i = 0; i < kBodies; ++i) {
    for (int axis = 0; axis < 3; ++axis) {
      position[i][axis] = i * 1.5 + axis * 0.25;
      velocity[i][axis] = 0.01 * (i - axis);
    }
  }
  for (uint64_t step = 0; step < count; ++step) {
    for (int i = 0; i < kBodies; ++i) {
      for (int j = i + 1; j < kBodies; ++j) {
        double delta[3];
        double distance = 0.01;
        for (int axis = 0; axis < 3; ++axis) {
          delta[axis] = position[i][axis] - position[j][axis];
          distance += delta[axis] * delta[axis];
        }
        const double pull = 0.0001 / (distance * sqrt(distance));
        for (int axis = 0; axis < 3; ++axis) {
          velocity[i][axis] -= delta[axis] * pull;
          velocity[j][axis] += delta[axis] * pull;
        }
      }
    }
    for (int i = 0; i < kBodies; ++i) {
      for (int axis = 0; axis < 3; ++axis) position[i][axis] += velocity[i][axis] * 0.01;
    }
  }
  return mix(bits_of(position[0][0]), bits_of(velocity[3][2]));
}

// Points of the Mandelbrot set: compares and branches on doubles.
static uint64_t mandelbrot(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t row = 0; row < count; ++row) {
    const double y0 = (double)(row % 200) / 100.0 - 1.0;
    for (int column = 0; column < 200; ++column) {
      const double x0 = column / 80.0 - 2.0;
      double x = 0;
      double y = 0;
      int round = 0;
      while (round < 60 && x * x + y * y < 4.0) {
        const double next = x * x - y * y + x0;
        y = 2 * x * y + y0;
        x = next;
        ++round;
      }
      sum += (uint64_t)round;
    }
  }
  return sum;
}

// Matrix product in plain C, as gcc -O2 leaves it: scalar.
static uint64_t matrix_scalar(uint64_t count) {
  enum { kSize = 64 };
  static double a[kSize][kSize];
  static double b[kSize][kSize];
  static double c[kSize][kSize];
  for (int i = 0; i < kSize; ++i) {
    for (int j = 0; j < kSize; ++j) {
      a[i][j] = i * 0.5 + j;
      b[i][j] = i - j * 0.25;
    }
  }
  for (uint64_t round = 0; round < count; ++round) {
    for (int i = 0; i < kSize; ++i) {
      for (int j = 0; j < kSize; ++j) {
        double sum = 0;
        for (int k = 0; k < kSize; ++k) sum += a[i][k] * b[k][j];
        c[i][j] = sum;
      }
    }
    a[round % kSize][3] = c[5][round % kSize] * 1e-6;
  }
  return bits_of(c[17][33]);
}

// The library's functions; rounded, because the library picks other code on other CPUs.
static uint64_t library_functions(uint64_t count) {
  double sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const double x = (double)(i % 1000) * 0.01 + 0.5;
    sum += sin(x) * exp(-x) + log(x) + pow(x, 1.3) * 0.001;
  }
  return (uint64_t)(int64_t)llround(sum * 1000.0);
}

static uint64_t single_precision(uint64_t count) {
  float state[16];
  for (int i = 0; i < 16; ++i) state[i] = 1.0F + (float)i * 0.125F;
  for (uint64_t round = 0; round < count; ++round) {
    for (int i = 0; i < 16; ++i) state[i] = state[i] * 0.9990234F + 0.0007F / (state[(i + 5) & 15] + 1.0F);
  }
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += state[i];
  return bits_of((double)sum);
}

// Conversions between integers and doubles, both ways.
static uint64_t conversions(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const double value = (double)(int64_t)(i * 7919) * 0.37;
    sum += (uint64_t)(int64_t)value;
    sum ^= (uint64_t)(int32_t)((float)i * 1.5F);
  }
  return sum;
}

static uint64_t sse2_double(uint64_t count) {
  __m128d lanes[8];
  for (int i = 0; i < 8; ++i) lanes[i] = _mm_set_pd(1.0 + i, 2.0 + i);
  const __m128d factor = _mm_set1_pd(0.999755859375);
  const __m128d offset = _mm_set1_pd(0.0009765625);
  for (uint64_t round = 0; round < count; ++round) {
    for (int i = 0; i < 8; ++i) lanes[i] = _mm_add_pd(_mm_mul_pd(lanes[i], factor), offset);
  }
  __m128d sum = _mm_setzero_pd();
  for (int i = 0; i < 8; ++i) sum = _mm_add_pd(sum, lanes[i]);
  double parts[2];
  _mm_storeu_pd(parts, sum);
  return mix(bits_of(parts[0]), bits_of(parts[1]));
}

// Packed integers: compare, shuffle, multiply, pack, saturate.
static uint64_t sse2_integer(uint64_t count) {
  __m128i a = _mm_set_epi32(1, 2, 3, 4);
  __m128i b = _mm_set_epi32(5, 6, 7, 8);
  __m128i c = _mm_set1_epi16(3);
  for (uint64_t round = 0; round < count; ++round) {
    a = _mm_add_epi32(a, _mm_shuffle_epi32(b, 0x39));
    b = _mm_xor_si128(b, _mm_mullo_epi16(a, c));
    c = _mm_adds_epi16(c, _mm_packs_epi32(a, b));
    b = _mm_sub_epi8(b, _mm_cmpgt_epi8(a, c));
    a = _mm_or_si128(_mm_slli_epi32(a, 3), _mm_srli_epi32(a, 29));
    c = _mm_unpacklo_epi8(c, b);
  }
  uint64_t parts[2];
  _mm_storeu_si128((__m128i*)parts, _mm_add_epi64(a, _mm_add_epi64(b, c)));
  return mix(parts[0], parts[1]);
}

// Streams through 16 KiB: packed loads and stores.
static uint64_t sse2_stream(uint64_t count) {
  enum { kFloats = 2048 };
  static float from[kFloats] __attribute__((aligned(16)));
  static float to[kFloats] __attribute__((aligned(16)));
  for (int i = 0; i < kFloats; ++i) from[i] = (float)i;
  const __m128 scale = _mm_set1_ps(0.5F);
  for (uint64_t round = 0; round < count; ++round) {
    for (int i = 0; i < kFloats; i += 4) {
      _mm_store_ps(to + i, _mm_add_ps(_mm_mul_ps(_mm_load_ps(from + i), scale), _mm_load_ps(to + i)));
    }
    for (int i = 0; i < kFloats; i += 64) to[i] = 0;
  }
  double sum = 0;
  for (int i = 0; i < kFloats; ++i) sum += (double)to[i];
  return bits_of(sum);
}

__attribute__((target("avx2,fma"))) static uint64_t avx2_fma_body(uint64_t count) {
  __m256d lanes[8];
  for (int i = 0; i < 8; ++i) lanes[i] = _mm256_set_pd(1.0 + i, 2.0 + i, 3.0 + i, 4.0 + i);
  const __m256d factor = _mm256_set1_pd(0.999755859375);
  const __m256d offset = _mm256_set1_pd(0.0009765625);
  for (uint64_t round = 0; round < count; ++round) {
    for (int i = 0; i < 8; ++i) lanes[i] = _mm256_fmadd_pd(lanes[i], factor, offset);
  }
  __m256d sum = _mm256_setzero_pd();
  for (int i = 0; i < 8; ++i) sum = _mm256_add_pd(sum, lanes[i]);
  double parts[4];
  _mm256_storeu_pd(parts, sum);
  return mix(mix(bits_of(parts[0]), bits_of(parts[1])), mix(bits_of(parts[2]), bits_of(parts[3])));
}

static uint64_t avx2_fma(uint64_t count) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) skip("AVX2 and FMA");
  return avx2_fma_body(count);
}

__attribute__((target("avx2"))) static uint64_t avx2_integer_body(uint64_t count) {
  __m256i a = _mm256_set_epi32(1, 2, 3, 4, 5, 6, 7, 8);
  __m256i b = _mm256_set_epi32(8, 7, 6, 5, 4, 3, 2, 1);
  const __m256i order = _mm256_set_epi32(6, 4, 2, 0, 7, 5, 3, 1);
  for (uint64_t round = 0; round < count; ++round) {
    a = _mm256_add_epi32(_mm256_permutevar8x32_epi32(a, order), b);
    b = _mm256_xor_si256(_mm256_shuffle_epi8(b, a), _mm256_mullo_epi32(a, b));
    a = _mm256_blend_epi32(a, _mm256_srlv_epi32(b, order), 0x5a);
    b = _mm256_max_epu8(b, _mm256_sub_epi8(a, order));
  }
  uint64_t parts[4];
  _mm256_storeu_si256((__m256i*)parts, _mm256_add_epi64(a, b));
  return mix(mix(parts[0], parts[1]), mix(parts[2], parts[3]));
}

static uint64_t avx2_integer(uint64_t count) {
  if (!__builtin_cpu_supports("avx2")) skip("AVX2");
  return avx2_integer_body(count);
}

// long double is the x87's 80-bit format.
static uint64_t x87_arithmetic(uint64_t count) {
  long double x = 1.0L;
  long double sum = 0.0L;
  for (uint64_t i = 0; i < count; ++i) {
    sum += x / (long double)(i + 1);
    x = -x * 0.9999999L;
    if (sum > 2.0L) sum -= 1.0L;
  }
  uint8_t bytes[16] = {0};
  memcpy(bytes, &sum, 10);
  uint64_t low;
  memcpy(&low, bytes, 8);
  return mix(low, bytes[8]);
}

// Square root, partial remainder and rounding by the instructions that only the x87 has.
static uint64_t x87_special(uint64_t count) {
  long double value = 3.0L;
  for (uint64_t i = 0; i < count; ++i) {
    long double root = value + (long double)(i & 1023);
    __asm__("fsqrt" : "+t"(root));
    __asm__("frndint" : "=t"(value) : "0"(root * 17.0L));
    value = value * 0.125L + root;
    if (value > 100.0L) value *= 0.25L;
  }
  uint64_t low;
  memcpy(&low, &value, 8);
  return low;
}

const struct Workload kFloatWorkloads[] = {{"n_body", n_body, 3200000},
                                           {"mandelbrot", mandelbrot, 11000},
                                           {"matrix_scalar", matrix_scalar, 1600},
                                           {"library_functions", library_functions, 4700000},
                                           {"single_precision", single_precision, 9500000},
                                           {"conversions", conversions, 120000000},
                                           {"sse2_double", sse2_double, 33000000},
                                           {"sse2_integer", sse2_integer, 42000000},
                                           {"sse2_stream", sse2_stream, 670000},
                                           {"avx2_fma", avx2_fma, 37000000},
                                           {"avx2_integer", avx2_integer, 43000000},
                                           {"x87_arithmetic", x87_arithmetic, 49000000},
                                           {"x87_special", x87_special, 5600000},
                                           {NULL, NULL, 0}};
