// husk: a board's interrupt controllers and its 8254, whoever has them: the seam between boards and accelerators
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "core/clock.h"
#include "core/cpu_ports.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "cpu/model.h"
#include "devices/intc/apic_bus.h"
#include "devices/intc/apic_mmio.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/local_apic.h"
#include "devices/intc/pic8259.h"
#include "devices/timer/pit8254.h"
#include "machine/vm_clock.h"
#include "mem/address_space.h"

namespace husk::machine {

/// The local APICs, the I/O APIC, the two 8259s and the 8254 of a PC. Whoever implements it keeps the state in the
/// records of devices/intc and devices/timer (LocalApicState "lapicN", IoapicState "ioapic", PicPairState "pic",
/// PitState "pit"), so that one implementation takes up what another has left.
class Interrupts {
 public:
  struct Deps {
    mem::AddressSpace& memory_space;
    mem::AddressSpace& io_space;
    VmClock& clock;
    core::Clock& chipset_clock;
    const core::Clock& cpu_clock;  ///< without a lock
    mem::LockDomain& chipset;      ///< of the I/O APIC, the 8259s and the 8254
    const cpu::CpuModel& cpu_model;
    std::vector<core::CpuPins*> pins;  ///< one a CPU
    core::LineSink& irq0;              ///< its pin 0 is driven by counter 0 of the 8254, unless that is wired already
    Log& log;
  };
  struct Entry {
    core::Device* device;
    mem::LockDomain* domain;  ///< null: locks itself
  };

  virtual ~Interrupts() = default;
  /// Pins 0 to 15: the ISA interrupts. Each ends at both controllers; interrupt 0 at pin 2 of the I/O APIC, as the
  /// MADT's override says.
  virtual core::LineSink& isa() = 0;
  /// Pins 0 to 23 of the I/O APIC alone.
  virtual core::LineSink& ioapic() = 0;
  virtual core::MsiPort& messages() = 0;
  virtual core::CpuInterrupts& cpu(unsigned index) = 0;
  /// Local APICs, I/O APIC and 8259s, in the order in which they are saved.
  virtual std::vector<Entry> controllers() = 0;
  /// The 8254.
  virtual Entry timer() = 0;
  /// The HPET has taken IRQ0 (devices::Pit::set_output_disabled).
  virtual void disable_timer_output(bool disabled) = 0;
  /// Before the state is read to go elsewhere, while no CPU runs: what some parts have yet to tell the others.
  virtual void settle() {}
};

/// Called when the board's memory is there and nothing else.
using InterruptsFactory = std::function<Result<std::unique_ptr<Interrupts>>(Interrupts::Deps deps)>;

/// The ends to which a board connects its devices. They stay, while what is behind them can be exchanged.
class InterruptEnds final {
 public:
  core::LineSink& isa() { return isa_; }
  core::LineSink& ioapic() { return ioapic_; }
  core::MsiPort& messages() { return messages_; }
  /// Interrupts::Deps::irq0, and where that leads.
  core::LineSink& timer_wire() { return timer_wire_; }
  void connect_timer(core::InterruptLine irq0) { irq0_ = std::move(irq0); }
  Interrupts& now() { return *now_; }

  void connect(std::unique_ptr<Interrupts> first) { now_ = std::move(first); }
  /// Puts `with` in the place of those that were there, in their state. Nothing sends interrupts meanwhile: CPUs and
  /// time stand, and the devices are quiet. On an error all is as it was.
  Status exchange(std::unique_ptr<Interrupts>& with);
  /// Takes back an exchange, before anything ran.
  void take_back(std::unique_ptr<Interrupts>& with);

