// husk: numbers the buses and places the BARs of a PCI hierarchy
#include "devices/pci/assign.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "base/bits.h"
#include "devices/pci/root_port.h"

namespace husk::devices::pci {

namespace {

constexpr std::uint64_t kMemoryGranule = 1 << 20;  // of a bridge's memory windows
constexpr std::uint64_t kIoGranule = 0x1000;
enum Pool { kIo, kMemory32, kMemory64, kPools };

/// A BAR, or a bridge's window with everything below it.
struct Need {
  unsigned bus;
  std::uint8_t devfn;
  unsigned bar;  ///< offset of the register; of a window 0
  std::uint64_t size;
  std::uint64_t alignment;
};

class Assigner {
 public:
  Assigner(PciHost& host, const ResourceWindows& windows) : host_(host), windows_(windows) {}

  Status run() {
    number_buses(0);
    const std::uint64_t starts[kPools] = {windows_.io.base, windows_.memory32.base, windows_.memory64.base};
    const std::uint64_t sizes[kPools] = {windows_.io.size, windows_.memory32.size, windows_.memory64.size};
    std::uint64_t next[kPools];
    std::copy(std::begin(starts), std::end(starts), next);
    for (unsigned pool = 0; pool < kPools; ++pool) {
      HUSK_TRY(place(0, static_cast<Pool>(pool), next[pool]));
      if (next[pool] - starts[pool] > sizes[pool])
        return fail("the PCI devices need {:#x} bytes of {} space, and there are {:#x}", next[pool] - starts[pool],
                    pool == kIo ? "I/O" : "memory", sizes[pool]);
    }
    enable(0);
    return {};
  }

 private:
  std::uint32_t read(unsigned bus, std::uint8_t at, unsigned offset, unsigned size) {
    return host_.read_config(bus, at, offset, size);
  }
  void write(unsigned bus, std::uint8_t at, unsigned offset, std::uint64_t value, unsigned size) {
    host_.write_config(bus, at, offset, static_cast<std::uint32_t>(value), size);
  }

  template <class Each>
  void each_function(unsigned bus, Each&& each) {
    for (unsigned device = 0; device < 32; ++device) {
      if ((read(bus, devfn(device, 0), kVendorId, 2) & 0xFFFF) == 0xFFFF) continue;
      const bool many = read(bus, devfn(device, 0), kHeaderType, 1) & 0x80;
      for (unsigned function = 0; function < (many ? 8u : 1u); ++function)
        if ((read(bus, devfn(device, function), kVendorId, 2) & 0xFFFF) != 0xFFFF) each(devfn(device, function));
    }
  }
  bool is_bridge(unsigned bus, std::uint8_t at) { return (read(bus, at, kHeaderType, 1) & 0x7F) == 1; }
  unsigned secondary(unsigned bus, std::uint8_t at) { return read(bus, at, RootPort::kSecondary, 1) & 0xFF; }

  /// Depth first, as every enumerator does; the subordinate number is open until all below are known.
  void number_buses(unsigned bus) {
    each_function(bus, [&](std::uint8_t at) {
      if (!is_bridge(bus, at) || last_bus_ == 255) return;
      const unsigned below = ++last_bus_;
      write(bus, at, RootPort::kPrimary, bus, 1);
      write(bus, at, RootPort::kSecondary, below, 1);
      write(bus, at, RootPort::kSubordinate, 0xFF, 1);
      number_buses(below);
      write(bus, at, RootPort::kSubordinate, last_bus_, 1);
    });
  }

  /// The pool and size of the BAR at `offset`; size 0: none. `wide` for a 64-bit one.
  std::uint64_t measure(unsigned bus, std::uint8_t at, unsigned offset, Pool& pool, bool& wide) {
    write(bus, at, offset, 0xFFFFFFFF, 4);
    const std::uint32_t low = read(bus, at, offset, 4);
    write(bus, at, offset, 0, 4);
    wide = !(low & 1) && (low & 6) == 4;
    if (low & 1) {
      pool = kIo;
      return (low & 0xFFFC) ? std::uint64_t{1} << std::countr_zero(low & 0xFFFCu) : 0;
    }
    std::uint64_t mask = low & 0xFFFFFFF0;
    if (wide) {
      write(bus, at, offset + 4, 0xFFFFFFFF, 4);
      mask |= std::uint64_t{read(bus, at, offset + 4, 4)} << 32;
      write(bus, at, offset + 4, 0, 4);
    }
    // Behind a bridge only prefetchable ones may lie above 4 GiB.
    pool = wide && windows_.memory64.size && (bus == 0 || (low & 8)) ? kMemory64 : kMemory32;
    return mask ? std::uint64_t{1} << std::countr_zero(mask) : 0;
  }

