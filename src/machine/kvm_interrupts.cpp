// husk: a board's interrupt controllers where KVM has some or all of them
#include "machine/kvm_interrupts.h"

#if HUSK_HAVE_KVM

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "base/bits.h"
#include "base/check.h"
#include "machine/kvm_interrupt_state.h"

namespace husk::machine {
namespace {

using accel::kvm::Irqchip;
using accel::kvm::IrqchipMode;
using accel::kvm::kMsrApicBase;
using accel::kvm::kMsrTscDeadline;

/// The front of one of KVM's local APICs. As a LineSink it takes INT of husk's own 8259s: then (IrqchipMode::split)
/// they are asked for vectors through this.
class KvmLocalApic final : public core::StatefulDevice<devices::LocalApicState>, public core::CpuInterrupts {
 public:
  struct Deps {
    std::shared_ptr<Irqchip> irqchip;
    unsigned index;
    std::uint32_t id;
    const core::Clock& clock;
    core::CpuPins& pins;
    devices::LocalApicLimits limits;
    Log& log;
    std::function<bool()> int_level;            ///< INT of the 8259s, if they are KVM's
    std::function<std::uint8_t()> acknowledge;  ///< of husk's 8259s; null: they are KVM's
    bool whole() const { return !acknowledge; }
  };
  explicit KvmLocalApic(Deps deps) : deps_(std::move(deps)), state_id_(fmt::format("lapic{}", deps_.index)) {
    state_ = devices::local_apic_reset_state(deps_.index == 0);
  }

  std::string_view state_id() const override { return state_id_; }
  void reset(core::ResetKind) override {
    state_ = devices::local_apic_reset_state(deps_.index == 0);
    to_kvm();
  }
  /// KVM has made the vCPU: its local APIC takes the state that this one has.
  void to_kvm() {
    Irqchip& irqchip = *deps_.irqchip;
    // The base first: how KVM reads the rest depends on the mode.
    const bool done = irqchip.set_msr(deps_.index, kMsrApicBase, state_.base) &&
                      irqchip.set_lapic(deps_.index, kvm_state::to_lapic(state_, deps_.id, deps_.clock.now())) &&
                      irqchip.set_msr(deps_.index, kMsrTscDeadline, state_.tsc_deadline);
    if (!done && connected_) deps_.log.error("KVM refuses the state of {}", state_id_);
  }
  const devices::LocalApicState& current() {
    before_save();
    return state_;
  }
  void connect() {
    connected_ = true;
    to_kvm();
  }

  void set_int(bool level) {
    int_ = level;
    if (level && connected_) deps_.pins.interrupt_changed();
  }

  // core::CpuInterrupts: only the 8259s' interrupts go this way
  bool pending() override { return int_.load(); }
  std::optional<std::uint8_t> acknowledge() override {
    if (!deps_.acknowledge || !int_.load()) return std::nullopt;
    return deps_.acknowledge();
  }
  std::uint8_t task_priority() override { return static_cast<std::uint8_t>(state_.task_priority >> 4); }
  void set_task_priority(std::uint8_t) override {}
  std::uint64_t apic_base() override {
    std::uint64_t base = 0;
    return deps_.irqchip->get_msr(deps_.index, kMsrApicBase, base) ? base : state_.base;
  }
  bool set_apic_base(std::uint64_t) override { return true; }
  std::optional<std::uint64_t> read_msr(std::uint32_t) override { return std::nullopt; }
  bool write_msr(std::uint32_t, std::uint64_t) override { return false; }
  void cpu_init() override {
    const std::uint64_t base = apic_base();
    state_ = devices::local_apic_reset_state(deps_.index == 0);
    state_.base = base;
    to_kvm();
  }

