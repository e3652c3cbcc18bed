// husk: the list of every kind of device
#include "devices/registry/registry.h"

#include <functional>
#include <ostream>
#include <utility>

#include "base/check.h"
#include "devices/acpi/pm.h"
#include "devices/chipset/fpu_error.h"
#include "devices/chipset/port92.h"
#include "devices/chipset/reset_control.h"
#include "devices/input/i8042.h"
#include "devices/intc/apic_bus.h"
#include "devices/intc/apic_mmio.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/local_apic.h"
#include "devices/intc/pic8259.h"
#include "devices/pci/q35.h"
#include "devices/scsi/cdrom.h"
#include "devices/scsi/disk.h"
#include "devices/serial/serial_port.h"
#include "devices/testdev/edu.h"
#include "devices/testdev/isa_debug_exit.h"
#include "devices/testdev/isa_debugcon.h"
#include "devices/testdev/pc_testdev.h"
#include "devices/testdev/pci_testdev.h"
#include "devices/timer/hpet.h"
#include "devices/timer/pit8254.h"
#include "devices/timer/rtc_mc146818.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/console.h"
#include "devices/virtio/fs.h"
#include "devices/virtio/mmio.h"
#include "devices/virtio/net.h"
#include "devices/virtio/pci.h"
#include "devices/virtio/pmem.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/scsi.h"
#include "devices/virtio/vsock.h"
#include "testing/fake_block.h"
#include "testing/fake_net.h"
#include "testing/fake_pmem.h"
#include "testing/fake_share.h"
#include "testing/fake_vsock.h"

namespace husk::devices {

namespace {

using testing::TestMachine;

template <class T>
T taken(Result<T> result) {
  HUSK_CHECK(result.has_value());  // the test machine has room for every device
  return std::move(*result);
}

/// A rig whose device is `D`, held by pointer and set by the constructor of the derived rig.
template <class D>
struct RigOf : DeviceRig {
  core::Device& device() override { return *dut; }
  const core::Device& device() const override { return *dut; }
  std::unique_ptr<D> dut;
};

struct AcpiPmRig : RigOf<AcpiPm> {
  explicit AcpiPmRig(TestMachine& m) {
    dut = taken(AcpiPm::create({m.io_space, nullptr, m.clock, m.lines.line(9), m.control, m.log}, {}));
  }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    switch (what % 5) {
      case 0: return dut->press_power_button();
      case 1: return dut->set_gpe(value & 63, value & 64);
      case 2: return dut->pulse_gpe(value & 63);
      case 3: return dut->rtc_alarm();
      default: return dut->set_base(static_cast<std::uint16_t>(value));
    }
  }
};

struct FpuErrorRig : RigOf<FpuError> {
  explicit FpuErrorRig(TestMachine& m) { dut = taken(FpuError::create({m.io_space, nullptr, m.lines.line(13)})); }
  void stimulate(std::uint8_t what, std::uint64_t) override { dut->set_ferr(what & 1); }
};

struct HpetRig : RigOf<Hpet> {
  explicit HpetRig(TestMachine& m) {
    std::vector<core::InterruptLine> routes;
    for (unsigned pin = 0; pin < 24; ++pin) routes.push_back(m.lines.line(pin));
    dut = std::make_unique<Hpet>(Hpet::Deps{.memory_space = m.memory_space,
                                            .clock = m.clock,
                                            .msi = m.msi,
                                            .routes = std::move(routes),
                                            .irq0 = m.lines.line(100),
                                            .irq8 = m.lines.line(108)});
  }
};

struct I8042Rig : RigOf<I8042> {
  explicit I8042Rig(TestMachine& m) : gate(m.control) {
    dut = taken(I8042::create({.io = m.io_space,
                               .clock = m.clock,
                               .keyboard_irq = m.lines.line(1),
                               .mouse_irq = m.lines.line(12),
                               .control = m.control,
                               .a20 = gate,
                               .leds_changed = {}},
                              {}));
  }
  ~I8042Rig() override { dut.reset(); }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    switch (what % 4) {
      case 0: return dut->key(static_cast<KeyCode>(value), true);
      case 1: return dut->key(static_cast<KeyCode>(value), false);
      case 2: return dut->set_mouse_buttons(static_cast<std::uint8_t>(value));
      default:
        return dut->move_mouse(static_cast<std::int32_t>(value), static_cast<std::int32_t>(value >> 16),
                               static_cast<std::int32_t>(value >> 32));
    }
  }
  A20Gate gate;
};

