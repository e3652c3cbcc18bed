// husk: pc-testdev
#include "devices/testdev/pc_testdev.h"

#include "base/bits.h"

namespace husk::devices {

Result<std::unique_ptr<PcTestdev>> PcTestdev::create(Deps deps) {
  std::unique_ptr<PcTestdev> device(new PcTestdev(std::move(deps)));
  PcTestdev& d = *device;
  const auto options = [&](const char* name, std::uint8_t max_size) {
    return mem::MapOptions{.domain = d.deps_.domain, .max_size = max_size, .priority = 0, .name = name};
  };
  d.mappings_[0] = HUSK_TRY(d.deps_.io.map(0xE0, 4, d.loop_back_, options("pc_testdev.port", 4)));
  d.mappings_[1] = HUSK_TRY(d.deps_.io.map(0xE4, 4, d.flush_, options("pc_testdev.flush", 4)));
  // E9h is also where isa-debugcon lives, which then wins.
  mem::MapOptions bytes = options("pc_testdev.port_byte", 1);
  bytes.priority = -1;
  d.mappings_[2] = HUSK_TRY(d.deps_.io.map(0xE8, 4, d.loop_back_, bytes));
  d.mappings_[3] = HUSK_TRY(d.deps_.io.map(0x2000, kLines, d.lines_, options("pc_testdev.lines", 1)));
  d.mappings_[4] = HUSK_TRY(d.deps_.memory.map(kWindow, kWindowSize, d.window_, options("pc_testdev.window", 8)));
  return device;
}

void PcTestdev::reset(core::ResetKind) {
  state_ = {};
  for (core::InterruptLine& line : deps_.lines) line.set(false);
}

std::uint64_t PcTestdev::read(Part part, const mem::Access& access) const {
  if (part == Part::loop_back) return state_.port >> ((access.offset & 3) * 8);
  if (part != Part::window) return 0;
  std::uint64_t value = 0;
  for (unsigned i = 0; i < access.size && access.offset + i < state_.window.size(); ++i)
    value |= std::uint64_t{state_.window[access.offset + i]} << (i * 8);
  return value;
}

void PcTestdev::write(Part part, const mem::Access& access, std::uint64_t value) {
  switch (part) {
    case Part::loop_back: {
      const auto shift = static_cast<unsigned>(access.offset & 3) * 8;
      const std::uint64_t mask = mask_of(access.size * 8u, shift);
      state_.port = static_cast<std::uint32_t>((state_.port & ~mask) | ((value << shift) & mask));
      break;
    }
    case Part::flush: break;
    case Part::lines: {
      const std::uint32_t mask = 1u << access.offset;
      state_.lines = value ? state_.lines | mask : state_.lines & ~mask;
      deps_.lines[access.offset].set(value != 0);
      break;
    }
    case Part::window:
      if (state_.window.size() < access.offset + access.size) state_.window.resize(access.offset + access.size);
      for (unsigned i = 0; i < access.size; ++i)
        state_.window[access.offset + i] = static_cast<std::uint8_t>(value >> (i * 8));
  }
}

Status PcTestdev::validate(const PcTestdevState& incoming) const {
  if (incoming.window.size() > kWindowSize)
    return fail("saved window of pc_testdev has {} bytes, more than {}", incoming.window.size(), kWindowSize);
  return {};
}

void PcTestdev::after_load() {
  for (unsigned i = 0; i < kLines; ++i) deps_.lines[i].restore_level((state_.lines >> i) & 1);
}

}  // namespace husk::devices