 protected:
  void before_save() override {
    kvm_lapic_state page;
    std::uint64_t base = 0;
    if (!deps_.irqchip->get_msr(deps_.index, kMsrApicBase, base) || !deps_.irqchip->get_lapic(deps_.index, page))
      return;
    state_.base = base;
    // KVM's timer has run on since the machine's time stopped.
    kvm_state::take_lapic(state_, page, deps_.clock.now() + deps_.irqchip->since_stop());
    std::uint64_t deadline = 0;
    if (deps_.irqchip->get_msr(deps_.index, kMsrTscDeadline, deadline)) state_.tsc_deadline = deadline;
    state_.lint[0] = deps_.int_level ? deps_.int_level() : int_.load();
  }
  Status validate(const devices::LocalApicState& incoming) const override {
    HUSK_TRY(devices::check_local_apic(incoming, deps_.limits, state_id_));
    if (!deps_.whole()) return {};
    // What KVM's I/O APIC and 8259s have no part for.
    constexpr std::uint32_t kSuppressEoiBroadcast = 1u << 12, kMasked = 1u << 16, kMode = 7u << 8;
    const std::uint32_t lint0 = incoming.lvt[static_cast<unsigned>(devices::Lvt::lint0)];
    if (incoming.spurious & kSuppressEoiBroadcast)
      return cannot_be_kvms("ends interrupts by the EOI register of the I/O APIC");
    if (!(lint0 & (kMasked | kMode))) return cannot_be_kvms("takes the 8259's interrupts by a vector of its own");
    return {};
  }
  void after_load() override { to_kvm(); }

 private:
  std::unexpected<Error> cannot_be_kvms(const char* why) const {
    return std::unexpected(Error{fmt::format("kernel_irqchip=on: {} {}", state_id_, why), "use kernel_irqchip=split"});
  }

  Deps deps_;
  std::string state_id_;
  std::atomic<bool> int_{false};
  bool connected_ = false;
};

/// FEE00000h..FEEFFFFFh where a CPU's own local APIC does not answer: for a device every write is an MSI.
class MessageWindow final : public mem::IoHandler {
 public:
  MessageWindow(mem::AddressSpace& space, core::MsiPort& port) : port_(port) {
    auto mapping = space.map(kBase, 0x10'0000, *this, {nullptr, 4, 100, "msi"});
    HUSK_CHECK(mapping);
    mapping_ = *std::move(mapping);
  }
  std::uint64_t read(const mem::Access&) override { return ~std::uint64_t{0}; }
  void write(const mem::Access& access, std::uint64_t value) override {
    if (access.who.kind == mem::Requester::Kind::device && access.size == 4)
      port_.send(access.who.id, {kBase + access.offset, static_cast<std::uint32_t>(value)});
  }

 private:
  static constexpr mem::Gpa kBase = 0xFEE0'0000;
  core::MsiPort& port_;
  mem::Mapping mapping_;
};

/// What both modes share: the local APICs.
class KvmInterrupts : public Interrupts, private core::MsiPort, private devices::InterruptBus {
 public:
  core::MsiPort& messages() override { return *this; }
  core::CpuInterrupts& cpu(unsigned index) override { return *apics_[index]; }

 protected:
  KvmInterrupts(std::shared_ptr<Irqchip> irqchip, Deps deps, std::function<bool()> int_level,
                std::function<std::uint8_t()> acknowledge)
      : irqchip_(std::move(irqchip)), deps_(std::move(deps)), window_(deps_.memory_space, *this) {
    const devices::LocalApicLimits limits{.x2apic = deps_.cpu_model.has(cpu::Feature::x2apic),
                                          .tsc_deadline = true,
                                          .physical_bits = deps_.cpu_model.physical_bits};
    for (unsigned i = 0; i < deps_.pins.size(); ++i)
      apics_.push_back(std::make_unique<KvmLocalApic>(
          KvmLocalApic::Deps{irqchip_, i, cpu::apic_id_of(deps_.cpu_model.topology, i), deps_.cpu_clock, *deps_.pins[i],
                             limits, deps_.log, int_level, acknowledge}));
    irqchip_->on_new_vcpu([this](unsigned index) { apics_[index]->connect(); });
  }
  ~KvmInterrupts() override {
    irqchip_->on_new_vcpu({});
    irqchip_->on_eoi({});
  }
  devices::InterruptBus& bus() { return *this; }
  std::vector<devices::LocalApicState> local_apics() {
    std::vector<devices::LocalApicState> states;
    for (auto& apic : apics_) states.push_back(apic->current());
    return states;
  }
  std::vector<Entry> with_apics(std::initializer_list<Entry> rest) {
    std::vector<Entry> all;
    for (auto& apic : apics_) all.push_back({apic.get(), nullptr});
    all.insert(all.end(), rest);
    return all;
  }

