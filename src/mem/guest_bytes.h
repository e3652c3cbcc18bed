// husk: copies to and from guest RAM that other CPUs or devices may change meanwhile
#pragma once

#include <cstddef>
#include <cstring>

namespace husk::mem {

// A guest whose CPUs race gets what real memory gives it, and that is its own affair: nothing of husk's depends on
// which bytes are seen. ThreadSanitizer knows only races, so that these copies are made where it does not look.
#if defined(__SANITIZE_THREAD__)
#define HUSK_UNSEEN_GUEST_BYTES 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HUSK_UNSEEN_GUEST_BYTES 1
#endif
#endif

/// Copies `count` bytes that do not overlap, one side of which is guest RAM.
inline void copy_guest_bytes(void* to, const void* from, std::size_t count) {
#if defined(HUSK_UNSEEN_GUEST_BYTES) && defined(__x86_64__)
  // A guest counts on it that its words come and go whole.
  unsigned long word;
  switch (count) {
    case 2:
      asm volatile("movw %2, %w0\n\tmovw %w0, %1"
                   : "=&r"(word), "=m"(*static_cast<short*>(to))
                   : "m"(*static_cast<const short*>(from))
                   : "memory");
      return;
    case 4:
      asm volatile("movl %2, %k0\n\tmovl %k0, %1"
                   : "=&r"(word), "=m"(*static_cast<int*>(to))
                   : "m"(*static_cast<const int*>(from))
                   : "memory");
      return;
    case 8:
      asm volatile("movq %2, %q0\n\tmovq %q0, %1"
                   : "=&r"(word), "=m"(*static_cast<long*>(to))
                   : "m"(*static_cast<const long*>(from))
                   : "memory");
      return;
    default: asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  }
#else
  std::memcpy(to, from, count);
#endif
}
/// As memmove inside guest RAM, with the destination behind the source or clear of it.
inline void move_guest_bytes_down(void* to, const void* from, std::size_t count) {
#if defined(HUSK_UNSEEN_GUEST_BYTES) && defined(__x86_64__)
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
#else
  std::memmove(to, from, count);
#endif
}
inline void fill_guest_bytes(void* to, unsigned char value, std::size_t count) {
#if defined(HUSK_UNSEEN_GUEST_BYTES) && defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
#else
  std::memset(to, value, count);
#endif
}

}  // namespace husk::mem