struct IoapicRig : RigOf<Ioapic> {
  struct Sink : InterruptBus {
    bool deliver(const ApicMessage& message) override { return message.vector & 1; }
  };
  explicit IoapicRig(TestMachine& m) { dut = std::make_unique<Ioapic>(Ioapic::Deps{m.memory_space, nullptr, bus}); }
  ~IoapicRig() override { dut.reset(); }
  void set_input(unsigned pin, bool level) override { dut->set_pin(pin % 24, level); }
  void stimulate(std::uint8_t, std::uint64_t value) override {
    dut->end_of_interrupt(static_cast<std::uint8_t>(value));
  }
  Sink bus;
};

struct IsaDebugExitRig : RigOf<IsaDebugExit> {
  explicit IsaDebugExitRig(TestMachine& m) { dut = taken(IsaDebugExit::create({m.io_space, nullptr, m.control}, {})); }
};

struct IsaDebugconRig : RigOf<IsaDebugcon> {
  explicit IsaDebugconRig(TestMachine& m) {
    backend.room = 4;
    dut = taken(IsaDebugcon::create({m.io_space, nullptr, &backend}, {}));
  }
  ~IsaDebugconRig() override { dut.reset(); }
  void stimulate(std::uint8_t, std::uint64_t value) override { backend.make_writable(value % 16); }
  testing::FakeChar backend;
};

struct LocalApicRig : RigOf<LocalApic> {
  explicit LocalApicRig(TestMachine& m) : mmio({m.memory_space, bus}) {
    dut = std::make_unique<LocalApic>(LocalApic::Deps{.bootstrap = true,
                                                      .pins = pins,
                                                      .clock = m.clock,
                                                      .bus = bus,
                                                      .ext_int_acknowledge = [] { return std::uint8_t{8}; },
                                                      .base_changed = [this] { mmio.bases_changed(); },
                                                      .read_tsc = [&m] { return m.clock.now(); },
                                                      .tsc_hertz = core::kNanosecondsPerSecond});
  }
  ~LocalApicRig() override { dut.reset(); }
  void set_input(unsigned pin, bool level) override { dut->set_pin(pin % 2, level); }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    switch (what) {
      case 0: (void)dut->pending(); return;
      case 1: (void)dut->acknowledge(); return;
      case 2: return dut->set_task_priority(value & 15);
      case 3: (void)dut->set_apic_base(value); return;
      case 4: (void)dut->write_msr(0x6E0, value); return;
      case 5: return dut->cpu_init();
      case 6: bus.send(0, {0xFEE00000 | (value & 0xFFFFF), static_cast<std::uint32_t>(value >> 32)}); return;
      default:
        if (what & 0x80)
          (void)dut->read_msr(0x800u + (what & 0x7F));
        else
          (void)dut->write_msr(0x800u + what, value);
    }
  }
  testing::FakeCpu pins;
  ApicBus bus;
  ApicMmio mmio;
};

struct PcTestdevRig : RigOf<PcTestdev> {
  explicit PcTestdevRig(TestMachine& m) {
    PcTestdev::Deps deps{.memory = m.memory_space, .io = m.io_space, .domain = nullptr, .lines = {}};
    for (unsigned i = 0; i < PcTestdev::kLines; ++i) deps.lines[i] = m.lines.line(i);
    dut = taken(PcTestdev::create(std::move(deps)));
  }
};

struct PicRig : RigOf<PicPair> {
  explicit PicRig(TestMachine& m) {
    dut = std::make_unique<PicPair>(PicPair::Deps{m.io_space, nullptr, m.lines.line(0), true});
  }
  void set_input(unsigned pin, bool level) override { dut->set_pin(pin % 16, level); }
  void stimulate(std::uint8_t, std::uint64_t) override { (void)dut->acknowledge(); }
};

struct PitRig : RigOf<Pit> {
  explicit PitRig(TestMachine& m) {
    dut = std::make_unique<Pit>(Pit::Deps{m.io_space, nullptr, m.clock, m.lines.line(0)});
  }
  void stimulate(std::uint8_t, std::uint64_t value) override { dut->set_output_disabled(value & 1); }
};

struct Port92Rig : RigOf<Port92> {
  explicit Port92Rig(TestMachine& m) : gate(m.control) {
    dut = taken(Port92::create({m.io_space, nullptr, m.control, gate}));
  }
  ~Port92Rig() override { dut.reset(); }
  A20Gate gate;
};

struct ResetControlRig : RigOf<ResetControl> {
  explicit ResetControlRig(TestMachine& m) {
    dut = std::make_unique<ResetControl>(ResetControl::Deps{m.control});
    HUSK_CHECK(dut->map(m.io_space, nullptr).has_value());
  }
};

struct RtcRig : RigOf<Rtc> {
  explicit RtcRig(TestMachine& m) {
    dut = std::make_unique<Rtc>(Rtc::Deps{.io_space = m.io_space, .clock = m.clock, .interrupt = m.lines.line(8)});
  }
  void stimulate(std::uint8_t, std::uint64_t value) override { dut->set_output_disabled(value & 1); }
};