  std::shared_ptr<Irqchip> irqchip_;
  Deps deps_;
  std::vector<std::unique_ptr<KvmLocalApic>> apics_;

 private:
  void send(std::uint16_t, core::MsiMessage message) override {
    // The de-assertion of a level-triggered message (trigger mode 1, level 0) requests nothing.
    if (bit(message.data, 15) && !bit(message.data, 14)) return;
    (void)irqchip_->send(message);
  }
  bool deliver(const devices::ApicMessage& message) override { return irqchip_->send(devices::encode_msi(message)); }

  MessageWindow window_;
};

/// Local APICs in KVM; I/O APIC, 8259s and 8254 are husk's own.
class SplitInterrupts final : public KvmInterrupts {
 public:
  SplitInterrupts(std::shared_ptr<Irqchip> irqchip, Deps deps)
      : KvmInterrupts(std::move(irqchip), std::move(deps), {}, [this] { return chipset_.pic().acknowledge(); }),
        chipset_({deps_, bus(), core::InterruptLine(ext_int_, 0),
                  [this](const devices::Ioapic& ioapic) { tell_levels(ioapic); }}) {
    irqchip_->on_eoi([this](std::uint8_t vector) { chipset_.ioapic().end_of_interrupt(vector); });
  }

  core::LineSink& isa() override { return chipset_.isa(); }
  core::LineSink& ioapic() override { return chipset_.ioapic(); }
  std::vector<Entry> controllers() override {
    return with_apics({{&chipset_.ioapic(), &deps_.chipset}, {&chipset_.pic(), &deps_.chipset}});
  }
  Entry timer() override { return {&chipset_.timer(), &deps_.chipset}; }
  void disable_timer_output(bool disabled) override { chipset_.timer().set_output_disabled(disabled); }
  /// An EOI may be known to KVM's local APIC already and still be on its way to the CPU's thread.
  void settle() override {
    const auto states = local_apics();
    constexpr std::uint32_t kSuppressEoiBroadcast = 1u << 12;
    // Such guests tell the I/O APIC themselves, when they like.
    if (std::ranges::any_of(states, [](const auto& apic) { return apic.spurious & kSuppressEoiBroadcast; })) return;
    for (unsigned vector = 16; vector < 256; ++vector) {
      const auto has = [&](const devices::LocalApicState& apic) {
        return bit(apic.irr[vector / 64] | apic.isr[vector / 64], vector % 64);
      };
      if (std::ranges::none_of(states, has)) chipset_.ioapic().end_of_interrupt(static_cast<std::uint8_t>(vector));
    }
  }

 private:
  struct ExtIntWire final : core::LineSink {
    explicit ExtIntWire(SplitInterrupts& of) : owner(of) {}
    void set_pin(unsigned, bool level) override {
      for (auto& apic : owner.apics_) apic->set_int(level);
    }
    void restore_pin(unsigned pin, bool level) override { set_pin(pin, level); }
    SplitInterrupts& owner;
  };
  void tell_levels(const devices::Ioapic& ioapic) {
    std::array<core::MsiMessage, Irqchip::kPins> messages{};
    for (unsigned pin = 0; pin < messages.size(); ++pin)
      if (const devices::ApicMessage message = ioapic.message(pin); message.level && message.vector >= 16)
        messages[pin] = devices::encode_msi(message);
    if (const auto done = irqchip_->set_level_messages(messages); !done) deps_.log.error("{}", done.error().text());
  }

