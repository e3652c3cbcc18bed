// husk: who wants to know what guest code was translated into
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "cpu/insn.h"

namespace husk::cpu {

/// Names for what translated code refers to, to make its listings readable.
class HostNames {
 public:
  virtual ~HostNames() = default;
  /// The shared piece of code that begins at a running address; "" if none does.
  virtual std::string code_name(const std::uint8_t* running) const = 0;
  /// What lies at a distance from the host's GS base; "" if it has no name.
  virtual std::string field_name(std::int64_t distance) const = 0;
};

/// A run of host code: where it runs, and its bytes (seen through another mapping).
struct HostCode {
  std::uint64_t address = 0;
  std::span<const std::uint8_t> bytes = {};
};

/// A piece of guest code and what it became. Valid during the call that gives it.
struct TranslatedCode {
  unsigned cpu = 0;
  std::uint64_t linear = 0;  ///< of the guest code, where it is mapped now: the same code may run elsewhere too
  CodeSize code_size = CodeSize::bits64;
  std::span<const std::uint8_t> guest = {};
  HostCode hot = {};   ///< what usually runs
  HostCode cold = {};  ///< what is out of its way; may be empty
  const HostNames* names = nullptr;
};

/// Told of all code that a CPU translates, on that CPU's thread. What was translated before it was attached is not
/// told.
class CodeObserver {
 public:
  virtual ~CodeObserver() = default;
  virtual void translated(const TranslatedCode& code) = 0;
  /// The pieces of code that all translated code of that CPU shares. Told once, when the observer is attached.
  virtual void shared_code(unsigned cpu, const HostCode& code) = 0;
};

}  // namespace husk::cpu