struct SerialRig : RigOf<SerialPort> {
  explicit SerialRig(TestMachine& m) {
    dut = taken(SerialPort::create(
        {.io = m.io_space, .domain = nullptr, .clock = m.clock, .irq = m.lines.line(4), .backend = &backend}, {}));
    backend.room = 64;
    dut->start();
  }
  ~SerialRig() override { dut.reset(); }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    if (what & 1)
      backend.make_writable(value % 32);
    else
      backend.deliver(std::string(value % 20, static_cast<char>(value >> 8)));
  }
  testing::FakeChar backend;
};

/// The parts of PCI are driven through the configuration ports, whichever of them is looked at.
struct PciParts {
  explicit PciParts(TestMachine& m)
      : machine(m),
        reset({m.control}),
        host(taken(pci::PciHost::create({m.memory_space, m.io_space, nullptr, bus, &reset}))) {}
  TestMachine& machine;
  ResetControl reset;
  pci::Bus bus;
  std::unique_ptr<pci::PciHost> host;
};
struct PciHostRig : RigOf<pci::PciHost> {
  explicit PciHostRig(TestMachine& m) : parts(m) {
    dut = std::move(parts.host);
    bridge = taken(pci::HostBridge::create({parts.bus, *dut}, {}));
  }
  ~PciHostRig() override {
    bridge.reset();
    dut.reset();
  }
  PciParts parts;
  std::unique_ptr<pci::HostBridge> bridge;
};
struct HostBridgeRig : RigOf<pci::HostBridge> {
  explicit HostBridgeRig(TestMachine& m) : parts(m) {
    dut = taken(pci::HostBridge::create({parts.bus, *parts.host}, {}));
  }
  ~HostBridgeRig() override { dut.reset(); }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    parts.host->write_config(0, 0, what & 0xFC, static_cast<std::uint32_t>(value), 4);
  }
  PciParts parts;
};
struct LpcBridgeRig : RigOf<pci::LpcBridge> {
  explicit LpcBridgeRig(TestMachine& m) : parts(m) { dut = taken(pci::LpcBridge::create({parts.bus, {}, {}}, {})); }
  ~LpcBridgeRig() override { dut.reset(); }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    parts.host->write_config(0, pci::devfn(0x1F, 0), what & 0xFC, static_cast<std::uint32_t>(value), 4);
    for (unsigned pirq = 0; pirq < 8; ++pirq) (void)dut->pirq_route(pirq);
  }
  PciParts parts;
};

constexpr mem::Gpa kPciTestBase = 0xFE000000;
constexpr std::uint16_t kPciTestPorts = 0x1000;
struct EduRig : RigOf<Edu> {
  explicit EduRig(TestMachine& m) : parts(m) {
    dut = taken(Edu::create({m.memory_space, nullptr, m.clock, m.msi, parts.bus, m.log}, {.devfn = pci::devfn(1, 0)}));
    configure(pci::kBar0, kPciTestBase);
    configure(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster);
  }
  ~EduRig() override { dut.reset(); }
  void configure(unsigned offset, std::uint32_t value) {
    parts.host->write_config(0, pci::devfn(1, 0), offset, value, 4);
  }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    // Registers, the more interesting ones more often, and the configuration space.
    static constexpr std::uint64_t kRegisters[] = {
        Edu::kFactorial, Edu::kStatus,     Edu::kInterruptRaise, Edu::kDmaSource,
        Edu::kDmaCount,  Edu::kDmaCommand, Edu::kDmaDestination, Edu::kInterruptAcknowledge};
    if (what & 0x80) return configure(what & 0x7C, static_cast<std::uint32_t>(value));
    const std::uint64_t at = kRegisters[what % std::size(kRegisters)];
    const bool own_end = at == Edu::kDmaSource || at == Edu::kDmaDestination;
    parts.machine.mmio_write(kPciTestBase + at,
                             own_end && (what & 0x40) ? Edu::kBufferAt + (value & 0xFFF) : value & 0xFFFFF, 4);
  }
  PciParts parts;
};
struct PciTestdevRig : RigOf<PciTestdev> {
  explicit PciTestdevRig(TestMachine& m) : parts(m) {
    dut = taken(PciTestdev::create({m.memory_space, m.io_space, nullptr, parts.bus},
                                   {.devfn = pci::devfn(1, 0), .memory_bar = 0x10000}));
    configure(pci::kBar0, kPciTestBase);
    configure(pci::kBar0 + 4, kPciTestPorts);
    configure(pci::kCommand, pci::kCommandMemory | pci::kCommandIo);
  }
  ~PciTestdevRig() override { dut.reset(); }
  void configure(unsigned offset, std::uint32_t value) {
    parts.host->write_config(0, pci::devfn(1, 0), offset, value, 4);
  }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    if (what & 0x80) return configure(what & 0x7C, static_cast<std::uint32_t>(value));
    // A test is chosen, or the place written that one of them waits for.
    const bool choose = what & 1;
    if (what & 2)
      parts.machine.mmio_write(kPciTestBase + (choose ? 0 : 2048 + value % 3), choose ? value & 3 : value | 0xFA, 1);
    else
      parts.machine.out8(static_cast<std::uint16_t>(kPciTestPorts + (choose ? 0 : 131 + value % 3)),
                         static_cast<std::uint8_t>(choose ? value & 3 : value | 0xFA));
  }
  PciParts parts;
};