  ExtIntWire ext_int_{*this};
  OwnChipset chipset_;
};

/// The front of KVM's I/O APIC. It remembers the wires, which KVM does not tell of.
class KvmIoapic final : public core::StatefulDevice<devices::IoapicState> {
 public:
  KvmIoapic(std::shared_ptr<Irqchip> irqchip, Log& log) : irqchip_(std::move(irqchip)), log_(log) { clear(); }
  std::string_view state_id() const override { return "ioapic"; }
  void reset(core::ResetKind) override {
    clear();
    to_kvm();
  }
  void note_pin(unsigned pin, bool level) {
    if (level)
      pins_.fetch_or(1u << pin);
    else
      pins_.fetch_and(~(1u << pin));
  }

 protected:
  void before_save() override {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    if (irqchip_->get_chip(chip)) kvm_state::take_ioapic(state_, chip.chip.ioapic);
    state_.pins = pins_.load();
  }
  Status validate(const devices::IoapicState& incoming) const override { return devices::Ioapic::check(incoming); }
  void after_load() override {
    pins_ = state_.pins;
    to_kvm();
  }

 private:
  void clear() {
    state_ = {};
    state_.redirection.fill(1u << 16);  // masked
    state_.pins = pins_.load();
  }
  void to_kvm() {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    chip.chip.ioapic = kvm_state::to_ioapic(state_);
    if (!irqchip_->set_chip(chip)) log_.error("KVM refuses the state of its I/O APIC");
  }
  std::shared_ptr<Irqchip> irqchip_;
  Log& log_;
  std::atomic<std::uint32_t> pins_{0};
};

/// The front of KVM's two 8259s.
class KvmPics final : public core::StatefulDevice<devices::PicPairState> {
 public:
  KvmPics(std::shared_ptr<Irqchip> irqchip, Log& log) : irqchip_(std::move(irqchip)), log_(log) {}
  std::string_view state_id() const override { return "pic"; }
  void reset(core::ResetKind) override {
    before_save();
    // The wires stay as they are, and no input is level-triggered after reset.
    const std::uint8_t master = state_.master.pins, slave = state_.slave.pins;
    state_ = {};
    state_.master.pins = master & static_cast<std::uint8_t>(~4);
    state_.slave.pins = slave;
    to_kvm();
  }
  bool int_level() {
    before_save();
    return kvm_state::pic_output(state_);
  }

 protected:
  void before_save() override {
    kvm_irqchip master{}, slave{};
    master.chip_id = KVM_IRQCHIP_PIC_MASTER;
    slave.chip_id = KVM_IRQCHIP_PIC_SLAVE;
    if (irqchip_->get_chip(master) && irqchip_->get_chip(slave))
      kvm_state::take_pics(state_, master.chip.pic, slave.chip.pic);
  }
  Status validate(const devices::PicPairState& incoming) const override {
    HUSK_TRY(devices::PicPair::check(incoming));
    if (incoming.master.single || incoming.slave.single)
      return std::unexpected(Error{"kernel_irqchip=on: KVM's 8259s are always two", "use kernel_irqchip=split"});
    return {};
  }
  void after_load() override { to_kvm(); }

 private:
  void to_kvm() {
    // The slave first: what the master is told of is its output.
    for (const bool master : {false, true}) {
      kvm_irqchip chip{};
      chip.chip_id = master ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
      chip.chip.pic = kvm_state::to_pic(master ? state_.master : state_.slave, master);
      if (!irqchip_->set_chip(chip)) log_.error("KVM refuses the state of its 8259s");
    }
  }
  std::shared_ptr<Irqchip> irqchip_;
  Log& log_;
};

/// The front of KVM's 8254.
class KvmPit final : public core::StatefulDevice<devices::PitState> {
 public:
  KvmPit(std::shared_ptr<Irqchip> irqchip, const core::Clock& clock, Log& log)
      : irqchip_(std::move(irqchip)), clock_(clock), log_(log) {
    reset(core::ResetKind::power_on);
  }
  std::string_view state_id() const override { return "pit"; }
  void reset(core::ResetKind) override {
    state_ = {};
    state_.counters[2].gate = false;  // port 61h bit 0
    to_kvm();
  }
  void set_output_disabled(bool disabled) {
    before_save();
    state_.output_disabled = disabled;
    to_kvm();
  }

