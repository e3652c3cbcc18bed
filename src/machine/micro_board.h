// husk: the board `micro`: direct boot, PCI Express, ACPI from husk's own tables, and the PC devices that kernels
// expect
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "boot/acpi_tables.h"
#include "boot/memory_layout.h"
#include "core/backends.h"
#include "core/cpu_ports.h"
#include "cpu/model.h"
#include "devices/acpi/pm.h"
#include "devices/chipset/a20_gate.h"
#include "devices/chipset/fpu_error.h"
#include "devices/chipset/port92.h"
#include "devices/chipset/reset_control.h"
#include "devices/input/i8042.h"
#include "devices/pci/bus.h"
#include "devices/pci/host.h"
#include "devices/pci/q35.h"
#include "devices/serial/serial_port.h"
#include "devices/testdev/edu.h"
#include "devices/testdev/isa_debug_exit.h"
#include "devices/testdev/isa_debugcon.h"
#include "devices/testdev/pc_testdev.h"
#include "devices/testdev/pci_testdev.h"
#include "devices/timer/hpet.h"
#include "devices/timer/rtc_mc146818.h"
#include "machine/config.h"
#include "machine/interrupts.h"
#include "machine/virtio_devices.h"
#include "machine/vm_clock.h"
#include "mem/address_space.h"

namespace husk::machine {

/// Makes the host's end of a character device, whose callbacks run with `domain` held. `name` is for the user.
using CharBackendFactory =
    std::function<Result<std::unique_ptr<core::CharBackend>>(mem::LockDomain& domain, const std::string& name)>;

class MicroBoard final {
 public:
  struct Config {
    std::uint64_t ram_bytes = std::uint64_t{1} << 30;
    unsigned cpus = 1;
    std::array<CharBackendFactory, 4> serial{};  ///< COM1..COM4; null: the port is absent
    std::vector<DebugExitConfig> debug_exits;
    struct Debugcon {
      DebugConsoleConfig config;
      CharBackendFactory backend;
    };
    std::vector<Debugcon> debugcons;
    bool pc_testdev = false;
    std::vector<EduConfig> edus;
    std::vector<PciTestDeviceConfig> pci_testdevs;
    std::vector<VirtioSpec> virtio;
    /// A ROM that ends at 4 GiB; empty: none, the machine boots directly.
    std::vector<std::uint8_t> rom;
    std::int64_t rtc_offset_seconds = 0;  ///< the RTC's time minus the wall clock (UTC)
  };
  struct Deps {
    VmClock& clock;
    host::EventLoop& loop;
    Log& log;
    core::MachineControl& control;
    std::vector<core::CpuPins*> pins;  ///< one a CPU
    const cpu::CpuModel& cpu_model;
    /// A disk's error is to stop the machine until the user lets it go on. On any thread.
    std::function<void(const std::string& cause)> stop;
    InterruptsFactory interrupts = {};  ///< none: OwnInterrupts
  };

  static constexpr mem::Gpa kLowRamMax = 0x8000'0000;
  static constexpr mem::Gpa kEcamBase = 0xB000'0000;
  static constexpr mem::Gpa kPciHoleBase = 0xC000'0000;
  static constexpr mem::Gpa kPciHoleEnd = 0xFEC0'0000;
  static constexpr mem::Gpa kAcpiBase = 0xE'0000;
  static constexpr mem::Gpa kSmbiosBase = 0xF'0000;
  static constexpr std::uint64_t kRamMin = std::uint64_t{1} << 20;
  static constexpr unsigned kSciIrq = 9, kFpuIrq = 13;
  static constexpr std::uint64_t kPciIoBase = 0xC000;
  /// PIRQ[A..H] end at these pins of the I/O APIC.
  static constexpr unsigned kFirstPciGsi = 16;
  static constexpr unsigned kPciWires = 8;

  static Result<std::unique_ptr<MicroBoard>> create(Deps deps, Config config);
  ~MicroBoard();

  mem::AddressSpace& memory_space() { return memory_space_; }
  mem::AddressSpace& io_space() { return io_space_; }
  Interrupts& interrupts() { return interrupt_ends_.now(); }
  /// For others that are to take the place of these interrupt controllers.
  Interrupts::Deps interrupt_deps();
  /// InterruptEnds::exchange and take_back.
  Status exchange_interrupts(std::unique_ptr<Interrupts>& with);
  void take_back_interrupts(std::unique_ptr<Interrupts>& with);
  /// The wires FERR# and IGNNE# of a CPU: PCs connect those of the first one only.
  std::function<bool(bool asserted)> floating_point_error(unsigned cpu);
  /// A clock without a lock, for CPUs.
  const core::Clock& clock() const { return *cpu_clock_; }
  std::span<mem::RamRegion* const> ram() const { return ram_list_; }