/// Virtio devices are driven through the MMIO transport. What else a driver does, `stimulate` does in its name: sets up
/// a whole queue in RAM, and fills and kicks it.
constexpr mem::Gpa kVirtioBase = 0xFEB00000;
template <class D>
struct VirtioRig : RigOf<D> {
  explicit VirtioRig(TestMachine& m) : machine(m) {}
  ~VirtioRig() override {
    transport.reset();
    this->dut.reset();
  }
  virtio::Environment environment() { return {machine.memory, machine.clock, machine.log}; }
  void attach(std::unique_ptr<D> device) {
    this->dut = std::move(device);
    transport = taken(virtio::MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *this->dut},
                                                    "mmio", kVirtioBase));
  }
  void put(unsigned offset, std::uint64_t value) { machine.mmio_write(kVirtioBase + offset, value, 4); }
  /// A negotiated device whose queues all lie in the first KiB of RAM: descriptors at 0, rings at 100h and 200h.
  void begin(std::uint64_t features) {
    put(0x70, 0);
    put(0x70, 3);
    for (unsigned half = 0; half < 2; ++half) {
      put(0x14, half);
      put(0x24, half);
      put(0x20, machine.mmio_read(kVirtioBase + 0x10, 4) & ((features >> (half * 32)) | half));
    }
    put(0x70, 11);
    for (unsigned queue = 0; queue < this->dut->queue_count() && queue < 4; ++queue) {
      put(0x30, queue);
      put(0x38, 8);
      put(0x80, 0);
      put(0x90, 0x100);
      put(0xA0, 0x200);
      put(0x44, 1);
    }
    put(0x70, 15);
  }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    switch (what % 8) {
      case 0: return begin(value);
      case 1: return put(0x50, value % (this->dut->queue_count() + 1));
      case 2:
      case 3:
      case 4:
        // A descriptor: address in the low KiBs of RAM, small length, flags, next.
        (void)machine.memory.store<std::uint64_t>((value & 7) * 16, (value >> 3) & 0xFFF);
        (void)machine.memory.store<std::uint32_t>((value & 7) * 16 + 8, (value >> 16) & 0x3FF);
        (void)machine.memory.store<std::uint16_t>((value & 7) * 16 + 12, (value >> 32) & 0x8087);
        (void)machine.memory.store<std::uint16_t>((value & 7) * 16 + 14, (value >> 48) & 0x8087);
        return;
      case 5:
        (void)machine.memory.store<std::uint16_t>(0x104 + (value & 7) * 2, (value >> 8) & 7);
        (void)machine.memory.store<std::uint16_t>(0x102, (value >> 16) & 7);
        return;
      case 6:
        (void)machine.memory.store<std::uint32_t>(0x400 + (value & 0x3FF) * 2, static_cast<std::uint32_t>(value >> 32));
        return;
      default: return outside(value);
    }
  }
  virtual void outside(std::uint64_t value) { (void)value; }
  TestMachine& machine;
  std::unique_ptr<virtio::MmioTransport> transport;
};
struct VirtioRngRig : VirtioRig<virtio::Rng> {
  explicit VirtioRngRig(TestMachine& m) : VirtioRig(m) {
    attach(std::make_unique<virtio::Rng>(
        environment(), [](std::span<std::uint8_t> into) { std::fill(into.begin(), into.end(), std::uint8_t{0x5A}); },
        virtio::Rng::Config{.max_bytes = 1000, .ring = {.packed = true, .in_order = true}}));
  }
};
struct VirtioBlkRig : VirtioRig<virtio::Blk> {
  explicit VirtioBlkRig(TestMachine& m) : VirtioRig(m) {
    attach(taken(virtio::Blk::create(environment(), disk, {.queues = 2, .ring = {.packed = true, .in_order = true}})));
  }
  ~VirtioBlkRig() override {
    disk.drain([] {});
  }
  void outside(std::uint64_t value) override {
    if (value & 1) disk.hold = value & 2;
    disk.fail_with = (value & 12) == 12 ? 5 : 0;
    if (!disk.held.empty()) disk.complete((value >> 8) % disk.held.size());
    if ((value & 0xF0) == 0x10) disk.resize((value >> 16) & 0xFFFF);
  }
  testing::FakeBlock disk{0x10000};
};
struct VirtioScsiRig : VirtioRig<virtio::Scsi> {
  explicit VirtioScsiRig(TestMachine& m) : VirtioRig(m) {
    std::vector<virtio::Scsi::Place> units;
    const core::BlockErrorPolicy stopping{core::OnBlockError::stop, core::OnBlockError::stop};
    units.push_back({0, 0, taken(scsi::Disk::create(disk, {.removable = true, .policy = stopping}))});
    units.push_back({0, 1, taken(scsi::Cdrom::create(&disc, {}))});
    attach(taken(
        virtio::Scsi::create(environment(), std::move(units),
                             {.queues = 2, .stop = [](int, bool) {}, .ring = {.packed = true, .in_order = true}})));
  }
  ~VirtioScsiRig() override {
    disk.drain([] {});
    disc.drain([] {});
  }
  void outside(std::uint64_t value) override {
    if (value & 1) disk.hold = value & 2;
    disk.fail_with = (value & 12) == 12 ? 5 : 0;
    if (!disk.held.empty()) disk.complete((value >> 8) % disk.held.size());
    switch ((value >> 4) & 15) {
      case 1: disk.resize((value >> 16) & 0xFFFF); break;
      case 2: dut->start(); break;
      case 3: dut->unit(0, 1)->request_eject(); break;
      case 4: dut->unit(0, 1)->change_medium(value & 1 ? &disc : nullptr); break;
      // What a driver would hardly guess: a whole command with its buffers, in rings as begin() made them.
      case 5: {
        std::uint8_t request[51] = {1, 0, 0x40, static_cast<std::uint8_t>((value >> 8) & 3)};
        store_be<std::uint64_t>(&request[19], value << 16 | value >> 48);
        (void)machine.memory.write(0x400, request);
        for (unsigned i = 0; i < 4; ++i) {
          (void)machine.memory.store<std::uint64_t>(i * 16, 0x400 + i * 0x200);
          (void)machine.memory.store<std::uint32_t>(i * 16 + 8, i == 0 ? 51 : i == 2 ? 108 : 0x200);
          (void)machine.memory.store<std::uint16_t>(i * 16 + 12,
                                                    static_cast<std::uint16_t>((i >= 2 ? 2 : 0) | (i < 3)));
          (void)machine.memory.store<std::uint16_t>(i * 16 + 14,
                                                    static_cast<std::uint16_t>(i + 1 + (i == 0 && value & 1)));
        }
        break;
      }
      default: break;
    }
  }
  testing::FakeBlock disk{0x10000}, disc{0x10000};
};
struct VirtioNetRig : VirtioRig<virtio::Net> {
  explicit VirtioNetRig(TestMachine& m) : VirtioRig(m) {
    wire.can = {.checksum = true, .segmentation = true};
    attach(std::make_unique<virtio::Net>(environment(), &wire, virtio::Net::Config{.ring = {.packed = true}}));
  }
  ~VirtioNetRig() override {
    transport.reset();
    dut.reset();
  }
  void outside(std::uint64_t value) override {
    wire.sent.clear();
    if ((value & 15) == 0) return wire.set_link(value & 16);
    if ((value & 15) == 1) return dut->announce();
    wire.deliver(std::vector<std::uint8_t>((value >> 8) & 0x7FF, static_cast<std::uint8_t>(value >> 24)),
                 {.needs_checksum = (value & 32) != 0,
                  .checksum_start = static_cast<std::uint16_t>(value >> 40),
                  .segmentation = static_cast<core::NetOffload::Segmentation>(value >> 6 & 3),
                  .segment_size = static_cast<std::uint16_t>(value >> 48)});
  }
  testing::FakeNet wire;
};
struct VirtioConsoleRig : VirtioRig<virtio::Console> {
  explicit VirtioConsoleRig(TestMachine& m) : VirtioRig(m) {
    attach(std::make_unique<virtio::Console>(
        environment(), std::vector<virtio::Console::Port>{{&first, "", true}, {&second, "a port", false}},
        virtio::Console::Config{.columns = 80, .rows = 25, .ring = {.packed = true, .in_order = true}}));
  }
  ~VirtioConsoleRig() override {
    transport.reset();
    dut.reset();
  }
  void outside(std::uint64_t value) override {
    first.output.clear();
    second.output.clear();
    testing::FakeChar& one = value & 1 ? first : second;
    if (value & 2) return one.make_writable((value >> 8) & 0x3F);
    if (value & 4) return dut->resize(static_cast<std::uint16_t>(value >> 8), static_cast<std::uint16_t>(value >> 24));
    one.deliver(std::string((value >> 8) & 0x1F, 'x'));
  }
  testing::FakeChar first, second;
};
struct VirtioBalloonRig : VirtioRig<virtio::Balloon> {
  explicit VirtioBalloonRig(TestMachine& m) : VirtioRig(m) {
    attach(std::make_unique<virtio::Balloon>(
        environment(),
        [](mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
          HUSK_CHECK(length % 4096 == 0 && offset % 4096 == 0 && range_within(offset, length, ram.size()));
        },
        virtio::Balloon::Config{
            .free_page_reporting = true, .statistics_period_ns = 1'000'000, .ring = {.packed = true}}));
  }
  void outside(std::uint64_t value) override {
    if (value & 1) return dut->ask_for_statistics();
    dut->set_target(static_cast<std::uint32_t>(value >> 8));
  }
};
template <virtio::Fs::Protocol kProtocol>
struct VirtioFsRig : VirtioRig<virtio::Fs> {
  explicit VirtioFsRig(TestMachine& m) : VirtioRig(m) {
    attach(taken(virtio::Fs::create(environment(), server,
                                    {.protocol = kProtocol,
                                     .tag = "share",
                                     .queues = kProtocol == virtio::Fs::Protocol::fuse ? 2u : 1u,
                                     .ring = {.packed = true, .in_order = true}})));
  }
  ~VirtioFsRig() override { server.drain(); }
  void outside(std::uint64_t value) override {
    server.hold = value & 1;
    if (value & 2) server.session.assign((value >> 8) & 7, static_cast<std::uint8_t>(value >> 16));
    if (!server.held.empty()) server.complete((value >> 24) % server.held.size());
    server.requests.clear();
  }
  testing::FakeShare server;
};
struct VirtioPmemRig : VirtioRig<virtio::Pmem> {
  explicit VirtioPmemRig(TestMachine& m) : VirtioRig(m) {
    attach(std::make_unique<virtio::Pmem>(
        environment(), memory,
        virtio::Pmem::Config{.start = 0x1'0000'0000, .ring = {.packed = true, .in_order = true}}));
  }
  ~VirtioPmemRig() override { memory.drain(); }
  void outside(std::uint64_t value) override {
    memory.hold = value & 1;
    memory.fail = value & 2;
    if (!memory.held.empty()) memory.complete((value >> 8) % memory.held.size());
  }
  testing::FakePmem memory{2 << 20};
};
struct VirtioVsockRig : VirtioRig<virtio::Vsock> {
  explicit VirtioVsockRig(TestMachine& m) : VirtioRig(m) {
    attach(taken(virtio::Vsock::create(environment(), host, {.ring = {.packed = true, .in_order = true}})));
  }
  ~VirtioVsockRig() override {
    transport.reset();
    dut.reset();
  }
  void outside(std::uint64_t value) override {
    host.hold = value & 1;
    if ((value & 14) == 0) {
      (void)host.call(static_cast<std::uint32_t>(value >> 8 & 3), static_cast<core::VsockKind>(1 + (value >> 16 & 1)));
      return;
    }
    if ((value & 14) == 2) return packet(value >> 4);
    if (host.connections.empty()) return;
    auto& [ports, one] =
        *std::next(host.connections.begin(), static_cast<std::ptrdiff_t>((value >> 8) % host.connections.size()));
    one.received.clear();
    one.messages.clear();
    const core::VsockPorts which = ports;
    if ((value & 14) == 4) return host.deliver(which, std::string(value >> 16 & 0x3FF, 'x'));
    if ((value & 14) == 6) return host.end(which);
    if ((value & 14) == 8) return host.vanish(which);
    host.forward(which);
  }
  /// A well-formed packet at 800h of RAM, with a descriptor for it and one to receive by.
  void packet(std::uint64_t value) {
    const auto put32 = [&](unsigned at, std::uint64_t what) {
      (void)machine.memory.store<std::uint32_t>(0x800 + at, static_cast<std::uint32_t>(what));
    };
    put32(0, 3), put32(4, 0), put32(8, 2), put32(12, 0);
    put32(16, value & 3), put32(20, value >> 2 & 0x7F), put32(24, value >> 12 & 0x1FF);
    put32(28, (1 + (value >> 9 & 1)) | (value >> 24 & 15) << 16);
    put32(32, value >> 21 & 7), put32(36, value >> 28 & 0xFFFF), put32(40, value >> 44);
  }
  testing::FakeVsock host;
};
/// The transports, with a random number generator behind.
struct VirtioMmioRig : RigOf<virtio::MmioTransport> {
  explicit VirtioMmioRig(TestMachine& m) : rng({m.memory, m.clock, m.log}, [](std::span<std::uint8_t>) {}, {}) {
    dut = taken(
        virtio::MmioTransport::create({m.memory_space, nullptr, m.lines.line(5), rng}, "virtio_mmio0", kVirtioBase));
  }
  ~VirtioMmioRig() override { dut.reset(); }
  virtio::Rng rng;
};
struct VirtioPciRig : RigOf<virtio::PciTransport> {
  explicit VirtioPciRig(TestMachine& m)
      : parts(m), rng({m.memory, m.clock, m.log}, [](std::span<std::uint8_t>) {}, {}) {
    dut = taken(virtio::PciTransport::create({m.memory_space, m.io_space, nullptr, m.msi, parts.bus, rng},
                                             {.devfn = pci::devfn(1, 0), .legacy = true}));
  }
  ~VirtioPciRig() override { dut.reset(); }
  void stimulate(std::uint8_t what, std::uint64_t value) override {
    parts.host->write_config(0, pci::devfn(1, 0), what & 0xFC, static_cast<std::uint32_t>(value), 4);
    (void)parts.host->read_config(0, pci::devfn(1, 0), what & 0xFC, 4);
  }
  PciParts parts;
  virtio::Rng rng;
};

