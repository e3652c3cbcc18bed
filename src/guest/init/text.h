// husk: strings and fixed buffers of husk's guest program
#pragma once

#include "syscalls.h"

extern "C" {
void* memcpy(void* to, const void* from, unsigned long size);
void* memmove(void* to, const void* from, unsigned long size);
void* memset(void* to, int value, unsigned long size);
int memcmp(const void* a, const void* b, unsigned long size);
unsigned long strlen(const char* text);
}

namespace husk::guest {

inline bool equal(const char* a, const char* b) {
  const Size size = strlen(a);
  return size == strlen(b) && memcmp(a, b, size) == 0;
}
/// What follows `prefix` in `text`, or null.
inline const char* after(const char* text, const char* prefix) {
  while (*prefix)
    if (*text++ != *prefix++) return nullptr;
  return text;
}

/// Decimal digits at the start of `text`.
inline unsigned long number(const char* text) {
  unsigned long value = 0;
  while (*text >= '0' && *text <= '9') value = value * 10 + static_cast<unsigned long>(*text++ - '0');
  return value;
}

/// Text that is cut off where there is no more room.
template <Size kRoom>
class Text {
 public:
  Text& operator<<(const char* text) {
    while (*text && size_ + 1 < kRoom) bytes_[size_++] = *text++;
    bytes_[size_] = 0;
    return *this;
  }
  Text& operator<<(unsigned long value) {
    char digits[21];
    Size at = sizeof digits;
    digits[--at] = 0;
    do digits[--at] = static_cast<char>('0' + value % 10);
    while (value /= 10);
    return *this << digits + at;
  }
  void append(char byte) {
    if (full()) return;
    bytes_[size_++] = byte;
    bytes_[size_] = 0;
  }
  const char* text() const { return bytes_; }
  char* bytes() { return bytes_; }
  Size size() const { return size_; }
  bool full() const { return size_ + 1 >= kRoom; }

 private:
  char bytes_[kRoom] = {};
  Size size_ = 0;
};

}  // namespace husk::guest