 private:
  struct Wires final : core::LineSink {
    Wires(InterruptEnds& of, core::LineSink& (Interrupts::*which)()) : owner(of), sink(which) {}
    void set_pin(unsigned pin, bool level) override { (owner.now().*sink)().set_pin(pin, level); }
    void restore_pin(unsigned pin, bool level) override { (owner.now().*sink)().restore_pin(pin, level); }
    InterruptEnds& owner;
    core::LineSink& (Interrupts::*sink)();
  };
  struct Messages final : core::MsiPort {
    explicit Messages(InterruptEnds& of) : owner(of) {}
    void send(std::uint16_t requester_id, core::MsiMessage message) override {
      owner.now().messages().send(requester_id, message);
    }
    InterruptEnds& owner;
  };
  struct TimerWire final : core::LineSink {
    explicit TimerWire(InterruptEnds& of) : owner(of) {}
    void set_pin(unsigned, bool level) override { owner.irq0_.set(level); }
    void restore_pin(unsigned, bool level) override { owner.irq0_.restore_level(level); }
    InterruptEnds& owner;
  };

  std::unique_ptr<Interrupts> now_;
  core::InterruptLine irq0_;
  Wires isa_{*this, &Interrupts::isa}, ioapic_{*this, &Interrupts::ioapic};
  Messages messages_{*this};
  TimerWire timer_wire_{*this};
};

/// husk's own I/O APIC, 8259s and 8254.
class OwnChipset final {
 public:
  struct Deps {
    const Interrupts::Deps& board;
    devices::InterruptBus& bus;
    core::InterruptLine cpu_interrupt;  ///< INT of the 8259s
    std::function<void(const devices::Ioapic&)> redirection_changed = {};
  };
  explicit OwnChipset(Deps deps);

  devices::Ioapic& ioapic() { return ioapic_; }
  devices::PicPair& pic() { return pic_; }
  core::LineSink& isa() { return isa_; }
  devices::Pit& timer() { return pit_; }

 private:
  /// One wire of an ISA interrupt ends at both controllers; the guest masks the one that it does not use.
  struct IsaWires final : core::LineSink {
    explicit IsaWires(OwnChipset& of) : owner(of) {}
    static unsigned ioapic_pin(unsigned irq) { return irq == 0 ? 2 : irq; }
    void set_pin(unsigned irq, bool level) override {
      owner.pic_.set_pin(irq, level);
      owner.ioapic_.set_pin(ioapic_pin(irq), level);
    }
    void restore_pin(unsigned irq, bool level) override {
      owner.pic_.restore_pin(irq, level);
      owner.ioapic_.restore_pin(ioapic_pin(irq), level);
    }
    OwnChipset& owner;
  };

  devices::Ioapic ioapic_;
  devices::PicPair pic_;
  IsaWires isa_{*this};
  devices::Pit pit_;
};

/// All of them husk's own.
class OwnInterrupts final : public Interrupts {
 public:
  explicit OwnInterrupts(Deps deps);
  static Result<std::unique_ptr<Interrupts>> create(Deps deps) {
    return std::make_unique<OwnInterrupts>(std::move(deps));
  }

  core::LineSink& isa() override { return chipset_->isa(); }
  core::LineSink& ioapic() override { return chipset_->ioapic(); }
  core::MsiPort& messages() override { return bus_; }
  core::CpuInterrupts& cpu(unsigned index) override { return *apics_[index]; }
  std::vector<Entry> controllers() override;
  Entry timer() override { return {&chipset_->timer(), &deps_.chipset}; }
  void disable_timer_output(bool disabled) override { chipset_->timer().set_output_disabled(disabled); }

 private:
  /// Hands the 8259's output to LINT0 of every local APIC.
  struct ExtIntWire final : core::LineSink {
    explicit ExtIntWire(std::vector<std::unique_ptr<devices::LocalApic>>& all) : apics(all) {}
    void set_pin(unsigned, bool level) override {
      for (auto& apic : apics) apic->set_pin(0, level);
    }
    void restore_pin(unsigned, bool level) override {
      for (auto& apic : apics) apic->restore_pin(0, level);
    }
    std::vector<std::unique_ptr<devices::LocalApic>>& apics;
  };

  Deps deps_;
  std::vector<std::unique_ptr<mem::LockDomain>> domains_;
  std::vector<std::unique_ptr<core::Clock>> clocks_;
  devices::ApicBus bus_;
  std::unique_ptr<devices::ApicMmio> mmio_;
  std::vector<std::unique_ptr<devices::LocalApic>> apics_;
  ExtIntWire ext_int_{apics_};
  std::unique_ptr<OwnChipset> chipset_;
};

}  // namespace husk::machine