template <class Rig>
std::unique_ptr<DeviceRig> build(TestMachine& machine) {
  return std::make_unique<Rig>(machine);
}

std::vector<std::string> empty_schema() { return {}; }

constexpr PortRange kAcpiPorts[] = {{0x600, 0x80}, {0xB2, 2}};
constexpr PortRange kI8042Ports[] = {{0x60, 1}, {0x64, 1}};
constexpr PortRange kDebugExitPorts[] = {{0x501, 2}};
constexpr PortRange kDebugconPorts[] = {{0xE9, 1}};
constexpr PortRange kTestdevPorts[] = {{0xE0, 12}, {0x2000, 24}};
constexpr PortRange kPciPorts[] = {{0xCF8, 8}};
constexpr PortRange kPicPorts[] = {{0x20, 2}, {0xA0, 2}, {0x4D0, 2}};
constexpr PortRange kPitPorts[] = {{0x40, 4}, {0x61, 1}};
constexpr PortRange kFpuErrorPorts[] = {{0xF0, 1}};
constexpr PortRange kPort92Ports[] = {{0x92, 1}};
constexpr PortRange kResetPorts[] = {{0xCF9, 1}};
constexpr PortRange kRtcPorts[] = {{0x70, 4}};
constexpr PortRange kSerialPorts[] = {{0x3F8, 8}};
constexpr MmioRange kHpetMmio[] = {{0xFED00000, 0x400}};
constexpr MmioRange kIoapicMmio[] = {{0xFEC00000, 0x1000}};
constexpr MmioRange kLocalApicMmio[] = {{0xFEE00000, 0x1000}};
constexpr MmioRange kTestdevMmio[] = {{0xFF000000, 0x10000}};
constexpr MmioRange kVirtioMmio[] = {{kVirtioBase, virtio::MmioTransport::kSize}};
constexpr MmioRange kPciTestMmio[] = {{kPciTestBase, 0x1000}};
constexpr PortRange kPciTestdevPorts[] = {{kPciTestPorts, 0x100}};
constexpr MmioRange kEcamMmio[] = {{0xE0000000, 0x10000000}};

