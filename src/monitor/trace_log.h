// husk: traces of what CPUs do, as lines of text
#pragma once

#include <cstdio>
#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "accel/accel.h"
#include "boot/symbols.h"

namespace husk::monitor {

/// Writes a line an event. Thread-safe.
class TraceLog final : public accel::TraceSink {
 public:
  struct Deps {
    std::FILE* out;  ///< stays open as long as this object
    mem::AddressSpace& memory;
    const cpu::CpuModel& model;
    bool registers = false;  ///< with exec: all registers before each instruction
    /// The name of an address, or "".
    std::function<std::string(std::uint64_t)> name_of;
  };
  explicit TraceLog(Deps deps) : deps_(std::move(deps)) {}
  ~TraceLog() override { std::fflush(deps_.out); }

  void event(unsigned vcpu, const accel::PastEvent& event) override;
  void io(unsigned vcpu, bool write, std::uint16_t port, unsigned size, std::uint64_t value) override;
  void mmio(unsigned vcpu, bool write, mem::Gpa address, unsigned size, std::uint64_t value) override;
  void msr(unsigned vcpu, bool write, std::uint32_t index, std::uint64_t value, bool fault) override;
  void exec(unsigned vcpu, const cpu::CpuState& state) override;

 private:
  void line(const std::string& text);
  std::string named(std::uint64_t address) const;
  Deps deps_;
  std::mutex mutex_;
};

}  // namespace husk::monitor
