// husk: virtio over PCI: modern and transitional (virtio 1.2, 4.1)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/device.h"
#include "devices/pci/bus.h"
#include "devices/pci/msi.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct PciState {
  pci::ConfigState config;
  pci::MsixState msix;
  std::uint8_t isr = 0;
  std::uint32_t device_feature_select = 0;
  std::uint32_t driver_feature_select = 0;
  std::uint16_t queue_select = 0;
  std::uint16_t config_vector = 0xFFFF;
  std::vector<std::uint16_t> queue_vectors;
  static constexpr auto state() {
    using state::field;
    using S = PciState;
    return std::tuple{field(1, "config", &S::config),
                      field(2, "msix", &S::msix),
                      field(3, "isr", &S::isr).max(3),
                      field(4, "device_feature_select", &S::device_feature_select),
                      field(5, "driver_feature_select", &S::driver_feature_select),
                      field(6, "queue_select", &S::queue_select),
                      field(7, "config_vector", &S::config_vector),
                      field(8, "queue_vectors", &S::queue_vectors)};
  }
};

/// A virtio device as a PCI function: MSI-X in BAR 1, the modern structures in BAR 4 (16 KiB), and with `legacy` the
/// registers of virtio 0.9.5 in BAR 0.
class PciTransport final : public core::StatefulDevice<PciState>, private pci::Function, private Interrupts {
 public:
  struct Deps {
    mem::AddressSpace& memory;
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::MsiPort& msi;
    pci::Bus& bus;
    VirtioDevice& device;
  };
  struct Config {
    std::string id = "virtio_pci0";
    std::uint8_t devfn = 0;
    bool legacy = false;   ///< transitional: old drivers find an old device
    bool express = false;  ///< behind a root port: a PCI Express endpoint with 4096 bytes of configuration space
    unsigned vectors = 0;  ///< MSI-X vectors; 0: one a queue and one for the configuration
    bool multifunction = false;
  };
  static Result<std::unique_ptr<PciTransport>> create(Deps deps, Config config);

  std::string_view state_id() const override { return config_.id; }
  void reset(core::ResetKind kind) override;

  /// Where the driver of a modern device writes to notify of a queue: any such write is VirtioDevice::notify().
  struct NotifyPlace {
    const mem::IoHandler* handler;
    std::uint64_t offset;
  };
  NotifyPlace notify_place(unsigned queue) const;

 private:
  struct Modern final : mem::IoHandler {
    explicit Modern(PciTransport& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access& access) override { return owner_.read_modern(access.offset, access.size); }
    void write(const mem::Access& access, std::uint64_t value) override {
      owner_.write_modern(access.offset, value, access.size);
    }
    PciTransport& owner_;
  };
  struct Legacy final : mem::IoHandler {
    explicit Legacy(PciTransport& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access& access) override { return owner_.read_legacy(access.offset, access.size); }
    void write(const mem::Access& access, std::uint64_t value) override {
      owner_.write_legacy(access.offset, value, access.size);
    }
    PciTransport& owner_;
  };

  PciTransport(Deps deps, Config config);
  void add_capabilities();
  // pci::Function
  std::uint32_t read_config(unsigned offset, unsigned size) override;
  void write_config(unsigned offset, std::uint32_t value, unsigned size) override;
  void decode_changed() override { logic_.decode_changed(); }
  void bus_reset() override;
  // Interrupts
  void queue_used(unsigned queue) override;
  void config_changed() override;
  void interrupt(std::uint16_t vector, std::uint8_t isr);

  std::uint64_t read_modern(std::uint64_t offset, unsigned size);
  void write_modern(std::uint64_t offset, std::uint64_t value, unsigned size);
  std::uint64_t read_common(std::uint64_t offset);
  void write_common(std::uint64_t offset, std::uint64_t value, unsigned size);
  std::uint64_t read_legacy(std::uint64_t offset, unsigned size);
  void write_legacy(std::uint64_t offset, std::uint64_t value, unsigned size);
  std::uint64_t legacy_config_at() const { return msix_.enabled() ? 24 : 20; }
  void set_legacy_queue(std::uint32_t page_number);
  std::uint8_t read_isr();
  void write_status(std::uint8_t value);
  std::uint16_t checked_vector(std::uint64_t value) const;

  Status validate(const PciState& incoming) const override;
  void after_load() override;

  Deps deps_;
  Config config_;
  pci::ConfigSpace space_;
  pci::Msix msix_;
  pci::FunctionLogic logic_;
  Modern modern_{*this};
  Legacy legacy_{*this};
  unsigned window_at_ = 0;  ///< the capability by which BAR 4 is reached through configuration space
  pci::Slot slot_;
};

}  // namespace husk::devices::virtio