  std::vector<Need> needs_of(unsigned bus, Pool wanted) {
    std::vector<Need> needs;
    each_function(bus, [&](std::uint8_t at) {
      write(bus, at, kCommand, read(bus, at, kCommand, 2) & ~std::uint32_t{kCommandIo | kCommandMemory}, 2);
      const bool bridge = is_bridge(bus, at);
      const unsigned end = kBar0 + (bridge ? 2 : kBarCount) * 4;
      for (unsigned offset = kBar0; offset < end; offset += 4) {
        Pool pool;
        bool wide;
        const std::uint32_t kept[2] = {read(bus, at, offset, 4), read(bus, at, offset + 4, 4)};
        const std::uint64_t size = measure(bus, at, offset, pool, wide);
        write(bus, at, offset, kept[0], 4);
        if (wide) write(bus, at, offset + 4, kept[1], 4);
        if (size && pool == wanted) needs.push_back({bus, at, offset, size, size});
        if (wide) offset += 4;
      }
      if (!bridge) return;
      std::uint64_t size = 0;
      std::uint64_t alignment = wanted == kIo ? kIoGranule : kMemoryGranule;
      for (const Need& need : needs_of(secondary(bus, at), wanted)) {
        alignment = std::max(alignment, need.alignment);
        size += need.size;
      }
      if (size) needs.push_back({bus, at, 0, align_up(size, wanted == kIo ? kIoGranule : kMemoryGranule), alignment});
    });
    // Largest first wastes nothing, sizes being powers of two.
    std::sort(needs.begin(), needs.end(), [](const Need& a, const Need& b) {
      return std::tuple(b.alignment, a.devfn, a.bar) < std::tuple(a.alignment, b.devfn, b.bar);
    });
    return needs;
  }

  Status place(unsigned bus, Pool pool, std::uint64_t& next) {
    for (const Need& need : needs_of(bus, pool)) {
      next = align_up(next, need.alignment);
      const std::uint64_t base = next;
      if (need.bar) {
        write(bus, need.devfn, need.bar, base, 4);
        if (pool == kMemory64 || (base >> 32)) write(bus, need.devfn, need.bar + 4, base >> 32, 4);
        next += need.size;
        continue;
      }
      std::uint64_t inner = base;
      HUSK_TRY(place(secondary(bus, need.devfn), pool, inner));
      next = align_up(inner, pool == kIo ? kIoGranule : kMemoryGranule);
      open_window(need, pool, base, next - 1);
    }
    return {};
  }

  void open_window(const Need& need, Pool pool, std::uint64_t base, std::uint64_t last) {
    const auto put = [&](unsigned offset, std::uint64_t value, unsigned size) {
      write(need.bus, need.devfn, offset, value, size);
    };
    if (pool == kIo) {
      put(RootPort::kIoBase, base >> 8, 1);
      put(RootPort::kIoLimit, last >> 8, 1);
    } else if (pool == kMemory32) {
      put(RootPort::kMemoryBase, base >> 16, 2);
      put(RootPort::kMemoryLimit, last >> 16, 2);
    } else {
      put(RootPort::kPrefetchBase, base >> 16, 2);
      put(RootPort::kPrefetchLimit, last >> 16, 2);
      put(RootPort::kPrefetchBaseUpper, base >> 32, 4);
      put(RootPort::kPrefetchLimitUpper, last >> 32, 4);
    }
  }

  void enable(unsigned bus) {
    each_function(bus, [&](std::uint8_t at) {
      const bool bridge = is_bridge(bus, at);
      if (bridge) close_unused(bus, at);
      write(bus, at, kCommand,
            read(bus, at, kCommand, 2) | kCommandIo | kCommandMemory | (bridge ? +kCommandBusMaster : 0), 2);
      const unsigned pin = read(bus, at, kInterruptPin, 1) & 0xFF;
      if (pin >= 1 && pin <= 4 && bus == 0 && windows_.interrupt_line)
        write(bus, at, kInterruptLine, windows_.interrupt_line(at >> 3, pin - 1), 1);
      if (bridge && secondary(bus, at)) enable(secondary(bus, at));
    });
  }

  /// A window whose base is above its limit is closed; all zeros would open the first megabyte.
  void close_unused(unsigned bus, std::uint8_t at) {
    if (read(bus, at, RootPort::kIoLimit, 1) == 0) write(bus, at, RootPort::kIoBase, 0xF0, 1);
    if ((read(bus, at, RootPort::kMemoryLimit, 2) & 0xFFF0) == 0) write(bus, at, RootPort::kMemoryBase, 0xFFF0, 2);
    if ((read(bus, at, RootPort::kPrefetchLimit, 2) & 0xFFF0) == 0 &&
        read(bus, at, RootPort::kPrefetchLimitUpper, 4) == 0)
      write(bus, at, RootPort::kPrefetchBase, 0xFFF0, 2);
  }

  PciHost& host_;
  const ResourceWindows& windows_;
  unsigned last_bus_ = 0;
};

}  // namespace

Status assign_resources(PciHost& host, const ResourceWindows& windows) { return Assigner(host, windows).run(); }

}  // namespace husk::devices::pci
