// husk: the ways to PCI configuration space
#include "devices/pci/host.h"

namespace husk::devices::pci {

namespace {
constexpr std::uint32_t kEnable = 0x80000000;
constexpr std::uint32_t kAddressBits = 0x80FFFFFC;  // 30:24 and 1:0 are reserved and read zero
constexpr std::uint64_t kBytesPerBus = 1u << 20;

/// Calls `each(offset, size)`: once, or for every byte of an access that crosses a dword.
template <class Each>
void by_dword(std::uint64_t offset, unsigned size, Each&& each) {
  if ((offset & 3) + size <= 4) {
    each(offset, size);
    return;
  }
  for (unsigned i = 0; i < size; ++i) each(offset + i, 1u);
}
}  // namespace

Result<std::unique_ptr<PciHost>> PciHost::create(Deps deps) {
  std::unique_ptr<PciHost> host(new PciHost(deps));
  host->ports_ = HUSK_TRY(deps.io.map(kAddressPort, 8, host->ports_handler_,
                                      {.domain = deps.domain, .max_size = 4, .priority = 0, .name = "pci_host"}));
  return host;
}

Status PciHost::set_ecam(std::optional<mem::Gpa> base, unsigned buses) {
  if (base == ecam_base_ && (!base || buses == ecam_buses_)) return {};
  ecam_.reset();
  ecam_base_.reset();
  if (!base) return {};
  ecam_ = HUSK_TRY(deps_.memory.map(*base, buses * kBytesPerBus, ecam_handler_,
                                    {.domain = deps_.domain, .max_size = 4, .priority = 0, .name = "pci_ecam"}));
  ecam_base_ = base;
  ecam_buses_ = buses;
  return {};
}

std::uint32_t PciHost::read_config(unsigned bus, std::uint8_t devfn, unsigned offset, unsigned size) {
  const Bus* const target = deps_.root.find(bus);
  return target ? target->read_config(devfn, offset, size) : 0xFFFFFFFF;
}

void PciHost::write_config(unsigned bus, std::uint8_t devfn, unsigned offset, std::uint32_t value, unsigned size) {
  if (Bus* const target = deps_.root.find(bus)) target->write_config(devfn, offset, value, size);
}

std::uint64_t PciHost::Ports::read(const mem::Access& access) {
  const std::uint32_t address = owner_.state_.address;
  if (access.offset == 0 && access.size == 4) return address;
  std::uint64_t value = 0;
  unsigned shift = 0;
  by_dword(access.offset, access.size, [&](std::uint64_t offset, unsigned size) {
    std::uint64_t part = ~std::uint64_t{0};
    if (offset == 1 && size == 1 && owner_.deps_.byte_at_cf9) {
      part = owner_.deps_.byte_at_cf9->read({access.who, 0, 1});
    } else if (offset >= 4 && (address & kEnable)) {
      part = owner_.read_config((address >> 16) & 0xFF, static_cast<std::uint8_t>(address >> 8),
                                (address & 0xFC) | static_cast<unsigned>(offset & 3), size);
    }
    value |= (part & mask_of(size * 8)) << shift;
    shift += size * 8;
  });
  return value;
}

void PciHost::Ports::write(const mem::Access& access, std::uint64_t value) {
  if (access.offset == 0 && access.size == 4) {
    owner_.state_.address = static_cast<std::uint32_t>(value) & kAddressBits;
    return;
  }
  by_dword(access.offset, access.size, [&](std::uint64_t offset, unsigned size) {
    const std::uint32_t address = owner_.state_.address;
    const std::uint64_t part = value & mask_of(size * 8);
    if (offset == 1 && size == 1 && owner_.deps_.byte_at_cf9) {
      owner_.deps_.byte_at_cf9->write({access.who, 0, 1}, part);
    } else if (offset >= 4 && (address & kEnable)) {
      owner_.write_config((address >> 16) & 0xFF, static_cast<std::uint8_t>(address >> 8),
                          (address & 0xFC) | static_cast<unsigned>(offset & 3), static_cast<std::uint32_t>(part), size);
    }
    value = size < 8 ? value >> (size * 8) : 0;
  });
}

std::uint64_t PciHost::Ecam::read(const mem::Access& access) {
  std::uint64_t value = 0;
  unsigned shift = 0;
  by_dword(access.offset, access.size, [&](std::uint64_t offset, unsigned size) {
    const std::uint64_t part =
        owner_.read_config(static_cast<unsigned>(offset >> 20), static_cast<std::uint8_t>(offset >> 12),
                           static_cast<unsigned>(offset & 0xFFF), size);
    value |= (part & mask_of(size * 8)) << shift;
    shift += size * 8;
  });
  return value;
}

void PciHost::Ecam::write(const mem::Access& access, std::uint64_t value) {
  by_dword(access.offset, access.size, [&](std::uint64_t offset, unsigned size) {
    owner_.write_config(static_cast<unsigned>(offset >> 20), static_cast<std::uint8_t>(offset >> 12),
                        static_cast<unsigned>(offset & 0xFFF), static_cast<std::uint32_t>(value & mask_of(size * 8)),
                        size);
    value >>= size * 8;
  });
}

}  // namespace husk::devices::pci
