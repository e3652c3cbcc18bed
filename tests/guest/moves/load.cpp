// husk: a guest's program that keeps everything busy and checks all of it: vectors, x87, timers, clocks, disk, network
// usage: load ADDRESS PORT DISK. Runs until the server at ADDRESS closes the connection.
#include <arpa/inet.h>
#include <fcntl.h>
#include <immintrin.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::int64_t;
std::atomic<bool> over{false};
std::atomic<unsigned> bad{0};

void fault(const char* what, unsigned long long wanted, unsigned long long got) {
  if (bad.fetch_add(1) < 20) std::printf("LOAD-BAD %s: wanted %llx, got %llx\n", what, wanted, got);
}

Clock now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return Clock{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// ---- registers that stay live for long ----

constexpr unsigned kRegisters = 8, kRounds = 60'000;
constexpr std::uint32_t kFactor = 2654435761u, kStep = 0x9E3779B9u;

std::uint32_t next(std::uint32_t x) {
  x = x * kFactor + kStep;
  return x ^ (x >> 15);
}

__attribute__((target("avx2"))) void mix_avx2(std::uint32_t* lanes) {
  __m256i r[kRegisters];
  for (unsigned i = 0; i < kRegisters; ++i) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes) + i);
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(kFactor)),
                step = _mm256_set1_epi32(static_cast<int>(kStep));
  for (unsigned round = 0; round < kRounds; ++round)
    for (auto& x : r) {
      x = _mm256_add_epi32(_mm256_mullo_epi32(x, factor), step);
      x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 15));
    }
  for (unsigned i = 0; i < kRegisters; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes) + i, r[i]);
}

/// SSE2 has no 32-bit multiplication of all lanes: even and odd ones apart.
void mix_sse2(std::uint32_t* lanes) {
  __m128i r[kRegisters];
  for (unsigned i = 0; i < kRegisters; ++i) r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes) + i);
  const __m128i factor = _mm_set1_epi32(static_cast<int>(kFactor)), step = _mm_set1_epi32(static_cast<int>(kStep));
  for (unsigned round = 0; round < kRounds; ++round)
    for (auto& x : r) {
      const __m128i even = _mm_mul_epu32(x, factor), odd = _mm_mul_epu32(_mm_srli_epi64(x, 32), factor);
      x = _mm_or_si128(_mm_and_si128(even, _mm_set1_epi64x(0xFFFFFFFF)), _mm_slli_epi64(odd, 32));
      x = _mm_add_epi32(x, step);
      x = _mm_xor_si128(x, _mm_srli_epi32(x, 15));
    }
  for (unsigned i = 0; i < kRegisters; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes) + i, r[i]);
}

/// The harmonic sum on the x87 stack, its result as two words.
std::uint64_t harmonic(unsigned terms) {
  long double sum = 0;
  for (unsigned i = 1; i <= terms; ++i) sum += 1.0L / static_cast<long double>(i);
  std::uint64_t significand;
  std::memcpy(&significand, &sum, sizeof significand);
  return significand;
}

std::atomic<unsigned> sums{0};

