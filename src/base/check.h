// husk: always-on assertions for broken invariants of husk itself; never for what a guest or user can cause
#pragma once

#include <string_view>

namespace husk {
[[noreturn]] void check_failed(const char* file, int line, std::string_view condition);
}

#define HUSK_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::husk::check_failed(__FILE__, __LINE__, #condition))