 protected:
  void before_save() override {
    kvm_pit_state2 pit{};
    if (irqchip_->get_pit(pit)) kvm_state::take_pit(state_, pit, now());
  }
  void after_load() override { to_kvm(); }

 private:
  std::uint64_t now() const { return core::ticks_at(clock_.now(), devices::Pit::kHertz); }
  void to_kvm() {
    if (!irqchip_->set_pit(kvm_state::to_pit(state_, now()))) log_.error("KVM refuses the state of its 8254");
  }
  std::shared_ptr<Irqchip> irqchip_;
  const core::Clock& clock_;
  Log& log_;
};

/// All of them in KVM.
class WholeInterrupts final : public KvmInterrupts {
 public:
  WholeInterrupts(std::shared_ptr<Irqchip> irqchip, Deps deps)
      : KvmInterrupts(std::move(irqchip), std::move(deps), [this] { return pics_.int_level(); }, {}),
        ioapic_(irqchip_, deps_.log),
        pics_(irqchip_, deps_.log),
        pit_(irqchip_, deps_.cpu_clock, deps_.log) {}

  core::LineSink& isa() override { return isa_; }
  core::LineSink& ioapic() override { return pins_; }
  std::vector<Entry> controllers() override {
    return with_apics({{&ioapic_, &deps_.chipset}, {&pics_, &deps_.chipset}});
  }
  /// The wire from counter 0 to the controllers is inside KVM.
  Entry timer() override { return {&pit_, &deps_.chipset}; }
  void disable_timer_output(bool disabled) override { pit_.set_output_disabled(disabled); }

 private:
  struct IsaWires final : core::LineSink {
    explicit IsaWires(WholeInterrupts& of) : owner(of) {}
    void set_pin(unsigned irq, bool level) override {
      owner.ioapic_.note_pin(irq == 0 ? 2 : irq, level);
      owner.irqchip_->set_line(irq, level);
    }
    /// A wire that is low again makes no edge, and KVM must know, or the next rise is none.
    void restore_pin(unsigned irq, bool level) override {
      owner.ioapic_.note_pin(irq == 0 ? 2 : irq, level);
      if (!level) owner.irqchip_->set_line(irq, level);
    }
    WholeInterrupts& owner;
  };
  struct IoapicPins final : core::LineSink {
    explicit IoapicPins(WholeInterrupts& of) : owner(of) {}
    void set_pin(unsigned pin, bool level) override {
      if (pin >= Irqchip::kPins) return;
      owner.ioapic_.note_pin(pin, level);
      owner.irqchip_->set_line(Irqchip::kFirstPinLine + pin, level);
    }
    void restore_pin(unsigned pin, bool level) override {
      if (pin < Irqchip::kPins) owner.ioapic_.note_pin(pin, level);
    }
    WholeInterrupts& owner;
  };

  KvmIoapic ioapic_;
  KvmPics pics_;
  KvmPit pit_;
  IsaWires isa_{*this};
  IoapicPins pins_{*this};
};

}  // namespace

Result<std::unique_ptr<Interrupts>> make_kvm_interrupts(std::shared_ptr<Irqchip> irqchip, Interrupts::Deps deps) {
  if (irqchip->mode() == IrqchipMode::split)
    return std::make_unique<SplitInterrupts>(std::move(irqchip), std::move(deps));
  return std::make_unique<WholeInterrupts>(std::move(irqchip), std::move(deps));
}

}  // namespace husk::machine

#endif
