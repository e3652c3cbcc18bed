// husk: a Linux guest's only process: threads that lean on futexes, atomics and page rights of each other, then power-off
// Runs as /init of an initrd of its own, or as root on any Linux with --here, to see that the host passes too.
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

namespace {

int failures = 0;
long loops = 1;

void check(const char* name, long got, long want) {
  std::printf("%s %s", got == want ? "ok" : "FAIL", name);
  if (got != want) {
    std::printf(" got %ld want %ld", got, want);
    ++failures;
  }
  std::printf("\n");
}

template <class Body>
void on_threads(int count, Body body) {
  struct Start {
    Body* body;
    int index;
  };
  std::vector<pthread_t> threads(static_cast<std::size_t>(count));
  std::vector<Start> starts;
  for (int i = 0; i < count; ++i) starts.push_back({&body, i});
  for (int i = 0; i < count; ++i)
    pthread_create(
        &threads[static_cast<std::size_t>(i)], nullptr,
        [](void* start) -> void* {
          const auto& s = *static_cast<Start*>(start);
          (*s.body)(s.index);
          return nullptr;
        },
        &starts[static_cast<std::size_t>(i)]);
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
}

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout = nullptr) {
  return syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

/// Drepper, "Futexes Are Tricky", mutex 2: 0 free, 1 taken, 2 taken and awaited.
struct FutexMutex {
  std::atomic<std::uint32_t> word{0};
  void lock() {
    std::uint32_t c = 0;
    if (word.compare_exchange_strong(c, 1)) return;
    if (c != 2) c = word.exchange(2);
    while (c != 0) {
      futex(word, FUTEX_WAIT_PRIVATE, 2);
      c = word.exchange(2);
    }
  }
  void unlock() {
    if (word.fetch_sub(1) != 1) {
      word.store(0);
      futex(word, FUTEX_WAKE_PRIVATE, 1);
    }
  }
};

void mutexes() {
  constexpr int kThreads = 6;
  const long rounds = 20000 * loops;
  FutexMutex own;
  long counter = 0;
  on_threads(kThreads, [&](int) {
    for (long i = 0; i < rounds; ++i) {
      own.lock();
      ++counter;
      own.unlock();
    }
  });
  check("counter under a mutex of plain futexes", counter, kThreads * rounds);

  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  counter = 0;
  on_threads(kThreads, [&](int) {
    for (long i = 0; i < rounds; ++i) {
      pthread_mutex_lock(&mutex);
      ++counter;
      if (i % 64 == 0) sched_yield();
      pthread_mutex_unlock(&mutex);
    }
  });
  check("counter under a pthread mutex", counter, kThreads * rounds);

  pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
  long a = 0, b = 0;
  std::atomic<long> torn{0};
  on_threads(kThreads, [&](int index) {
    for (long i = 0; i < rounds / 4; ++i) {
      if (index < 2) {
        pthread_rwlock_wrlock(&lock);
        ++a;
        ++b;
      } else {
        pthread_rwlock_rdlock(&lock);
        if (a != b) ++torn;
      }
      pthread_rwlock_unlock(&lock);
    }
  });
  check("writers under a read-write lock", a, 2 * (rounds / 4));
  check("readers see whole writes", torn, 0);
}

void hand_over() {
  // One word, passed to and fro: each wake-up must arrive.
  const long rounds = 5000 * loops;
  std::atomic<std::uint32_t> turn{0};
  on_threads(2, [&](int index) {
    const auto mine = static_cast<std::uint32_t>(index);
    for (long i = 0; i < rounds; ++i) {
      while (turn.load() != mine) futex(turn, FUTEX_WAIT_PRIVATE, 1 - mine);
      turn.store(1 - mine);
      futex(turn, FUTEX_WAKE_PRIVATE, 1);
    }
  });
  check("a word handed over by futex", turn, 0);

  // A queue between producers and consumers.
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t filled = PTHREAD_COND_INITIALIZER, emptied = PTHREAD_COND_INITIALIZER;
  std::deque<long> queue;
  const long items = 6000 * loops;
  std::atomic<long> sum{0};
  on_threads(4, [&](int index) {
    for (long i = 1; i <= items; ++i) {
      pthread_mutex_lock(&mutex);
      if (index < 2) {
        while (queue.size() >= 8) pthread_cond_wait(&emptied, &mutex);
        queue.push_back(i);
        pthread_cond_signal(&filled);
      } else {
        while (queue.empty()) pthread_cond_wait(&filled, &mutex);
        sum += queue.front();
        queue.pop_front();
        pthread_cond_signal(&emptied);
      }
      pthread_mutex_unlock(&mutex);
    }
  });
  check("sum of what went through a queue", sum, items * (items + 1));

  sem_t semaphore;
  sem_init(&semaphore, 0, 0);
  std::atomic<long> taken{0};
  on_threads(4, [&](int index) {
    for (long i = 0; i < items; ++i) {
      if (index < 2) {
        sem_post(&semaphore);
      } else {
        sem_wait(&semaphore);
        ++taken;
      }
    }
  });
  check("semaphore posts taken", taken, 2 * items);

  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, 4);
  std::atomic<long> inside{0}, wrong{0};
  on_threads(4, [&](int) {
    for (long i = 0; i < 500 * loops; ++i) {
      ++inside;
      pthread_barrier_wait(&barrier);
      if (inside.load() != 4 * (i + 1)) ++wrong;
      pthread_barrier_wait(&barrier);
    }
  });
  check("a barrier lets nobody through too early", wrong, 0);
}

