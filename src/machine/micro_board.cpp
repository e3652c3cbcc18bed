// husk: the board `micro`
#include "machine/micro_board.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "boot/smbios.h"
#include "devices/pci/assign.h"

namespace husk::machine {

using mem::kPageSize;

namespace {
/// A BAR of this size and less finds a place below 4 GiB.
constexpr std::uint64_t kLargeBar = std::uint64_t{64} << 20;
}  // namespace

Result<std::unique_ptr<MicroBoard>> MicroBoard::create(Deps deps, Config config) {
  std::unique_ptr<MicroBoard> board(new MicroBoard(std::move(deps), std::move(config)));
  HUSK_TRY(board->build_memory());
  HUSK_TRY(board->build_interrupts());
  HUSK_TRY(board->build_chipset());
  HUSK_TRY(board->build_serial_ports());
  HUSK_TRY(board->build_test_devices());
  HUSK_TRY(board->build_virtio());
  HUSK_TRY(board->build_pci_test_devices());
  HUSK_TRY(board->assign_pci_resources());
  return board;
}

MicroBoard::MicroBoard(Deps deps, Config config)
    : deps_(std::move(deps)),
      config_(std::move(config)),
      cpu_clock_(deps_.clock.for_domain(nullptr)),
      chipset_clock_(deps_.clock.for_domain(&chipset_)) {}

MicroBoard::~MicroBoard() = default;

Status MicroBoard::build_memory() {
  const std::uint64_t size = align_down(config_.ram_bytes, kPageSize);
  if (size < kRamMin)
    return std::unexpected(Error{fmt::format("{} bytes of memory are too little for any machine", config_.ram_bytes),
                                 "give at least 1 MiB, and 64 MiB for a Linux kernel"});
  below_4g_ = std::min(size, kLowRamMax);
  above_4g_ = size - below_4g_;
  above_ram_ = boot::kFourGiB + above_4g_;
  const auto add_ram = [&](std::string name, mem::Gpa base, std::uint64_t length) -> Status {
    ram_.push_back(HUSK_TRY(mem::RamRegion::create(std::move(name), length)));
    ram_mappings_.push_back(HUSK_TRY(memory_space_.map_ram(base, length, *ram_.back(), 0, true)));
    ram_list_.push_back(ram_.back().get());
    return {};
  };
  HUSK_TRY(add_ram("ram.low", 0, below_4g_));
  if (above_4g_) HUSK_TRY(add_ram("ram.high", boot::kFourGiB, above_4g_));
  if (!config_.rom.empty()) {
    const std::uint64_t length = config_.rom.size();
    ram_.push_back(HUSK_TRY(mem::RamRegion::create("rom", length)));
    mem::RamRegion& rom = *ram_.back();
    std::copy(config_.rom.begin(), config_.rom.end(), rom.data());
    ram_mappings_.push_back(HUSK_TRY(memory_space_.map_ram(boot::kFourGiB - length, length, rom, 0, false)));
    // The last 128 KiB are seen below 1 MiB as well (ICH9 data sheet, 9.4: top-of-memory aliases E0000h-FFFFFh).
    const std::uint64_t alias = std::min<std::uint64_t>(length, 128 << 10);
    ram_mappings_.push_back(HUSK_TRY(memory_space_.map_ram((1 << 20) - alias, alias, rom, length - alias, false, 1)));
    ram_list_.push_back(&rom);
  }
  return {};
}

Interrupts::Deps MicroBoard::interrupt_deps() {
  return {.memory_space = memory_space_,
          .io_space = io_space_,
          .clock = deps_.clock,
          .chipset_clock = *chipset_clock_,
          .cpu_clock = *cpu_clock_,
          .chipset = chipset_,
          .cpu_model = deps_.cpu_model,
          .pins = deps_.pins,
          .irq0 = interrupt_ends_.timer_wire(),
          .log = deps_.log};
}

Status MicroBoard::build_interrupts() {
  // Once; what it refers to may be gone afterwards.
  const InterruptsFactory make = std::exchange(deps_.interrupts, {});
  interrupt_ends_.connect(HUSK_TRY(make ? make(interrupt_deps()) : OwnInterrupts::create(interrupt_deps())));
  irq0_ = std::make_unique<core::SharedLine>(isa_line(0));
  irq8_ = std::make_unique<core::SharedLine>(isa_line(8));
  interrupt_ends_.connect_timer(irq0_->share("pit"));
  for (const Entry& entry : interrupts().controllers()) devices_.push_back(entry);
  return {};
}

void MicroBoard::list_interrupts() {
  std::vector<Entry> all = interrupts().controllers();
  all.push_back(interrupts().timer());
  for (Entry& entry : devices_) {
    const auto same =
        std::ranges::find(all, entry.device->state_id(), [](const Entry& e) { return e.device->state_id(); });
    if (same != all.end()) entry = *same;
  }
}

Status MicroBoard::exchange_interrupts(std::unique_ptr<Interrupts>& with) {
  HUSK_TRY(interrupt_ends_.exchange(with));
  list_interrupts();
  return {};
}

void MicroBoard::take_back_interrupts(std::unique_ptr<Interrupts>& with) {
  interrupt_ends_.take_back(with);
  list_interrupts();
}

Status MicroBoard::build_chipset() {
  a20_ = std::make_unique<devices::A20Gate>(deps_.control);
  // The keyboard controller comes first: its A20 output is high after reset, port 92's is low.
  i8042_ = HUSK_TRY(devices::I8042::create({.io = io_space_,
                                            .domain = &chipset_,
                                            .clock = *chipset_clock_,
                                            .keyboard_irq = isa_line(1),
                                            .mouse_irq = isa_line(12),
                                            .control = deps_.control,
                                            .a20 = *a20_,
                                            .leds_changed = {}},
                                           {}));
  port92_ = HUSK_TRY(devices::Port92::create({io_space_, &chipset_, deps_.control, *a20_}));
  reset_control_ = std::make_unique<devices::ResetControl>(devices::ResetControl::Deps{deps_.control});
  fpu_error_ = HUSK_TRY(devices::FpuError::create({io_space_, &chipset_, isa_line(kFpuIrq)}));
  rtc_ = std::make_unique<devices::Rtc>(devices::Rtc::Deps{.io_space = io_space_,
                                                           .domain = &chipset_,
                                                           .clock = *chipset_clock_,
                                                           .interrupt = irq8_->share("rtc"),
                                                           .start_offset_seconds = config_.rtc_offset_seconds});
  rtc_->set_memory_size(below_4g_, above_4g_);
  rtc_->update_checksum();
  hpet_ = std::make_unique<devices::Hpet>(devices::Hpet::Deps{.memory_space = memory_space_,
                                                              .domain = &chipset_,
                                                              .clock = *chipset_clock_,
                                                              .msi = interrupt_ends_.messages(),
                                                              .routes = hpet_wires(),
                                                              .irq0 = irq0_->share("hpet"),
                                                              .irq8 = irq8_->share("hpet"),
                                                              .legacy_replacement = [this](bool on) {
                                                                interrupts().disable_timer_output(on);
                                                                rtc_->set_output_disabled(on);
                                                              }});
  pm_ = HUSK_TRY(devices::AcpiPm::create(
      {io_space_, &chipset_, *chipset_clock_, isa_line(kSciIrq), deps_.control, deps_.log}, {}));
  pci_host_ =
      HUSK_TRY(devices::pci::PciHost::create({memory_space_, io_space_, &pci_, pci_bus_, reset_control_.get()}));
  host_bridge_ = HUSK_TRY(devices::pci::HostBridge::create({pci_bus_, *pci_host_}, {.ecam_base = kEcamBase}));
  lpc_ = HUSK_TRY(devices::pci::LpcBridge::create(
      {pci_bus_, [this](std::optional<std::uint16_t> base) { pm_->set_base(base); }, {}, &chipset_},
      {.multifunction = false}));
  std::vector<core::InterruptLine> wires;
  for (unsigned pirq = 0; pirq < kPciWires; ++pirq) wires.emplace_back(interrupt_ends_.ioapic(), kFirstPciGsi + pirq);
  intx_ = std::make_unique<devices::pci::IntxRouter>(&chipset_, std::move(wires));
  for (core::Device* device :
       std::initializer_list<core::Device*>{i8042_.get(), port92_.get(), fpu_error_.get(), interrupts().timer().device,
                                            rtc_.get(), hpet_.get(), pm_.get(), lpc_.get()})
    add(*device, &chipset_);
  // What the configuration ports lead to, the reset control at CF9h included.
  for (core::Device* device :
       std::initializer_list<core::Device*>{reset_control_.get(), pci_host_.get(), host_bridge_.get()})
    add(*device, &pci_);
  return {};
}

std::vector<core::InterruptLine> MicroBoard::hpet_wires() {
  std::vector<core::InterruptLine> wires;
  for (unsigned pin = 0; pin < devices::kIoapicPins; ++pin) wires.emplace_back(interrupt_ends_.ioapic(), pin);
  return wires;
}

Status MicroBoard::build_serial_ports() {
  for (unsigned i = 0; i < config_.serial.size(); ++i) {
    if (!config_.serial[i]) continue;
    const devices::ComPort& com = devices::kComPorts[i];
    backends_.push_back(HUSK_TRY(config_.serial[i](chipset_, fmt::format("serial port {}", i))));
    serial_.push_back(HUSK_TRY(devices::SerialPort::create({.io = io_space_,
                                                            .domain = &chipset_,
                                                            .clock = *chipset_clock_,
                                                            .irq = isa_line(com.irq),
                                                            .backend = backends_.back().get()},
                                                           {fmt::format("uart{}", i), com.base})));
    add(*serial_.back(), &chipset_);
  }
  return {};
}

Status MicroBoard::build_test_devices() {
  const auto keep = [this](std::unique_ptr<core::Device> device) {
    add(*device, &chipset_);
    test_devices_.push_back(std::move(device));
  };
  const auto id = [](const char* name, std::size_t index) { return fmt::format("{}{}", name, index); };
  for (std::size_t i = 0; i < config_.debug_exits.size(); ++i) {
    const DebugExitConfig& wanted = config_.debug_exits[i];
    keep(HUSK_TRY(devices::IsaDebugExit::create({io_space_, &chipset_, deps_.control},
                                                {id("isa_debug_exit", i), wanted.iobase, wanted.iosize})));
  }
  for (std::size_t i = 0; i < config_.debugcons.size(); ++i) {
    const auto& [wanted, backend] = config_.debugcons[i];
    backends_.push_back(HUSK_TRY(backend(chipset_, fmt::format("debug console {}", i))));
    keep(HUSK_TRY(devices::IsaDebugcon::create({io_space_, &chipset_, backends_.back().get()},
                                               {id("isa_debugcon", i), wanted.iobase, wanted.readback})));
  }
  if (config_.pc_testdev) {
    std::array<core::InterruptLine, devices::PcTestdev::kLines> lines;
    for (unsigned i = 0; i < lines.size(); ++i)
      lines[i] = i < 16 ? isa_line(i) : core::InterruptLine(interrupt_ends_.ioapic(), i);
    keep(HUSK_TRY(devices::PcTestdev::create({memory_space_, io_space_, &chipset_, std::move(lines)})));
  }
  return {};
}

Status MicroBoard::build_virtio() {
  virtio_ = std::make_unique<VirtioDevices>(VirtioDevices::Deps{
      memory_space_, io_space_, deps_.clock, deps_.loop, deps_.log, interrupt_ends_.messages(), pci_bus_, config_.cpus,
      deps_.stop, [this](mem::RamRegion& region) { return place_memory(region); },
      [this](core::Device& device, mem::LockDomain* domain) { add(device, domain); }});
  for (const VirtioSpec& spec : config_.virtio) HUSK_TRY(virtio_->add(spec));
  return {};
}

Result<VirtioDevices::Deps::Placed> MicroBoard::place_memory(mem::RamRegion& region) {
  // Linux maps such memory in sections of 128 MiB; and its own huge pages are of 1 GiB at most.
  constexpr std::uint64_t kAlignment = std::uint64_t{1} << 30;
  const mem::Gpa start = align_up(above_ram_, kAlignment);
  const unsigned bits = std::min(deps_.cpu_model.physical_bits, 52u);
  if (!range_within(start, region.size(), std::uint64_t{1} << bits))
    return std::unexpected(
        Error{fmt::format("{} bytes of memory at {:#x} do not fit into {} address bits", region.size(), start, bits),
              "give less memory, or a CPU with larger phys-bits"});
  VirtioDevices::Deps::Placed placed{start, HUSK_TRY(memory_space_.map_ram(start, region.size(), region, 0, true))};
  ram_list_.push_back(&region);
  above_ram_ = start + region.size();
  return placed;
}

Status MicroBoard::build_pci_test_devices() {
  const auto place = [this](const PciPlace& wanted, const std::string& id) -> Result<std::uint8_t> {
    const auto device = wanted.address ? wanted.address : pci_bus_.free_device();
    if (!device || *device > 30)
      return fail("{}: there is no room for another device on the PCI bus", wanted.id.empty() ? id : wanted.id);
    return devices::pci::devfn(*device, 0);
  };
  const auto keep = [this](PciDevice made, std::unique_ptr<core::Device> device) {
    made.device = std::move(device);
    add(*made.device, made.domain.get());
    pci_test_devices_.push_back(std::move(made));
  };
  for (std::size_t i = 0; i < config_.edus.size(); ++i) {
    PciDevice made;
    made.clock = deps_.clock.for_domain(made.domain.get());
    const std::string id = fmt::format("edu{}", i);
    auto device = HUSK_TRY(devices::Edu::create(
        {memory_space_, made.domain.get(), *made.clock, interrupt_ends_.messages(), pci_bus_, deps_.log},
        {id, HUSK_TRY(place(config_.edus[i].place, id)), config_.edus[i].dma_mask}));
    keep(std::move(made), std::move(device));
  }
  for (std::size_t i = 0; i < config_.pci_testdevs.size(); ++i) {
    PciDevice made;
    const std::string id = fmt::format("pci_testdev{}", i);
    const PciTestDeviceConfig& wanted = config_.pci_testdevs[i];
    auto device = HUSK_TRY(devices::PciTestdev::create({memory_space_, io_space_, made.domain.get(), pci_bus_},
                                                       {id, HUSK_TRY(place(wanted.place, id)), wanted.memory_bar}));
    keep(std::move(made), std::move(device));
  }
  pci_window64_ = HUSK_TRY(wide_pci_window());
  return {};
}

Result<boot::GpaRange> MicroBoard::wide_pci_window() const {
  const unsigned bits = std::min(deps_.cpu_model.physical_bits, 52u);
  const std::uint64_t limit = std::uint64_t{1} << bits;
  std::uint64_t total = 0;
  for (const PciTestDeviceConfig& device : config_.pci_testdevs)
    if (device.memory_bar > kLargeBar) total += std::min(device.memory_bar, limit);
  if (total == 0) return boot::GpaRange{};
  // With room for the 64-bit BARs of other devices, which then are there as well.
  if (total <= limit / 4) {
    const std::uint64_t length = std::bit_ceil(total + kLargeBar);
    const std::uint64_t base = align_up(above_ram_, length);
    if (base <= limit - length) return boot::GpaRange{base, length};
  }
  return std::unexpected(Error{fmt::format("PCI memory BARs of {} bytes do not fit into {} address bits", total, bits),
                               "give less memory or membar, or a CPU with larger phys-bits"});
}

Status MicroBoard::assign_pci_resources() {
  if (!config_.rom.empty()) return {};
  const mem::DomainGuard guard(&pci_);
  return devices::pci::assign_resources(*pci_host_,
                                        {.io = {kPciIoBase, 0x10000 - kPciIoBase},
                                         .memory32 = {kPciHoleBase, kPciHoleEnd - kPciHoleBase},
                                         .memory64 = {pci_window64_.base, pci_window64_.length},
                                         .interrupt_line = [](unsigned device, unsigned pin) {
                                           return static_cast<std::uint8_t>(kFirstPciGsi + (device + pin) % kPciWires);
                                         }});
}

std::function<bool(bool)> MicroBoard::floating_point_error(unsigned cpu) {
  if (cpu != 0) return {};
  return [this](bool asserted) {
    const mem::DomainGuard guard(&chipset_);
    return fpu_error_->set_ferr(asserted);
  };
}

boot::MemoryLayout MicroBoard::layout() const {
  boot::MemoryLayout layout;
  layout.below_4g = below_4g_;
  layout.above_4g = above_4g_;
  layout.pci_hole = {kPciHoleBase, kPciHoleEnd - kPciHoleBase};
  layout.reserved = {{kEcamBase, std::uint64_t{256} << 20, boot::E820Type::reserved}};
  return layout;
}

boot::AcpiConfig MicroBoard::acpi_config() const {
  boot::AcpiConfig acpi;
  acpi.apic_ids.clear();
  for (unsigned i = 0; i < config_.cpus; ++i) acpi.apic_ids.push_back(cpu::apic_id_of(deps_.cpu_model.topology, i));
  acpi.fixed.gpe0 = 0x600 + devices::AcpiPmChip::kGpe0Status;
  acpi.fixed.gpe0_length = devices::AcpiPmChip::kGpe0Bytes * 2;
  // The window of the ICH9's power management registers (its data sheet, 13.1: PMBASE).
  acpi.fixed.block = 0x600;
  acpi.fixed.block_length = 0x80;
  acpi.fixed.sci_irq = kSciIrq;
  acpi.fixed.s5_sleep_type = devices::AcpiPmChip::kS5;
  boot::AcpiPci pci;
  pci.ecam_base = kEcamBase;
  pci.last_bus = 255;
  pci.memory32 = {kPciHoleBase, kPciHoleEnd - kPciHoleBase};
  pci.memory64 = pci_window64_;
  // Pins swizzle over GSIs 16..23, as PIRQ[A..H] of the LPC bridge are wired.
  pci.interrupt_of = [](unsigned device, unsigned pin) { return kFirstPciGsi + (device + pin) % kPciWires; };
  acpi.pci = std::move(pci);
  acpi.hpet_address = devices::Hpet::kDefaultBase;
  for (unsigned i = 0; i < config_.serial.size(); ++i)
    if (config_.serial[i]) acpi.serial_ports.push_back({devices::kComPorts[i].base, devices::kComPorts[i].irq});
  return acpi;
}

Result<mem::Gpa> MicroBoard::write_tables(mem::GuestMemory& memory) const {
  const boot::AcpiBlob acpi = boot::build_acpi_tables(acpi_config(), kAcpiBase);
  if (acpi.bytes.size() > kSmbiosBase - kAcpiBase)
    return fail("ACPI tables for {} CPUs take {} bytes, more than fit below {:#x}", config_.cpus, acpi.bytes.size(),
                kSmbiosBase);
  HUSK_TRY(memory.write(kAcpiBase, acpi.bytes));
  boot::SmbiosConfig smbios;
  smbios.processor_manufacturer = deps_.cpu_model.vendor;
  smbios.processor_version = deps_.cpu_model.brand;
  smbios.processor_signature = deps_.cpu_model.signature();
  smbios.sockets = static_cast<std::uint16_t>(deps_.cpu_model.topology.sockets);
  smbios.cores_per_socket = static_cast<std::uint16_t>(deps_.cpu_model.topology.cores);
  smbios.threads_per_core = static_cast<std::uint16_t>(deps_.cpu_model.topology.threads);
  smbios.ram_below_4g = below_4g_;
  smbios.ram_above_4g = above_4g_;
  HUSK_TRY(memory.write(kSmbiosBase, boot::build_smbios(smbios, kSmbiosBase).bytes));
  return acpi.rsdp();
}

void MicroBoard::start() {
  for (const Entry& entry : devices_) {
    const mem::DomainGuard guard(entry.domain);
    entry.device->start();
  }
}

std::size_t MicroBoard::quiesce(const std::function<void(const core::Device&)>& done) {
  virtio_->answer_doorbells();
  for (const Entry& entry : devices_) {
    const mem::DomainGuard guard(entry.domain);
    entry.device->quiesce([done, device = entry.device] { done(*device); });
  }
  return devices_.size();
}

void MicroBoard::reset(core::ResetKind kind) {
  for (const Entry& entry : devices_) {
    const mem::DomainGuard guard(entry.domain);
    entry.device->reset(kind);
  }
  if (auto done = assign_pci_resources(); !done) deps_.log.error("{}", done.error().text());
}

void MicroBoard::press_power_button() {
  const mem::DomainGuard guard(&chipset_);
  pm_->press_power_button();
}

}  // namespace husk::machine