void compute(unsigned number) {
  const bool avx2 = __builtin_cpu_supports("avx2");
  const unsigned width = avx2 ? 8 : 4;
  const std::uint64_t wanted_x87 = harmonic(20'000);
  Clock last = now();
  std::uint64_t last_tsc = 0;
  for (std::uint32_t seed = number + 1; !over; seed += 101) {
    std::vector<std::uint32_t> lanes(kRegisters * width);
    for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i] = seed * 77 + static_cast<std::uint32_t>(i);
    const std::vector<std::uint32_t> start = lanes;
    avx2 ? mix_avx2(lanes.data()) : mix_sse2(lanes.data());
    // Two lanes a time by plain instructions, so that the vectors are what takes the time.
    for (const std::size_t lane : {std::size_t{seed % lanes.size()}, lanes.size() - 1}) {
      std::uint32_t x = start[lane];
      for (unsigned round = 0; round < kRounds; ++round) x = next(x);
      if (x != lanes[lane]) fault("vector lane", x, lanes[lane]);
    }
    if (const std::uint64_t got = harmonic(20'000); got != wanted_x87) fault("x87 sum", wanted_x87, got);
    const Clock time = now();
    if (time < last) fault("clock", static_cast<unsigned long long>(last), static_cast<unsigned long long>(time));
    last = time;
    const std::uint64_t tsc = __rdtsc();
    // The threads wander between CPUs, whose TSCs are equal.
    if (tsc < last_tsc) fault("TSC", last_tsc, tsc);
    last_tsc = tsc;
    ++sums;
  }
}

// ---- timers ----

std::atomic<unsigned> ticks{0};
std::atomic<Clock> latest{0};

void timers() {
  constexpr Clock kPeriod = 10'000'000;
  Clock due = now() + kPeriod;
  while (!over) {
    const timespec until{due / 1'000'000'000, due % 1'000'000'000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
    const Clock late = now() - due;
    if (late < 0) fault("timer too early by ns", 0, static_cast<unsigned long long>(-late));
    if (late > latest) latest = late;
    ++ticks;
    due = now() + kPeriod;
  }
}

// ---- disk ----

std::atomic<unsigned> blocks{0};

void disk(const char* path) {
  constexpr std::size_t kBlock = 64 << 10, kBlocks = 128;
  const int fd = open(path, O_RDWR | O_DIRECT);
  auto* const data = static_cast<std::uint32_t*>(std::aligned_alloc(4096, kBlock));
  if (fd < 0 || !data) return fault("cannot open the disk", 0, 0);
  std::vector<std::uint32_t> seeds(kBlocks, 0);
  std::uint32_t dice = 12345;
  while (!over) {
    dice = next(dice);
    const std::size_t block = dice % kBlocks;
    const auto at = static_cast<off_t>(block * kBlock);
    if (seeds[block]) {
      if (pread(fd, data, kBlock, at) != static_cast<ssize_t>(kBlock)) fault("disk read", kBlock, 0);
      std::uint32_t x = seeds[block];
      for (std::size_t i = 0; i < kBlock / 4; ++i, x = next(x))
        if (data[i] != x) {
          fault("disk content", x, data[i]);
          break;
        }
    }
    std::uint32_t x = seeds[block] = dice | 1;
    for (std::size_t i = 0; i < kBlock / 4; ++i, x = next(x)) data[i] = x;
    if (pwrite(fd, data, kBlock, at) != static_cast<ssize_t>(kBlock)) fault("disk write", kBlock, 0);
    if (++blocks % 16 == 0) fsync(fd);
  }
  close(fd);
}

// ---- network ----

unsigned echoes = 0;

bool receive(int fd, std::uint8_t* to, std::size_t count, bool& closed) {
  for (std::size_t done = 0; done < count;) {
    const ssize_t got = recv(fd, to + done, count - done, 0);
    if (got <= 0) {
      closed = got == 0 && done == 0;
      return false;
    }
    done += static_cast<std::size_t>(got);
  }
  return true;
}

/// Each block begins with its length and this machine's time; the server sends it back.
void network(const char* address, unsigned port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(port));
  inet_pton(AF_INET, address, &to.sin_addr);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return fault("no connection", 0, 0);
  std::vector<std::uint8_t> out, in;
  std::uint32_t dice = 54321;
  for (;;) {
    dice = next(dice);
    const std::uint32_t length = 16 + dice % 60'000;
    out.resize(length);
    in.resize(length);
    std::uint32_t x = dice;
    for (auto& byte : out) byte = static_cast<std::uint8_t>((x = next(x)) >> 9);
    const Clock time = now();
    std::memcpy(out.data(), &length, 4);
    std::memcpy(out.data() + 8, &time, 8);
    bool closed = false;
    for (std::size_t sent = 0; sent < length;) {
      const ssize_t done = send(fd, out.data() + sent, length - sent, MSG_NOSIGNAL);
      if (done <= 0) break;
      sent += static_cast<std::size_t>(done);
    }
    if (!receive(fd, in.data(), length, closed)) {
      if (!closed) fault("the connection broke", 0, 0);
      break;
    }
    if (in != out) fault("network content", length, 0);
    ++echoes;
  }
  close(fd);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return 2;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto cpus = static_cast<unsigned>(sysconf(_SC_NPROCESSORS_ONLN));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < cpus; ++i) threads.emplace_back(compute, i);
  threads.emplace_back(timers);
  threads.emplace_back(disk, arguments[3]);
  network(arguments[1], static_cast<unsigned>(std::atoi(arguments[2])));
  over = true;
  for (auto& thread : threads) thread.join();
  std::printf("LOAD avx2=%d sums=%u ticks=%u latest_ms=%lld blocks=%u echoes=%u bad=%u END\n",
              __builtin_cpu_supports("avx2") != 0, sums.load(), ticks.load(),
              static_cast<long long>(latest.load() / 1'000'000), blocks.load(), echoes, bad.load());
  return bad != 0;
}