/// Between processes, which have different address spaces, and with a time-out.
void processes() {
  struct Shared {
    std::atomic<std::uint32_t> word{0};
    std::atomic<long> counter{0};
  };
  auto* const shared = new (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Shared;
  const long rounds = 2000 * loops;
  for (int child = 0; child < 2; ++child)
    if (fork() == 0) {
      const auto mine = static_cast<std::uint32_t>(child);
      for (long i = 0; i < rounds; ++i) {
        while (shared->word.load() != mine) futex(shared->word, FUTEX_WAIT, 1 - mine);
        ++shared->counter;
        shared->word.store(1 - mine);
        futex(shared->word, FUTEX_WAKE, 1);
      }
      _exit(0);
    }
  while (wait(nullptr) > 0) {
  }
  check("two processes by a futex in shared memory", shared->counter, 2 * rounds);
  const timespec soon{0, 20'000'000};
  timespec before{}, after{};
  std::atomic<std::uint32_t> never{0};
  clock_gettime(CLOCK_MONOTONIC, &before);
  futex(never, FUTEX_WAIT_PRIVATE, 0, &soon);
  clock_gettime(CLOCK_MONOTONIC, &after);
  const long ns = (after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec;
  check("a futex times out, not too early", ns >= 20'000'000, 1);
}

thread_local sigjmp_buf fault_return;
void on_fault(int) { siglongjmp(fault_return, 1); }

/// One thread takes rights away, another looks: after mprotect() has returned nobody may get through.
void shoot_down() {
  struct sigaction action {};
  action.sa_handler = on_fault;
  action.sa_flags = SA_NODEFER;
  sigaction(SIGSEGV, &action, nullptr);
  auto* const page =
      static_cast<volatile long*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::atomic<long> begun{0}, done{0}, wrong{0}, faults{0};
  std::atomic<bool> stop{false};
  on_threads(2, [&](int index) {
    if (index == 0) {
      for (long i = 1; i <= 1000 * loops; ++i) {
        begun = i;
        mprotect(const_cast<long*>(page), 4096, i % 2 ? PROT_NONE : PROT_READ | PROT_WRITE);
        done = i;
        for (int wait = 0; wait < 300; ++wait) __builtin_ia32_pause();
      }
      stop = true;
      return;
    }
    for (long turn = 0; !stop; ++turn) {
      const long before = done.load();
      volatile bool through = false;
      if (sigsetjmp(fault_return, 0) == 0) {
        if (turn & 1)
          (void)*page;
        else
          *page = 1;
        through = true;
      } else {
        ++faults;
      }
      if (begun.load() != before) continue;
      if (through != (before % 2 == 0)) ++wrong;
    }
  });
  check("nobody gets through after mprotect", wrong, 0);
  std::printf("note faults %ld\n", faults.load());
}

/// Memory that is given back and taken anew: what another thread sees is the new page, which is zero.
void reuse() {
  std::atomic<long> wrong{0};
  on_threads(4, [&](int index) {
    for (long i = 0; i < 500 * loops; ++i) {
      auto* const page = static_cast<volatile long*>(
          mmap(nullptr, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      for (int at = 0; at < 2048; at += 64) {
        if (page[at] != 0) ++wrong;
        page[at] = index + 1;
      }
      munmap(const_cast<long*>(page), 16384);
    }
  });
  check("fresh pages are zero", wrong, 0);
  std::atomic<long> started{0};
  for (long i = 0; i < 200 * loops; ++i) on_threads(2, [&](int index) { started += index; });
  check("threads come and go", started, 200 * loops);
}

/// Code that one thread writes and another runs, told by a flag; the runner serializes as it must.
void generated_code() {
  auto* const code = static_cast<std::uint8_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::atomic<std::uint32_t> phase{0}, answer{0};
  std::atomic<long> wrong{0};
  const auto rounds = static_cast<std::uint32_t>(1000 * loops);
  code[0] = 0xB8;  // mov eax, imm32; ret
  code[5] = 0xC3;
  on_threads(2, [&](int index) {
    for (std::uint32_t i = 1; i <= rounds; ++i) {
      if (index == 0) {
        std::memcpy(code + 1, &i, 4);
        phase.store(i);
        while (answer.load() != i) sched_yield();
      } else {
        while (phase.load() != i) sched_yield();
        std::uint32_t a = 0, b = 0, c = 0, d = 0;
        asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
        if (reinterpret_cast<std::uint32_t (*)()>(code)() != i) ++wrong;
        answer.store(i);
      }
    }
  });
  check("code written by another thread", wrong, 0);
}

}  // namespace

int main(int argc, char** argv) {
  const bool here = argc > 1 && std::strcmp(argv[1], "--here") == 0;
  if (const char* text = std::getenv("loops")) loops = std::atol(text);  // a word of the kernel's command line
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  mutexes();
  hand_over();
  processes();
  shoot_down();
  reuse();
  generated_code();
  std::printf("done, %d failures\n", failures);
  if (here) return failures != 0;
  std::fflush(stdout);
  reboot(RB_POWER_OFF);
}