  boot::MemoryLayout layout() const;
  /// Writes ACPI and SMBIOS tables where guests look for them; returns the address of the RSDP.
  Result<mem::Gpa> write_tables(mem::GuestMemory& memory) const;

  /// For accelerators that ring them.
  Result<std::vector<accel::Doorbell>> doorbells() { return virtio_->doorbells(); }

  void start();
  /// The devices finish what is under way; each calls `done` once, on any thread, perhaps before this returns. Returns
  /// their number.
  std::size_t quiesce(const std::function<void(const core::Device&)>& done);
  void reset(core::ResetKind kind);
  void press_power_button();
  /// Every device, for inspection and state: in the order in which they are saved.
  using Entry = Interrupts::Entry;
  std::span<const Entry> devices() const { return devices_; }
  devices::I8042& keyboard() { return *i8042_; }
  mem::LockDomain& chipset_domain() { return chipset_; }

 private:
  MicroBoard(Deps deps, Config config);
  Status build_memory();
  Status build_interrupts();
  Status build_chipset();
  Status build_serial_ports();
  Status build_test_devices();
  Status build_virtio();
  Status build_pci_test_devices();
  /// Above RAM and other such memory: where devices' own is.
  Result<VirtioDevices::Deps::Placed> place_memory(mem::RamRegion& region);
  /// Where BARs go that are too large for the hole below 4 GiB; empty if there are none.
  Result<boot::GpaRange> wide_pci_window() const;
  /// As firmware would: this board is for kernels that are started without any.
  Status assign_pci_resources();
  /// A wire to each I/O APIC pin that the HPET may use, by pin.
  std::vector<core::InterruptLine> hpet_wires();
  core::InterruptLine isa_line(unsigned irq) { return core::InterruptLine(interrupt_ends_.isa(), irq); }
  /// The devices that belong to interrupts(), which are others now.
  void list_interrupts();
  void add(core::Device& device, mem::LockDomain* domain) { devices_.push_back({&device, domain}); }
  boot::AcpiConfig acpi_config() const;

  Deps deps_;
  Config config_;
  mem::AddressSpace memory_space_{"memory", std::uint64_t{1} << 52};
  mem::AddressSpace io_space_{"io", 0x10000};
  /// Locks nest in this order: PCI configuration, a PCI function's own, the chipset's.
  mem::LockDomain pci_;
  mem::LockDomain chipset_;
  std::unique_ptr<core::Clock> cpu_clock_, chipset_clock_;

  std::vector<std::unique_ptr<mem::RamRegion>> ram_;
  std::vector<mem::RamRegion*> ram_list_;
  std::vector<mem::Mapping> ram_mappings_;
  std::uint64_t below_4g_ = 0, above_4g_ = 0;
  mem::Gpa above_ram_ = 0;  ///< the next free address beyond RAM
  boot::GpaRange pci_window64_{};

  std::vector<std::unique_ptr<core::CharBackend>> backends_;  // outlive the devices that use them
  InterruptEnds interrupt_ends_;
  /// IRQ0 and IRQ8 have two sources each: PIT and RTC, and the HPET in legacy replacement.
  std::unique_ptr<core::SharedLine> irq0_, irq8_;
  std::unique_ptr<devices::A20Gate> a20_;
  std::unique_ptr<devices::Port92> port92_;
  std::unique_ptr<devices::FpuError> fpu_error_;
  std::unique_ptr<devices::ResetControl> reset_control_;
  std::unique_ptr<devices::I8042> i8042_;
  std::unique_ptr<devices::Rtc> rtc_;
  std::unique_ptr<devices::Hpet> hpet_;
  std::unique_ptr<devices::AcpiPm> pm_;
  std::unique_ptr<devices::pci::IntxRouter> intx_;
  devices::pci::Bus pci_bus_{0, [this](unsigned device, unsigned pin) { return intx_->line(device, pin); }};
  std::unique_ptr<devices::pci::PciHost> pci_host_;
  std::unique_ptr<devices::pci::HostBridge> host_bridge_;
  std::unique_ptr<devices::pci::LpcBridge> lpc_;
  std::vector<std::unique_ptr<devices::SerialPort>> serial_;
  std::vector<std::unique_ptr<core::Device>> test_devices_;
  std::unique_ptr<VirtioDevices> virtio_;
  /// A PCI function's own lock and clock, and it.
  struct PciDevice {
    std::unique_ptr<mem::LockDomain> domain = std::make_unique<mem::LockDomain>();
    std::unique_ptr<core::Clock> clock;
    std::unique_ptr<core::Device> device;
  };
  std::vector<PciDevice> pci_test_devices_;
  std::vector<Entry> devices_;
};

}  // namespace husk::machine
