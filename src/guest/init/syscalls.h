// husk: the Linux system calls that husk's guest program makes, without a C library
#pragma once

#include <asm/unistd.h>
#include <linux/types.h>

namespace husk::guest {

using Size = unsigned long;
using Word = long;

inline Word as_word(const void* pointer) { return reinterpret_cast<Word>(pointer); }
inline Word as_word(Word value) { return value; }
inline Word as_word(unsigned long value) { return static_cast<Word>(value); }
inline Word as_word(int value) { return value; }
inline Word as_word(unsigned value) { return static_cast<Word>(value); }

/// What the kernel returns: negative values from -4095 are error numbers.
template <class... Arguments>
inline Word call(Word number, Arguments... arguments) {
  static_assert(sizeof...(Arguments) <= 6);
  const Word values[6] = {as_word(arguments)...};
  register Word r10 asm("r10") = values[3];
  register Word r8 asm("r8") = values[4];
  register Word r9 asm("r9") = values[5];
  Word result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(values[0]), "S"(values[1]), "d"(values[2]), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

inline Word open(const char* path, Word flags, Word mode = 0) { return call(__NR_open, path, flags, mode); }
inline Word close(Word fd) { return call(__NR_close, fd); }
inline Word read(Word fd, void* data, Size size) { return call(__NR_read, fd, data, size); }
inline Word write(Word fd, const void* data, Size size) { return call(__NR_write, fd, data, size); }
inline Word mkdir(const char* path, Word mode) { return call(__NR_mkdir, path, mode); }
inline Word mount(const char* source, const char* target, const char* type, Size flags, const char* options) {
  return call(__NR_mount, source, target, type, flags, options);
}

}  // namespace husk::guest
