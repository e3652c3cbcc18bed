// husk: the page of local APIC registers and the MSI window, as the memory bus sees them
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>

#include "devices/intc/apic_bus.h"
#include "mem/address_space.h"

namespace husk::devices {

/// FEE00000h..FEEFFFFFh: for a CPU its own local APIC's registers, where its IA32_APIC_BASE puts them; for a device
/// every write is an MSI. A base outside this megabyte gets a page of its own for as long as a CPU uses it; that page
/// hides what is under it from the other CPUs too, which read all ones there.
class ApicMmio : public mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& memory_space;
    ApicBus& bus;
    int priority = 100;  ///< of the mappings: the APIC hides RAM
  };
  explicit ApicMmio(Deps deps);

  std::uint64_t read(const mem::Access& access) override { return read_at(kWindow + access.offset, access); }
  void write(const mem::Access& access, std::uint64_t value) override {
    write_at(kWindow + access.offset, access, value);
  }

  /// To be LocalApic::Deps::base_changed: looks at all bases anew. Any thread.
  void bases_changed();

 private:
  static constexpr mem::Gpa kWindow = 0xFEE0'0000;
  static constexpr std::uint64_t kWindowSize = 0x10'0000;
  static constexpr std::uint64_t kPage = 0x1000;
  struct MovedPage : mem::IoHandler {
    MovedPage(ApicMmio& mmio, mem::Gpa at) : owner(mmio), base(at) {}
    std::uint64_t read(const mem::Access& access) override { return owner.read_at(base + access.offset, access); }
    void write(const mem::Access& access, std::uint64_t value) override {
      owner.write_at(base + access.offset, access, value);
    }
    ApicMmio& owner;
    std::atomic<mem::Gpa> base;  ///< changes while another CPU may still be inside
    mem::Mapping mapping;
  };

  LocalApic* apic_at(mem::Gpa address, const mem::Access& access) const;
  std::uint64_t read_at(mem::Gpa address, const mem::Access& access);
  void write_at(mem::Gpa address, const mem::Access& access, std::uint64_t value);

  Deps deps_;
  std::mutex moving_;
  /// Handlers are kept once made, as another CPU may be inside one: at most one a CPU, and reused.
  std::map<unsigned, MovedPage> moved_;
  mem::Mapping window_;
};

}  // namespace husk::devices
