// husk: pc-testdev: interrupt lines, port loop-back and a memory window for CPU test programs
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

struct PcTestdevState {
  std::uint32_t port = 0;            ///< the loop-back latch
  std::uint32_t lines = 0;           ///< one bit a line
  std::vector<std::uint8_t> window;  ///< up to the last byte ever written; zeros follow
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "port", &PcTestdevState::port), field(2, "lines", &PcTestdevState::lines).max(0xFFFFFF),
                      field(3, "window", &PcTestdevState::window)};
  }
};

/// Behaves as QEMU's device of that name, as kvm-unit-tests use it: E0h..E3h is a latch that reads back what was
/// written by bytes, words or a dword; E8h..EBh is the same latch by bytes only; a page number written to E4h..E7h asks
/// the host to drop its mapping of that page, which no guest can see (nothing to do here); a byte written to 2000h + n
/// sets interrupt line n; 64 KiB at FF000000h are plain memory behind MMIO.
class PcTestdev final : public core::StatefulDevice<PcTestdevState> {
 public:
  static constexpr unsigned kLines = 24;
  static constexpr mem::Gpa kWindow = 0xFF000000;
  static constexpr std::uint64_t kWindowSize = 0x10000;
  struct Deps {
    mem::AddressSpace& memory;
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    std::array<core::InterruptLine, kLines> lines;
  };
  static Result<std::unique_ptr<PcTestdev>> create(Deps deps);

  std::string_view state_id() const override { return "pc_testdev"; }
  void reset(core::ResetKind kind) override;

 private:
  enum class Part { loop_back, flush, lines, window };
  struct Handler final : mem::IoHandler {
    Handler(PcTestdev& owner, Part part) : owner_(owner), part_(part) {}
    std::uint64_t read(const mem::Access& access) override { return owner_.read(part_, access); }
    void write(const mem::Access& access, std::uint64_t value) override { owner_.write(part_, access, value); }
    PcTestdev& owner_;
    Part part_;
  };
  explicit PcTestdev(Deps deps) : deps_(std::move(deps)) {}
  std::uint64_t read(Part part, const mem::Access& access) const;
  void write(Part part, const mem::Access& access, std::uint64_t value);
  Status validate(const PcTestdevState& incoming) const override;
  void after_load() override;

  Deps deps_;
  Handler loop_back_{*this, Part::loop_back};
  Handler flush_{*this, Part::flush};
  Handler lines_{*this, Part::lines};
  Handler window_{*this, Part::window};
  std::array<mem::Mapping, 5> mappings_;
};

}  // namespace husk::devices