constexpr DeviceKind kKinds[] = {
    {"acpi-pm",
     "ACPI fixed hardware: PM1, PM timer, GPE0, SMI command port",
     kAcpiPorts,
     {},
     build<AcpiPmRig>,
     state::schema<AcpiPmChip::State>},
    {"edu",
     "PCI device to learn on: factorials, interrupts, DMA",
     {},
     kPciTestMmio,
     build<EduRig>,
     state::schema<EduState>},
    {"fpu-error",
     "x87 errors by IRQ 13, port F0h",
     kFpuErrorPorts,
     {},
     build<FpuErrorRig>,
     state::schema<FpuErrorState>},
    {"host-bridge", "Q35 memory controller hub, 8086:29c0", kPciPorts, kEcamMmio, build<HostBridgeRig>,
     state::schema<pci::FunctionState>},
    {"hpet", "IA-PC high precision event timer", {}, kHpetMmio, build<HpetRig>, state::schema<HpetState>},
    {"i8042",
     "keyboard controller with PS/2 keyboard and mouse",
     kI8042Ports,
     {},
     build<I8042Rig>,
     state::schema<I8042Chip::State>},
    {"ioapic", "82093AA I/O APIC", {}, kIoapicMmio, build<IoapicRig>, state::schema<IoapicState>},
    {"isa-debug-exit",
     "ends husk with a status chosen by the guest",
     kDebugExitPorts,
     {},
     build<IsaDebugExitRig>,
     empty_schema,
     false},
    {"isa-debugcon",
     "character output port",
     kDebugconPorts,
     {},
     build<IsaDebugconRig>,
     state::schema<IsaDebugconState>},
    {"local-apic",
     "local APIC with x2APIC and TSC-deadline timer",
     {},
     kLocalApicMmio,
     build<LocalApicRig>,
     state::schema<LocalApicState>},
    {"lpc-bridge",
     "ICH9 LPC interface bridge, 8086:2918",
     kPciPorts,
     {},
     build<LpcBridgeRig>,
     state::schema<pci::FunctionState>},
    {"pc-testdev", "interrupt lines, port loop-back and memory window for CPU tests", kTestdevPorts, kTestdevMmio,
     build<PcTestdevRig>, state::schema<PcTestdevState>},
    {"pci-host", "PCI configuration mechanism 1 and ECAM", kPciPorts, kEcamMmio, build<PciHostRig>,
     state::schema<pci::PciHostState>},
    {"pci-testdev", "PCI device that counts writes to its BARs", kPciTestdevPorts, kPciTestMmio, build<PciTestdevRig>,
     state::schema<PciTestdevState>},
    {"pic8259", "pair of 8259A interrupt controllers", kPicPorts, {}, build<PicRig>, state::schema<PicPairState>},
    {"pit8254", "8254 interval timer and port 61h", kPitPorts, {}, build<PitRig>, state::schema<PitState>},
    {"port92", "fast A20 gate and reset", kPort92Ports, {}, build<Port92Rig>, state::schema<Port92State>},
    {"reset-control",
     "reset control register",
     kResetPorts,
     {},
     build<ResetControlRig>,
     state::schema<ResetControlState>},
    {"rtc-mc146818", "real-time clock and CMOS RAM", kRtcPorts, {}, build<RtcRig>, state::schema<RtcState>},
    {"uart16550", "PC16550D serial port", kSerialPorts, {}, build<SerialRig>, state::schema<Uart16550::State>},
    {"virtio-9p",
     "virtio shared file system by 9P",
     {},
     kVirtioMmio,
     build<VirtioFsRig<virtio::Fs::Protocol::ninep>>,
     state::schema<virtio::FsState>},
    {"virtio-balloon",
     "virtio memory balloon",
     {},
     kVirtioMmio,
     build<VirtioBalloonRig>,
     state::schema<virtio::BalloonState>},
    {"virtio-blk", "virtio disk", {}, kVirtioMmio, build<VirtioBlkRig>, state::schema<virtio::BlkState>},
    {"virtio-console",
     "virtio consoles and ports",
     {},
     kVirtioMmio,
     build<VirtioConsoleRig>,
     state::schema<virtio::ConsoleState>},
    {"virtio-fs",
     "virtio shared file system",
     {},
     kVirtioMmio,
     build<VirtioFsRig<virtio::Fs::Protocol::fuse>>,
     state::schema<virtio::FsState>},
    {"virtio-mmio",
     "virtio transport over MMIO",
     {},
     kVirtioMmio,
     build<VirtioMmioRig>,
     state::schema<virtio::MmioState>},
    {"virtio-net", "virtio network card", {}, kVirtioMmio, build<VirtioNetRig>, state::schema<virtio::NetState>},
    {"virtio-pci", "virtio transport over PCI", kPciPorts, {}, build<VirtioPciRig>, state::schema<virtio::PciState>},
    {"virtio-pmem",
     "virtio persistent memory",
     {},
     kVirtioMmio,
     build<VirtioPmemRig>,
     state::schema<virtio::PmemState>},
    {"virtio-rng",
     "virtio random number generator",
     {},
     kVirtioMmio,
     build<VirtioRngRig>,
     state::schema<virtio::RngState>},
    {"virtio-scsi",
     "virtio SCSI controller with a disk and a CD-ROM drive",
     {},
     kVirtioMmio,
     build<VirtioScsiRig>,
     state::schema<virtio::ScsiState>},
    {"virtio-vsock", "virtio sockets", {}, kVirtioMmio, build<VirtioVsockRig>, state::schema<virtio::VsockState>},
};

}  // namespace

std::span<const DeviceKind> device_kinds() { return kKinds; }

void PrintTo(const DeviceKind& kind, std::ostream* out) { *out << kind.name; }

}  // namespace husk::devices
