// husk: entry and the functions that the compiler itself calls
#include "text.h"

extern "C" {

void husk_main();

// The kernel leaves a 16-byte aligned stack pointer; a function expects it 8 off after its call.
asm(".globl _start\n"
    ".type _start, @function\n"
    "_start:\n"
    "  xor %ebp, %ebp\n"
    "  and $-16, %rsp\n"
    "  call husk_main\n"
    "  hlt\n");

void* memcpy(void* to, const void* from, unsigned long size) {
  void* const start = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return start;
}

void* memmove(void* to, const void* from, unsigned long size) {
  if (to <= from) return memcpy(to, from, size);
  char* const a = static_cast<char*>(to);
  const char* const b = static_cast<const char*>(from);
  while (size--) {
    a[size] = b[size];
    asm volatile("" : : : "memory");  // or the compiler makes a call of memmove of it
  }
  return to;
}

void* memset(void* to, int value, unsigned long size) {
  void* const start = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return start;
}

int memcmp(const void* a, const void* b, unsigned long size) {
  const unsigned char* left = static_cast<const unsigned char*>(a);
  const unsigned char* right = static_cast<const unsigned char*>(b);
  for (; size; --size, ++left, ++right) {
    if (*left != *right) return *left < *right ? -1 : 1;
    asm volatile("" : : : "memory");
  }
  return 0;
}

unsigned long strlen(const char* text) {
  unsigned long size = 0;
  while (text[size]) {
    ++size;
    asm volatile("" : : : "memory");
  }
  return size;
}

}  // extern "C"
